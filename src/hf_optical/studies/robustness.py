"""What perturbed queries take from each method and language, and from groups of languages."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

from ..evaluation import RobustnessGapTest, holm, robustness_gap, robustness_gap_test
from .tables import Cell, Curves, comparable, headline, lines_of


# (perturbation, method) -> language -> strength -> cell; strength 0 is unperturbed.
RobustnessTable = dict[tuple[str, str], dict[str, dict[float, Cell]]]


def robustness_curves(cells: Sequence[Cell], test: str, corpus: str | None, measure: str) -> Curves:
    """Perturbation -> method -> (strength, mean over languages); strength 0 is unperturbed."""
    languages = headline(cells, test, corpus).languages
    return lines_of(
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


def robustness_cells(cells: Sequence[Cell], test: str, corpus: str | None) -> RobustnessTable:
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
    tables: Mapping[str, RobustnessTable], groups: Mapping[str, Sequence[str]], measure: str
) -> dict[str, list[GapTested]]:
    """
    Test what perturbations take from the first and the last group of languages: place -> tests.

    Each method has a test of its own gap and one of the difference from that of every later method. Methods without
    results for both groups at the same strengths are left out. Holm's correction is over all tests.
    """
    if len(groups) < 2:
        return {}
    names = list(groups)
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


def _gap_tests(table: RobustnessTable, groups: Mapping[str, Sequence[str]], measure: str) -> Iterator[GapTested]:
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
