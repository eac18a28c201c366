"""The example scripts and `hf-optical`, run in processes forked from one that has already imported them."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext
from pathlib import Path

import pytest


REPOSITORY = Path(__file__).parent.parent
sys.path.append(str(REPOSITORY / "examples"))

import compare  # noqa: E402
import distill  # noqa: E402

# Imported by subcommands when they run.
from hf_optical.cli import main as hf_optical_main  # noqa: E402


def forking_context() -> ForkServerContext:
    """A context whose processes start with the scripts imported, which takes seconds each time otherwise."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["pytest", __name__])
    with pytest.MonkeyPatch.context() as patch:
        # A process that forks must have a single thread.
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("TOKENIZERS_PARALLELISM", "false")
        patch.setenv("PYTHONPATH", os.pathsep.join(map(str, sys.path)))
        forkserver.ensure_running()
    return context


def run_compare(*arguments: object) -> subprocess.CompletedProcess:
    """Run `examples/compare.py` as a command."""
    return _run(compare.main, ["compare.py", *map(str, arguments)])


def run_distill(*arguments: object) -> subprocess.CompletedProcess:
    """Run `examples/distill.py` as a command."""
    return _run(distill.main, ["distill.py", *map(str, arguments)])


def run_hf_optical(*arguments: object) -> subprocess.CompletedProcess:
    """Run `hf-optical`."""
    return _run(hf_optical_main, ["hf-optical", *map(str, arguments)])


def _run(main: Callable[[], None], command: list[str]) -> subprocess.CompletedProcess:
    with tempfile.TemporaryDirectory() as folder:
        logs = [Path(folder) / name for name in ("stdout", "stderr")]
        process = forking_context().Process(target=_call, args=(main, command, logs))
        process.start()
        process.join(500)
        if process.exitcode is None:
            process.kill()
            pytest.fail(f"{command} did not end: {logs[1].read_text(encoding='utf-8')[-3000:]}")
        return subprocess.CompletedProcess(
            command, process.exitcode, *(log.read_text(encoding="utf-8") for log in logs)
        )


def _call(main: Callable[[], None], command: list[str], logs: list[Path]) -> None:
    for descriptor, log in zip((1, 2), logs, strict=True):
        os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT), descriptor)
    os.chdir(REPOSITORY)
    os.environ["ACCELERATE_USE_CPU"] = "true"
    sys.argv = command
    main()
