"""A small study over the embedded sentences, with tiny models."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import yaml
from tiny import DEMO

from hf_optical.studies import Store, Study, StudyConfig, load_study


@pytest.fixture
def content(tiny) -> dict[str, Any]:
    """Content of the YAML file of a study."""
    return {
        "name": "small",
        "data_dir": str(DEMO),
        "teacher": str(tiny),
        "corpora": {"sentences": {"sw": "train.jsonl"}},
        "tests": {"questions": {"sw": {"folder": "retrieval", "queries": 8, "pool": 30}}},
        "methods": {"before": {"kind": "zero_shot"}, "OT": {"kind": "trained"}, "ceiling": {"kind": "ceiling"}},
        "training": {"max_steps": 2, "use_cpu": True, "per_device_train_batch_size": 4, "new_words": 20},
        "sizes": [30],
    }


@pytest.fixture
def load(content, tmp_path) -> Callable[..., StudyConfig]:
    """Write the study with changed entries, and load it."""

    def load(**changes: Any) -> StudyConfig:
        file = tmp_path / "study.yaml"
        file.write_text(yaml.safe_dump({**content, **changes}, sort_keys=False), encoding="utf-8")
        return load_study(file)

    return load


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path / "cells")


@pytest.fixture
def run(load, store, tmp_path) -> Callable[..., Study]:
    """Run the study with changed entries."""

    def run(**changes: Any) -> Study:
        study = Study(load(**changes), store)
        assert study.run(tmp_path / "out", show_progress=False) == [], (tmp_path / "out" / "study.log").read_text()
        return study

    return run
