"""Does the cells of a study that are not done yet."""

from __future__ import annotations

import logging
import os
import time
import traceback
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from filelock import Timeout
from tqdm.auto import tqdm
from transformers.utils import logging as transformers_logging

from ..errors import DataError
from .config import StudyConfig
from .methods import Workbench
from .plan import Cell, Inputs, TestCell, TrainingCell, plan
from .store import Record, Store


# Seconds between two looks at cells that another process is at.
_PATIENCE = 1.0
_BAR = "{desc}: {percentage:3.0f}%|{bar:20}| {n_fmt}/{total_fmt} cells, {elapsed}{postfix}"


@dataclass(frozen=True)
class Failure:
    """A cell that could not be done, and why."""

    cell: str
    error: str


class Study:
    """
    A study, its plan, and what of it is done.

    Args:
        config ([`StudyConfig`]): what [`load_study`] read.
        store ([`Store`]): where finished cells are kept.

    Raises:
        DataError: sentence pairs cannot be read, or a model is not there.
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
        """The cells that are not done, those of equal key once, and no training that nobody asks for any more."""
        open_cells = {cell.key: cell for cell in self.cells if not self.is_done(cell)}
        needed = {cell.training.key for cell in open_cells.values() if isinstance(cell, TestCell) and cell.training}
        return [cell for cell in open_cells.values() if isinstance(cell, TestCell) or cell.key in needed]

    def is_done(self, cell: Cell) -> bool:
        """Whether a cell is finished, with every measure of this study."""
        known = self.store.read(cell.key)
        if known is None or isinstance(cell, TrainingCell):
            return known is not None
        return set(self.config.measures) <= known["values"].keys()

    def records(self) -> list[Record]:
        """What was measured so far, in the order of the plan."""
        records = []
        for cell in self.cells:
            known = self.store.read(cell.key) if isinstance(cell, TestCell) else None
            if known is None or not set(self.config.measures) <= known["values"].keys():
                continue
            trained = self.store.read(cell.training.key) if cell.training else None
            records.append(
                Record(
                    method=cell.method.name,
                    kind=cell.method.report_kind(self.config),
                    test=cell.test,
                    language=cell.language,
                    values={measure: known["values"][measure] for measure in self.config.measures},
                    corpus=cell.corpus,
                    languages=cell.languages,
                    size=cell.size,
                    pairs=cell.pairs,
                    seed=cell.seed,
                    perturbation=cell.perturbation,
                    strength=cell.strength,
                    seconds=trained["train_seconds"] if trained else 0.0,
                    search_seconds=known["seconds"],
                )
            )
        return records

    def describe(self) -> str:
        """The plan in words: what is done, what is to do, and how long that will take."""
        todo = self.todo()
        lines = []
        for cell in todo:
            seconds = self.durations.estimate(cell)
            lines.append(f"  {cell}" + ("" if seconds is None else f"  ({duration(seconds)})"))
        distinct = len({cell.key for cell in self.cells})
        left = self.durations.left(todo)
        head = f"{self.config.name}: {distinct} cells, {len(todo)} to do, {left}"
        return "\n".join([head, *lines])

    def run(self, output_dir: str | os.PathLike, *, show_progress: bool = True) -> list[Failure]:
        """
        Does what is to do. May be stopped at any moment and called again; several processes may share the work.

        A cell that fails is noted in `study.log` of `output_dir`, and the others go on.

        Returns:
            `list[Failure]`: the cells that failed.
        """
        output_dir = Path(output_dir)
        output_dir.mkdir(parents=True, exist_ok=True)
        self.store.settle()
        queue, failures, seen_busy = deque(self.todo()), {}, 0
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
                    seen_busy = 0
                    progress.update()
                    continue
                queue.append(cell)
                seen_busy += 1
                if seen_busy >= len(queue):
                    time.sleep(_PATIENCE)
                    seen_busy = 0
        return list(failures.values())

    def _attempt(self, cell: Cell, bench: Workbench, failures: dict[str, Failure], log: TextIO) -> bool:
        """Does a cell, unless it is done meanwhile; `False` if another process is at it or at what it needs."""
        start = time.perf_counter()
        try:
            if isinstance(cell, TestCell) and cell.training and not self.is_done(cell.training):
                if cell.training.key in failures:
                    _note(log, f"SKIPPED {cell}: it needs what was to be trained")
                return cell.training.key in failures
            with self.store.lock(cell.key).acquire(blocking=False):
                if self.is_done(cell):
                    return True
                self._do(cell, bench, start)
        except Timeout:
            return False
        except Exception as error:  # whatever one cell meets, the others go on
            failures[cell.key] = Failure(str(cell), f"{type(error).__name__}: {' '.join(str(error).split())}")
            # What is wrong with the data is said in one line; anything else is a fault, and shows where.
            told = "" if isinstance(error, DataError) else "\n" + traceback.format_exc()
            _note(log, f"FAILED {cell}: {error}{told}")
            return True
        seconds = time.perf_counter() - start
        self.durations.add(cell, seconds - bench.waited)
        _note(log, f"{seconds:.1f} s {cell}")
        return True

    def _do(self, cell: Cell, bench: Workbench, start: float) -> None:
        bench.waited = 0.0
        if isinstance(cell, TrainingCell):
            told = bench.train(cell)
        else:
            before = self.store.read(cell.key) or {"values": {}}
            told = {"values": {**before["values"], **bench.ask(cell)}}
        about = {"what": str(cell), "group": cell.group, "work": cell.work}
        self.store.write(cell.key, {**about, "seconds": time.perf_counter() - start - bench.waited, **told})


class Durations:
    """
    How long cells take, from those that are done: in proportion to their work, within a group of like cells.

    Args:
        cells (iterable of cells), store ([`Store`]): the cells, done and not done, and where the done ones are.
    """

    def __init__(self, cells: Iterable[Cell], store: Store):
        self._sums: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
        for key in dict.fromkeys(cell.key for cell in cells):
            known = store.read(key)
            if known is not None:
                self._add(known["group"], known["seconds"], known["work"])

    def add(self, cell: Cell, seconds: float) -> None:
        """Learns from a cell that was done just now."""
        self._add(cell.group, seconds, cell.work)

    def _add(self, group: str, seconds: float, work: float) -> None:
        # The whole stage stands in for a group of which nothing is done yet.
        for name in (group, group.split()[0]):
            self._sums[name][0] += seconds
            self._sums[name][1] += work

    def estimate(self, cell: Cell) -> float | None:
        """Seconds that a cell will take; `None` while nothing of its stage is done."""
        for name in (cell.group, cell.group.split()[0]):
            seconds, work = self._sums.get(name, (0.0, 0.0))
            if work:
                return seconds / work * cell.work
        return None

    def left(self, cells: Iterable[Cell]) -> str:
        """How long cells will take together, in words."""
        estimates = [self.estimate(cell) for cell in cells]
        known = [seconds for seconds in estimates if seconds is not None]
        if len(known) < len(estimates):
            return f"more than {duration(sum(known))}" if known else "time unknown"
        return f"about {duration(sum(known))}"


def _note(log: TextIO, line: str) -> None:
    log.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}\n")
    log.flush()


@contextmanager
def _quiet() -> Iterator[None]:
    """Without a progress bar for every model that is opened, and without the small talk of the rivals' libraries."""
    shown = transformers_logging.is_progress_bar_enabled()
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
        if shown:
            transformers_logging.enable_progress_bar()


def load_records(config: StudyConfig, store: Store) -> list[Record]:
    """What a study measured so far."""
    return Study(config, store).records()


def duration(seconds: float) -> str:
    """Seconds as a person says them."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
