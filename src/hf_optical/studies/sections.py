"""Descriptive parts of a report: gaps, curves, matrices and times, without significance tests."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, replace
from statistics import fmean, median
from typing import TYPE_CHECKING, Any

from ..errors import DataError
from ..evaluation import language_gap
from ..evaluation.robustness import robustness_gap
from . import figures
from . import markdown as md
from .settings import StudyConfig
from .store import Record
from .tables import (
    MEAN,
    Curves,
    Headline,
    Table,
    compare,
    data_size_curves,
    domain_matrices,
    first,
    headline,
    language_pair_curves,
    mean_over,
    places_of,
    pool_seeds,
    robustness_curves,
    robustness_tables,
)


if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Results:
    """
    The results that the parts of a report share, and the figures and numbers that they add.

    Args:
        config ([`StudyConfig`]), records (iterable of [`Record`]): the study and its results.

    Attributes:
        measure (`str`), label (`str`): the study's first measure, and its printed form.
        cells (`list[Cell]`), headlines (`list[Headline]`), tested (`list[Tested]`): see `tables.py`.
        figures (`dict[str, Figure]`): file name -> figure.
        numbers (`dict`): all numbers of the report, for JSON.

    Raises:
        DataError: there are no records, or the seeds of a cell were measured on different queries.
    """

    def __init__(self, config: StudyConfig, records: Iterable[Record]):
        self.config = config
        self.records = [_with_human_kind(record, config) for record in records]
        if not self.records:
            raise DataError(f"the study {config.name} has no records; run it first")
        self.measure = config.measures[0]
        self.label = figures.measure_label(self.measure)
        self.cells = pool_seeds(self.records)
        self.headlines = [headline(self.cells, *place) for place in places_of(self.cells)]
        self.tested = compare(self.cells, self.measure)
        self.figures: dict[str, Figure] = {}
        self.numbers: dict[str, Any] = {"study": config.name, "measure": self.measure}
        self.corpora = list(dict.fromkeys(own.corpus for own in self.headlines if own.corpus is not None))

    def place(self, table: Headline) -> str:
        """The test set, with the training corpus if there are several."""
        return f"{table.test}, trained on {table.corpus}" if table.corpus and len(self.corpora) > 1 else table.test

    def draw(self, name: str, plot: Callable[..., Figure], **place: Any) -> list[str]:
        """Draw a figure; the lines that embed it."""
        about = [str(value) for value in place.values() if value is not None]
        file = re.sub(r"[^\w.-]+", "-", "-".join([name, *about])).lower() + ".png"
        self.figures[file] = plot(self.records, measure=self.measure, **place)
        return [f"![{name.replace('-', ' ')}: {', '.join(about) or self.label}](figures/{file})", ""]


def language_gaps(results: Results) -> list[str]:
    tables = {results.place(own): own for own in results.headlines}
    languages = [code for own in tables.values() for code in own.languages]
    if len(tables) > 1 and len(set(languages)) == len(languages):
        # With one test per language, all fit in one table.
        joined: Table = {}
        for own in tables.values():
            for method, row in own.table.items():
                joined.setdefault(method, {}).update(row)
        tables = {"All tests": Headline("", None, joined)}
    results.numbers["language_gap"] = []
    lines = [line for place, own in tables.items() for line in _gap_table(results, place, own)]
    text = (
        f"Share of the gap in {results.label} between untrained student and ceiling that is closed; the spread of "
        f"{results.label} itself over languages (best minus worst, standard deviation), and which is worst."
    )
    return md.section("Language gap", lines, text)


def _gap_table(results: Results, place: str, own: Headline) -> list[str]:
    languages, measure = own.languages, results.measure
    means = {
        method: {code: row[code].mean(measure) for code in languages}
        for method, row in own.table.items()
        if mean_over(row, languages, measure) is not None
    }
    kinds = {first(own.table[method]).kind: method for method in means}
    if not {"zero_shot", "ceiling"} <= kinds.keys():
        return []
    low, high = kinds["zero_shot"], kinds["ceiling"]
    groups = {name: [code for code in codes if code in languages] for name, codes in results.config.groups.items()}
    groups = {name: codes for name, codes in groups.items() if codes}
    several, between = len(languages) > 1, len(groups) > 1
    rows = []
    for method, values in means.items():
        found = language_gap(means[low], values, means[high], groups)
        results.numbers["language_gap"].append({"where": place, "method": method, **asdict(found)})
        closed = [*found.gap_closed.values(), *([found.mean_gap_closed] if several else [])]
        row = [method, *(md.MISSING if method in (low, high) else md.share(value) for value in closed)]
        row += [f"{found.trained.range:.3f}, {found.trained.std:.3f}", found.trained.worst] if several else []
        rows.append(row + ([f"{found.trained.group_gap:+.3f}"] if between else []))
    header = ["Method", *languages, *([MEAN, "range, std", "worst"] if several else [])]
    header += [f"{next(iter(groups))} − {list(groups)[-1]}"] if between else []
    return [f"### {place}", "", *md.table(header, rows)]


def _are_curves(curves: Curves) -> bool:
    """Whether any line has several points."""
    return any(len(points) > 1 for lines in curves.values() for points in lines.values())


def data_size(results: Results) -> list[str]:
    lines, results.numbers["data_size"] = [], []
    for own in results.headlines:
        place: dict[str, Any] = {"test": own.test, "corpus": own.corpus}
        curves = data_size_curves(results.cells, **place, measure=results.measure)
        if _are_curves(curves):
            results.numbers["data_size"].append({**place, "curves": curves})
            panel, drawn = next(iter(curves.items()))
            lines += [f"### {results.place(own)}", "", *results.draw("data-size", figures.plot_data_size, **place)]
            lines += [f"{'Mean over languages' if panel == MEAN else panel}, by sentence pairs a language:", ""]
            lines += md.curve_table(drawn, "{:,.0f}", md.number)
    return md.section("Data size", lines)


def robustness(results: Results) -> list[str]:
    header = ["Perturbation", "Method", "unperturbed", "strongest", "relative drop", "between languages", "worst"]
    lines, results.numbers["robustness"] = [], []
    for own in results.headlines:
        place: dict[str, Any] = {"test": own.test, "corpus": own.corpus}
        if robustness_curves(results.cells, **place, measure=results.measure):
            lines += [f"### {results.place(own)}", "", *results.draw("robustness", figures.plot_robustness, **place)]
            lines += md.table(header, _robustness_rows(results, own))
    text = (
        "Relative drop: share of the unperturbed score, mean over languages, that is lost at the strongest "
        "perturbation. Between languages: best minus worst share of the score that is kept, averaged over the "
        "strengths; worst is the language that keeps least."
    )
    return md.section("Robustness", lines, text)


def _robustness_rows(results: Results, own: Headline) -> Iterator[list[str]]:
    scores: dict[tuple[str, str], dict[str, dict[float, float]]] = {}
    for (perturbation, strength), table in robustness_tables(results.cells, own.test, own.corpus).items():
        for method, row in table.items():
            curves = scores.setdefault((perturbation, method), {})
            for code, cell in row.items():
                curves.setdefault(code, {})[strength] = cell.mean(results.measure)
    for (perturbation, method), curves in scores.items():
        strengths = set(next(iter(curves.values())))
        complete = curves.keys() == set(own.languages) and all(set(curve) == strengths for curve in curves.values())
        if not complete or 0 not in strengths:
            continue
        strongest = max(strengths)
        clean, perturbed = (fmean(curve[at] for curve in curves.values()) for at in (0, strongest))
        found = robustness_gap(curves)
        drop = 1 - perturbed / clean if clean else None
        about = {"test": own.test, "corpus": own.corpus, "perturbation": perturbation, "method": method}
        results.numbers["robustness"].append({**about, "relative_drop": drop, "scores": curves, **asdict(found)})
        gap = found.relative_area if len(curves) > 1 else None
        between = [md.share(gap.range), gap.worst] if gap else [md.MISSING] * 2
        at = f"{perturbed:.3f} (at {strongest:g})"
        yield [perturbation.replace("_", " "), method, f"{clean:.3f}", at, md.share(drop), *between]


def domain_shift(results: Results) -> list[str]:
    matrices = domain_matrices(results.cells, results.measure)
    if not matrices:
        return []
    results.numbers["domains"] = [
        {"method": method, "corpus": corpus, "test": test, "value": value}
        for method, matrix in matrices.items()
        for (corpus, test), value in matrix.items()
    ]
    tests = list(dict.fromkeys(entry["test"] for entry in results.numbers["domains"]))
    rows = [
        [method, corpus, *(md.number(matrix.get((corpus, test))) for test in tests)]
        for method, matrix in matrices.items()
        for corpus in dict.fromkeys(corpus for corpus, _ in matrix)
    ]
    lines = results.draw("domains", figures.plot_domains)
    lines += ["Mean over the languages of a test set that every corpus has.", ""]
    return md.section("Domain shift", [*lines, *md.table(["Method", "Trained on", *tests], rows)])


def languages_together(results: Results) -> list[str]:
    lines, results.numbers["language_pairs"] = [], []
    for corpus in results.corpora:
        curves, is_gap = language_pair_curves(results.cells, corpus, results.measure)
        if not _are_curves(curves):
            continue
        results.numbers["language_pairs"].append({"corpus": corpus, "gap_closed": is_gap, "curves": curves})
        lines += [f"### Trained on {corpus}", ""] if len(results.corpora) > 1 else []
        lines += results.draw("language-pairs", figures.plot_language_pairs, corpus=corpus)
        shown = f"Share of the gap in {results.label} closed" if is_gap else results.label
        lines += [f"{shown}, by languages trained together:", ""]
        joined = {f"{method}, {panel}": points for panel, own in curves.items() for method, points in own.items()}
        lines += md.curve_table(joined, "{:g}", md.share if is_gap else md.number)
    return md.section("Number of languages trained together", lines)


def times(results: Results) -> list[str]:
    rows, results.numbers["time"] = [], []
    for method in dict.fromkeys(record.method for record in results.records):
        own = [record for record in results.records if record.method == method]
        # Records of several languages and tests share a training run.
        runs = {(each.corpus, each.languages, each.size, each.seed): each.seconds for each in own if each.seconds}
        search = median(record.search_seconds for record in own)
        train = median(runs.values()) if runs else None
        results.numbers["time"].append({"method": method, "runs": len(runs), "train": train, "search": search})
        range_ = f"{train:,.0f} ({min(runs.values()):,.0f} to {max(runs.values()):,.0f})" if runs else md.MISSING
        rows.append([method, str(len(runs) or md.MISSING), range_, f"{search:,.1f}"])
    if not any(entry["train"] or entry["search"] for entry in results.numbers["time"]):
        return []
    header = ["Method", "training runs", "seconds a run: median (range)", "seconds a test: median"]
    return md.section("Time", md.table(header, rows))


def _with_human_kind(record: Record, config: StudyConfig) -> Record:
    """Mark methods that search with human translations as references."""
    method = config.methods.get(record.method)
    is_human = method is not None and method.settings.get("translated") == "human"
    return replace(record, kind="human") if is_human and record.kind != "ceiling" else record
