"""The parts of a report that describe what was measured: gaps, curves and matrices, of which no test is made."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import asdict, replace
from statistics import fmean, median
from typing import TYPE_CHECKING, Any

from ..errors import DataError
from ..evaluation import language_gap
from ..evaluation.robustness import robustness_gap
from . import figures
from . import markdown as md
from .config import StudyConfig
from .store import Record
from .tables import (
    MEAN,
    REFERENCES,
    Table,
    compare,
    data_size_curves,
    domain_matrices,
    headline,
    language_pair_curves,
    languages_of,
    mean_over,
    places_of,
    pool_seeds,
    robustness_curves,
    robustness_tables,
)


if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Measured:
    """
    What a report is made from, and what its parts leave beside their text.

    Args:
        config ([`StudyConfig`]), records (iterable of [`Record`]): the study, and what was measured.

    Attributes:
        measure (`str`), label (`str`): the study's first measure, and how it is printed.
        cells (`list[Cell]`), places (list of test and corpus), tested (`list[Tested]`): see `tables.py`.
        figures (`dict[str, Figure]`): file name -> figure.
        results (`dict`): every number of the report, for JSON.

    Raises:
        DataError: there are no records, or the seeds of a cell were measured on different queries.
    """

    def __init__(self, config: StudyConfig, records: Iterable[Record]):
        self.config = config
        self.records = [_as_reference(record, config) for record in records]
        if not self.records:
            raise DataError(f"the study {config.name} has no records; run it first")
        self.measure = config.measures[0]
        self.label = figures.measure_label(self.measure)
        self.cells = pool_seeds(self.records)
        self.places = places_of(self.cells)
        self.tested = compare(self.cells, self.measure)
        self.figures: dict[str, Figure] = {}
        self.results: dict[str, Any] = {"study": config.name, "measure": self.measure}

    def where(self, test: str, corpus: str | None) -> str:
        """A test, with what was trained on where that is not always the same."""
        several = len({own for _, own in self.places if own is not None}) > 1
        return f"{test}, trained on {corpus}" if corpus is not None and several else test

    def draw(self, name: str, plot: Callable[..., Figure], **place: Any) -> list[str]:
        """Draws a figure: the lines that show it."""
        about = [str(value) for value in place.values() if value is not None]
        file = re.sub(r"[^\w.-]+", "-", "-".join([name, *about])).lower() + ".png"
        self.figures[file] = plot(self.records, measure=self.measure, **place)
        return [f"![{name.replace('-', ' ')}: {', '.join(about) or self.label}](figures/{file})", ""]


def language_gaps(study: Measured) -> list[str]:
    tables = {study.where(*place): headline(study.cells, *place) for place in study.places}
    languages = [code for table in tables.values() for code in languages_of(table)]
    if len(tables) > 1 and len(set(languages)) == len(languages):
        # Every language has one test: they can stand in one table.
        joined: Table = {}
        for table in tables.values():
            for method, row in table.items():
                joined.setdefault(method, {}).update(row)
        tables = {"All tests": joined}
    lines, study.results["language_gap"] = [], []
    for where, table in tables.items():
        lines += _gap_table(study, where, table)
    if not lines:
        return []
    text = [
        f"Share of the gap in {study.label} between untrained student and ceiling that is closed; the spread of "
        f"{study.label} itself over languages (best minus worst, standard deviation), and which is worst.",
        "",
    ]
    return ["## Language gap", "", *text, *lines]


def _gap_table(study: Measured, where: str, table: Table) -> list[str]:
    languages = languages_of(table)
    known = {next(iter(row.values())).kind: row for row in table.values()}
    if any(mean_over(known.get(kind, {}), languages, study.measure) is None for kind in ("zero_shot", "ceiling")):
        return []
    means = {
        method: {code: row[code].mean(study.measure) for code in languages}
        for method, row in table.items()
        if mean_over(row, languages, study.measure) is not None
    }
    ends = [next(name for name in means if table[name] is known[kind]) for kind in ("zero_shot", "ceiling")]
    groups = {
        name: own
        for name, codes in study.config.groups.items()
        if (own := [code for code in codes if code in languages])
    }
    several, between = len(languages) > 1, len(groups) > 1
    rows = []
    for method, values in means.items():
        found = language_gap(means[ends[0]], values, means[ends[1]], groups)
        study.results["language_gap"].append({"where": where, "method": method, **asdict(found)})
        closed = [*found.gap_closed.values(), *([found.mean_gap_closed] if several else [])]
        shares = [md.NOTHING_THERE if method in ends else md.share(value) for value in closed]
        spread = found.trained
        own = [f"{spread.range:.3f}, {spread.std:.3f}", spread.worst] if several else []
        rows.append([method, *shares, *own, *([f"{spread.group_gap:+.3f}"] if between else [])])
    header = ["Method", *languages, *([MEAN, "range, std", "worst"] if several else [])]
    header += [f"{next(iter(groups))} − {list(groups)[-1]}"] if between else []
    return [f"### {where}", "", *md.table(header, rows), ""]


def data_size(study: Measured) -> list[str]:
    lines, study.results["data_size"] = [], []
    for test, corpus in study.places:
        curves = data_size_curves(study.cells, test, corpus, study.measure)
        if not any(len(points) > 1 for own in curves.values() for points in own.values()):
            continue
        study.results["data_size"].append({"test": test, "corpus": corpus, "curves": curves})
        panel, drawn = next(iter(curves.items()))
        title = "Mean over languages" if panel == MEAN else panel
        lines += [f"### {study.where(test, corpus)}", ""]
        lines += study.draw("data-size", figures.plot_data_size, test=test, corpus=corpus)
        lines += [f"{title}, by sentence pairs a language:", "", *md.curve_table(drawn, "{:,.0f}", md.number), ""]
    return ["## Data size", "", *lines] if lines else []


def robustness(study: Measured) -> list[str]:
    lines, study.results["robustness"] = [], []
    for test, corpus in study.places:
        if not robustness_curves(study.cells, test, corpus, study.measure):
            continue
        lines += [f"### {study.where(test, corpus)}", ""]
        lines += study.draw("robustness", figures.plot_robustness, test=test, corpus=corpus)
        rows = [row for row in _robustness_rows(study, test, corpus) if row]
        header = [
            "Perturbation",
            "Method",
            "unperturbed",
            "strongest",
            "relative drop",
            "between languages",
            "worst",
        ]
        lines += [*md.table(header, rows), ""]
    if not lines:
        return []
    text = [
        "Relative drop: share of the unperturbed score, mean over languages, that is lost at the strongest "
        "perturbation. Between languages: best minus worst share of the score that is kept, averaged over the "
        "strengths; worst is the language that keeps least.",
        "",
    ]
    return ["## Robustness", "", *text, *lines]


def _robustness_rows(study: Measured, test: str, corpus: str | None) -> list[list[str]]:
    languages = languages_of(headline(study.cells, test, corpus))
    scores: dict[tuple[str, str], dict[str, dict[float, float]]] = {}
    for (perturbation, strength), table in robustness_tables(study.cells, test, corpus).items():
        for method, row in table.items():
            own = scores.setdefault((perturbation, method), {})
            for code, cell in row.items():
                own.setdefault(code, {})[strength] = cell.mean(study.measure)
    rows = []
    for (perturbation, method), own in scores.items():
        strengths = set(own[next(iter(own))])
        if (
            own.keys() != set(languages)
            or any(set(curve) != strengths for curve in own.values())
            or 0 not in strengths
        ):
            continue
        clean, strongest = (fmean(curve[at] for curve in own.values()) for at in (0, max(strengths)))
        found = robustness_gap(own)
        about = {"test": test, "corpus": corpus, "perturbation": perturbation, "method": method}
        drop = 1 - strongest / clean if clean else None
        study.results["robustness"].append({**about, "relative_drop": drop, "scores": own, **asdict(found)})
        gap = found.relative_area if len(own) > 1 else None
        shown = [md.share(gap.range), gap.worst] if gap else [md.NOTHING_THERE, md.NOTHING_THERE]
        at = f"{strongest:.3f} (at {max(strengths):g})"
        rows.append([perturbation.replace("_", " "), method, f"{clean:.3f}", at, md.share(drop), *shown])
    return rows


def domain_shift(study: Measured) -> list[str]:
    matrices = domain_matrices(study.cells, study.measure)
    if not matrices:
        return []
    found = [(method, *key, value) for method, matrix in matrices.items() for key, value in matrix.items()]
    study.results["domains"] = [
        dict(zip(("method", "corpus", "test", "value"), entry, strict=True)) for entry in found
    ]
    tests = list(dict.fromkeys(test for _, _, test, _ in found))
    rows = [
        [method, corpus, *(md.number(matrix.get((corpus, test))) for test in tests)]
        for method, matrix in matrices.items()
        for corpus in dict.fromkeys(corpus for corpus, _ in matrix)
    ]
    text = ["Mean over the languages of a test set that every corpus has.", ""]
    drawn = study.draw("domains", figures.plot_domains)
    return ["## Domain shift", "", *drawn, *text, *md.table(["Method", "Trained on", *tests], rows)]


def languages_together(study: Measured) -> list[str]:
    lines, study.results["language_pairs"] = [], []
    corpora = list(dict.fromkeys(corpus for _, corpus in study.places if corpus is not None))
    for corpus in corpora:
        curves, is_gap = language_pair_curves(study.cells, corpus, study.measure)
        if not any(len(points) > 1 for own in curves.values() for points in own.values()):
            continue
        study.results["language_pairs"].append({"corpus": corpus, "gap_closed": is_gap, "curves": curves})
        lines += [f"### Trained on {corpus}", ""] if len(corpora) > 1 else []
        lines += study.draw("language-pairs", figures.plot_language_pairs, corpus=corpus)
        what = f"Share of the gap in {study.label} closed" if is_gap else study.label
        lines += [f"{what}, by languages trained together:", ""]
        joined = {f"{method}, {panel}": points for panel, own in curves.items() for method, points in own.items()}
        lines += [*md.curve_table(joined, "{:g}", md.share if is_gap else md.number), ""]
    return ["## Number of languages trained together", "", *lines] if lines else []


def times(study: Measured) -> list[str]:
    rows, study.results["time"] = [], []
    for method in dict.fromkeys(record.method for record in study.records):
        own = [record for record in study.records if record.method == method]
        # Every language and test tells of the same training run.
        runs = {(each.corpus, each.languages, each.size, each.seed): each.seconds for each in own if each.seconds}
        searching = median(record.search_seconds for record in own)
        training = median(runs.values()) if runs else None
        study.results["time"].append({"method": method, "runs": len(runs), "train": training, "search": searching})
        spread = (
            f"{training:,.0f} ({min(runs.values()):,.0f} to {max(runs.values()):,.0f})" if runs else md.NOTHING_THERE
        )
        rows.append([method, str(len(runs) or md.NOTHING_THERE), spread, f"{searching:,.1f}"])
    if not any(entry["train"] or entry["search"] for entry in study.results["time"]):
        return []
    header = ["Method", "training runs", "seconds a run: median (range)", "seconds a test: median"]
    return ["## Time", "", *md.table(header, rows)]


def _as_reference(record: Record, config: StudyConfig) -> Record:
    """A method that is given human translations of the queries is no rival."""
    method = config.methods.get(record.method)
    if record.kind in REFERENCES or method is None or method.settings.get("translated") != "human":
        return record
    return replace(record, kind="human")
