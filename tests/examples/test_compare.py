from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from example_scripts import run_compare
from tiny import DEMO


pytest.importorskip("matplotlib")


@pytest.fixture
def study(tiny, tmp_path) -> Path:
    file = tmp_path / "study.yaml"
    content = {
        "name": "small",
        "title": "A small study",
        "teacher": str(tiny),
        "corpora": {"sentences": {"sw": "train.jsonl"}},
        "tests": {"questions": {"sw": {"folder": "retrieval", "queries": 20, "pool": 60}}},
        "methods": {"before": {"kind": "zero_shot"}, "OT": {"kind": "trained"}, "ceiling": {"kind": "ceiling"}},
        "training": {"max_steps": 2, "use_cpu": True},
        "sizes": [30],
    }
    file.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return file


def test_from_the_plan_to_the_report(study, tmp_path):
    out = tmp_path / "out"
    arguments = ("--config", study, "--data_dir", DEMO, "--output_dir", out)
    planned = run_compare(*arguments, "--dry_run")
    assert planned.returncode == 0 and "4 cells, 4 to do" in planned.stdout and not out.exists()
    nothing = run_compare(*arguments, "--report_only")
    assert nothing.returncode == 1 and "error: " in nothing.stderr and "Traceback" not in nothing.stderr

    result = run_compare(*arguments)
    assert result.returncode == 0, result.stderr[-3000:]
    assert "A small study" in (out / "report.md").read_text(encoding="utf-8")
    assert json.loads((out / "results.json").read_text(encoding="utf-8"))
    assert list((out / "figures").glob("*.png")) and f"is in {out / 'report.md'}" in result.stdout
    assert "4/4 cells" in result.stderr and " left: " in result.stderr

    # In another place, from the same cells: nothing is done again. It is not published under such a name.
    again = ("--cells", out / "cells", "--report_only", "--push_to_hub", "org/so me", "--private", "--license", "mit")
    elsewhere = run_compare(*arguments[:-1], tmp_path / "elsewhere", *again)
    assert elsewhere.returncode == 1 and elsewhere.stderr.startswith("error: Repo id must use")
    assert (tmp_path / "elsewhere" / "report.md").read_text("utf-8") == (out / "report.md").read_text("utf-8")


def test_bad_input_ends_in_one_line(study, tmp_path):
    missing = run_compare("--config", study, "--output_dir", tmp_path / "out")
    assert missing.returncode == 1 and "4 data files are missing" in missing.stderr
    study.write_text(study.read_text(encoding="utf-8") + "sedes: [1]\n", encoding="utf-8")
    unknown = run_compare("--config", study, "--data_dir", DEMO)
    assert unknown.returncode == 1 and "unknown key 'sedes'; did you mean 'seeds'" in unknown.stderr
    for result in (missing, unknown):
        assert result.stderr.strip().startswith("error: ") and len(result.stderr.strip().splitlines()) == 1


def test_a_cell_that_fails_is_said_at_the_end(study, tmp_path):
    content = yaml.safe_load(study.read_text(encoding="utf-8"))
    del content["methods"]["OT"], content["methods"]["ceiling"]
    (tmp_path / "broken").mkdir()
    for name, text in (("config.json", '{"model_type": "marian"}'), ("model.safetensors", "")):
        (tmp_path / "broken" / name).write_text(text, encoding="utf-8")
    content["methods"]["other"] = {"kind": "translation", "model": str(tmp_path / "broken")}
    study.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    result = run_compare("--config", study, "--data_dir", DEMO, "--output_dir", tmp_path / "out")
    assert result.returncode == 1 and "error: 1 cell failed" in result.stderr
    assert result.stderr.splitlines()[-1].startswith("  test other on questions sw: ")
    assert "test other on questions sw" in (tmp_path / "out" / "report.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_embedded_default(tmp_path):
    result = run_compare("--output_dir", tmp_path / "out")
    assert result.returncode == 0, result.stderr[-3000:]
    results = json.loads((tmp_path / "out" / "results.json").read_text(encoding="utf-8"))
    assert results["study"] == "demo"
