"""The numbers and figures of each section of a report; `report.md` has its words."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, replace
from statistics import fmean, median, stdev
from typing import TYPE_CHECKING, Any

from ..errors import DataError
from ..evaluation import bootstrap_interval, language_gap
from ..evaluation.robustness import robustness_gap
from ..hub.results import measure_label
from . import figures
from .kinds import DESCRIBED, REFERENCES
from .markdown import p_value
from .names import file_name, free_name
from .robustness import compare_robustness, robustness_cells, robustness_curves, robustness_scores
from .settings import StudyConfig
from .store import Record
from .tables import (
    ALL_TESTS,
    NO_DIFFERENCE,
    Curves,
    Headline,
    Tested,
    compare,
    data_size_curves,
    domain_matrices,
    first,
    has_several_settings,
    headline,
    joined,
    language_pair_curves,
    mean_over,
    places_of,
    pool_seeds,
    runs_of,
)


if TYPE_CHECKING:
    from matplotlib.figure import Figure

# The content of one section, test set or method, by the names that the template uses.
Content = dict[str, Any]


class Results:
    """
    The results that the sections of a report share, and the figures that they draw.

    Raises:
        DataError: there are no records, or the seeds of a cell were measured on different queries.
    """

    def __init__(self, config: StudyConfig, records: Iterable[Record]):
        self.config = config
        self.records = [_with_human_kind(record, config) for record in records]
        if not self.records:
            raise DataError(f"the study {config.name} has no records; run it first")
        self.measure = config.measures[0]
        self.label = measure_label(self.measure)
        self.cells = pool_seeds(self.records)
        self.headlines = [headline(self.cells, *place) for place in places_of(self.cells)]
        self.corpora = list(dict.fromkeys(own.corpus for own in self.headlines if own.corpus is not None))
        self.tested = compare(self.cells, self.measure)
        # File name without its ending -> figure.
        self.figures: dict[str, Figure] = {}
        # What a file shows -> its name.
        self._files: dict[tuple[str | None, ...], str] = {}

    def place(self, table: Headline | Tested) -> str:
        """The test set, with the training corpus if there are several."""
        return f"{table.test}, trained on {table.corpus}" if table.corpus and len(self.corpora) > 1 else table.test

    def tested_in(self, own: Headline, column: str, method: str) -> list[Tested]:
        """The significance tests of a method in a column."""
        place = (own.test, own.corpus, column)
        tested = (each for each in self.tested if (each.test, each.corpus, each.column) == place)
        return [each for each in tested if method in (each.result.system, each.result.baseline)]

    def file(self, *parts: str | None) -> str:
        """A file name, without its ending, that no other parts have."""
        if parts not in self._files:
            self._files[parts] = free_name(file_name(*parts), self._files.values())
        return self._files[parts]

    def draw(self, name: str, plot: Callable[..., Figure], **place: Any) -> str:
        """Draw a figure; the line that embeds it."""
        about = [str(value) for value in place.values() if value is not None]
        file = self.file(name, *place.values())
        self.figures[file] = plot(self.records, measure=self.measure, **place)
        return f"![{name.replace('-', ' ')}: {', '.join(about) or self.label}](figures/{file}.png)"


def introduction(results: Results) -> Content:
    cells = results.cells
    pairs: dict[str | None, dict[str, float]] = {}
    queries: dict[str, dict[str, float]] = {}
    for cell in cells:
        queries.setdefault(cell.test, {})[cell.language] = len(cell.values[results.measure])
        if cell.learns:
            counts, run = pairs.setdefault(cell.corpus, {}), "+".join(cell.languages)
            counts[run] = max(counts.get(run, 0), cell.pairs * len(cell.languages))
    return {
        "methods": list(dict.fromkeys(cell.method for cell in cells)),
        "pairs": pairs,
        "queries": queries,
        "seeds": sorted({record.seed for record in results.records if record.seed is not None}),
        "has_several_settings": has_several_settings(cells),
    }


def finding(results: Results, own: Headline) -> Content:
    """What the tests of a table support: the best method, and the comparisons of OT methods."""
    column, measure = own.columns[0], results.measure
    order = own.ranking(column, measure)
    found: Content = {"place": results.place(own), "order": order, "described": []}
    if len(order) < 2:
        return found
    found["value"] = own.mean(order[0], column, measure)
    tested = results.tested_in(own, column, order[0])
    found["equal"] = [each.other(order[0]) for each in tested if each.verdict(order[0]) != "better"]
    best = {code: own.ranking(code, measure)[0] for code in own.languages}
    for method in order:
        if first(own.table[method]).kind == DESCRIBED:
            lost = [f"{code} ({name})" for code, name in best.items() if name != method and code in own.table[method]]
            verdicts = _verdicts(results.tested_in(own, column, method), method)
            found["described"].append({"method": method, "verdicts": verdicts, "lost": lost if len(best) > 1 else []})
    return found


def _verdicts(tested: Iterable[Tested], method: str) -> dict[str, list[str]]:
    """Verdict -> the other methods, with the numbers of their comparison."""
    verdicts: dict[str, list[str]] = {"better than": [], "worse than": [], f"{NO_DIFFERENCE} from": []}
    for each in tested:
        verdict, result = each.verdict(method), each.result
        difference = result.difference if method == result.system else -result.difference
        named = f"{each.other(method)} ({difference:+.3f}, p {p_value(result.adjusted, '= ')})"
        verdicts[f"{verdict} {'from' if verdict == NO_DIFFERENCE else 'than'}"].append(named)
    return {verdict: names for verdict, names in verdicts.items() if names}


def score_table(results: Results, own: Headline) -> Content:
    rows: dict[str, Content] = {}
    for method, row in own.table.items():
        kind = first(row).kind
        rows[method] = {
            "title": f"*{method}* ({REFERENCES[kind][0]})" if kind in REFERENCES else method,
            "is_reference": kind in REFERENCES,
            "scores": {column: _score(results, own, method, column) for column in own.columns},
            "others": [own.mean(method, own.columns[0], name) for name in results.config.measures[1:]],
        }
    return {
        "place": results.place(own),
        # Numbered as its figure is, so that a later report finds the tables of this one by their figures.
        "file": results.file("languages", own.test, own.corpus).removeprefix("languages-"),
        "columns": own.columns,
        "rows": rows,
        "best": {column: next(iter(own.ranking(column, results.measure)), None) for column in own.columns},
        "winners": {column: _winner(results, own, column) for column in own.columns},
        "has_seeds": any(row["scores"][own.columns[0]].get("seeds", 0) > 1 for row in rows.values()),
        "figure": results.draw("languages", figures.plot_languages, test=own.test, corpus=own.corpus),
    }


def _score(results: Results, own: Headline, method: str, column: str) -> Content:
    """The score of a method in a column; empty if it lacks a language."""
    row, languages, measure = own.table[method], own.covered(column), results.measure
    value = own.mean(method, column, measure)
    if value is None:
        return {}
    runs = runs_of({code: row[code] for code in languages}, measure)
    means = [fmean(fmean(queries.values()) for queries in run.values()) for run in runs]
    return {
        "test": own.test,
        "corpus": own.corpus,
        "method": method,
        "kind": first(row).kind,
        "language": column,
        "value": value,
        "interval": list(bootstrap_interval({code: row[code].values[measure] for code in languages})),
        "seeds": len(means),
        "seed_std": stdev(means) if len(means) > 1 else None,
    }


def _winner(results: Results, own: Headline, column: str) -> str | None:
    """The best of a column, if it is shown to be better than the runner-up."""
    best = own.ranking(column, results.measure)[:2]
    tested = results.tested_in(own, column, best[0]) if best else []
    return next((each.result.winner for each in tested if each.other(best[0]) in best), None)


def language_gaps(results: Results) -> Iterator[Content]:
    tables = {results.place(own): own for own in results.headlines}
    whole = joined(own.table for own in results.headlines)
    if whole is not None:
        tables = {ALL_TESTS: Headline("", None, whole)}
    for place, own in tables.items():
        means = {
            method: {code: row[code].mean(results.measure) for code in own.languages}
            for method, row in own.table.items()
            if mean_over(row, own.languages, results.measure) is not None
        }
        kinds = {first(own.table[method]).kind: method for method in means}
        if {"zero_shot", "ceiling"} <= kinds.keys():
            low, high = kinds["zero_shot"], kinds["ceiling"]
            found = {name: [c for c in codes if c in own.languages] for name, codes in results.config.groups.items()}
            groups = {name: codes for name, codes in found.items() if codes}
            gaps = {method: language_gap(means[low], values, means[high], groups) for method, values in means.items()}
            about = {
                "place": place,
                "is_joined": whole is not None,
                "languages": own.languages,
                "groups": list(groups),
            }
            yield {**about, "references": (low, high), "gaps": gaps}


def _are_curves(curves: Curves) -> bool:
    """Whether any line has several points."""
    return any(len(points) > 1 for lines in curves.values() for points in lines.values())


def data_sizes(results: Results) -> Iterator[Content]:
    for own in results.headlines:
        place: dict[str, Any] = {"test": own.test, "corpus": own.corpus}
        curves = data_size_curves(results.cells, **place, measure=results.measure)
        if _are_curves(curves):
            figure = results.draw("data-size", figures.plot_data_size, **place)
            yield {**place, "place": results.place(own), "curves": curves, "figure": figure}


def robustness(results: Results) -> Iterator[Content]:
    for own in results.headlines:
        place: dict[str, Any] = {"test": own.test, "corpus": own.corpus}
        if robustness_curves(results.cells, **place, measure=results.measure):
            figure = results.draw("robustness", figures.plot_robustness, **place)
            yield {"place": results.place(own), "figure": figure, "rows": list(_robustness_rows(results, own))}


def _robustness_rows(results: Results, own: Headline) -> Iterator[Content]:
    scores = robustness_scores(results.cells, own.test, own.corpus, results.measure)
    for (perturbation, method), curves in scores.items():
        strengths = set(next(iter(curves.values())))
        complete = curves.keys() == set(own.languages) and all(set(curve) == strengths for curve in curves.values())
        if not complete or 0 not in strengths:
            continue
        strongest = max(strengths)
        clean, perturbed = (fmean(curve[at] for curve in curves.values()) for at in (0, strongest))
        found, drop = robustness_gap(curves), 1 - perturbed / clean if clean else None
        about = {"test": own.test, "corpus": own.corpus, "perturbation": perturbation, "method": method}
        yield {
            "clean": clean,
            "perturbed": perturbed,
            "strength": strongest,
            "gap": found.relative_area if len(curves) > 1 else None,
            "numbers": {**about, "relative_drop": drop, "scores": curves, **asdict(found)},
        }


def robustness_gaps(results: Results) -> Iterator[Content]:
    """Whether perturbations take more from the last group of languages than from the first."""
    names = list(results.config.groups)
    tables = {results.place(own): robustness_cells(results.cells, own.test, own.corpus) for own in results.headlines}
    whole = joined(tables.values())
    tables = tables if whole is None else {ALL_TESTS: whole}
    for place, tested in compare_robustness(tables, results.config.groups, results.measure).items():
        yield {
            "place": place,
            "groups": (names[0], names[-1]),
            "gaps": [each for each in tested if each.against is None],
            "differences": [each for each in tested if each.against is not None],
        }


def domains(results: Results) -> Content:
    matrices = domain_matrices(results.cells, results.measure)
    if not matrices:
        return {}
    numbers = [
        {"method": method, "corpus": corpus, "test": test, "value": value}
        for method, matrix in matrices.items()
        for (corpus, test), value in matrix.items()
    ]
    return {"figure": results.draw("domains", figures.plot_domains), "matrices": matrices, "numbers": numbers}


def language_pairs(results: Results) -> Iterator[Content]:
    for corpus in results.corpora:
        curves, is_gap = language_pair_curves(results.cells, corpus, results.measure)
        if _are_curves(curves):
            figure = results.draw("language-pairs", figures.plot_language_pairs, corpus=corpus)
            lines = {f"{method}, {panel}": points for panel, own in curves.items() for method, points in own.items()}
            yield {"corpus": corpus, "gap_closed": is_gap, "curves": curves, "lines": lines, "figure": figure}


def times(results: Results) -> Iterator[Content]:
    for method in dict.fromkeys(record.method for record in results.records):
        own = [record for record in results.records if record.method == method]
        # Records of several languages and tests share a training run.
        runs = {(each.corpus, each.languages, each.size, each.seed): each.seconds for each in own if each.seconds}
        yield {
            "method": method,
            "runs": list(runs.values()),
            "train": median(runs.values()) if runs else None,
            "search": median(record.search_seconds for record in own),
        }


def missing(results: Results, unfinished: Iterable[str]) -> list[str]:
    """Methods, languages and cells without results."""
    measured = {cell.method for cell in results.cells}
    lines = [f"{name}: nothing was measured" for name in results.config.methods if name not in measured]
    for own in results.headlines:
        for method, row in own.table.items():
            lacking = [code for code in own.languages if code not in row]
            lines += [f"{method} lacks {', '.join(lacking)} on {results.place(own)}"] if lacking else []
    return [*lines, *unfinished]


def _with_human_kind(record: Record, config: StudyConfig) -> Record:
    """Mark methods that search with human translations as references."""
    method = config.methods.get(record.method)
    is_human = method is not None and method.settings.get("translated") == "human"
    return replace(record, kind="human") if is_human and record.kind != "ceiling" else record
