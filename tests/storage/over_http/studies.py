"""Publish a study, and load it with `datasets`."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
import yaml
from datasets import load_dataset
from study_records import record, references
from tiny import DEMO

from hf_optical.studies import load_study


pytest.importorskip("matplotlib")

from hf_optical.studies.hub_dataset import publish_study  # noqa: E402
from hf_optical.studies.report import write_report  # noqa: E402


def test_published_study_loads_as_dataset(hub, tiny, tmp_path):
    content = {
        **{"name": "small", "data_dir": str(DEMO), "teacher": str(tiny), "sizes": [30], "measures": ["AP"]},
        "corpora": {"sentences": {"sw": "train.jsonl"}},
        "tests": {"questions": {"sw": {"folder": "retrieval"}}},
        "methods": {"before": {"kind": "zero_shot"}, "OT": {"kind": "trained"}, "ceiling": {"kind": "ceiling"}},
    }
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(content))
    config = load_study(tmp_path / "study.yaml")
    records = [*references(["sw"]), record("OT", 0.5, "sw", kind="ot", size=30, seed=1)]
    report = write_report(tmp_path / "out", config, records).parent
    address = publish_study(report, "org/study", config, records, license="cc-by-4.0")
    assert address.startswith(f"{hub.url}/datasets/org/study/commit/")
    assert {"README.md", "report.md", "results.json"} < hub.files("org/study", kind="dataset").keys()
    places = [str(tmp_path), str(tiny), tempfile.gettempdir() + "/", f"{Path.home()}/"]
    assert not [place for place in places if any(place.encode() in sent for sent in hub.received)]
    values = load_dataset("org/study", split="train", cache_dir=str(tmp_path / "datasets"))
    assert len(values) == sum(len(each.values["AP"]) for each in records)
