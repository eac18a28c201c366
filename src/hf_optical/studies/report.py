"""The report of a study: what its records show, and only that."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from ..evaluation import bootstrap_interval
from ..storage.staging import staged_directory
from . import figures
from . import markdown as md
from .config import StudyConfig
from .sections import (
    Measured,
    data_size,
    domain_shift,
    language_gaps,
    languages_together,
    robustness,
    times,
)
from .store import Record
from .tables import MEAN, Cell, Table, Tested, competitors, headline, languages_of, mean_over, ranking


_REFERENCES = {
    "zero_shot": "untrained student",
    "ceiling": "teacher on human translations",
    "human": "on human translations",
}

_VERDICTS = {
    "better": "better than",
    "worse": "worse than",
    "no difference shown": "no difference shown from",
}


def write_report(
    folder: str | os.PathLike, config: StudyConfig, records: Iterable[Record], *, failed: Sequence[str] = ()
) -> Path:
    """
    Writes `report.md`, `figures/*.png` and `results.json` (every number of the report) into `folder`.

    The same records give the same files. A method is called better than another only where a paired randomisation test
    and a paired t-test both say so, after Holm's correction over all comparisons of the report.

    Args:
        folder (`str` or `os.PathLike`): where. Created if need be.
        config ([`StudyConfig`]): the study.
        records (iterable of [`Record`]): what was measured.
        failed (sequence of `str`, *optional*): cells that could not be done, in words; they are listed.

    Returns:
        `Path`: of `report.md`.

    Raises:
        DataError: there are no records, or the seeds of a cell were measured on different queries.
        ImportError: matplotlib is missing.
    """
    study = Measured(config, records)
    parts = [
        introduction(study),
        findings(study),
        scores(study),
        significance(study),
        language_gaps(study),
        data_size(study),
        robustness(study),
        domain_shift(study),
        languages_together(study),
        times(study),
        missing(study, failed),
    ]
    text = "\n".join("\n".join(part).rstrip() + "\n" for part in parts if part)
    with staged_directory(folder) as staged:
        (staged / "figures").mkdir()
        for name, figure in study.figures.items():
            # The name of the library and its version would change the file.
            figure.savefig(staged / "figures" / name, dpi=200, metadata={"Software": None})
        (staged / "results.json").write_text(json.dumps(study.results, indent=1, ensure_ascii=False) + "\n", "utf-8")
        (staged / "report.md").write_text(text, "utf-8")
    return Path(folder) / "report.md"


def introduction(study: Measured) -> list[str]:
    config = study.config
    lines = [f"# {config.title or config.name}", ""]
    lines += [config.questions, ""] if config.questions else []
    trained = [cell for cell in study.cells if cell.learns]
    pairs: dict[tuple[str | None, tuple[str, ...]], float] = {}
    for cell in trained:
        run = cell.corpus, cell.languages
        pairs[run] = max(pairs.get(run, 0), cell.pairs * len(cell.languages))
    rows = [["Methods", ", ".join(dict.fromkeys(cell.method for cell in study.cells))]]
    for corpus in dict.fromkeys(cell.corpus for cell in trained):
        told = [f"{'+'.join(codes)} {count:,.0f}" for (name, codes), count in pairs.items() if name == corpus]
        rows.append([f"Trained on {corpus}", "sentence pairs, at most: " + ", ".join(told)])
    for test in dict.fromkeys(cell.test for cell in study.cells):
        counts = {cell.language: len(cell.values[study.measure]) for cell in study.cells if cell.test == test}
        rows.append([f"Tested on {test}", "queries: " + ", ".join(f"{code} {n:,}" for code, n in counts.items())])
    seeds = sorted({record.seed for record in study.records if record.seed is not None})
    teacher, student = md.public(config.teacher), md.public(config.student)
    same = config.teacher == config.student
    rows.append(["Teacher and student" if same else "Teacher, student", teacher if same else f"{teacher}, {student}"])
    rows += [["Seeds", ", ".join(map(str, seeds))]] if seeds else []
    rows += [["Training", md.settings(config.training)]] if config.training else []
    rows += [
        [f"Settings of {name}", md.settings(own.settings)] for name, own in config.methods.items() if own.settings
    ]
    lines += md.table(["", ""], rows)
    several = " Where a method has several seeds, the values of a query are averaged over them." * (len(seeds) > 1)
    lines += [
        "",
        f"{study.label} unless another measure is named. Intervals are 95 % bootstrap intervals over the queries; "
        "means over languages give every language the same weight. One method is called better than another only "
        "where a paired randomisation test and a paired t-test agree at 5 % after Holm's correction over all "
        f"{len(study.tested)} comparisons of this report." + several,
    ]
    if len(seeds) == 1:
        lines[-1] += (
            " Everything was trained with one seed: intervals and p-values cover the queries, not what another "
            "training run would give."
        )
    if len({(cell.size, cell.languages) for cell in trained if cell.learns_together}) > 1:
        lines[-1] += (
            " Where nothing else is said, methods are compared at the largest number of sentence pairs, with the most "
            "languages trained together."
        )
    return lines + (["", config.notes] if config.notes else [])


def findings(study: Measured) -> list[str]:
    lines = ["## What this says", ""]
    for test, corpus in study.places:
        lines += [f"- {sentence}" for sentence in _findings_on(study, test, corpus)]
    lines += ["", "Curves, matrices and gaps below describe what was measured; no test was made of them."]
    return lines


def _findings_on(study: Measured, test: str, corpus: str | None) -> list[str]:
    table = headline(study.cells, test, corpus)
    languages, rivals = languages_of(table), competitors(table)
    order, where = ranking(rivals, languages, study.measure), f"**{study.where(test, corpus)}.**"
    if len(order) < 2:
        return [f"{where} Fewer than two methods were measured in every language; nothing was compared."]
    column = MEAN if len(languages) > 1 else languages[0]
    tested = [each for each in study.tested if (each.test, each.corpus, each.language) == (test, corpus, column)]
    best = order[0]
    value = f"{study.label} {mean_over(rivals[best], languages, study.measure):.3f}"
    equal = [name for name, verdict, _ in _against(tested, best) if verdict != "better"]
    if not equal:
        others = md.listed(order[1:]) if len(order) < 5 else f"each of the {len(order) - 1} others"
        said = [f"{where} {best} is best ({value}): better than {others}."]
    else:
        shown = f"no difference from {md.listed(equal)} is shown"
        said = [f"{where} No method is shown to be best. {best} is highest ({value}), but {shown}."]
    for method in order:
        if next(iter(rivals[method].values())).kind == "ot":
            told, against = [], _against(tested, method)
            for words, start in _VERDICTS.items():
                names = [f"{name} ({numbers})" for name, verdict, numbers in against if verdict == words]
                told += [f"{start} {md.listed(names)}"] if names else []
            said.append(f"{where} {method}: {'; '.join(told)}.{_behind(study, method, rivals)}")
    return said


def _against(tested: Sequence[Tested], method: str) -> list[tuple[str, str, str]]:
    """Every method that `method` was compared with: its name, the verdict on `method`, and the numbers behind it."""
    found = []
    for each in tested:
        result = each.result
        if method in (result.system, result.baseline):
            other = result.baseline if method == result.system else result.system
            difference = result.difference if method == result.system else -result.difference
            p = max(result.adjusted_randomisation, result.adjusted_t)
            found.append((other, _verdict(each, method), f"{difference:+.3f}, p {md.p_value(p, '= ')}"))
    return found


def _behind(study: Measured, method: str, rivals: Table) -> str:
    """Where an OT method has not the highest score."""
    languages = languages_of(rivals)
    ahead = {code: ranking(rivals, [code], study.measure)[0] for code in languages if method in rivals}
    lost = [f"{code} ({best})" for code, best in ahead.items() if best != method and code in rivals[method]]
    return f" It does not have the highest score in {md.listed(lost)}." if lost and len(languages) > 1 else ""


def scores(study: Measured) -> list[str]:
    lines, rows_of_all = ["## Scores", ""], []
    for test, corpus in study.places:
        table = headline(study.cells, test, corpus)
        languages = languages_of(table)
        columns = ([MEAN] if len(languages) > 1 else []) + languages
        best = {column: _winner(study, test, corpus, column, competitors(table), languages) for column in columns}
        rows = []
        for method, row in table.items():
            scores = {column: _score(study, row, languages if column == MEAN else [column]) for column in columns}
            kind = next(iter(row.values())).kind
            shown = [_scored(score, best[column] == method) for column, score in scores.items()]
            rows.append([f"*{method}* ({_REFERENCES[kind]})" if kind in _REFERENCES else method, *shown])
            about = {"test": test, "corpus": corpus, "method": method, "kind": kind}
            known = {column: score for column, score in scores.items() if score}
            rows_of_all += [{**about, "language": column, **score} for column, score in known.items()]
        spread = [_score(study, row, languages) for row in table.values()]
        header = ["Method", *columns]
        if any(score and score["seeds"] > 1 for score in spread):
            header.append("over seeds")
            for row, score in zip(rows, spread, strict=True):
                many = score and score["seeds"] > 1
                row.append(f"± {score['seed_std']:.3f} ({score['seeds']})" if many else md.NOTHING_THERE)
        lines += [f"### {study.where(test, corpus)}", "", *md.table(header, rows), ""]
        lines += study.draw("languages", figures.plot_languages, test=test, corpus=corpus)
        lines += _other_measures(study, table, languages)
    study.results["scores"] = rows_of_all
    legend = "Bold: best in its column and better than the runner-up. In italics: references, which do not compete."
    if any(row["seeds"] > 1 for row in rows_of_all):
        legend += " Over seeds: standard deviation of the mean, and number of seeds."
    return [*lines, legend]


def _score(study: Measured, row: dict[str, Cell], languages: Sequence[str]) -> dict[str, Any] | None:
    value = mean_over(row, languages, study.measure)
    if value is None:
        return None
    seeds = list(zip(*(row[code].seed_means[study.measure] for code in languages), strict=False))
    low, high = bootstrap_interval({code: row[code].values[study.measure] for code in languages})
    spread = stdev(fmean(own) for own in seeds) if len(seeds) > 1 else None
    return {"value": value, "interval": [low, high], "seeds": len(seeds), "seed_std": spread}


def _winner(
    study: Measured, test: str, corpus: str | None, column: str, rivals: Table, languages: Sequence[str]
) -> str | None:
    """The best of a column, if it is shown to be better than the runner-up."""
    best = ranking(rivals, languages if column == MEAN else [column], study.measure)[:2]
    for each in study.tested:
        pair = {each.result.system, each.result.baseline}
        if (each.test, each.corpus, each.language) == (test, corpus, column) and pair == set(best):
            return each.result.winner
    return None


def _other_measures(study: Measured, table: Table, languages: Sequence[str]) -> list[str]:
    measures = study.config.measures[1:]
    if not measures:
        return []
    means = [[method, *(mean_over(row, languages, name) for name in measures)] for method, row in table.items()]
    rows = [[method, *map(md.number, values)] for method, *values in means]
    title = "Other measures" + (", mean over languages" if len(languages) > 1 else "")
    return [f"{title}:", "", *md.table(["Method", *map(figures.measure_label, measures)], rows), ""]


def significance(study: Measured) -> list[str]:
    study.results["comparisons"] = [
        {"test": each.test, "corpus": each.corpus, "language": each.language, **asdict(each.result)}
        for each in study.tested
    ]
    lines = []
    for test, corpus in study.places:
        own = [each for each in study.tested if (each.test, each.corpus) == (test, corpus)]
        if not own:
            continue
        own.sort(key=lambda each: each.language != MEAN)
        rows = [_comparison(study, each) for each in own]
        header = ["Where", "Method", "against", f"difference in {study.label}", "p (randomisation)", "p (t)"]
        header += ["after Holm", "the method is"]
        folded = len(rows) > 20
        lines += [f"### {study.where(test, corpus)}", ""]
        lines += ["<details><summary>" + f"{len(rows)} comparisons</summary>", ""] if folded else []
        lines += [*md.table(header, rows), "", *(["</details>", ""] if folded else [])]
    if not lines:
        return []
    text = [
        "Differences with their 95 % interval, for each comparison alone; p of both tests, alone and after Holm's "
        "correction (randomisation / t). In single languages the best is compared with the runner-up.",
        "",
    ]
    return ["## Significance", "", *text, *lines]


def _comparison(study: Measured, tested: Tested) -> list[str]:
    result = tested.result
    low, high = result.interval
    where = "mean over languages" if tested.language == MEAN else tested.language
    verdict = _verdict(tested, result.system)
    return [
        where,
        result.system,
        result.baseline,
        f"{result.difference:+.3f} [{low:+.3f}, {high:+.3f}]",
        md.p_value(result.p_randomisation),
        md.p_value(result.p_t),
        f"{md.p_value(result.adjusted_randomisation)} / {md.p_value(result.adjusted_t)}",
        verdict if verdict == "no difference shown" else f"**{verdict}**",
    ]


def missing(study: Measured, failed: Sequence[str]) -> list[str]:
    """What the study names and the records lack."""
    lines = [
        f"- {name}: nothing was measured"
        for name in study.config.methods
        if name not in {c.method for c in study.cells}
    ]
    for test, corpus in study.places:
        table = headline(study.cells, test, corpus)
        for method, row in table.items():
            lacking = [code for code in languages_of(table) if code not in row]
            lines += [f"- {method} lacks {', '.join(lacking)} on {study.where(test, corpus)}"] if lacking else []
    lines += [f"- failed: {cell}" for cell in failed]
    study.results["missing"] = [line.removeprefix("- ") for line in lines]
    return ["## Missing", "", *lines] if lines else []


def _verdict(tested: Tested, method: str) -> str:
    winner = tested.result.winner
    return "no difference shown" if winner is None else "better" if winner == method else "worse"


def _scored(score: dict[str, Any] | None, best: bool) -> str:
    if score is None:
        return md.NOTHING_THERE
    value = f"**{score['value']:.3f}**" if best else f"{score['value']:.3f}"
    low, high = score["interval"]
    return f"{value} [{low:.3f}, {high:.3f}]"
