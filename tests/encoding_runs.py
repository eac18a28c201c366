"""Corpora to encode, and encoding runs in other processes that can be killed."""

from __future__ import annotations

import gzip
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hf_optical.index import encoding_run
from hf_optical.index.lance_rows import open_dataset
from hf_optical.index.run_records import RunRecords
from hf_optical.index.tasks import Workers


# Runs are forked from a process that has imported everything, which makes many of them affordable.
_RUNS = multiprocessing.get_context("forkserver")
_RUNS.set_forkserver_preload(["encoding_runs", "hf_optical.retrieval.retriever", "lance"])


def write_corpus(folder: Path, sizes=(7, 1, 12), **changes: str) -> list[Path]:
    """Compressed JSON lines, with ids a0, a1, ..., b0, ...; `changes` are other lines by the ids that they replace."""
    folder.mkdir(exist_ok=True)
    files = []
    for letter, size in zip("abcdefgh", sizes, strict=False):
        files.append(folder / f"{letter}.jsonl.gz")
        rows = [
            {"_id": f"{letter}{i}", "title": "Rain", "text": f"The water in {i} is {letter}.", "year": 1900 + i}
            for i in range(size)
        ]
        lines = [changes.get(row["_id"], json.dumps(row)) for row in rows]
        with gzip.open(files[-1], "wt", encoding="utf-8") as file:
            file.write("\n".join(lines) + "\n")
    return files


def corpus_ids(sizes=(7, 1, 12)) -> list[str]:
    return [f"{letter}{i}" for letter, size in zip("abcdefgh", sizes, strict=False) for i in range(size)]


def ids_of(uri: str | Path) -> list[str]:
    return open_dataset(str(uri)).to_table(columns=["id"])["id"].to_pylist()


def finished_shards(uri: str | Path) -> int:
    records = RunRecords(str(uri))
    plan = records.plan()
    return len(records.shards(plan.run)) if plan else 0


def start_run(*arguments: Any, killed_at: str = "", **options: Any) -> multiprocessing.process.BaseProcess:
    """Call `encode_corpus` with one process; it kills itself `before commit`, `after commit` or `within clear`."""
    run = _RUNS.Process(target=_run, args=(arguments, options, killed_at))
    run.start()
    return run


def _run(arguments: tuple, options: dict[str, Any], killed_at: str) -> None:
    commit, delete = encoding_run._commit, RunRecords._delete

    def killed_commit(*own: Any) -> None:
        if killed_at == "after commit":
            commit(*own)
        os.kill(os.getpid(), signal.SIGKILL)

    def killed_delete(self: RunRecords, name: str) -> None:
        delete(self, name)
        os.kill(os.getpid(), signal.SIGKILL)

    if killed_at.endswith("commit"):
        encoding_run._commit = killed_commit
    elif killed_at:
        RunRecords._delete = killed_delete  # type: ignore[method-assign]
    encoding_run.encode_corpus(*arguments, workers=Workers(processes=1), **options)


def start_command(*arguments: Any, **environment: str) -> subprocess.Popen:
    """Run `hf-optical encode`."""
    env = {**os.environ, "PYTHONWARNINGS": "ignore", **environment}
    command = [sys.executable, "-m", "hf_optical", "encode", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=env)


def wait_for(condition: Callable[[], bool], alive: Callable[[], bool], seconds: float = 300) -> None:
    """Wait for a condition while a run is alive, or fail."""
    until = time.monotonic() + seconds
    while not condition():
        assert alive(), "the run has ended"
        assert time.monotonic() < until, f"nothing happened in {seconds} seconds"
        time.sleep(0.005)


def kill(process: subprocess.Popen) -> str:
    """Kill a command and get what it printed."""
    process.kill()
    return process.communicate()[1]
