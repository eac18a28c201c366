from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from tqdm.auto import tqdm

from ..checks import check_length, check_number
from .search import Hit, best_documents
from .vectors import TokenVectors, as_token_vectors


@torch.no_grad()
def rerank(
    query_vectors: TokenVectors | Sequence[Tensor] | Tensor,
    document_vectors: TokenVectors | Sequence[Tensor] | Tensor,
    candidates: Sequence[Sequence[Hit]],
    *,
    document_ids: Iterable[str] | None = None,
    top_k: int | None = None,
    show_progress: bool = False,
) -> list[list[Hit]]:
    """
    Rank the results of a first stage by [`maxsim`]: [`search`] restricted to the candidates of each query.

    Args:
        query_vectors, document_vectors, document_ids, show_progress: As in [`search`].
        candidates (sequence of sequences of [`Hit`]):
            The hits of the first stage, such as [`BM25`], for each query. Their order and scores are ignored.
        top_k (`int`, *optional*): Length of the rankings. Defaults to all candidates.

    Returns:
        `list[list[Hit]]`: The candidates of each query with their MaxSim scores, best first. Equal scores are ranked
        by the position of the document. Empty where a query has no candidates.

    Raises:
        ValueError: If the number of candidate lists differs from the number of queries, the number of ids differs
            from the number of documents, an id occurs twice, a candidate is not among the documents, a shape does not
            fit, `top_k` is below 1, or a vector holds NaN.
    """
    if len(query_vectors) == len(candidates) == 0:
        return []
    queries = as_token_vectors(query_vectors, name="query_vectors").to(torch.float32)
    documents = as_token_vectors(document_vectors, name="document_vectors")
    check_number("top_k", 1 if top_k is None else top_k, at_least=1)
    check_length("candidates", candidates, len(queries), "queries")
    ids: list[str | int] = [*(range(len(documents)) if document_ids is None else document_ids)]
    check_length("document_ids", ids, len(documents), "documents")
    positions = {document: position for position, document in enumerate(ids)}
    check_length("distinct document_ids", positions, len(documents), "documents")
    reranked = []
    for row, hits in enumerate(tqdm(candidates, desc="Reranking", unit="query", disable=not show_progress)):
        try:
            found = sorted({positions[hit.document] for hit in hits})
        except KeyError as error:
            raise ValueError(f"candidates[{row}] holds {error}, which is not the id of a document") from error
        own_ids = [ids[position] for position in found]
        reranked += best_documents(queries[row : row + 1], documents.take(found), top_k or len(found), own_ids)
    return reranked
