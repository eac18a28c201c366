"""A trainer that is ready to run: tiny teacher and student, the embedded sentences."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from datasets import Dataset
from tiny import DEMO, REPOSITORY, tiny_checkpoint
from transformers import EarlyStoppingCallback

from hf_optical import (
    OpticalModel,
    OpticalProcessor,
    OTDistillationConfig,
    OTDistillationTrainer,
    RetrievalEvaluator,
    load_beir,
    load_bitext,
)


_ARGUMENTS = (
    *("retrieval_evaluator", "callbacks", "peft_config", "loss", "train_dataset", "eval_dataset", "triples"),
    *("english_texts", "monolingual_texts"),
    *("processing_class", "optimizers"),
)


TRIPLES = [
    {"query": "who sells coffee", "positive": "the farmer sells coffee", "negatives": ["the bus is late"]},
    {"query": "when does the bus come", "positive": "the bus comes at noon", "negatives": []},
    {"query": "where is the market", "positive": "the market is near the lake", "negatives": ["rain", "a school"]},
]


@pytest.fixture(scope="session")
def pairs():
    return load_bitext(DEMO / "train.jsonl", "sw").select(range(30))


@pytest.fixture(scope="session")
def held_out():
    return load_bitext(DEMO / "validation.jsonl", "sw").select(range(11))


@pytest.fixture(scope="session")
def triples():
    return Dataset.from_list(TRIPLES)


@pytest.fixture
def best_by_map():
    """Arguments of a trainer that overshoots, stops early and loads its best checkpoint."""
    return {
        "num_train_epochs": 8,
        "eval_strategy": "epoch",
        "save_strategy": "epoch",
        "save_total_limit": None,
        "load_best_model_at_end": True,
        "metric_for_best_model": "map",
        "greater_is_better": True,
        "learning_rate": 5e-2,
        "callbacks": [EarlyStoppingCallback(early_stopping_patience=1)],
    }


def in_lao(pairs: Dataset) -> Dataset:
    """Reverse the Swahili of the pairs, for a second language whose code is part of `lora`."""
    rows = [
        {**row, "translation": {"en": row["translation"]["en"], "lo": row["translation"]["sw"][::-1]}} for row in pairs
    ]
    return Dataset.from_list(rows)


@pytest.fixture(scope="session")
def two(pairs):
    """Sentence pairs of two languages, more of one than of the other."""
    return {"sw": pairs, "lo": in_lao(pairs.select(range(5, 17)))}


@pytest.fixture(scope="session")
def two_held_out(held_out):
    return {"sw": held_out, "lo": in_lao(held_out.select(range(6)))}


@pytest.fixture(scope="session")
def teacher_folder(tmp_path_factory) -> Path:
    """A teacher that shares only the vector size with the student."""
    return tiny_checkpoint(tmp_path_factory.mktemp("teacher"), "xlm-roberta", seed=1)


@pytest.fixture(scope="session")
def evaluator(tiny):
    teacher, processor = OpticalModel.from_pretrained(tiny), OpticalProcessor.from_pretrained(tiny)
    return RetrievalEvaluator(load_beir(DEMO / "retrieval"), teacher, processor)


def trainer_maker(output_dir: Path, student: Path, teacher: Path, pairs: Dataset, held_out: Dataset):
    """Return a function that makes trainers with these defaults."""

    def make(trainer_class=OTDistillationTrainer, student=student, teacher=teacher, **options):
        arguments = {name: options.pop(name) for name in _ARGUMENTS if name in options}
        if not isinstance(options.get("method", ""), str):
            arguments["method"] = options.pop("method")
        settings = {
            "output_dir": str(output_dir),
            "language": "sw",
            "num_train_epochs": 1,
            "per_device_train_batch_size": 5,
            "per_device_eval_batch_size": 4,
            "learning_rate": 5e-3,
            "eval_strategy": "no",
            "save_strategy": "no",
            "logging_steps": 1,
            "disable_tqdm": True,
            "use_cpu": True,
            "evaluate_on_pairs": False,
            "fit_projection": False,  # the random models of these tests share no space
            **options,
        }
        return trainer_class(
            student,
            teacher,
            OTDistillationConfig(**settings),
            **{"train_dataset": pairs, "eval_dataset": held_out, **arguments},
        )

    return make


@pytest.fixture
def make_trainer(tiny, teacher_folder, pairs, held_out, tmp_path):
    return trainer_maker(tmp_path / "run", tiny, teacher_folder, pairs, held_out)


@pytest.fixture
def make_two(make_trainer, two, two_held_out):
    """Make a trainer of two languages."""

    def make(**options):
        return make_trainer(
            **{"language": ["sw", "lo"], "train_dataset": two, "eval_dataset": two_held_out, **options}
        )

    return make


@pytest.fixture
def run_python():
    """Run Python code in a new process, in the root of the repository."""

    def run(code: str, *command: str, timeout: int = 300, **environment: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [*(command or [sys.executable]), "-c", textwrap.dedent(code)],
            cwd=REPOSITORY,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    return run
