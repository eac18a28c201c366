"""The measures as a module of the `evaluate` library: `evaluate.load(evaluate_module_path())`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


def evaluate_module_path() -> str:
    """
    Where the module is, for `evaluate.load`. Nothing is fetched.

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
    A run and its judgements as the module takes them: a row a query of `qrels`.

    Args:
        qrels (mapping of query id to mapping of document id to `int`): judgements.
        run (mapping of query id to mapping of document id to `float`): what was found.

    Returns:
        predictions and references, of equal length.
    """
    predictions = [_row(run.get(query, {}), "scores") for query in qrels]
    return predictions, [_row(judged, "judgements") for judged in qrels.values()]


def _row(values: Mapping[str, float], name: str) -> dict[str, list]:
    return {"documents": list(values), name: list(values.values())}
