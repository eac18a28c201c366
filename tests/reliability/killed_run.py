"""
Runs of the example scripts that are killed.

Each run is forked from a process that has already imported everything, which makes many runs affordable.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import resource
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import yaml
from example_scripts import compare, distill, forking_context
from packs import WORDS, make_pack
from tiny import DEMO, tiny_checkpoint

from hf_optical import OpticalRetriever


# Audit events that Python raises before it changes a folder; `open` only if it is for writing.
_EVENTS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.chmod", "os.truncate", "os.link"}
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
# Largest length of a torn file.
_MOST_BYTES = 20_000

# A run gets the folder that [`prepare`] wrote and the one to write to.
Run = Callable[[Path, Path], None]


@dataclass(frozen=True)
class Kill:
    """
    When a run is killed.

    Args:
        kind (`str`):
            `"moment"`: SIGKILL after some time. `"change"`: SIGKILL just before a change to the run's folder.
            `"torn"`: after some change, the system kills the run while it writes a file beyond `length` bytes.
        place (`float`): how far into the run, from 0 to 1.
        length (`int`): bytes after which a file is torn.
    """

    kind: str
    place: float
    length: int

    @classmethod
    def draw(cls, kind: str, seed: int) -> Kill:
        drawn = random.Random(f"{kind} {seed}")
        return cls(kind, drawn.random(), int(_MOST_BYTES ** drawn.random()))


def prepare(folder: Path) -> Path:
    """Write the files that the runs read."""
    tiny_checkpoint(folder / "tiny")
    for name, count in (("train", 30), ("validation", 11)):
        lines = (DEMO / f"{name}.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
        (folder / f"{name}.jsonl").write_text("".join(lines[:count]), encoding="utf-8")
    study = {
        "data_dir": str(folder),
        "teacher": "tiny",
        "corpora": {"sentences": {"sw": "train.jsonl"}},
        "tests": {"questions": {"sw": {"folder": str(DEMO / "retrieval"), "queries": 10, "pool": 30}}},
        "methods": {"before": {"kind": "zero_shot"}, "OT": {"kind": "trained"}, "ceiling": {"kind": "ceiling"}},
        "training": {"max_steps": 3, "use_cpu": True, "per_device_train_batch_size": 4, "new_words": 50},
        "sizes": [30],
    }
    (folder / "study.yaml").write_text(yaml.safe_dump(study), encoding="utf-8")
    return folder


def train(inputs: Path, folder: Path) -> None:
    """Train with a teacher cache, frequent and limited checkpoints, and the best model at the end."""
    settings = {
        **dict.fromkeys(("teacher_model", "student_model"), inputs / "tiny"),
        **{"train_file": inputs / "train.jsonl", "validation_file": inputs / "validation.jsonl", "language": "sw"},
        **{"output_dir": folder, "teacher_cache_dir": folder / "teacher", "resume_from_checkpoint": "last"},
        **{"num_train_epochs": 2, "per_device_train_batch_size": 10, "learning_rate": 0.005, "new_words": 50},
        **{"save_strategy": "steps", "save_steps": 2, "save_total_limit": 1, "load_best_model_at_end": "true"},
        **{"eval_strategy": "steps", "eval_steps": 2, "metric_for_best_model": "loss"},
        **{"disable_dropout": "false", "use_cpu": "true", "disable_tqdm": "true", "logging_steps": 1},
    }
    sys.argv = ["distill.py", *(str(text) for name, value in settings.items() for text in (f"--{name}", value))]
    distill.main()


def study(inputs: Path, folder: Path) -> None:
    sys.argv = ["compare.py", "--config", str(inputs / "study.yaml"), "--output_dir", str(folder)]
    compare.main()


def save_packs(inputs: Path, folder: Path) -> None:
    """Save a pack, and another over it."""
    for seed in (1, 2):
        make_pack(inputs / "tiny", "sw", seed, WORDS).save_pretrained(folder)


def save_merged(inputs: Path, folder: Path) -> None:
    """Save a merged retriever over one with packs: another base, no packs, and nearest words in their place."""
    retriever = OpticalRetriever.from_pretrained(folder, device="cpu")
    retriever.merge("sw").save_pretrained(folder)


class Runs:
    """
    Start runs and kill them.

    Args:
        inputs (`Path`): folder that [`prepare`] wrote.
    """

    def __init__(self, inputs: Path):
        self.inputs = inputs
        self._context = forking_context()

    def whole(self, run: Run, folder: Path) -> tuple[int, float]:
        """Run to the end; return the number of changes to the folder and the seconds."""
        process, log = self._start(run, folder)
        process.join(300)
        assert process.exitcode == 0, log.read_text(encoding="utf-8")[-5000:]
        changes, seconds = log.read_text(encoding="utf-8").split()[-2:]
        return int(changes), float(seconds)

    def kill(self, run: Run, folder: Path, kill: Kill, changes: int, seconds: float) -> bool:
        """Run until the kill; return whether it came before the end. A full run takes `changes` and `seconds`."""
        process, log = self._start(run, folder, kill, int(kill.place * changes))
        process.join(kill.place * seconds if kill.kind == "moment" else 300)
        if process.exitcode is None:
            process.kill()
            process.join()
        assert process.exitcode in (0, -signal.SIGKILL, -signal.SIGXFSZ), log.read_text(encoding="utf-8")[-5000:]
        return process.exitcode != 0

    def _start(self, run: Run, folder: Path, *kill) -> tuple[multiprocessing.Process, Path]:
        log = folder.with_suffix(".txt")
        process = self._context.Process(target=_run, args=(run, self.inputs, folder, log, *kill))
        process.start()
        return process, log


def _run(run: Run, inputs: Path, folder: Path, log: Path, kill: Kill | None = None, at: int = 0) -> None:
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    changes, start = 0, time.perf_counter()

    def hook(event: str, arguments: tuple) -> None:
        nonlocal changes
        if event not in _EVENTS or not _changes(folder, event, arguments):
            return
        changes += 1
        if changes <= at or kill is None or kill.kind == "moment":
            return
        if kill.kind == "change":
            os.kill(os.getpid(), signal.SIGKILL)
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (kill.length, resource.RLIM_INFINITY))

    sys.addaudithook(hook)
    run(inputs, folder)
    print(changes, time.perf_counter() - start)


def _changes(folder: Path, event: str, arguments: tuple) -> bool:
    path, *others = arguments
    if event == "open" and not (isinstance(others[-1], int) and others[-1] & _WRITING):
        return False
    # `shutil.rmtree` uses paths relative to an open folder; these belong to the run.
    inside = isinstance(path, (str, os.PathLike)) and os.fspath(path).startswith(f"{folder}{os.sep}")
    return inside or event in ("os.remove", "os.rmdir") and others[-1] != -1
