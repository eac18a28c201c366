"""Evaluation of a finished pack or model."""

from __future__ import annotations

from typing import Any

from ..evaluation import RetrievalDataset, RetrievalEvaluator
from ..retrieval import BASE, OpticalRetriever, TokenVectors
from ..retrieval.search import SearchIndex
from .record import add_references, measure


def evaluate_retriever(
    retriever: OpticalRetriever,
    dataset: RetrievalDataset,
    language: str,
    *,
    index: SearchIndex | None = None,
    weights: str | None = None,
    batch_size: int = 32,
    show_progress: bool = False,
) -> dict[str, Any]:
    """
    Measure how well the queries of a test set find documents of [`~OpticalRetriever.indexer`].

    `language` is that of an open pack, or `"base"`. `weights` are those of [`~OpticalRetriever.encode_queries`]; the
    references go without.

    The active language of the retriever changes. The documents are encoded here, unless an `index` holds them.

    Returns:
        `dict`: `dataset`, `language`, `queries`, `level` and `measures`: measure -> `trained` and its bootstrap
            `interval` at this level; with a pack, `zero_shot` of the base alone; and, if all queries have human
            translations, `ceiling` of the indexer on these, and `gap_closed`.
    """
    indexer, vectors = retriever.indexer, None
    if index is None:
        texts = dataset.document_texts()
        encoded = indexer.encode_documents(texts, batch_size=batch_size, show_progress=show_progress)
        vectors = TokenVectors.from_list(encoded)
    else:
        retriever.check_index(index)
    evaluator = RetrievalEvaluator(
        dataset,
        indexer.model,
        indexer.processor,
        document_vectors=vectors,
        index=index,
        batch_size=batch_size,
        show_progress=show_progress,
    )
    zero_shot, ceiling = {}, {}
    retriever.set_language(BASE)
    if evaluator.has_translations:
        ceiling = evaluator(indexer.model, indexer.processor, translated=True)
    if language != BASE:
        zero_shot = evaluator(retriever.model, retriever.processor)
    retriever.set_language(language)
    measured = measure(evaluator, evaluator.search(retriever.model, retriever.processor_of(language), weights=weights))
    return {"language": language, **add_references(measured, zero_shot, ceiling)}


def evaluation_text(results: dict[str, Any]) -> str:
    """Format the results of [`evaluate_retriever`] as a table."""
    rows = {"zero_shot": "base alone", "trained": results["language"], "ceiling": "base, human translations"}
    lines = [f"{results['dataset']}, {results['queries']} queries", ""]
    lines.append(f"{'':26}" + "".join(f"{name:>22}" for name in results["measures"]))
    for key, label in rows.items():
        cells = [_cell(own, key) for own in results["measures"].values()]
        if any(cells):
            lines.append(f"{label:26}" + "".join(f"{cell:>22}" for cell in cells))
    if results.get("gap_closed") is not None:
        lines.append(f"{'gap closed':26}{results['gap_closed']:>22.3f}")
    return "\n".join([*lines, "", f"In brackets: {results['level']:.0%} bootstrap intervals over the queries."])


def _cell(values: dict[str, Any], key: str) -> str:
    if key not in values:
        return ""
    low, high = values["interval"] if key == "trained" else (None, None)
    return f"{values[key]:.3f}" + ("" if low is None else f" [{low:.3f}, {high:.3f}]")
