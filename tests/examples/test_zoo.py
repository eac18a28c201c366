from __future__ import annotations

import json
import subprocess
import sys

import pytest
import yaml
from tiny import DEMO, REPOSITORY, demo_pairs

from hf_optical import LanguagePack


@pytest.mark.slow
def test_packs_of_all_languages_are_trained_once_and_listed(tiny, tmp_path):
    missing = tmp_path / "ha.jsonl"
    own = {"train_file": "train.jsonl", "validation_file": "validation.jsonl", "eval_dir": "retrieval"}
    short = {"max_steps": 2, "save_strategy": "no", "choose_words": "false", "report_to": "none", "use_cpu": "true"}
    languages = {"sw": own, "ha": {**own, "train_file": str(missing), "validation_file": str(missing)}}
    zoo = {"base": str(tiny), "options": short, "languages": languages}
    (tmp_path / "zoo.yaml").write_text(yaml.safe_dump(zoo))

    def run() -> subprocess.CompletedProcess:
        command = [sys.executable, "examples/zoo.py", "--config", tmp_path / "zoo.yaml", "--data_dir", DEMO]
        command += ["--output_dir", tmp_path / "out"]
        return subprocess.run(map(str, command), cwd=REPOSITORY, capture_output=True, text=True)

    first = run()
    assert first.returncode == 1 and "error: ha failed" in first.stderr and "ha.jsonl" in first.stderr
    page = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert page.count("\n| [") == 1 and "[Swahili](sw/README.md)" in page
    assert LanguagePack.from_pretrained(tmp_path / "out" / "sw").language == "sw"
    # What is finished stays; what failed is tried again.
    written = (tmp_path / "out" / "sw" / "README.md").stat().st_mtime_ns
    rows = [json.dumps({"ha": pair["sw"], "en": pair["en"]}) + "\n" for pair in demo_pairs()[:60]]
    missing.write_text("".join(rows), encoding="utf-8")
    again = run()
    assert again.returncode == 0, again.stderr[-2000:]
    assert (tmp_path / "out" / "sw" / "README.md").stat().st_mtime_ns == written
    assert again.stdout.count("\n| [") == 2
