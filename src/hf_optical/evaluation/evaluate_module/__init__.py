"""Retrieval measures as a module of the `evaluate` library: `evaluate.load(evaluate_module_path())`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


def evaluate_module_path() -> str:
    """
    Return the local path of the module, for `evaluate.load`.

    Example:

        >>> measures = evaluate.load(evaluate_module_path())
        >>> predictions, references = evaluate_rows(qrels, run)
        >>> measures.compute(predictions=predictions, references=references, measures=["AP", "nDCG@10"])
    """
    return str(Path(__file__).with_name("hf_optical_retrieval.py"))


def evaluate_rows(
    qrels: Mapping[str, Mapping[str, int]], run: Mapping[str, Mapping[str, float]]
) -> tuple[list[dict[str, list]], list[dict[str, list]]]:
    """
    Convert judgements and a run to the rows that the module takes, one per query of `qrels`.

    Args:
        qrels (mapping of query id to mapping of document id to `int`): judgements.
        run (mapping of query id to mapping of document id to `float`): scores of the retrieved documents.

    Returns:
        `tuple[list, list]`: predictions and references, of equal length.
    """
    predictions = [_row(run.get(query, {}), "scores") for query in qrels]
    return predictions, [_row(judged, "judgements") for judged in qrels.values()]


def _row(values: Mapping[str, float], name: str) -> dict[str, list]:
    return {"documents": list(values), name: list(values.values())}
