"""The report of a study, derived from its records alone."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..hub.results import measure_label
from ..storage.staging import staged_directory
from . import sections
from .markdown import render
from .sections import Results
from .settings import StudyConfig
from .store import Record


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
    content = _content(results, failed)
    text = render("report.md", **content)
    with staged_directory(folder) as staged:
        (staged / "figures").mkdir()
        for name, figure in results.figures.items():
            # Without the library's version, which would change the file.
            figure.savefig(staged / "figures" / name, dpi=200, metadata={"Software": None})
        numbers = json.dumps(_numbers(results, content), indent=1, ensure_ascii=False)
        (staged / "results.json").write_text(numbers + "\n", "utf-8")
        (staged / "report.md").write_text(text, "utf-8")
    return Path(folder) / "report.md"


def _content(results: Results, failed: Sequence[str]) -> dict[str, Any]:
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
        "missing": sections.missing(results, failed),
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
