"""The numbers of a study: which cells are compared, and the results of the comparisons."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import Any, TypeVar

from ..errors import DataError
from ..evaluation import (
    Comparison,
    compare_systems,
    correct_together,
    gap_closed,
)
from .kinds import REFERENCES, SEPARATE
from .store import Record


# The column of means over languages.
MEAN = "mean"
# The training corpus of the untrained student.
NOTHING = "nothing (zero-shot)"
# The place of a table that joins those of several test sets.
ALL_TESTS = "All tests"
# The verdict of a comparison without a significant difference.
NO_DIFFERENCE = "no difference shown"


@dataclass(frozen=True)
class Cell(Record):
    """
    Results of a method at one setting: a [`Record`] with means over seeds.

    Args:
        runs (mapping of measure to mapping of `int` to `dict[str, float]`):
            Seed -> query id -> value; the seed is `None` without randomness.

    `pairs` is the number of sentence pairs per language.
    """

    runs: Mapping[str, Mapping[int | None, Mapping[str, float]]] = field(default_factory=dict)

    @property
    def is_reference(self) -> bool:
        return self.kind in REFERENCES

    @property
    def learns(self) -> bool:
        """Whether the method depends on sentence pairs."""
        return self.corpus is not None

    @property
    def learns_together(self) -> bool:
        """Whether the method also depends on the other languages of its training run."""
        return self.learns and self.kind not in SEPARATE


_SETTING = ("method", "kind", "corpus", "size", "languages", "language", "test", "perturbation", "strength")

Key = TypeVar("Key")
Value = TypeVar("Value")

# language -> cell, for one method
Row = dict[str, Cell]
# method -> row
Table = dict[str, Row]
# panel -> method -> points (x, y), sorted by x
Curves = dict[str, dict[str, list[tuple[float, float]]]]


def pool_seeds(records: Iterable[Record]) -> list[Cell]:
    """Pool records that differ only in their seed."""
    groups: dict[tuple, list[Record]] = {}
    for record in records:
        groups.setdefault(tuple(getattr(record, name) for name in _SETTING), []).append(record)
    return [_pooled(group) for group in groups.values()]


def _pooled(group: Sequence[Record]) -> Cell:
    one, values, runs = group[0], {}, {}
    for measure in one.values:
        by_seed = [record.values[measure] for record in group]
        if any(own.keys() != by_seed[0].keys() for own in by_seed):
            raise DataError(
                f"the seeds of method {one.method!r}, language {one.language!r}, test {one.test!r} were "
                "measured on different queries; delete their records and run the study again"
            )
        values[measure] = {query: fmean(own[query] for own in by_seed) for query in by_seed[0]}
        runs[measure] = {record.seed: record.values[measure] for record in group}
    means = {
        "pairs": fmean(record.pairs / max(len(record.languages), 1) for record in group),
        "seconds": fmean(record.seconds for record in group),
        "search_seconds": fmean(record.search_seconds for record in group),
    }
    return Cell(**{**vars(one), **means, "seed": None, "values": values, "runs": runs})


def places_of(cells: Sequence[Cell]) -> list[tuple[str, str | None]]:
    """All pairs of test and training corpus; the corpus is `None` for a test without training."""
    found: dict[str, dict[str | None, None]] = {}
    for cell in cells:
        corpora = found.setdefault(cell.test, {})
        if cell.learns:
            corpora[cell.corpus] = None
    return [(test, corpus) for test, corpora in found.items() for corpus in corpora or {None: None}]


def comparable(cells: Sequence[Cell], test: str, corpus: str | None) -> list[Cell]:
    """
    Cells of a test at comparable settings.

    They were trained on `corpus` or not at all, in its languages, on the largest size of their language, with the
    most languages together.
    """
    return with_most_languages(at_largest_size(_at_place(cells, test, corpus)))


def has_several_settings(cells: Sequence[Cell]) -> bool:
    """Whether any place has cells at settings that [`comparable`] leaves out."""
    return any(len(comparable(cells, *place)) < len(_at_place(cells, *place)) for place in places_of(cells))


def _at_place(cells: Sequence[Cell], test: str, corpus: str | None) -> list[Cell]:
    """Cells of a test that were trained on `corpus` or not at all, in the trained languages."""
    here = [cell for cell in cells if cell.test == test and cell.corpus in (corpus, None)]
    languages = {cell.language for cell in here if cell.learns} or {cell.language for cell in here}
    return [cell for cell in here if cell.language in languages]


def at_largest_size(cells: Sequence[Cell]) -> list[Cell]:
    """Cells without training, and cells trained on the largest size of any in their language."""
    return _highest(cells, lambda cell: cell.learns, lambda cell: math.inf if cell.size is None else cell.size)


def with_most_languages(cells: Sequence[Cell]) -> list[Cell]:
    """Cells that do not learn languages together, and those trained with the most languages of any in theirs."""
    return _highest(cells, lambda cell: cell.learns_together, lambda cell: (len(cell.languages), cell.languages))


def _highest(cells: Sequence[Cell], competes: Callable[[Cell], bool], rank: Callable[[Cell], Any]) -> list[Cell]:
    """Cells that do not compete, and cells with the highest rank in their language."""
    highest: dict[str, Any] = {}
    for cell in filter(competes, cells):
        highest[cell.language] = max(highest.get(cell.language, rank(cell)), rank(cell))
    return [cell for cell in cells if not competes(cell) or rank(cell) == highest[cell.language]]


@dataclass(frozen=True)
class Headline:
    """The main table of a test and a training corpus: comparable cells on unperturbed queries."""

    test: str
    corpus: str | None
    table: Table

    @property
    def languages(self) -> list[str]:
        return list(dict.fromkeys(language for row in self.table.values() for language in row))

    @property
    def columns(self) -> list[str]:
        """The languages, after [`MEAN`] if there are several."""
        return ([MEAN] if len(self.languages) > 1 else []) + self.languages

    @property
    def rivals(self) -> Table:
        """The table without references."""
        return {method: row for method, row in self.table.items() if not first(row).is_reference}

    def covered(self, column: str) -> list[str]:
        """The languages of a column."""
        return self.languages if column == MEAN else [column]

    def mean(self, method: str, column: str, measure: str) -> float | None:
        """The value of a method in a column; `None` if it lacks a language."""
        return mean_over(self.table[method], self.covered(column), measure)

    def ranking(self, column: str, measure: str) -> list[str]:
        """Rivals that have all languages of a column, best first."""
        means = {method: self.mean(method, column, measure) for method in self.rivals}
        complete = {method: value for method, value in means.items() if value is not None}
        return sorted(complete, key=lambda method: -complete[method])


def headline(cells: Sequence[Cell], test: str, corpus: str | None) -> Headline:
    """The main table of a test and a training corpus. Methods lack languages that they have at other settings only."""
    return Headline(test, corpus, by_method(c for c in comparable(cells, test, corpus) if c.perturbation is None))


def by_method(cells: Iterable[Cell]) -> Table:
    table: Table = {}
    for cell in cells:
        table.setdefault(cell.method, {})[cell.language] = cell
    return table


def first(row: Row) -> Cell:
    return next(iter(row.values()))


def joined(tables: Iterable[Mapping[Key, Mapping[str, Value]]]) -> dict[Key, dict[str, Value]] | None:
    """One table of several (row -> language -> value); `None` if a language is in two of them, or there is one."""
    filled = [table for table in tables if table]
    languages = [code for table in filled for code in {code for row in table.values() for code in row}]
    if len(filled) < 2 or len(set(languages)) < len(languages):
        return None
    whole: dict[Key, dict[str, Value]] = {}
    for table in filled:
        for key, row in table.items():
            whole.setdefault(key, {}).update(row)
    return whole


def mean_over(row: Mapping[str, Cell], languages: Sequence[str], measure: str) -> float | None:
    """The mean over `languages`; `None` if the row lacks one of them."""
    if not languages or any(language not in row for language in languages):
        return None
    return fmean(row[language].mean(measure) for language in languages)


def runs_of(row: Mapping[str, Cell], measure: str) -> list[dict[str, Mapping[str, float]]]:
    """
    Training runs of a method over its languages: language -> query id -> value, for each seed that all of them have.

    Languages in which it has no randomness have the same values in every run.
    """
    runs = {code: cell.runs[measure] for code, cell in row.items()}
    seeded = [set(own) for own in runs.values() if None not in own]
    seeds = sorted(set.intersection(*seeded), key=str) if seeded else [None]
    return [{code: own[seed if seed in own else None] for code, own in runs.items()} for seed in seeds]


def data_size_curves(cells: Sequence[Cell], test: str, corpus: str | None, measure: str) -> Curves:
    """[`MEAN`] or language -> method -> (sentence pairs per language, value)."""
    here = [cell for cell in _at_place(cells, test, corpus) if cell.learns and cell.perturbation is None]
    rows: dict[tuple[str, int | None], Row] = {}
    for cell in with_most_languages(here):
        rows.setdefault((cell.method, cell.size), {})[cell.language] = cell
    languages = list(dict.fromkeys(language for row in rows.values() for language in row))
    panels = {MEAN: languages} if len(languages) > 1 else {}
    return lines_of(
        (panel, method, fmean(row[code].pairs for code in covered), fmean(row[code].mean(measure) for code in covered))
        for panel, covered in (panels | {code: [code] for code in languages}).items()
        for (method, _), row in rows.items()
        if row.keys() >= set(covered)
    )


def lines_of(points: Iterable[tuple[str, str, float, float]]) -> Curves:
    """Curves through points (panel, method, x, y)."""
    curves: Curves = {}
    for panel, method, x, y in points:
        curves.setdefault(panel, {}).setdefault(method, []).append((x, y))
    return {panel: {method: sorted(line) for method, line in lines.items()} for panel, lines in curves.items()}


def positions(lines: Mapping[str, Sequence[tuple[float, float]]]) -> list[float]:
    """All x of some curves."""
    return sorted({x for points in lines.values() for x, _ in points})


def domain_matrices(cells: Sequence[Cell], measure: str) -> dict[str, dict[tuple[str, str], float]]:
    """
    Method -> (corpus, test) -> mean over the languages that all corpora of the test share.

    Only methods with several tests of one corpus in the same language, or several corpora of one test, have a matrix.
    All matrices contain the untrained student as corpus [`NOTHING`].
    """
    tables = [headline(cells, *place) for place in places_of(cells) if place[1] is not None]
    shared: dict[str, list[str]] = {}
    for own in tables:
        shared[own.test] = [code for code in shared.get(own.test, own.languages) if code in own.languages]
    untrained: dict[tuple[str, str], float] = {}
    matrices: dict[str, dict[tuple[str, str], float]] = {}
    for own in tables:
        for method, row in own.table.items():
            value = mean_over(row, shared[own.test], measure)
            if value is not None and first(row).learns:
                matrices.setdefault(method, {})[str(own.corpus), own.test] = value
            elif value is not None and first(row).kind == "zero_shot":
                untrained[NOTHING, own.test] = value

    def compares(matrix: Mapping[tuple[str, str], float]) -> bool:
        """Whether two cells differ in the corpus or the test alone. Tests of different languages do not compare."""
        return any(
            (corpus == other) != (test == second) and set(shared[test]) & set(shared[second])
            for (corpus, test), (other, second) in itertools.combinations(matrix, 2)
        )

    return {method: untrained | matrix for method, matrix in matrices.items() if compares(matrix)}


def language_pair_curves(cells: Sequence[Cell], corpus: str | None, measure: str) -> tuple[Curves, bool]:
    """
    Results by the number of languages trained together.

    Returns:
        `tuple[Curves, bool]`: language (with its test, if there are several) -> method -> (number of languages,
        value), starting with the mean over languages that have all numbers; and whether values are shares of the gap
        closed. They are the measure itself where references are missing.
    """
    ends = {(cell.test, cell.language, cell.kind): cell for cell in cells if cell.perturbation is None}

    def share(cell: Cell) -> float | None:
        """Share of the gap between untrained student and ceiling that is closed."""
        low, high = (ends.get((cell.test, cell.language, kind)) for kind in ("zero_shot", "ceiling"))
        return gap_closed(low.mean(measure), cell.mean(measure), high.mean(measure)) if low and high else None

    here = [cell for cell in cells if cell.learns_together and cell.corpus == corpus and cell.perturbation is None]
    here = at_largest_size(here)
    shares = [share(cell) for cell in here]
    is_gap = None not in shares
    several = len({cell.test for cell in here}) > 1
    groups: dict[tuple[str, str, int], list[Any]] = {}
    for cell, closed in zip(here, shares, strict=True):
        panel = f"{cell.language}, {cell.test}" if several else cell.language
        value = closed if is_gap else cell.mean(measure)
        groups.setdefault((panel, cell.method, len(cell.languages)), []).append(value)
    return _with_mean(lines_of((*group, fmean(values)) for group, values in groups.items())), is_gap


def _with_mean(curves: Curves) -> Curves:
    """Add the mean over panels in which a method has all x, for methods that have them in all such panels."""
    every = sorted({x for lines in curves.values() for x in positions(lines)})
    complete = [lines for lines in curves.values() if any(len(points) == len(every) for points in lines.values())]
    mean: dict[str, list[tuple[float, float]]] = {}
    for method in complete[0] if len(complete) > 1 else ():
        own = [dict(lines.get(method, ())) for lines in complete]
        if all(len(points) == len(every) for points in own):
            mean[method] = [(x, fmean(points[x] for points in own)) for x in every]
    return {MEAN: mean, **curves} if mean else curves


@dataclass(frozen=True)
class Tested:
    """A [`Comparison`] and its place; `column` is a language or [`MEAN`]."""

    test: str
    corpus: str | None
    column: str
    result: Comparison

    def other(self, method: str) -> str:
        """The method that `method` is compared with."""
        return self.result.baseline if method == self.result.system else self.result.system

    def verdict(self, method: str) -> str:
        winner = self.result.winner
        return NO_DIFFERENCE if winner is None else "better" if winner == method else "worse"


def compare(cells: Sequence[Cell], measure: str) -> list[Tested]:
    """
    All significance tests of a report, with Holm's correction over all of them.

    For each test and corpus, they compare all pairs of methods in their mean over languages, and in each language the
    best method with the runner-up, which is enough to call it the best (Gutmann & Maymin 1987). References do not
    compete.
    """
    groups = []
    for table in (headline(cells, *place) for place in places_of(cells)):
        for index, column in enumerate(table.columns):
            methods = table.ranking(column, measure)[: 2 if index else None]
            rows = {method: {code: table.table[method][code] for code in table.covered(column)} for method in methods}
            if len(rows) > 1:
                groups.append((table.test, table.corpus, column, rows))
    # Corrected p-values cannot be below comparisons / permutations, or twice that in the test over runs. This keeps
    # both far from 5 %.
    permutations = max(10_000, 400 * sum(math.comb(len(rows), 2) for *_, rows in groups))
    tested = [
        Tested(test, corpus, column, result)
        for test, corpus, column, rows in groups
        for result in _compare_rows(rows, measure, permutations)
    ]
    corrected = correct_together([each.result for each in tested])
    return [replace(each, result=result) for each, result in zip(tested, corrected, strict=True)]


def _compare_rows(rows: Table, measure: str, permutations: int) -> list[Comparison]:
    """Compare methods in the languages of a column, over training runs too if any has several."""
    values: dict[str, dict[str, Mapping[str, float]]] = {
        method: {code: cell.values[measure] for code, cell in row.items()} for method, row in rows.items()
    }
    runs = {method: runs_of(row, measure) or [values[method]] for method, row in rows.items()}
    several = any(len(own) > 1 for own in runs.values())
    return compare_systems(values, runs=runs if several else None, permutations=permutations, resamples=permutations)
