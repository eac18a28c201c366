from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny import REPOSITORY

from hf_optical import LanguagePack
from hf_optical.training.checkpoints import pack_folders
from hf_optical.training.distributed import from_main_process, mean_over_processes


LAUNCH = (
    *("-m", "accelerate.commands.launch", "--multi_gpu", "--num_machines", "1", "--mixed_precision", "no"),
    *("--dynamo_backend", "no", "--main_process_port", "0"),
)


def run(processes: int, *arguments: str) -> subprocess.CompletedProcess:
    launch = (*LAUNCH, "--num_processes", str(processes)) if processes > 1 else ()
    return subprocess.run(
        [sys.executable, *launch, "tests/training/distributed_run.py", *arguments],
        cwd=REPOSITORY,
        env={**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )


def results(folder: Path, name: str, processes: int, *arguments: object, **settings) -> list[dict]:
    """What each process of a run found."""
    outcome = run(processes, *map(str, arguments), str(folder / name), json.dumps(settings))
    assert outcome.returncode == 0, outcome.stderr[-3000:]
    return [json.loads((folder / f"{name}.{rank}.json").read_text()) for rank in range(processes)]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"language": ["sw", "lo"], "gradient_accumulation_steps": 2, "max_steps": 3},
        {"language": ["sw", "lo"], "shared_pack": "eastern", "train_sampling_strategy": "group_by_length"},
    ],
)
def test_two_processes_equal_one_with_twice_the_batch(tiny, teacher_folder, tmp_path, settings):
    """13 sentences to evaluate on do not divide evenly; `evaluate` comes before `train`."""
    found = {}
    for processes, batch in ((1, 6), (2, 3)):
        found[processes] = results(
            *(tmp_path, f"run{processes}", processes, tiny, teacher_folder),
            **{"per_device_train_batch_size": batch, "per_device_eval_batch_size": 2, **settings},
        )
    (one,), (first, second) = found[1], found[2]
    assert first["losses"] == pytest.approx(one["losses"], abs=1e-6)
    assert first["weights"] == second["weights"], "the ranks have parted"
    assert first["weights"] == pytest.approx(one["weights"], abs=1e-5)
    for rank in (first, second):
        for when in ("before", "after"):
            for measure in [name for name in one[when] if name.endswith(("_loss", "_map", "_recall@100"))]:
                assert rank[when][measure] == pytest.approx(one[when][measure], abs=1e-6), (when, measure)
    for language in settings.get("language", ["sw"]):
        loss = f"eval_{language}_loss" if "language" in settings else "eval_loss"
        assert one["after"][loss] < one["before"][loss]
    packs = [[LanguagePack.from_pretrained(path) for path in pack_folders(tmp_path / f"run{n}")] for n in (1, 2)]
    assert len(packs[0]) == (1 if "shared_pack" in settings else len(settings.get("language", ["sw"])))
    for one, other in zip(*packs, strict=True):
        for name, weight in one.weights.items():
            assert (other.weights[name] - weight).abs().max() <= 1e-6
        assert (other.vocabulary.rows - one.vocabulary.rows).abs().max() <= 1e-6


@pytest.mark.parametrize("settings", [{}, {"alternate": True}])
def test_two_processes_rank_as_one_that_accumulates(tiny, teacher_folder, tmp_path, settings):
    """Documents are ranked within a process's batch, so that twice the batch would be another loss."""
    settings = {"method": "hybrid", "switch_side": "both", "per_device_train_batch_size": 3, **settings}
    found = [
        results(
            *(tmp_path, f"run{processes}", processes, tiny, teacher_folder),
            **{"gradient_accumulation_steps": 2 // processes, **settings},
        )
        for processes in (1, 2)
    ]
    (one,), (first, second) = found
    assert first["losses"] == pytest.approx(one["losses"], abs=1e-6)
    assert first["weights"] == second["weights"], "the ranks have parted"
    assert first["weights"] == pytest.approx(one["weights"], abs=1e-5)
    assert one["after"]["eval_loss"] < one["before"]["eval_loss"]


@pytest.mark.parametrize("languages", [["sw"], ["sw", "lo"]])
def test_two_processes_go_on_in_mid_epoch_with_the_same_pairs(tiny, teacher_folder, tmp_path, languages):
    """Eight or eleven steps an epoch; the checkpoint is in the second."""
    settings = {"language": languages, "per_device_train_batch_size": 3, "max_steps": 15, "save_steps": 13}
    straight, _ = results(tmp_path, "straight", 2, tiny, teacher_folder, **settings)
    checkpoint = str(tmp_path / "straight" / "checkpoint-13")
    resumed, _ = results(tmp_path, "resumed", 2, tiny, teacher_folder, **settings, resume_from_checkpoint=checkpoint)
    assert resumed["losses"] == straight["losses"]
    assert resumed["weights"] == straight["weights"]


def test_one_process_does_no_more_than_the_question_asks():
    assert from_main_process(lambda: {"map": 0.5}) == {"map": 0.5}
    with pytest.raises(ZeroDivisionError):
        from_main_process(lambda: 1 / 0)
    assert mean_over_processes(torch.tensor(2.0)) == 2.0
