"""Retrieval results on a card: a table for readers, `model-index` metadata for the Hub."""

from __future__ import annotations

from typing import Any

from huggingface_hub import EvalResult

from .quoting import prose


# Printed names of measures averaged over queries, by our names and those of ir_measures.
PRINTED = {"ap": "MAP", "map": "MAP", "rr": "MRR", "mrr": "MRR", "ndcg": "nDCG", "r": "Recall", "recall": "Recall"}

_ROWS = {
    "zero_shot": "before training",
    "trained": "**after training**",
    "ceiling": "teacher with human translations",
}


def measure_label(measure: str) -> str:
    """Format the name of a measure: `"map"` and `"AP"` -> `"MAP"`, `"ndcg@10"` -> `"nDCG@10"`."""
    family, at, cutoff = measure.partition("@")
    return PRINTED.get(family.lower(), family) + at + cutoff


def results_table(measures: dict[str, dict[str, Any]]) -> str:
    """Format measure -> results as a Markdown table with one column per measure. Rows without values are left out."""
    rows = [["", *(prose(measure_label(measure)) for measure in measures)], ["---", *["---:"] * len(measures)]]
    for name, label in _ROWS.items():
        if any(values.get(name) is not None for values in measures.values()):
            rows.append([label, *(_cell(name, values) for values in measures.values())])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def eval_results(results: dict[str, dict[str, Any]]) -> list[EvalResult]:
    """Convert results of each language, as in [`write_card`], to `model-index` metadata."""
    entries = []
    for language, result in results.items():
        for measure, values in result["measures"].items():
            arguments: dict[str, Any] = {"queries": result["queries"]}
            if values.get("interval"):
                arguments["interval"] = [round(end, 4) for end in values["interval"]]
                arguments |= {} if result.get("level") is None else {"level": result["level"]}
            entries.append(
                EvalResult(
                    task_type="information-retrieval",
                    task_name="Cross-lingual retrieval",
                    dataset_type=result["dataset"],
                    dataset_name=result["dataset"],
                    dataset_config=language,
                    metric_type=measure,
                    metric_name=measure_label(measure),
                    metric_value=round(values["trained"], 4),
                    metric_args=arguments,
                )
            )
    return entries


def _cell(name: str, values: dict[str, Any]) -> str:
    if values.get(name) is None:
        return ""
    value = f"{values[name]:.3f}"
    if name != "trained":
        return value
    interval = values.get("interval")
    return f"**{value}**" + (f" [{interval[0]:.3f}, {interval[1]:.3f}]" if interval else "")
