"""The report of a study, derived from its records alone."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from ..evaluation import bootstrap_interval
from ..storage.staging import staged_directory
from . import figures
from . import markdown as md
from .kinds import DESCRIBED, REFERENCES
from .sections import Results, data_size, domain_shift, language_gaps, languages_together, robustness, times
from .settings import StudyConfig
from .store import Record
from .tables import MEAN, Headline, Tested, first


_NO_DIFFERENCE = "no difference shown"


def write_report(
    folder: str | os.PathLike, config: StudyConfig, records: Iterable[Record], *, failed: Sequence[str] = ()
) -> Path:
    """
    Write `report.md`, `figures/*.png` and `results.json` (all numbers of the report) into `folder`.

    Equal records give equal files. The report calls a method better than another only if a paired randomisation test
    and a paired t-test agree, after Holm's correction over all comparisons of the report.

    Args:
        folder (`str` or `os.PathLike`): the folder, created if it does not exist.
        config ([`StudyConfig`]): the study.
        records (iterable of [`Record`]): its results.
        failed (sequence of `str`, *optional*): descriptions of failed cells to list.

    Returns:
        `Path`: path of `report.md`.

    Raises:
        DataError: there are no records, or the seeds of a cell were measured on different queries.
        ImportError: matplotlib is not installed.
    """
    results = Results(config, records)
    parts = [
        introduction(results),
        findings(results),
        scores(results),
        significance(results),
        language_gaps(results),
        data_size(results),
        robustness(results),
        domain_shift(results),
        languages_together(results),
        times(results),
        missing(results, failed),
    ]
    text = "\n".join("\n".join(part).rstrip() + "\n" for part in parts if part)
    with staged_directory(folder) as staged:
        (staged / "figures").mkdir()
        for name, figure in results.figures.items():
            # Without the library's version, which would change the file.
            figure.savefig(staged / "figures" / name, dpi=200, metadata={"Software": None})
        (staged / "results.json").write_text(json.dumps(results.numbers, indent=1, ensure_ascii=False) + "\n", "utf-8")
        (staged / "report.md").write_text(text, "utf-8")
    return Path(folder) / "report.md"


def introduction(results: Results) -> list[str]:
    config = results.config
    lines = [f"# {config.title or config.name}", ""]
    lines += [config.questions, ""] if config.questions else []
    seeds = sorted({record.seed for record in results.records if record.seed is not None})
    lines += md.table(["", ""], [[title, text] for title, text in _setup(results, seeds) if text])
    text = (
        f"{results.label} unless another measure is named. Intervals are 95 % bootstrap intervals over the queries; "
        "means over languages give every language the same weight. One method is called better than another only "
        "where a paired randomisation test and a paired t-test agree at 5 % after Holm's correction over all "
        f"{len(results.tested)} comparisons of this report."
    )
    if len(seeds) > 1:
        text += " Where a method has several seeds, the values of a query are averaged over them."
    if len(seeds) == 1:
        text += (
            " Everything was trained with one seed: intervals and p-values cover the queries, not what another "
            "training run would give."
        )
    if len({(cell.size, cell.languages) for cell in results.cells if cell.learns_together}) > 1:
        text += (
            " Where nothing else is said, methods are compared at the largest number of sentence pairs, with the most "
            "languages trained together."
        )
    return [*lines, text] + (["", config.notes] if config.notes else [])


def _setup(results: Results, seeds: Sequence[int]) -> Iterator[tuple[str, str]]:
    """Rows of the table of methods, data and settings."""
    config = results.config
    yield "Methods", ", ".join(dict.fromkeys(cell.method for cell in results.cells))
    trained = [cell for cell in results.cells if cell.learns]
    pairs: dict[str | None, dict[str, float]] = {}
    for cell in trained:
        counts, run = pairs.setdefault(cell.corpus, {}), "+".join(cell.languages)
        counts[run] = max(counts.get(run, 0), cell.pairs * len(cell.languages))
    for corpus, counts in pairs.items():
        listed = ", ".join(f"{codes} {count:,.0f}" for codes, count in counts.items())
        yield f"Trained on {corpus}", f"sentence pairs, at most: {listed}"
    queries: dict[str, dict[str, int]] = {}
    for cell in results.cells:
        queries.setdefault(cell.test, {})[cell.language] = len(cell.values[results.measure])
    for test, numbers in queries.items():
        yield f"Tested on {test}", "queries: " + ", ".join(f"{code} {n:,}" for code, n in numbers.items())
    if config.teacher == config.student:
        yield "Teacher and student", md.public(config.teacher)
    else:
        yield "Teacher, student", f"{md.public(config.teacher)}, {md.public(config.student)}"
    yield "Seeds", ", ".join(map(str, seeds))
    yield "Training", md.public(config.training)
    for name, method in config.methods.items():
        yield f"Settings of {name}", md.public(method.settings)


def findings(results: Results) -> list[str]:
    lines = [f"- **{results.place(own)}.** {text}" for own in results.headlines for text in _findings(results, own)]
    lines += ["", "Curves, matrices and gaps below describe what was measured; no test was made of them."]
    return md.section("What this says", lines)


def _findings(results: Results, own: Headline) -> Iterator[str]:
    """What the tests support: the best method, and the comparisons of OT methods."""
    column = own.columns[0]
    order = own.ranking(column, results.measure)
    if len(order) < 2:
        yield "Fewer than two methods were measured in every language; nothing was compared."
        return
    tested = [
        each for each in results.tested if (each.test, each.corpus, each.column) == (own.test, own.corpus, column)
    ]
    best = order[0]
    value = f"{results.label} {own.mean(best, column, results.measure):.3f}"
    equal = [name for name, verdict, _ in _comparisons(tested, best) if verdict != "better"]
    if equal:
        shown = f"no difference from {md.listed(equal)} is shown"
        yield f"No method is shown to be best. {best} is highest ({value}), but {shown}."
    else:
        others = md.listed(order[1:]) if len(order) < 5 else f"each of the {len(order) - 1} others"
        yield f"{best} is best ({value}): better than {others}."
    for method in order:
        if first(own.table[method]).kind == DESCRIBED:
            verdicts: dict[str, list[str]] = {"better than": [], "worse than": [], f"{_NO_DIFFERENCE} from": []}
            for name, verdict, numbers in _comparisons(tested, method):
                verdicts[f"{verdict} {'from' if verdict == _NO_DIFFERENCE else 'than'}"].append(f"{name} ({numbers})")
            parts = [f"{verdict} {md.listed(names)}" for verdict, names in verdicts.items() if names]
            yield f"{method}: {'; '.join(parts)}.{_lost_languages(results, own, method)}"


def _comparisons(tested: Sequence[Tested], method: str) -> Iterator[tuple[str, str, str]]:
    """The other method, the verdict on `method`, and the numbers of each comparison of `method`."""
    for each in tested:
        result = each.result
        if method in (result.system, result.baseline):
            other = result.baseline if method == result.system else result.system
            difference = result.difference if method == result.system else -result.difference
            p = max(result.adjusted_randomisation, result.adjusted_t)
            yield other, _verdict(each, method), f"{difference:+.3f}, p {md.p_value(p, '= ')}"


def _lost_languages(results: Results, own: Headline, method: str) -> str:
    """The languages in which another method has the highest score."""
    best = {code: own.ranking(code, results.measure)[0] for code in own.languages}
    lost = [f"{code} ({name})" for code, name in best.items() if name != method and code in own.table[method]]
    return f" It does not have the highest score in {md.listed(lost)}." if lost and len(best) > 1 else ""


def scores(results: Results) -> list[str]:
    lines, results.numbers["scores"] = [], []
    for own in results.headlines:
        lines += [f"### {results.place(own)}", "", *_score_table(results, own)]
        lines += results.draw("languages", figures.plot_languages, test=own.test, corpus=own.corpus)
        measures = results.config.measures[1:]
        if measures:
            rows = [
                [method, *(md.number(own.mean(method, own.columns[0], name)) for name in measures)]
                for method in own.table
            ]
            title = "Other measures" + (", mean over languages" if len(own.languages) > 1 else "")
            lines += [f"{title}:", "", *md.table(["Method", *map(figures.measure_label, measures)], rows)]
    legend = "Bold: best in its column and better than the runner-up. In italics: references, which do not compete."
    if any(row["seeds"] > 1 for row in results.numbers["scores"]):
        legend += " Over seeds: standard deviation of the mean, and number of seeds."
    return md.section("Scores", [*lines, legend])


def _score_table(results: Results, own: Headline) -> list[str]:
    best = {column: _winner(results, own, column) for column in own.columns}
    rows, seeds = [], []
    for method, row in own.table.items():
        kind = first(row).kind
        cells = [f"*{method}* ({REFERENCES[kind][0]})" if kind in REFERENCES else method]
        found = {column: _score(results, own, method, column) for column in own.columns}
        for column, score in found.items():
            cells.append(_scored(score, best[column] == method))
            if score:
                about = {"test": own.test, "corpus": own.corpus, "method": method, "kind": kind, "language": column}
                results.numbers["scores"].append({**about, **score})
        rows.append(cells)
        whole = found[own.columns[0]]
        seeds.append(f"± {whole['seed_std']:.3f} ({whole['seeds']})" if whole and whole["seeds"] > 1 else md.MISSING)
    if set(seeds) == {md.MISSING}:
        return md.table(["Method", *own.columns], rows)
    rows = [[*cells, seed] for cells, seed in zip(rows, seeds, strict=True)]
    return md.table(["Method", *own.columns, "over seeds"], rows)


def _score(results: Results, own: Headline, method: str, column: str) -> dict[str, Any] | None:
    value = own.mean(method, column, results.measure)
    if value is None:
        return None
    row, languages, measure = own.table[method], own.covered(column), results.measure
    seeds = list(zip(*(row[code].seed_means[measure] for code in languages), strict=False))
    interval = bootstrap_interval({code: row[code].values[measure] for code in languages})
    spread = stdev(fmean(means) for means in seeds) if len(seeds) > 1 else None
    return {"value": value, "interval": list(interval), "seeds": len(seeds), "seed_std": spread}


def _winner(results: Results, own: Headline, column: str) -> str | None:
    """The best of a column, if it is shown to be better than the runner-up."""
    best = set(own.ranking(column, results.measure)[:2])
    for each in results.tested:
        if (each.test, each.corpus, each.column) == (own.test, own.corpus, column):
            if {each.result.system, each.result.baseline} == best:
                return each.result.winner
    return None


def significance(results: Results) -> list[str]:
    results.numbers["comparisons"] = [
        {"test": each.test, "corpus": each.corpus, "language": each.column, **asdict(each.result)}
        for each in results.tested
    ]
    header = ["Where", "Method", "against", f"difference in {results.label}", "p (randomisation)", "p (t)"]
    header += ["after Holm", "the method is"]
    lines = []
    for own in results.headlines:
        rows = [_comparison(each) for each in results.tested if (each.test, each.corpus) == (own.test, own.corpus)]
        if not rows:
            continue
        table = md.table(header, rows)
        if len(rows) > 20:
            table = [f"<details><summary>{len(rows)} comparisons</summary>", "", *table, "</details>", ""]
        lines += [f"### {results.place(own)}", "", *table]
    text = (
        "Differences with their 95 % interval, for each comparison alone; p of both tests, alone and after Holm's "
        "correction (randomisation / t). In single languages the best is compared with the runner-up."
    )
    return md.section("Significance", lines, text)


def _comparison(tested: Tested) -> list[str]:
    result = tested.result
    low, high = result.interval
    verdict = _verdict(tested, result.system)
    return [
        "mean over languages" if tested.column == MEAN else tested.column,
        result.system,
        result.baseline,
        f"{result.difference:+.3f} [{low:+.3f}, {high:+.3f}]",
        md.p_value(result.p_randomisation),
        md.p_value(result.p_t),
        f"{md.p_value(result.adjusted_randomisation)} / {md.p_value(result.adjusted_t)}",
        verdict if verdict == _NO_DIFFERENCE else f"**{verdict}**",
    ]


def missing(results: Results, failed: Sequence[str]) -> list[str]:
    """Methods and languages without results."""
    measured = {cell.method for cell in results.cells}
    lines = [f"{name}: nothing was measured" for name in results.config.methods if name not in measured]
    for own in results.headlines:
        for method, row in own.table.items():
            lacking = [code for code in own.languages if code not in row]
            lines += [f"{method} lacks {', '.join(lacking)} on {results.place(own)}"] if lacking else []
    lines += [f"failed: {cell}" for cell in failed]
    results.numbers["missing"] = lines
    return md.section("Missing", [f"- {line}" for line in lines])


def _verdict(tested: Tested, method: str) -> str:
    winner = tested.result.winner
    return _NO_DIFFERENCE if winner is None else "better" if winner == method else "worse"


def _scored(score: dict[str, Any] | None, best: bool) -> str:
    if score is None:
        return md.MISSING
    value = f"**{score['value']:.3f}**" if best else f"{score['value']:.3f}"
    low, high = score["interval"]
    return f"{value} [{low:.3f}, {high:.3f}]"
