"""Smaller corpora for cheap runs."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from ..checks import check_number
from ..errors import DataError


if TYPE_CHECKING:
    from .datasets import Document, RetrievalDataset


def sample_pool(dataset: RetrievalDataset, documents: int, seed: int = 0) -> RetrievalDataset:
    """
    Reduce the corpus to the judged documents and a random sample of the others.

    Measures are higher than on the whole corpus, so compare them within one pool only.

    Args:
        dataset ([`RetrievalDataset`]): The whole test set.
        documents (`int`): Number of documents to keep, at least 1.
        seed (`int`, defaults to 0):
            Random seed. The sample depends only on the seed and the document ids: it is the same on every machine, and
            a larger pool contains the smaller one.

    Returns:
        [`RetrievalDataset`]: named `"... (pool of 1200)"`, with its documents in their original order; `dataset`
        itself if it has no more than `documents` documents.

    Raises:
        ValueError: `documents` is below 1.
        DataError: more than `documents` documents are judged.
    """
    name, corpus = sample_documents(dataset.name, dataset.corpus.items(), dataset.qrels, documents, seed)
    return dataset if len(corpus) == len(dataset.corpus) else replace(dataset, name=name, corpus=corpus)


def sample_documents(
    name: str,
    documents: Iterable[tuple[str, Document]],
    qrels: Mapping[str, Mapping[str, int]],
    limit: int | None,
    seed: int,
) -> tuple[str, dict[str, Document]]:
    """
    Read the documents once, keep the judged ones and others up to `limit`, and mark the name if some are left out.
    """
    if limit is None:
        return name, dict(documents)
    check_number("documents", limit, at_least=1)
    judged = {document for judgements in qrels.values() for document in judgements}
    kept: list[tuple[int, str, Document]] = []
    total = 0

    def unjudged() -> Iterator[tuple[int, str, Document]]:
        nonlocal total
        for key, document in documents:
            row = (total, key, document)
            total += 1
            if key in judged:
                kept.append(row)
            else:
                yield row

    drawn = heapq.nsmallest(limit, unjudged(), key=lambda row: _random_key(seed, row[1]))
    if len(kept) > limit:
        raise DataError(f"documents must be at least {len(kept)}, the number judged in {name}, got {limit}")
    rows = sorted(kept + drawn[: limit - len(kept)], key=lambda row: row[0])
    corpus = {key: document for _, key, document in rows}
    return name if len(rows) == total else f"{name} (pool of {len(rows)})", corpus


def _random_key(seed: int, key: str) -> bytes:
    return hashlib.blake2b(f"{seed}:{key}".encode(), digest_size=16).digest()
