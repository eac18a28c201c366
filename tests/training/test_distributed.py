from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch
from tiny import REPOSITORY

from hf_optical import LanguagePack
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


def test_two_processes_equal_one_with_twice_the_batch(tiny, teacher_folder, tmp_path):
    """13 sentences to evaluate on do not divide evenly; `evaluate` comes before `train`."""
    results = {}
    for processes, batch in ((1, 6), (2, 3)):
        output = str(tmp_path / f"run{processes}")
        settings = {"per_device_train_batch_size": batch, "per_device_eval_batch_size": 2}
        outcome = run(processes, str(tiny), str(teacher_folder), output, json.dumps(settings))
        assert outcome.returncode == 0, outcome.stderr[-3000:]
        results[processes] = [
            json.loads((tmp_path / f"run{processes}.{i}.json").read_text()) for i in range(processes)
        ]
    (one,), (first, second) = results[1], results[2]
    assert first["losses"] == pytest.approx(one["losses"], abs=1e-6)
    assert first["weights"] == second["weights"], "the ranks have parted"
    assert first["weights"] == pytest.approx(one["weights"], abs=1e-5)
    for rank in (first, second):
        for when in ("before", "after"):
            for measure in ("eval_loss", "eval_map", "eval_recall@100"):
                assert rank[when][measure] == pytest.approx(one[when][measure], abs=1e-6), (when, measure)
    assert one["after"]["eval_loss"] < one["before"]["eval_loss"]
    packs = [LanguagePack.from_pretrained(tmp_path / f"run{processes}") for processes in (1, 2)]
    for name, weight in packs[0].weights.items():
        assert (packs[1].weights[name] - weight).abs().max() <= 1e-6


def test_one_process_does_no_more_than_the_question_asks():
    assert from_main_process(lambda: {"map": 0.5}) == {"map": 0.5}
    with pytest.raises(ZeroDivisionError):
        from_main_process(lambda: 1 / 0)
    assert mean_over_processes(torch.tensor(2.0)) == 2.0
