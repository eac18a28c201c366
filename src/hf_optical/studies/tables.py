"""The numbers of a study: which cells stand beside each other, and what is known about their differences."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from ..errors import DataError
from ..evaluation import Comparison, compare_systems, correct_together, gap_closed
from .store import Record


# Kinds that show where the others stand and compete with none of them. `"human"` is any method that is given human
# translations of the queries, which a searcher does not have.
REFERENCES = ("zero_shot", "ceiling", "human")
# Kinds that learn every language by itself, whatever is trained together.
_ALONE = ("lexicon", "bm25")


@dataclass(frozen=True)
class Cell:
    """
    What one method reached in one place: a [`Record`] for all its seeds.

    Args:
        values (mapping of measure to mapping of query id to `float`): the mean over the seeds, query by query.
        seed_means (mapping of measure to tuple of `float`): the mean over the queries, seed by seed.
        pairs (`float`): sentence pairs used a language, the mean over its languages and the seeds.
        seconds (`float`), search_seconds (`float`): the mean over the seeds.

    The rest is as in [`Record`].
    """

    method: str
    kind: str
    corpus: str | None
    size: int | None
    pairs: float
    languages: tuple[str, ...]
    language: str
    test: str
    perturbation: str | None
    strength: float
    values: Mapping[str, Mapping[str, float]]
    seed_means: Mapping[str, tuple[float, ...]]
    seconds: float
    search_seconds: float

    @property
    def is_reference(self) -> bool:
        return self.kind in REFERENCES

    @property
    def learns(self) -> bool:
        """Whether it depends on sentence pairs."""
        return self.corpus is not None

    @property
    def learns_together(self) -> bool:
        """Whether it also depends on what other languages are trained."""
        return self.learns and self.kind not in _ALONE

    def mean(self, measure: str) -> float:
        return fmean(self.values[measure].values())


_PLACE = ("method", "kind", "corpus", "size", "languages", "language", "test", "perturbation", "strength")

# method -> language -> cell
Table = dict[str, dict[str, Cell]]


def pool_seeds(records: Iterable[Record]) -> list[Cell]:
    """
    One cell for the records that differ in nothing but their seed, in the order in which they come.

    Raises:
        DataError: two seeds of a cell were measured on different queries.
    """
    groups: dict[tuple, list[Record]] = {}
    for record in records:
        groups.setdefault(tuple(getattr(record, name) for name in _PLACE), []).append(record)
    return [_pooled(group) for group in groups.values()]


def _pooled(group: Sequence[Record]) -> Cell:
    first, values, seed_means = group[0], {}, {}
    for measure in first.values:
        own = [record.values[measure] for record in group]
        if any(each.keys() != own[0].keys() for each in own):
            raise DataError(
                f"the seeds of method {first.method!r}, language {first.language!r}, test {first.test!r} were "
                "measured on different queries; delete their records and run the study again"
            )
        values[measure] = {query: fmean(each[query] for each in own) for query in own[0]}
        seed_means[measure] = tuple(fmean(each.values()) for each in own)
    pairs = [record.pairs / max(len(record.languages), 1) for record in group]
    return Cell(
        **{name: getattr(first, name) for name in _PLACE},
        pairs=fmean(pairs),
        values=values,
        seed_means=seed_means,
        seconds=fmean(record.seconds for record in group),
        search_seconds=fmean(record.search_seconds for record in group),
    )


def places_of(cells: Sequence[Cell]) -> list[tuple[str, str | None]]:
    """Every test with every corpus that was trained on for it; with `None` where nothing was trained."""
    found: dict[str, dict[str | None, None]] = {}
    for cell in cells:
        corpora = found.setdefault(cell.test, {})
        if cell.learns:
            corpora[cell.corpus] = None
    return [(test, corpus) for test, corpora in found.items() for corpus in corpora or {None: None}]


def place(cells: Sequence[Cell], test: str, corpus: str | None) -> list[Cell]:
    """The cells of a test that were trained on `corpus` or on nothing, in the languages that were trained."""
    here = [cell for cell in cells if cell.test == test and cell.corpus in (corpus, None)]
    languages = {cell.language for cell in here if cell.learns} or {cell.language for cell in here}
    return [cell for cell in here if cell.language in languages]


def at_largest_size(cells: Sequence[Cell]) -> list[Cell]:
    """The cells that learned from the most pairs that any has in their language, and those that learn nothing."""
    largest: dict[str, float] = {}
    for cell in cells:
        if cell.learns:
            largest[cell.language] = max(largest.get(cell.language, 0), _rank(cell.size))
    return [cell for cell in cells if not cell.learns or _rank(cell.size) == largest[cell.language]]


def with_most_languages(cells: Sequence[Cell]) -> list[Cell]:
    """Of the cells that are trained, those with the most languages that any is trained in together; and all others."""
    most: dict[str, tuple] = {}
    for cell in cells:
        if cell.learns_together:
            rank = (len(cell.languages), cell.languages)
            most[cell.language] = max(most.get(cell.language, rank), rank)
    return [cell for cell in cells if not cell.learns_together or cell.languages == most[cell.language][1]]


def _rank(size: int | None) -> float:
    return math.inf if size is None else size


def headline(cells: Sequence[Cell], test: str, corpus: str | None) -> Table:
    """
    The cells that are compared first: queries as they are, the largest size, the most languages trained together.

    A method that lacks a language at that setting lacks it here: cells of unequal size are not put side by side.
    """
    here = with_most_languages(at_largest_size(place(cells, test, corpus)))
    return by_method(cell for cell in here if cell.perturbation is None)


def by_method(cells: Iterable[Cell]) -> Table:
    table: Table = {}
    for cell in cells:
        table.setdefault(cell.method, {})[cell.language] = cell
    return table


def languages_of(table: Table) -> list[str]:
    return list(dict.fromkeys(language for row in table.values() for language in row))


def mean_over(row: Mapping[str, Cell], languages: Sequence[str], measure: str) -> float | None:
    """The mean over `languages`; `None` where the row lacks one of them."""
    if not languages or any(language not in row for language in languages):
        return None
    return fmean(row[language].mean(measure) for language in languages)


def references(cells: Sequence[Cell]) -> dict[tuple[str, str], dict[str, Cell]]:
    """(test, language) -> `"zero_shot"` and `"ceiling"` -> their cell on the queries as they are."""
    found: dict[tuple[str, str], dict[str, Cell]] = {}
    for cell in cells:
        if cell.kind in ("zero_shot", "ceiling") and cell.perturbation is None:
            found.setdefault((cell.test, cell.language), {})[cell.kind] = cell
    return found


def gap_closed_by(cell: Cell, reference: Mapping[str, Cell], measure: str) -> float | None:
    """Share of the gap between untrained student and ceiling that `cell` closed; `None` where one is missing."""
    if not {"zero_shot", "ceiling"} <= reference.keys():
        return None
    return gap_closed(reference["zero_shot"].mean(measure), cell.mean(measure), reference["ceiling"].mean(measure))


# Panel -> method -> points (x, y), in the order of x.
Curves = dict[str, dict[str, list[tuple[float, float]]]]
MEAN = "mean"
# What the untrained student was trained on.
NOTHING = "nothing (zero-shot)"


def data_size_curves(cells: Sequence[Cell], test: str, corpus: str | None, measure: str) -> Curves:
    """Language, and first the mean over all -> method -> (sentence pairs a language, value)."""
    here = [cell for cell in place(cells, test, corpus) if cell.learns and cell.perturbation is None]
    here = with_most_languages(here)
    languages = list(dict.fromkeys(cell.language for cell in here))
    curves: Curves = {MEAN: {}} if len(languages) > 1 else {}
    curves |= {language: {} for language in languages}
    for method in dict.fromkeys(cell.method for cell in here):
        sizes: dict[int | None, dict[str, Cell]] = {}
        for cell in here:
            if cell.method == method:
                sizes.setdefault(cell.size, {})[cell.language] = cell
        for row in sizes.values():
            for panel in curves:
                covered = languages if panel == MEAN else [panel]
                value = mean_over(row, covered, measure)
                if value is not None:
                    point = (fmean(row[language].pairs for language in covered), value)
                    curves[panel].setdefault(method, []).append(point)
    return _sorted(curves)


def robustness_curves(cells: Sequence[Cell], test: str, corpus: str | None, measure: str) -> Curves:
    """Perturbation -> method -> (strength, mean over all languages); strength 0 is the queries as they are."""
    tables = robustness_tables(cells, test, corpus)
    languages = languages_of(headline(cells, test, corpus))
    curves: Curves = {}
    for (perturbation, strength), table in tables.items():
        for method, row in table.items():
            value = mean_over(row, languages, measure)
            if value is not None:
                curves.setdefault(perturbation, {}).setdefault(method, []).append((strength, value))
    return _sorted(curves)


def robustness_tables(cells: Sequence[Cell], test: str, corpus: str | None) -> dict[tuple[str, float], Table]:
    """(perturbation, strength) -> table of the cells; each perturbation at strength 0 too."""
    clean, groups = headline(cells, test, corpus), {}
    for cell in with_most_languages(at_largest_size(place(cells, test, corpus))):
        if cell.perturbation:
            groups.setdefault((cell.perturbation, cell.strength), []).append(cell)
    tables = {key: by_method(group) for key, group in groups.items()}
    for perturbation in dict.fromkeys(name for name, _ in groups):
        changed = {method for (name, _), table in tables.items() if name == perturbation for method in table}
        tables[perturbation, 0.0] = {method: row for method, row in clean.items() if method in changed}
    # In the order in which the kinds come, and each by its strength.
    kinds = list(dict.fromkeys(name for name, _ in groups))
    return {key: tables[key] for key in sorted(tables, key=lambda key: (kinds.index(key[0]), key[1]))}


def domain_matrices(cells: Sequence[Cell], measure: str) -> dict[str, dict[tuple[str, str], float]]:
    """
    Method -> (corpus, test) -> mean over the languages that every corpus with that test has.

    Only methods that learned from a corpus which has several tests, or that have a test with several corpora. What
    the untrained student reaches stands in every matrix, under [`NOTHING`].
    """
    tables = {key: headline(cells, *key) for key in places_of(cells) if key[1] is not None}
    shared: dict[str, list[str]] = {}
    for (test, _), table in tables.items():
        own = languages_of(table)
        shared[test] = [language for language in shared.get(test, own) if language in own]
    matrices: dict[str, dict[tuple[str, str], float]] = {}
    for (test, corpus), table in tables.items():
        for method, row in table.items():
            value = mean_over(row, shared[test], measure)
            if value is not None and next(iter(row.values())).learns:
                matrices.setdefault(method, {})[corpus, test] = value
    untrained = {
        (NOTHING, test): value
        for (test, _), table in tables.items()
        for row in table.values()
        if next(iter(row.values())).kind == "zero_shot"
        and (value := mean_over(row, shared[test], measure)) is not None
    }
    return {
        method: untrained | matrix
        for method, matrix in matrices.items()
        if len(matrix) > min(len({corpus for corpus, _ in matrix}), len({test for _, test in matrix}))
    }


def language_pair_curves(cells: Sequence[Cell], corpus: str | None, measure: str) -> tuple[Curves, bool]:
    """
    How each language fares as more are trained together.

    Returns:
        `tuple[Curves, bool]`: language (with its test, if there are several), and first the mean over those that were
        trained with every number -> method -> (number of languages trained together, value); and whether the value is
        the share of the gap closed, which it is where all references are there, or else the measure itself.
    """
    known = references(cells)
    here = [cell for cell in cells if cell.learns_together and cell.corpus == corpus]
    here = at_largest_size([cell for cell in here if cell.perturbation is None])
    shares = [gap_closed_by(cell, known.get((cell.test, cell.language), {}), measure) for cell in here]
    is_gap = all(share is not None for share in shares)
    several = len({cell.test for cell in here}) > 1
    values: dict[str, dict[str, dict[int, list[float]]]] = {}
    for cell, share in zip(here, shares, strict=True):
        panel = f"{cell.language}, {cell.test}" if several else cell.language
        points = values.setdefault(panel, {}).setdefault(cell.method, {})
        points.setdefault(len(cell.languages), []).append(share if is_gap else cell.mean(measure))
    curves: Curves = {
        panel: {method: [(n, fmean(own)) for n, own in points.items()] for method, points in lines.items()}
        for panel, lines in values.items()
    }
    return _sorted(_with_mean_of_whole(curves)), is_gap


def _with_mean_of_whole(curves: Curves) -> Curves:
    """Adds the mean over the panels in which some method has every x there is, for the methods that have it in all."""
    every = {x for lines in curves.values() for points in lines.values() for x, _ in points}
    whole = [lines for lines in curves.values() if any(len(points) == len(every) for points in lines.values())]
    mean: dict[str, list[tuple[float, float]]] = {}
    for method in whole[0] if len(whole) > 1 else ():
        own = [dict(lines.get(method, ())) for lines in whole]
        if all(points.keys() == every for points in own):
            mean[method] = [(x, fmean(points[x] for points in own)) for x in every]
    return {MEAN: mean, **curves} if mean else curves


def _sorted(curves: Curves) -> Curves:
    return {
        panel: {method: sorted(points) for method, points in lines.items()} for panel, lines in curves.items() if lines
    }


@dataclass(frozen=True)
class Tested:
    """A [`Comparison`] and where it was made; `language` may be [`MEAN`]."""

    test: str
    corpus: str | None
    language: str
    result: Comparison


def compare(cells: Sequence[Cell], measure: str) -> list[Tested]:
    """
    Every test that a report leans on, with Holm's correction over all of them together.

    For each test and corpus: all pairs of methods in their mean over languages; and in each language the best method
    against the runner-up, which is enough to call it the best there (Gutmann & Maymin 1987). References compete with
    none.
    """
    places: list[tuple[str, str | None, str, dict[str, dict[str, Mapping[str, float]]]]] = []
    for test, corpus in places_of(cells):
        table = headline(cells, test, corpus)
        languages = languages_of(table)
        rivals = competitors(table)
        whole = ranking(rivals, languages, measure)
        systems = {method: {code: rivals[method][code].values[measure] for code in languages} for method in whole}
        places.append((test, corpus, MEAN if len(languages) > 1 else languages[0], systems))
        for code in languages if len(languages) > 1 else ():
            best = ranking(rivals, [code], measure)[:2]
            places.append(
                (test, corpus, code, {method: {code: rivals[method][code].values[measure]} for method in best})
            )
    places = [place for place in places if len(place[3]) > 1]
    # No corrected p can be below comparisons / permutations; this leaves it room.
    count = sum(math.comb(len(systems), 2) for *_, systems in places)
    permutations = max(10_000, 400 * count)
    tested = [
        Tested(test, corpus, language, result)
        for test, corpus, language, systems in places
        for result in compare_systems(systems, permutations=permutations)
    ]
    corrected = correct_together([each.result for each in tested])
    return [replace(each, result=result) for each, result in zip(tested, corrected, strict=True)]


def competitors(table: Table) -> Table:
    """The table without its references."""
    return {method: row for method, row in table.items() if not any(cell.is_reference for cell in row.values())}


def ranking(table: Table, languages: Sequence[str], measure: str) -> list[str]:
    """The methods that have all `languages`, best mean first."""
    means = {method: mean_over(row, languages, measure) for method, row in table.items()}
    whole = [method for method, value in means.items() if value is not None]
    return sorted(whole, key=lambda method: -means[method])
