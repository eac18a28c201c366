"""The report of a study, derived from its records alone."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..hub.results import measure_label
from ..storage.staging import discard, staged_directory
from . import sections
from .markdown import render
from .papers import latex_table, results_csv, versions
from .public import public_yaml
from .sections import Results
from .settings import StudyConfig
from .store import Record


# The line of a figure, as `Results.draw` writes it. Notes may embed figures that are not the report's.
_FIGURE = re.compile(
    r"^!\[(languages|data size|robustness|domains|language pairs): .*\]\(figures/([\w.-]+)\.png\)$", re.MULTILINE
)


def write_report(
    folder: str | os.PathLike, config: StudyConfig, records: Iterable[Record], *, unfinished: Sequence[str] = ()
) -> Path:
    """
    Write a report into a folder, and what a paper needs of it.

    These are `report.md`, `figures/` (PNG and PDF), `results.json` (all numbers of the report), `results.csv` (the
    means of every run), `tables/` (LaTeX), `versions.txt` and `study.yaml`, the study's file.

    Equal records give equal files. Figures and tables of an older report in the folder that this one does not have are
    removed; other files stay. The report calls a method better than another only if a paired randomisation test
    and a paired t-test agree, after Holm's correction over all comparisons of the report.

    Args:
        folder (`str` or `os.PathLike`): the folder, created if it does not exist.
        config ([`StudyConfig`]): the study.
        records (iterable of [`Record`]): its results.
        unfinished (sequence of `str`, *optional*): descriptions of cells without results, to list.

    Returns:
        `Path`: path of `report.md`.

    Raises:
        DataError: there are no records, or the seeds of a cell were measured on different queries.
        ImportError: matplotlib is not installed.
    """
    results = Results(config, records)
    content = _content(results, unfinished)
    text = render("report.md", **content)
    with staged_directory(folder) as staged:
        (staged / "figures").mkdir()
        for name, figure in results.figures.items():
            # Without versions and times, which would change the files.
            figure.savefig(staged / "figures" / f"{name}.png", dpi=200, metadata={"Software": None})
            without = {"Creator": None, "Producer": None, "CreationDate": None}
            figure.savefig(staged / "figures" / f"{name}.pdf", metadata=without)
        (staged / "tables").mkdir()
        for table in content["scores"]:
            text_of = latex_table(table, results.label, table["file"])
            (staged / "tables" / f"{table['file']}.tex").write_text(text_of, "utf-8")
        (staged / "results.csv").write_text(results_csv(results.records, config.measures), "utf-8")
        (staged / "versions.txt").write_text(versions(), "utf-8")
        if config.file is not None:
            (staged / "study.yaml").write_text(public_yaml(config.file), "utf-8")
        numbers = json.dumps(_numbers(results, content), indent=1, ensure_ascii=False)
        (staged / "results.json").write_text(numbers + "\n", "utf-8")
        (staged / "report.md").write_text(text, "utf-8")
        older = Path(folder) / "report.md"
        for name in _files_of(older.read_text("utf-8", "replace")) - _files_of(text) if older.is_file() else ():
            if (Path(folder) / name).is_file():
                discard(staged / name)
    return Path(folder) / "report.md"


def _files_of(report: str) -> set[str]:
    """Figures and tables of a report. Each table has a figure of the same name."""
    files: set[str] = set()
    for title, name in _FIGURE.findall(report):
        if name.startswith(title.replace(" ", "-")):
            files |= {f"figures/{name}.png", f"figures/{name}.pdf"}
            files |= {f"tables/{name.removeprefix('languages-')}.tex"} if title == "languages" else set()
    return files


def _content(results: Results, unfinished: Sequence[str]) -> dict[str, Any]:
    """The content of the template `report.md`."""
    return {
        "config": results.config,
        "label": results.label,
        "measures": [measure_label(name) for name in results.config.measures[1:]],
        "corpora": results.corpora,
        "headlines": results.headlines,
        "place": results.place,
        "comparisons": results.tested,
        **sections.introduction(results),
        "findings": [sections.finding(results, own) for own in results.headlines],
        "scores": [sections.score_table(results, own) for own in results.headlines],
        "language_gaps": list(sections.language_gaps(results)),
        "data_sizes": list(sections.data_sizes(results)),
        "robustness": list(sections.robustness(results)),
        "robustness_gaps": list(sections.robustness_gaps(results)),
        "domains": sections.domains(results),
        "language_pairs": list(sections.language_pairs(results)),
        "times": list(sections.times(results)),
        "missing": sections.missing(results, unfinished),
    }


def _numbers(results: Results, content: dict[str, Any]) -> dict[str, Any]:
    """The content of `results.json`."""
    return {
        "study": results.config.name,
        "measure": results.measure,
        "scores": [
            score
            for table in content["scores"]
            for row in table["rows"].values()
            for score in row["scores"].values()
            if score
        ],
        "comparisons": [
            {"test": each.test, "corpus": each.corpus, "language": each.column, **asdict(each.result)}
            for each in results.tested
        ],
        "language_gap": [
            {"where": table["place"], "method": method, **asdict(gap)}
            for table in content["language_gaps"]
            for method, gap in table["gaps"].items()
        ],
        "data_size": [{name: own[name] for name in ("test", "corpus", "curves")} for own in content["data_sizes"]],
        "robustness": [row["numbers"] for table in content["robustness"] for row in table["rows"]],
        **({"robustness_gap": gaps} if (gaps := _gap_numbers(content["robustness_gaps"])) else {}),
        **({"domains": content["domains"]["numbers"]} if content["domains"] else {}),
        "language_pairs": [
            {name: own[name] for name in ("corpus", "gap_closed", "curves")} for own in content["language_pairs"]
        ],
        "time": [{**own, "runs": len(own["runs"])} for own in content["times"]],
        "missing": content["missing"],
    }


def _gap_numbers(tables: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {"where": table["place"], **asdict(each)} for table in tables for each in table["gaps"] + table["differences"]
    ]
