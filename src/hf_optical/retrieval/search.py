from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor
from tqdm.auto import tqdm

from ..checks import check_length, check_number
from ..model import OpticalModel
from .maxsim import maxsim
from .vectors import TokenVectors, as_token_vectors


class Hit(NamedTuple):
    """A retrieved document: its id (its position where no ids were given) and its MaxSim score."""

    document: str | int
    score: float


@runtime_checkable
class SearchIndex(Protocol):
    """Encoded documents that know how to search themselves, such as [`~index.RetrievalIndex`]."""

    def check_base(self, model: OpticalModel) -> None:
        """Raise `ValueError` unless `model` encoded the documents."""

    def search(self, query_vectors: TokenVectors | Sequence[Tensor], top_k: int = 10) -> list[list[Hit]]:
        """Find the best documents for each query."""


@torch.no_grad()
def search(
    query_vectors: TokenVectors | Sequence[Tensor] | Tensor,
    document_vectors: TokenVectors | Sequence[Tensor] | Tensor,
    top_k: int = 10,
    *,
    document_ids: Iterable[str] | None = None,
    block_tokens: int = 262_144,
    show_progress: bool = False,
) -> list[list[Hit]]:
    """
    Find the documents with the highest [`maxsim`] score. The search is exact: every document is scored.

    Equal scores are ranked by the position of the document. A document without tokens scores -inf and comes last.

    Args:
        query_vectors ([`TokenVectors`], sequence of `torch.Tensor` of shape `(tokens, dim)`, or `torch.Tensor` of
            shape `(queries, tokens, dim)`): The queries. Scores are computed on their device.
        document_vectors (as `query_vectors`): The documents. They may stay in main memory and in half precision.
        top_k (`int`, defaults to 10): Length of the rankings. If there are fewer documents, all of them are returned.
        document_ids (iterable of `str`, *optional*): Id of each document, in the order of `document_vectors`.
        block_tokens (`int`, defaults to 262144):
            Number of document tokens to score at a time. Bounds the memory needed for scores.
        show_progress (`bool`, defaults to `False`): Whether to show a progress bar.

    Returns:
        `list[list[Hit]]`: The hits of each query, best first. Empty if there are no queries.

    Raises:
        ValueError: If there are no documents, a shape does not fit, `top_k` or `block_tokens` is below
            1, the number of ids differs from the number of documents, or a vector holds NaN.
    """
    if len(query_vectors) == 0:
        return []
    queries = as_token_vectors(query_vectors, name="query_vectors").to(torch.float32)
    documents = as_token_vectors(document_vectors, name="document_vectors")
    check_number("top_k", top_k, at_least=1)
    check_number("block_tokens", block_tokens, at_least=1)
    check_number("the number of documents", len(documents), at_least=1)
    # A list, because the index of a data frame's column may hold other labels than positions.
    ids: list[str | int] = [*(range(len(documents)) if document_ids is None else document_ids)]
    check_length("document_ids", ids, len(documents), "documents")
    return best_documents(queries, documents, top_k, ids, block_tokens=block_tokens, show_progress=show_progress)


def best_documents(
    queries: TokenVectors,
    documents: TokenVectors,
    top_k: int,
    ids: Sequence[str | int],
    *,
    keep: Tensor | None = None,
    block_tokens: int = 262_144,
    show_progress: bool = False,
) -> list[list[Hit]]:
    """[`search`] with arguments that were checked before. `keep` is a mask of the documents to rank."""
    best = queries.values.new_empty(len(queries), 0)
    positions = torch.empty(len(queries), 0, dtype=torch.int64, device=best.device)
    with tqdm(total=len(documents), desc="Searching", unit="document", disable=not show_progress) as progress:
        for start, stop in documents.blocks(block_tokens):
            scores = maxsim(queries, documents[start:stop])
            if scores.isnan().any():
                raise ValueError(
                    f"the scores of documents {start} to {stop - 1} hold NaN; look for NaN in the query and document "
                    "vectors"
                )
            # `torch.topk` promises no order among equal scores. A stable sort keeps earlier documents first.
            found = torch.arange(start, stop, device=best.device).expand(len(queries), -1)
            if keep is not None:
                scores, found = scores[:, keep[start:stop]], found[:, keep[start:stop]]
            best, order = torch.cat([best, scores], 1).sort(dim=1, descending=True, stable=True)
            best, order = best[:, :top_k], order[:, :top_k]
            positions = torch.cat([positions, found], 1).gather(1, order)
            progress.update(stop - start)
    return [
        [Hit(ids[position], score) for position, score in zip(*ranking, strict=True)]
        for ranking in zip(positions.tolist(), best.tolist(), strict=True)
    ]
