"""Running the cells of a study that are not finished yet."""

from __future__ import annotations

import logging
import os
import re
import shutil
import time
import traceback
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from filelock import Timeout
from tqdm.auto import tqdm
from transformers.utils import logging as transformers_logging

from ..errors import DataError
from .names import free_name
from .plan import Cell, Inputs, TestCell, TrainingCell, plan
from .settings import StudyConfig
from .store import Record, Store
from .workbench import Workbench


# Seconds to wait when other processes hold all remaining cells.
_WAIT = 1.0
_BAR = "{desc}: {percentage:3.0f}%|{bar:20}| {n_fmt}/{total_fmt} cells, {elapsed}{postfix}"


@dataclass(frozen=True)
class Failure:
    """A cell that failed, and its error."""

    cell: str
    error: str


class Study:
    """
    A study with its plan and its finished cells.

    Args:
        config ([`StudyConfig`]): the study, from [`load_study`].
        store ([`Store`]): storage of finished cells.

    Raises:
        DataError: sentence pairs cannot be read, or a model does not exist.
    """

    def __init__(self, config: StudyConfig, store: Store):
        self.config, self.store = config, store
        self.inputs = Inputs(config)
        try:
            self.cells = plan(config, self.inputs)
        except OSError as error:
            raise DataError(f"{config.file}: {error}") from error
        self.durations = Durations(self.cells, store)

    def todo(self) -> list[Cell]:
        """Unfinished cells with distinct keys, without training cells that no unfinished test cell needs."""
        unfinished = {cell.key: cell for cell in self.cells if not self.is_done(cell)}
        tests = [cell for cell in unfinished.values() if isinstance(cell, TestCell)]
        needed = {cell.training.key for cell in tests if cell.training}
        return [cell for cell in unfinished.values() if isinstance(cell, TestCell) or cell.key in needed]

    def is_done(self, cell: Cell) -> bool:
        """Whether a cell is finished, with all measures of this study."""
        return self.finished(cell) is not None

    def finished(self, cell: Cell) -> dict[str, Any] | None:
        """Results of a cell; `None` if it is not finished, or lacks a measure of this study or rankings to keep."""
        known = self.store.read(cell.key)
        if known is None or isinstance(cell, TrainingCell):
            return known
        lacks_run = self.config.keep_runs and not self.store.run_file(cell.key).is_file()
        return None if lacks_run or not set(self.config.measures) <= known["values"].keys() else known

    def records(self) -> list[Record]:
        """Results of all finished test cells, in the order of the plan."""
        records = []
        for cell in self.cells:
            if not isinstance(cell, TestCell) or (known := self.finished(cell)) is None:
                continue
            trained = self.store.read(cell.training.key) if cell.training else None
            records.append(
                Record(
                    method=cell.method.name,
                    kind=cell.method.report_kind(self.config),
                    values={measure: known["values"][measure] for measure in self.config.measures},
                    seconds=trained["train_seconds"] if trained else 0.0,
                    search_seconds=known["seconds"],
                    **{name: getattr(cell, name) for name in _OF_CELL},
                )
            )
        return records

    def write_runs(self, folder: str | os.PathLike) -> None:
        """Copy the rankings of all finished test cells to a folder, under the names of their cells."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        # Of all cells, so that a name does not depend on which of them are finished.
        cells = {cell.key: cell for cell in self.cells if isinstance(cell, TestCell)}
        taken: set[str] = set()
        for key, cell in cells.items():
            name = free_name(re.sub(r"[^\w.+-]+", "-", str(cell).removeprefix("test ")).strip("-"), taken)
            taken.add(name.lower())
            if self.store.run_file(key).is_file():
                shutil.copyfile(self.store.run_file(key), folder / f"{name}.trec.gz")

    def describe(self) -> str:
        """The plan in words: number of cells, the cells to run, and their estimated time."""
        todo = self.todo()
        estimates = [self.durations.estimate(cell) for cell in todo]
        lines = [
            f"  {cell}" + ("" if seconds is None else f"  ({duration(seconds)})")
            for cell, seconds in zip(todo, estimates, strict=True)
        ]
        total = len({cell.key for cell in self.cells})
        return "\n".join(
            [f"{self.config.name}: {total} cells, {len(todo)} to do, {self.durations.left(todo)}", *lines]
        )

    def run(self, output_dir: str | os.PathLike, *, show_progress: bool = True) -> list[Failure]:
        """
        Run all unfinished cells. A stopped run continues when called again, and several processes may share the work.

        If a cell fails, the error is written to `study.log` in `output_dir`, and the run continues.

        Returns:
            `list[Failure]`: the cells that failed.
        """
        output_dir = Path(output_dir)
        output_dir.mkdir(parents=True, exist_ok=True)
        self.store.settle()
        queue, busy = deque(self.todo()), 0
        failures: dict[str, Any] = {}
        bench = Workbench(self.config, self.inputs, self.store)
        with (
            open(output_dir / "study.log", "a", encoding="utf-8") as log,
            _quiet(),
            tqdm(total=len(queue), desc=self.config.name, bar_format=_BAR, disable=not show_progress) as progress,
        ):
            while queue:
                progress.set_postfix_str(f"{self.durations.left(queue)} left: {queue[0]}")
                cell = queue.popleft()
                if self._attempt(cell, bench, failures, log):
                    busy = 0
                    progress.update()
                    continue
                queue.append(cell)
                busy += 1
                if busy >= len(queue):
                    time.sleep(_WAIT)
                    busy = 0
        return list(failures.values())

    def _attempt(self, cell: Cell, bench: Workbench, failures: dict[str, Failure], log: TextIO) -> bool:
        """Run a cell unless it is finished by now; `False` if another process holds it or the training it needs."""
        start = time.perf_counter()
        training = cell.training if isinstance(cell, TestCell) else None
        try:
            if training and not self.is_done(training):
                if training.key in failures:
                    _log(log, f"SKIPPED {cell}: its training failed")
                return training.key in failures
            with self.store.lock(cell.key).acquire(blocking=False):
                if not self.is_done(cell):
                    self._run_cell(cell, bench, start, log)
        except Timeout:
            return False
        except Exception as error:  # a failed cell does not stop the others
            failures[cell.key] = Failure(str(cell), f"{type(error).__name__}: {' '.join(str(error).split())}")
            # Bad data needs no traceback.
            trace = "" if isinstance(error, DataError) else "\n" + traceback.format_exc()
            _log(log, f"FAILED {cell}: {error}{trace}")
        return True

    def _run_cell(self, cell: Cell, bench: Workbench, start: float, log: TextIO) -> None:
        bench.encoding_seconds = 0.0
        if isinstance(cell, TrainingCell):
            results = bench.train(cell)
        else:
            before = self.store.read(cell.key) or {"values": {}}
            results = {"values": {**before["values"], **bench.evaluate(cell)}}
        seconds = time.perf_counter() - start
        own = seconds - bench.encoding_seconds
        about = {"what": str(cell), "group": cell.group, "work": cell.work, "seconds": own}
        self.store.write(cell.key, {**about, **results})
        self.durations.add(cell.group, own, cell.work)
        _log(log, f"{seconds:.1f} s {cell}")


# Fields that a record has in common with its test cell.
_OF_CELL = ("test", "language", "corpus", "languages", "size", "pairs", "seed", "perturbation", "strength")


class Durations:
    """Time estimates from finished cells, in proportion to the work within a group of similar cells."""

    def __init__(self, cells: Iterable[Cell], store: Store):
        self._sums: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
        for key in dict.fromkeys(cell.key for cell in cells):
            known = store.read(key)
            if known is not None:
                self.add(known["group"], known["seconds"], known["work"])

    def add(self, group: str, seconds: float, work: float) -> None:
        """Learn from a finished cell."""
        # Groups without finished cells fall back on the whole stage.
        for name in (group, group.split()[0]):
            self._sums[name][0] += seconds
            self._sums[name][1] += work

    def estimate(self, cell: Cell) -> float | None:
        """Seconds that a cell will take; `None` if no cell of its stage is finished."""
        for name in (cell.group, cell.group.split()[0]):
            seconds, work = self._sums.get(name, (0.0, 0.0))
            if work:
                return seconds / work * cell.work
        return None

    def left(self, cells: Iterable[Cell]) -> str:
        """Total time of cells in words."""
        estimates = [self.estimate(cell) for cell in cells]
        known = [seconds for seconds in estimates if seconds is not None]
        if len(known) < len(estimates):
            return f"more than {duration(sum(known))}" if known else "time unknown"
        return f"about {duration(sum(known))}"


def _log(log: TextIO, line: str) -> None:
    log.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}\n")
    log.flush()


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide the progress bars of model loading and the messages of other libraries."""
    had_bar = transformers_logging.is_progress_bar_enabled()
    loggers = [logging.getLogger(name) for name in ("bm25s", "sentence_transformers")]
    before = [logger.propagate for logger in loggers]
    transformers_logging.disable_progress_bar()
    for logger in loggers:
        logger.propagate = False
    try:
        yield
    finally:
        for logger, propagate in zip(loggers, before, strict=True):
            logger.propagate = propagate
        if had_bar:
            transformers_logging.enable_progress_bar()


def load_records(config: StudyConfig, store: Store) -> list[Record]:
    """Results of a study so far."""
    return Study(config, store).records()


def duration(seconds: float) -> str:
    """Seconds in a readable unit."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
