"""
What every benchmark shares: contestants timed in turns, so that whatever else the machine does slows all of them
alike; a table for people; a JSON file.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import statistics
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from hf_optical.training.run_details import processor_name


@dataclass
class Measured:
    """
    One contestant in one setting.

    Args:
        setting (`dict`): what was measured: batch size, lengths and so on.
        name (`str`): the contestant.
        seconds (`list[float]`): of each round.
        notes (`dict`): what else is known of it, such as the error it reached.
    """

    setting: dict[str, Any]
    name: str
    seconds: list[float]
    notes: dict[str, Any] = field(default_factory=dict)

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


def race(
    setting: Mapping[str, Any],
    contestants: Mapping[str, Callable[[], Any]],
    rounds: int = 7,
    min_seconds: float = 0.02,
) -> list[Measured]:
    """
    Times all contestants in turns.

    Args:
        setting (mapping): what is measured.
        contestants (mapping of `str` to callable): name -> what is timed.
        rounds (`int`, defaults to 7): how often each has its turn, after one that is not timed.
        min_seconds (`float`, defaults to 0.02): a turn is repeated within a round until this much time has passed.
    """
    repeats = {}
    for name, run in contestants.items():
        start = _now()
        run()
        repeats[name] = max(1, round(min_seconds / max(_now() - start, 1e-9)))
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, run in contestants.items():
            start = _now()
            for _ in range(repeats[name]):
                run()
            seconds[name].append((_now() - start) / repeats[name])
    return [Measured(dict(setting), name, values) for name, values in seconds.items()]


def ratios(measured: Sequence[Measured], ours: str) -> dict[str, float]:
    """
    How many times faster `ours` is than each other contestant of one race: the median over the rounds of the ratio
    within a round.
    """
    own = next(entry for entry in measured if entry.name == ours)
    return {
        entry.name: statistics.median(b / a for a, b in zip(own.seconds, entry.seconds, strict=True))
        for entry in measured
        if entry.name != ours
    }


def peak_memory(run: Callable[[], Any], every: float = 0.002) -> float:
    """MB that `run` takes at most beyond what the process held before. Files mapped from the disk do not count."""

    def held() -> float:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("RssAnon"))

    def watch() -> None:
        while not done.wait(every):
            seen.append(held())

    seen, done = [held()], threading.Event()
    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        result = run()  # noqa: F841 what it returns belongs to the peak
        seen.append(held())
    finally:
        done.set()
        watcher.join()
    return max(seen) - seen[0]


def apart(function: Callable[..., Any], *arguments: Any) -> Any:
    """What `function` returns in a process of its own, where nothing ran before."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A Markdown table; numbers to three digits."""
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join("| " + " | ".join(_written(cell) for cell in line) + " |" for line in lines)


def write(file: str | os.PathLike, measured: Sequence[Measured], **more: Any) -> None:
    """Writes everything that was measured, and on what, as JSON."""
    content = {
        "machine": machine(),
        **more,
        "measured": [asdict(entry) | {"median": entry.median} for entry in measured],
    }
    path = Path(file)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def machine() -> dict[str, Any]:
    """The processor or accelerator, the threads and the versions that a figure depends on."""
    return {
        "processor": processor_name(),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def arguments(description: str, name: str) -> argparse.ArgumentParser:
    """The options that every benchmark has."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("outputs/benchmarks") / f"{name}.json", help="JSON file.")
    parser.add_argument("--rounds", type=int, default=7, help="How often each contestant has its turn.")
    parser.add_argument("--threads", type=int, default=1, help="Threads of torch. 1 is the most repeatable.")
    parser.add_argument("--quick", action="store_true", help="Small sizes and few rounds, to see that it runs.")
    return parser


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def _written(cell: Any) -> str:
    return f"{cell:.3g}" if isinstance(cell, float) else str(cell)
