"""The numbers of a study: which cells are compared, and the results of the comparisons."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import Any

from ..errors import DataError
from ..evaluation import (
    Comparison,
    RobustnessGapTest,
    compare_systems,
    correct_together,
    gap_closed,
    holm,
    robustness_gap,
    robustness_gap_test,
)
from .kinds import REFERENCES, SEPARATE
from .store import Record


# The column of means over languages.
MEAN = "mean"
# The training corpus of the untrained student.
NOTHING = "nothing (zero-shot)"
# The verdict of a comparison without a significant difference.
NO_DIFFERENCE = "no difference shown"


@dataclass(frozen=True)
class Cell(Record):
    """
    Results of a method at one setting: a [`Record`] with means over seeds.

    Args:
        seed_means (mapping of measure to tuple of `float`): mean over queries per seed.

    `pairs` is the number of sentence pairs per language.
    """

    seed_means: Mapping[str, tuple[float, ...]] = field(default_factory=dict)

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
    one, values, seed_means = group[0], {}, {}
    for measure in one.values:
        by_seed = [record.values[measure] for record in group]
        if any(own.keys() != by_seed[0].keys() for own in by_seed):
            raise DataError(
                f"the seeds of method {one.method!r}, language {one.language!r}, test {one.test!r} were "
                "measured on different queries; delete their records and run the study again"
            )
        values[measure] = {query: fmean(own[query] for own in by_seed) for query in by_seed[0]}
        seed_means[measure] = tuple(fmean(own.values()) for own in by_seed)
    means = {
        "pairs": fmean(record.pairs / max(len(record.languages), 1) for record in group),
        "seconds": fmean(record.seconds for record in group),
        "search_seconds": fmean(record.search_seconds for record in group),
    }
    return Cell(**{**vars(one), **means, "seed": None, "values": values, "seed_means": seed_means})


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


def mean_over(row: Mapping[str, Cell], languages: Sequence[str], measure: str) -> float | None:
    """The mean over `languages`; `None` if the row lacks one of them."""
    if not languages or any(language not in row for language in languages):
        return None
    return fmean(row[language].mean(measure) for language in languages)


def data_size_curves(cells: Sequence[Cell], test: str, corpus: str | None, measure: str) -> Curves:
    """[`MEAN`] or language -> method -> (sentence pairs per language, value)."""
    here = [cell for cell in _at_place(cells, test, corpus) if cell.learns and cell.perturbation is None]
    rows: dict[tuple[str, int | None], Row] = {}
    for cell in with_most_languages(here):
        rows.setdefault((cell.method, cell.size), {})[cell.language] = cell
    languages = list(dict.fromkeys(language for row in rows.values() for language in row))
    panels = {MEAN: languages} if len(languages) > 1 else {}
    return _curves(
        (panel, method, fmean(row[code].pairs for code in covered), fmean(row[code].mean(measure) for code in covered))
        for panel, covered in (panels | {code: [code] for code in languages}).items()
        for (method, _), row in rows.items()
        if row.keys() >= set(covered)
    )


def robustness_curves(cells: Sequence[Cell], test: str, corpus: str | None, measure: str) -> Curves:
    """Perturbation -> method -> (strength, mean over languages); strength 0 is unperturbed."""
    languages = headline(cells, test, corpus).languages
    return _curves(
        (perturbation, method, strength, fmean(scores[code][strength] for code in languages))
        for (perturbation, method), scores in robustness_scores(cells, test, corpus, measure).items()
        for strength in sorted({strength for values in scores.values() for strength in values})
        if languages and all(strength in scores.get(code, {}) for code in languages)
    )


def robustness_scores(
    cells: Sequence[Cell], test: str, corpus: str | None, measure: str
) -> dict[tuple[str, str], dict[str, dict[float, float]]]:
    """(perturbation, method) -> language -> strength -> value; strength 0 is unperturbed."""
    return {
        place: {code: {strength: cell.mean(measure) for strength, cell in own.items()} for code, own in row.items()}
        for place, row in robustness_cells(cells, test, corpus).items()
    }


def robustness_cells(
    cells: Sequence[Cell], test: str, corpus: str | None
) -> dict[tuple[str, str], dict[str, dict[float, Cell]]]:
    """(perturbation, method) -> language -> strength -> cell; strength 0 is unperturbed."""
    perturbed = [cell for cell in comparable(cells, test, corpus) if cell.perturbation]
    unperturbed = [cell for row in headline(cells, test, corpus).table.values() for cell in row.values()]
    found: dict[tuple[Any, str], dict[str, dict[float, Cell]]] = {}
    for kind in dict.fromkeys(cell.perturbation for cell in perturbed):
        own = sorted((cell for cell in perturbed if cell.perturbation == kind), key=lambda cell: cell.strength)
        methods = {cell.method for cell in own}
        for cell in [*(cell for cell in unperturbed if cell.method in methods), *own]:
            found.setdefault((kind, cell.method), {}).setdefault(cell.language, {})[cell.strength] = cell
    return found


@dataclass(frozen=True)
class GapTested:
    """
    What a perturbation takes from two groups of languages, by one method.

    Args:
        kept (mapping of `str` to `float`): group -> share of the unperturbed value that is kept, averaged over the
            strengths and languages.
        against (`str`, *optional*): the method whose gap is subtracted.
        adjusted_bootstrap (`float`), adjusted_t (`float`): p-values after Holm's correction over all tests.
    """

    perturbation: str
    method: str
    against: str | None
    languages: tuple[str, ...]
    kept: Mapping[str, float]
    result: RobustnessGapTest
    adjusted_bootstrap: float = 1.0
    adjusted_t: float = 1.0

    @property
    def significant(self) -> bool:
        return max(self.adjusted_bootstrap, self.adjusted_t) < 0.05


def compare_robustness(
    cells: Sequence[Cell], groups: Mapping[str, Sequence[str]], measure: str
) -> dict[str, list[GapTested]]:
    """
    Test what perturbations take from the first and the last group of languages: test set -> tests.

    If every language has one test set and one training corpus, all of them are compared side by side, under `""`.
    Each method has a test of its own gap and one of the difference from that of every later method. Methods without
    results for both groups at the same strengths are left out. Holm's correction is over all tests.
    """
    if len(groups) < 2:
        return {}
    names = list(groups)
    places = {place: robustness_cells(cells, *place) for place in places_of(cells)}
    languages = [{code for row in found.values() for code in row} for found in places.values()]
    tables: dict[str, dict[tuple[str, str], dict[str, dict[float, Cell]]]] = {}
    apart = sum(map(len, languages)) == len(set().union(*languages))
    for (test, corpus), found in places.items():
        place = "" if apart else f"{test}, trained on {corpus}" if corpus else test
        for key, row in found.items():
            tables.setdefault(place, {}).setdefault(key, {}).update(row)
    ends = {name: groups[name] for name in (names[0], names[-1])}
    tested = {place: list(_gap_tests(table, ends, measure)) for place, table in tables.items()}
    every = [each.result for own in tested.values() for each in own]
    bootstrap, t = holm([each.p_bootstrap for each in every]), holm([each.p_t for each in every])
    corrected = iter(zip(bootstrap, t, strict=True))
    return {
        place: [
            replace(each, adjusted_bootstrap=p, adjusted_t=p_t)
            for each, (p, p_t) in zip(own, corrected, strict=False)  # `corrected` goes on with the next test set
        ]
        for place, own in tested.items()
        if own
    }


def _gap_tests(
    table: Mapping[tuple[str, str], Mapping[str, Mapping[float, Cell]]],
    groups: Mapping[str, Sequence[str]],
    measure: str,
) -> Iterator[GapTested]:
    for kind in dict.fromkeys(perturbation for perturbation, _ in table):
        rows = {method: row for (perturbation, method), row in table.items() if perturbation == kind}
        present = {code for row in rows.values() for code in row}
        own = {name: [code for code in codes if code in present] for name, codes in groups.items()}
        codes = tuple(code for group in own.values() for code in group)
        if not all(own.values()):
            continue
        curves: dict[str, dict[str, dict[float, Mapping[str, float]]]] = {}
        for method, row in rows.items():
            strengths = {frozenset(row.get(code, ())) for code in codes}
            if len(strengths) == 1 and 0 in (at := min(strengths)) and len(at) > 1:
                if all(row[code][0].mean(measure) > 0 for code in codes):
                    curves[method] = {code: {s: row[code][s].values[measure] for s in at} for code in codes}
        for method, scores in curves.items():
            means = {code: {at: fmean(values.values()) for at, values in scores[code].items()} for code in codes}
            gap = robustness_gap(means, own).relative_area
            assert gap is not None  # no unperturbed value is 0
            kept = {name: group.mean for name, group in gap.groups.items()}
            yield GapTested(kind, method, None, codes, kept, robustness_gap_test(scores, own))
        for method, other in itertools.combinations(curves, 2):
            if curves[method][codes[0]].keys() == curves[other][codes[0]].keys():
                result = robustness_gap_test(curves[method], own, baseline=curves[other])
                yield GapTested(kind, method, other, codes, {}, result)


def _curves(points: Iterable[tuple[str, str, float, float]]) -> Curves:
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

    Only methods with several tests of one corpus or several corpora of one test have a matrix. All matrices contain
    the untrained student as corpus [`NOTHING`].
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
    return {
        method: untrained | matrix
        for method, matrix in matrices.items()
        if len(matrix) > min(len({corpus for corpus, _ in matrix}), len({test for _, test in matrix}))
    }


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
    return _with_mean(_curves((*group, fmean(values)) for group, values in groups.items())), is_gap


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
            systems = {
                method: {code: table.table[method][code].values[measure] for code in table.covered(column)}
                for method in methods
            }
            if len(systems) > 1:
                groups.append((table.test, table.corpus, column, systems))
    # Corrected p-values cannot be below comparisons / permutations, which this keeps far from 5 %.
    permutations = max(10_000, 400 * sum(math.comb(len(systems), 2) for *_, systems in groups))
    tested = [
        Tested(test, corpus, column, result)
        for test, corpus, column, systems in groups
        for result in compare_systems(systems, permutations=permutations)
    ]
    corrected = correct_together([each.result for each in tested])
    return [replace(each, result=result) for each, result in zip(tested, corrected, strict=True)]
