from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from tiny import REPOSITORY
from training.distributed_run import run as run_here
from transformers import trainer_pt_utils

from hf_optical import LanguagePack
from hf_optical.training.checkpoints import pack_folders
from hf_optical.training.distributed import PairMeans, from_main_process, pair_weights


# The first test runs all scenarios.
pytestmark = pytest.mark.timeout(1800)

LAUNCHERS = {
    "accelerate": (
        *("accelerate.commands.launch", "--multi_gpu", "--num_machines", "1", "--mixed_precision", "no"),
        *("--dynamo_backend", "no", "--main_process_port", "0", "--num_processes"),
    ),
    "torchrun": (
        *("torch.distributed.run", "--rdzv_backend", "c10d", "--rdzv_endpoint", "127.0.0.1:0"),
        "--nproc_per_node",
    ),
}

# 45 training and 13 evaluation sentences, which no batch size here divides evenly.
TRAINED = {
    "two epochs": {"max_steps": -1, "num_train_epochs": 2, "cache_teacher": False},
    "cached": {"max_steps": -1, "num_train_epochs": 1, "side": "both", "anchor_weight": 0.5, "cache_teacher": True},
    "accumulated": {"max_steps": -1, "num_train_epochs": 1, "gradient_accumulation_steps": 3},
    "two languages": {"language": ["sw", "lo"], "gradient_accumulation_steps": 2, "max_steps": 4},
    "shared": {"language": ["sw", "lo"], "shared_pack": "eastern", "train_sampling_strategy": "group_by_length"},
}
# Documents are ranked within the batch of a process, so a batch of twice the size has another loss.
RANKED = {
    name: {"method": "hybrid", "switch_side": "both", "batch": 3, "accumulated": 6, "max_steps": 2, **settings}
    for name, settings in {"ranked": {}, "in turns": {"alternate": True}}.items()
}
# Eight or eleven steps per epoch; the checkpoint is in the second epoch.
STRAIGHT = {
    "straight 1": {"language": ["sw"], "max_steps": 11, "save_steps": 9},
    "straight 2": {"language": ["sw", "lo"], "max_steps": 15, "save_steps": 13},
}
# Batches of unequal size, which depend on the number of processes. The oldest transformers has no such sampler.
DEALT = {}
if hasattr(trainer_pt_utils, "BatchRebalanceSampler"):
    DEALT["dealt"] = {"train_sampling_strategy": "batch_rebalance", "dataloader_drop_last": True, "max_steps": 9}
RESUMED = {
    name.replace("straight", "resumed"): {
        **settings,
        "resume_from_checkpoint": f"{name}/checkpoint-{settings['save_steps']}",
    }
    for name, settings in STRAIGHT.items()
}


# Scenarios that only the slow tests run.
SLOW = {"two epochs", "cached", "accumulated", "shared", "in turns", "straight 2", "resumed 2", "dealt"}


def names(scenarios: dict) -> list:
    return [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in scenarios]


def selected(request: pytest.FixtureRequest, scenarios: dict) -> dict:
    """Return the scenarios that the selected tests need."""
    chosen = {getattr(item, "callspec", None) and item.callspec.params.get("name") for item in request.session.items}
    slow = bool(chosen & SLOW)
    return {name: settings for name, settings in scenarios.items() if slow or name not in SLOW}


