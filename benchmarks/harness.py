"""
Shared code of the benchmarks: timing in turns, tables and JSON files.

Contestants take turns so that other load on the machine slows all of them alike.
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

from hf_optical.training.record import processor_name


@dataclass
class Measured:
    """
    One contestant in one setting.

    Args:
        setting (`dict`): batch size, lengths and so on.
        name (`str`): name of the contestant.
        seconds (`list[float]`): seconds of each round.
        notes (`dict`): other results, such as the error that was reached.
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
    Time all contestants in turns.

    Args:
        setting (mapping): batch size, lengths and so on.
        contestants (mapping of `str` to callable): name -> function to time.
        rounds (`int`, defaults to 7): number of turns of each, after one that is not timed.
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
    Speed-up of `ours` over each other contestant of a race.

    The median over the rounds of the ratio within a round.
    """
    own = next(entry for entry in measured if entry.name == ours)
    return {
        entry.name: statistics.median(b / a for a, b in zip(own.seconds, entry.seconds, strict=True))
        for entry in measured
        if entry.name != ours
    }


def peak_memory(run: Callable[[], Any], every: float = 0.002) -> float:
    """Peak memory of `run` in MB beyond what the process held before, without memory-mapped files."""

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
        result = run()  # noqa: F841 the result counts towards the peak
        seen.append(held())
    finally:
        done.set()
        watcher.join()
    return max(seen) - seen[0]


def apart(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call `function` in a new process and return its result."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Format a Markdown table with numbers to three digits."""
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join("| " + " | ".join(_written(cell) for cell in line) + " |" for line in lines)


def write(file: str | os.PathLike, measured: Sequence[Measured], **more: Any) -> None:
    """Write all measurements and the machine they ran on as JSON."""
    content = {
        "machine": machine(),
        **more,
        "measured": [asdict(entry) | {"median": entry.median} for entry in measured],
    }
    path = Path(file)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def machine() -> dict[str, Any]:
    """Processor or accelerator, number of threads and library versions."""
    return {
        "processor": processor_name(),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def arguments(description: str, name: str) -> argparse.ArgumentParser:
    """Command-line options of every benchmark."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("outputs/benchmarks") / f"{name}.json", help="JSON file.")
    parser.add_argument("--rounds", type=int, default=7, help="Number of turns of each contestant.")
    parser.add_argument("--threads", type=int, default=1, help="Threads of torch. 1 is the most reproducible.")
    parser.add_argument("--quick", action="store_true", help="Small sizes and few rounds, to check that it runs.")
    return parser


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def _written(cell: Any) -> str:
    return f"{cell:.3g}" if isinstance(cell, float) else str(cell)
