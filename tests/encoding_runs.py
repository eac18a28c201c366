"""Corpora to encode, and encoding runs in other processes that can be killed."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from hf_optical.index.lance_rows import open_dataset


def write_corpus(folder: Path, sizes=(7, 1, 12), **changes) -> list[Path]:
    """Compressed JSON lines, with ids a0, a1, ..., b0, ...; `changes` replace rows by their ids."""
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


def ids_of(uri) -> list[str]:
    return open_dataset(str(uri)).to_table(columns=["id"])["id"].to_pylist()


def start(*arguments, **environment: str) -> subprocess.Popen:
    """Run `hf-optical encode`."""
    env = {**os.environ, "PYTHONWARNINGS": "ignore", **environment}
    command = [sys.executable, "-m", "hf_optical", "encode", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=env)


def wait_for(condition, process: subprocess.Popen, seconds: float = 120) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None and time.monotonic() < until, process.communicate()[1]
        time.sleep(0.002)


def records(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.encoding/*/*.json"))


def kill(process: subprocess.Popen) -> str:
    """Kill a process and get what it printed."""
    process.kill()
    return process.communicate()[1]
