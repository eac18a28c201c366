"""Pushing, to a Hub that runs here."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from hf_optical import OTDistillationConfig
from hf_optical.training.publishing import run_details


FILES = [
    "README.md",
    "adapter_config.json",
    "adapter_model.safetensors",
    "language_pack.json",
    "vocabulary.safetensors",
]


class Hub(ThreadingHTTPServer):
    """Keeps the names of the files that are committed, by repository."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Request)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.created: dict[str, dict] = {}
        self.committed: dict[str, list[str]] = {}


class Request(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        hub, path = self.server, self.path
        if path == "/api/repos/create":
            asked = json.loads(body)
            repository = "/".join(filter(None, (asked.get("organization") or "someone", asked["name"])))
            hub.created[repository] = asked
            return self.answer({"url": f"{hub.url}/{repository}", "name": repository, "id": repository})
        if path.startswith("/api/validate-yaml"):
            return self.answer({"errors": [], "warnings": []})
        repository = "/".join(path.split("/")[3:5])
        if "/preupload/" in path:
            files = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False, "oid": None}
                for file in json.loads(body)["files"]
            ]
            return self.answer({"files": files})
        entries = [json.loads(line) for line in body.splitlines()]
        hub.committed[repository] = sorted(entry["value"]["path"] for entry in entries if entry["key"] == "file")
        self.answer({"commitUrl": f"{hub.url}/{repository}/commit/0", "commitOid": "0" * 40, "success": True})

    def do_GET(self) -> None:
        self.answer({"sha": "0" * 40, "siblings": [], "id": "/".join(self.path.split("/")[3:5])})

    def answer(self, content: dict) -> None:
        text = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *args) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.mark.parametrize("languages", [["sw"], ["sw", "en2"]])
def test_every_pack_is_pushed_to_a_repository_of_its_own(hub, run_python, tiny, tmp_path, languages):
    """The second language is the teacher's under another code: it is about where the files go."""
    result = run_python(
        f"""
        from datasets import Dataset
        from hf_optical import *

        languages = {languages!r}
        args = OTDistillationConfig(output_dir={str(tmp_path / "run")!r}, language=languages, max_steps=2,
            use_cpu=True, eval_strategy="no", save_strategy="steps", save_steps=1, disable_tqdm=True, push_to_hub=True,
            hub_model_id="org/tiny", hub_private_repo=True, hub_token="hf_secret")
        pairs = load_bitext("examples/data/train.jsonl", "sw").select(range(32))
        again = [{{**row, "translation": {{**row["translation"], "en2": row["translation"]["en"]}}}} for row in pairs]
        pairs = {{"sw": pairs, "en2": Dataset.from_list(again)}}
        pairs = {{language: pairs[language] for language in languages}}
        trainer = OTDistillationTrainer({str(tiny)!r}, {str(tiny)!r}, args, pairs)
        trainer.train()
        trainer.push_to_hub()
        """,
        HF_ENDPOINT=hub.url,
        HF_HUB_OFFLINE="0",
        HF_HUB_DISABLE_XET="1",
    )
    assert result.returncode == 0, result.stderr[-3000:]
    names = ["org/tiny"] if len(languages) == 1 else [f"org/tiny-{language}" for language in languages]
    assert list(hub.created) == names and all(asked.get("visibility") == "private" for asked in hub.created.values())
    assert hub.committed.keys() == set(names)
    for name, files in hub.committed.items():
        assert set(FILES[:4]) <= set(files) <= {*FILES, ".gitattributes"}, name


def test_what_is_told_of_several_languages_is_put_together(make_two):
    told = {
        "sw": {"pairs": 30, "bitext": "a.jsonl", "counts": {"kept": 30, "empty": 1}},
        "lo": {"pairs": 12, "bitext": "b.jsonl", "counts": {"kept": 12}, "notes": ["free"]},
    }
    args = make_two(shared_pack="eastern").args
    details = run_details(args, "teacher", 7, ["sw", "lo"], told)
    assert (details["pairs"], details["bitext"], details["counts"]) == (
        42,
        "a.jsonl, b.jsonl",
        {"kept": 42, "empty": 1},
    )
    assert details["settings"]["sampling_temperature"] == 1.0 and details["languages"] == ["sw", "lo"]
    assert run_details(args, "teacher", 7, ["lo"], told)["notes"] == ["free"]
    assert "pairs" not in run_details(args, "teacher", 7, ["lo"], {})


def test_the_settings_told_are_those_that_the_method_uses():
    def settings(triples=0, **options):
        args = OTDistillationConfig(language=["sw", "lo"], use_cpu=True, **options)
        return run_details(args, "teacher", 7, ["lo"], {}, triples)["settings"]

    ranking = {"switch_side", "ranking_target", "ranking_weight"}
    assert {"marginals", "side", "epsilon"} <= settings().keys() and not ranking & settings().keys()
    alone = settings(method="code_switch")
    assert ranking <= alone.keys()
    assert not {"marginals", "side", "epsilon", "alternate", "dictionary", "triples"} & alone.keys()
    assert settings(method="code_switch", anchor_weight=0.5, side="both")["side"] == "both"
    files = ["private/en-sw.txt", "/home/me/en-lo.txt"]
    hybrid = settings(method="hybrid", alternate=True, dictionary=files, triples=12)
    assert (hybrid["alternate"], hybrid["dictionary"], hybrid["triples"]) == (True, "en-lo.txt", 12)
    assert {"marginals", "epsilon", *ranking} <= hybrid.keys()
