"""Retrieval results as a card shows them: a table for people, `model-index` metadata for the Hub."""

from __future__ import annotations

from typing import Any

from huggingface_hub import EvalResult

from .quoting import prose


# Families of measures as they are printed when their mean over queries is told, ours and those of ir_measures.
PRINTED = {"ap": "MAP", "map": "MAP", "rr": "MRR", "mrr": "MRR", "ndcg": "nDCG", "r": "Recall", "recall": "Recall"}

_ROWS = {
    "zero_shot": "before training",
    "trained": "**after training**",
    "ceiling": "teacher, on human translations",
}


def measure_label(measure: str) -> str:
    """A measure as it is written in print: `"map"` and `"AP"` -> `"MAP"`, `"ndcg@10"` -> `"nDCG@10"`."""
    family, at, cutoff = measure.partition("@")
    return PRINTED.get(family.lower(), family) + at + cutoff


def results_table(measures: dict[str, dict[str, Any]]) -> str:
    """
    A Markdown table with a column a measure; rows of which nothing is known are left out.

    Args:
        measures (`dict[str, dict]`): measure -> `trained` (`float`) and what is known of `interval` (two `float`),
            `zero_shot` and `ceiling` (`float`).
    """
    rows = [["", *(prose(measure_label(measure)) for measure in measures)], ["---", *["---:"] * len(measures)]]
    for name, label in _ROWS.items():
        if any(known.get(name) is not None for known in measures.values()):
            rows.append([label, *(_cell(name, known) for known in measures.values())])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def eval_results(results: dict[str, dict[str, Any]]) -> list[EvalResult]:
    """
    The results of a student for `model-index`, each with its interval and the number of queries.

    Args:
        results (`dict[str, dict]`): language -> results, as in [`write_card`].
    """
    found = []
    for language, own in results.items():
        for measure, known in own["measures"].items():
            about: dict[str, Any] = {"queries": own["queries"]}
            if known.get("interval"):
                about["interval"] = [round(end, 4) for end in known["interval"]]
                about |= {} if own.get("level") is None else {"level": own["level"]}
            found.append(
                EvalResult(
                    task_type="information-retrieval",
                    task_name="Cross-lingual retrieval",
                    dataset_type=own["dataset"],
                    dataset_name=own["dataset"],
                    dataset_config=language,
                    metric_type=measure,
                    metric_name=measure_label(measure),
                    metric_value=round(known["trained"], 4),
                    metric_args=about,
                )
            )
    return found


def _cell(name: str, known: dict[str, Any]) -> str:
    if known.get(name) is None:
        return ""
    value = f"{known[name]:.3f}"
    if name != "trained":
        return value
    interval = known.get("interval")
    return f"**{value}**" + (f" [{interval[0]:.3f}, {interval[1]:.3f}]" if interval else "")