def run(folder: Path, models: tuple[Path, Path], processes: int, scenarios: dict, launcher: str = "accelerate"):
    """Run scenarios in one launch, with a timeout."""
    folder.mkdir(exist_ok=True)
    launch = ("-m", *LAUNCHERS[launcher], str(processes))
    script = "tests/training/distributed_run.py"
    with subprocess.Popen(
        [sys.executable, *launch, script, *map(str, models), str(folder), json.dumps(scenarios)],
        cwd=REPOSITORY,
        env={**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as started:
        try:
            output, error = started.communicate(timeout=900)
        except subprocess.TimeoutExpired:
            os.killpg(started.pid, signal.SIGKILL)
            raise
    return subprocess.CompletedProcess(started.args, started.returncode, output, error)


def results(folder: Path, models: tuple[Path, Path], processes: int, scenarios: dict) -> list[dict]:
    """Run scenarios and return the results of each process."""
    outcome = run(folder, models, processes, scenarios)
    assert outcome.returncode == 0, outcome.stderr[-3000:]
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(processes)]


@pytest.fixture(scope="module")
def models(tiny, teacher_folder) -> tuple[Path, Path]:
    return tiny, teacher_folder


@pytest.fixture(scope="module")
def alone(request, models, tmp_path_factory) -> tuple[Path, dict]:
    """Output folder and results of one process."""
    folder, scenarios = tmp_path_factory.mktemp("alone"), selected(request, TRAINED | RANKED)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(REPOSITORY)
        return folder, {
            name: run_here(*map(str, models), str(folder / name), **settings) for name, settings in scenarios.items()
        }


@pytest.fixture(scope="module", params=[2, pytest.param(3, marks=pytest.mark.slow)])
def together(request, models, tmp_path_factory) -> tuple[Path, list[dict]]:
    """Output folder and results of two and of three processes."""
    folder = tmp_path_factory.mktemp("together")
    return folder, results(
        folder, models, request.param, selected(request, TRAINED | RANKED | STRAIGHT | RESUMED | DEALT)
    )


def comparable(values: dict[str, float]) -> dict[str, float]:
    """
    Leave out times and the diagnostics of the solver.

    The solver checks for convergence every ten iterations, where the last digit may decide; that changes a loss by
    about 1e-6.
    """
    return {name: value for name, value in values.items() if not re.search("epoch|_runtime|_per_second|plan_", name)}


def check_training(one: dict, ranks: list[dict]) -> None:
    first = ranks[0]
    assert len(first["log"]) == len(one["log"])
    for step, (log, expected) in enumerate(zip(first["log"], one["log"], strict=True)):
        assert comparable(log) == pytest.approx(comparable(expected), abs=1e-5), step
    assert first["weights"] == pytest.approx(one["weights"], abs=1e-5)
    assert all(rank["weights"] == first["weights"] for rank in ranks), "ranks have different weights"


@pytest.mark.promise(
    "Several processes",
    "Two and three processes give the losses, metrics and weights of one process with the joint batch, "
    "also if the pairs do not divide evenly, with accumulation, an anchor, both roles and a teacher "
    "cache. Evaluating before training changes nothing; after training, every process has the same "
    "weights, bit for bit.",
)
@pytest.mark.parametrize("name", names(TRAINED))
def test_several_processes_equal_one_with_the_joint_batch(alone, together, name):
    """Also if the sentences do not divide evenly, and with `evaluate` before `train`."""
    (folder, one), (other_folder, ranks) = alone, together
    one, ranks = one[name], [rank[name] for rank in ranks]
    check_training(one, ranks)
    for rank in ranks:
        for when in ("before", "after"):
            assert comparable(rank[when]) == pytest.approx(comparable(one[when]), abs=1e-5), when
    settings = TRAINED[name]
    for language in settings.get("language", ["sw"]):
        loss = f"eval_{language}_loss" if "language" in settings else "eval_loss"
        assert one["after"][loss] < one["before"][loss]
    packs = [[LanguagePack.from_pretrained(path) for path in pack_folders(at / name)] for at in (folder, other_folder)]
    assert len(packs[0]) == (1 if "shared_pack" in settings else len(settings.get("language", ["sw"])))
    for one, other in zip(*packs, strict=True):
        for weight_name, weight in one.weights.items():
            assert (other.weights[weight_name] - weight).abs().max() <= 1e-6
        assert (other.vocabulary.rows - one.vocabulary.rows).abs().max() <= 1e-6


@pytest.mark.promise(
    "Several processes", "With a ranking loss, several processes equal one process that accumulates gradients."
)
@pytest.mark.parametrize("name", names(RANKED))
def test_ranking_in_several_processes_equals_accumulation_in_one(alone, together, name):
    one, ranks = alone[1][name], [rank[name] for rank in together[1]]
    check_training(one, ranks)
    assert one["after"]["eval_loss"] < one["before"]["eval_loss"]


@pytest.mark.promise(
    "Several processes",
    "Several processes that resume within an epoch see the same pairs and reach the same weights: two bit "
    "for bit, three up to rounding.",
)
@pytest.mark.parametrize("name", names(STRAIGHT))
def test_several_processes_resume_within_an_epoch_with_the_same_pairs(together, name):
    """Torch rearranges gradients after the first step of a run, so the order of three summands changes."""
    ranks = together[1]
    for rank in ranks:
        straight, resumed = rank[name], rank[name.replace("straight", "resumed")]
        assert [log["loss"] for log in resumed["log"]] == [log["loss"] for log in straight["log"]]
        assert resumed["weights"] == pytest.approx(straight["weights"], abs=1e-8 if len(ranks) > 2 else 0, rel=0)
        assert resumed["weights"] == ranks[0][name.replace("straight", "resumed")]["weights"], (
            "ranks have different weights"
        )


@pytest.mark.promise(
    "Several processes",
    "With batches of unequal size (`batch_rebalance`), several processes end with the same weights.",
)
@pytest.mark.parametrize("name", names(DEALT))
def test_rebalanced_batches_give_the_same_weights_on_every_process(alone, together, name):
    """Pairs that training drops are still evaluated on."""
    first, *others = (rank[name] for rank in together[1])
    assert comparable(first["before"]) == pytest.approx(comparable(alone[1]["two epochs"]["before"]), abs=1e-5)
    assert len(first["log"]) == 9 and first["after"]["eval_loss"] < first["before"]["eval_loss"]
    assert all(other["weights"] == first["weights"] for other in others), "ranks have different weights"


NOT_FINITE = "FloatingPointError: the loss is not finite at sentence pair"


@pytest.mark.promise(
    "Several processes",
    "If a process fails (a loss that is not finite, SIGKILL, a full disk), the run ends with its error and does not "
    "hang.",
)
@pytest.mark.slow
@pytest.mark.parametrize(
    ("processes", "fault", "rank", "error", "launcher"),
    [
        (2, "not finite", 1, NOT_FINITE, "accelerate"),
        (2, "disk full at a search", 0, "OSError: [Errno 28] No space left on device", "torchrun"),
        (3, "not finite", 2, NOT_FINITE, "torchrun"),
        (2, "not finite", 0, NOT_FINITE, "accelerate"),
        (2, "killed", 1, "Signal 9 (SIGKILL) received", "torchrun"),
        (3, "killed", 0, "Signal 9 (SIGKILL) received", "accelerate"),
        (2, "killed while it waits", 1, "Signal 9 (SIGKILL) received", "torchrun"),
        (2, "disk full at the teacher's vectors", 0, "File too large", "accelerate"),
        (2, "disk full at a checkpoint", 0, "File too large", "accelerate"),
    ],
)
def test_failure_of_a_rank_ends_the_run_with_its_error(models, tmp_path, processes, fault, rank, error, launcher):
    settings = {"fault": [fault, rank], "cache_teacher": "teacher" in fault}
    if fault == "killed while it waits":
        # The other processes wait for the main one, which takes longer than the test.
        settings |= {"eval_strategy": "steps", "eval_steps": 2, "search_seconds": 600}
    outcome = run(tmp_path, models, processes, {"fails": settings}, launcher)
    seconds = time.time() - float((tmp_path / "fails" / "moment").read_text())
    print(f"{fault} on rank {rank} of {processes}: over after {seconds:.1f} s")
    assert outcome.returncode != 0
    assert error in outcome.stderr, outcome.stderr[-5000:]
    # A launcher gives the other processes half a minute; the timeout of collective operations is half an hour.
    assert seconds < 90
    assert not list(tmp_path.glob("*.json"))


@pytest.mark.promise(
    "Several processes",
    "The other processes wait for the main one (teacher vectors, search) longer than `ddp_timeout`.",
)
@pytest.mark.slow
def test_processes_wait_for_the_main_one_longer_than_the_timeout(models, tmp_path):
    """Encoding a large bitext with the teacher takes hours; `ddp_timeout` is for steps."""
    first, second = results(tmp_path, models, 2, {"slow": {"ddp_timeout": 8, "search_seconds": 14, "max_steps": 1}})
    assert first["slow"]["after"]["eval_map"] == second["slow"]["after"]["eval_map"]


def test_single_process_needs_no_communication():
    assert from_main_process(lambda: {"map": 0.5}) == {"map": 0.5}
    with pytest.raises(ZeroDivisionError):
        from_main_process(lambda: 1 / 0)
    assert pair_weights(4) is None


def test_pair_means_leave_out_repeated_pairs():
    means = PairMeans()
    means.add("loss", torch.tensor([1.0, 2.0, 6.0]))
    means.add("loss", torch.tensor([4.0, 100.0, 8.0, 100.0]), torch.tensor([2.0, 0.0]))
    assert means.take() == {"loss": pytest.approx((1 + 2 + 6 + 4 + 8) / 5)}
    assert means.take() == {}
