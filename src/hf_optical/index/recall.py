"""Exact rankings of all documents of an index, and how many of them an approximate search finds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tqdm.auto import tqdm

from ..retrieval import Hit, TokenVectors
from ..retrieval.search import best_documents


# Ids of documents and their vectors.
Block = tuple[Sequence[str], TokenVectors]


def exact_hits(
    blocks: Iterable[Block], queries: TokenVectors, top_k: int, documents: int | None = None
) -> list[list[Hit]]:
    """Rank all documents, block by block. With a number of `documents`, a progress bar is shown."""
    best: list[list[Hit]] = [[] for _ in range(len(queries))]
    with tqdm(total=documents, desc="Searching exactly", unit="document", disable=documents is None) as progress:
        for ids, vectors in blocks:
            found = best_documents(queries, vectors, top_k, ids)
            # The sort is stable: equal scores stay in the order of the blocks.
            best = [
                sorted(old + new, key=lambda hit: -hit.score)[:top_k] for old, new in zip(best, found, strict=True)
            ]
            progress.update(len(ids))
    return best


def measured_recall(found: Sequence[Sequence[Hit]], exact: Sequence[Sequence[Hit]]) -> float:
    """Mean share of the exact hits that were found."""
    shares = [
        len({hit.document for hit in own} & {hit.document for hit in best}) / len(best)
        for own, best in zip(found, exact, strict=True)
        if best
    ]
    return sum(shares) / len(shares) if shares else 1.0
