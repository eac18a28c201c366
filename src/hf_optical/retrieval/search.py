from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from tqdm.auto import tqdm

from .maxsim import maxsim
from .vectors import TokenVectors, as_token_vectors


class Hit(NamedTuple):
    """A document found: its id (its position, where no ids were given) and its MaxSim score."""

    document: str | int
    score: float


@torch.no_grad()
def search(
    query_vectors: TokenVectors | Sequence[Tensor] | Tensor,
    document_vectors: TokenVectors | Sequence[Tensor] | Tensor,
    top_k: int = 10,
    *,
    document_ids: Sequence[str] | None = None,
    block_tokens: int = 262_144,
    show_progress: bool = False,
) -> list[list[Hit]]:
    """
    Finds the documents of highest [`maxsim`], exactly: every document is scored.

    Equal scores are ranked by position of the document. A document without tokens scores -inf and comes last.

    Args:
        query_vectors ([`TokenVectors`], sequence of `torch.Tensor` of shape `(tokens, dim)`, or `torch.Tensor` of
            shape `(queries, tokens, dim)`): the queries. Where they are is where scores are computed.
        document_vectors (as `query_vectors`): the documents. May stay in main memory, and in half precision.
        top_k (`int`, defaults to 10):
            Length of the rankings, or all documents if there are fewer.
        document_ids (sequence of `str`, *optional*):
            Name of each document, in the order of `document_vectors`.
        block_tokens (`int`, defaults to 262144):
            Document tokens scored between two merges of the best. Bounds the memory for scores.
        show_progress (`bool`, defaults to `False`):
            Whether to show a progress bar.

    Returns:
        `list[list[Hit]]`: for each query its hits, best first.

    Raises:
        ValueError: there are no queries or no documents, a shape does not fit, `top_k` or `block_tokens` is below 1,
            the number of ids is not that of documents, or a vector holds NaN.
    """
    queries = as_token_vectors(query_vectors, name="query_vectors").to(torch.float32)
    documents = as_token_vectors(document_vectors, name="document_vectors")
    for name, value in (("top_k", top_k), ("block_tokens", block_tokens)):
        if value < 1:
            raise ValueError(f"{name} is {value}; it must be at least 1")
    for name, vectors in (("query_vectors", queries), ("document_vectors", documents)):
        if len(vectors) == 0:
            raise ValueError(f"{name} is empty; there is nothing to search")
    if document_ids is not None:
        document_ids = list(document_ids)  # a data frame's column would be read by its labels
    if document_ids is not None and len(document_ids) != len(documents):
        raise ValueError(
            f"document_ids has {len(document_ids)} entries for {len(documents)} documents; pass one id a document"
        )

    best = queries.values.new_empty(len(queries), 0)
    positions = torch.empty(len(queries), 0, dtype=torch.int64, device=best.device)
    with tqdm(total=len(documents), desc="Searching", unit="document", disable=not show_progress) as progress:
        for start, stop in documents.blocks(block_tokens):
            scores = maxsim(queries, documents[start:stop])
            if scores.isnan().any():
                raise ValueError(
                    f"the scores of documents {start} to {stop - 1} hold NaN; look for NaN in query_vectors and "
                    "document_vectors"
                )
            # What was found before stands left of what comes after it, so that a stable sort keeps the earlier
            # document ahead where scores are equal; `torch.topk` promises no order.
            found = torch.arange(start, stop, device=best.device).expand(len(queries), -1)
            best, order = torch.cat([best, scores], 1).sort(dim=1, descending=True, stable=True)
            best, order = best[:, :top_k], order[:, :top_k]
            positions = torch.cat([positions, found], 1).gather(1, order)
            progress.update(stop - start)
    return [
        [Hit(i if document_ids is None else document_ids[i], score) for i, score in zip(*ranking, strict=True)]
        for ranking in zip(positions.tolist(), best.tolist(), strict=True)
    ]
