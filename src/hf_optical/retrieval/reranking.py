from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from tqdm.auto import tqdm

from .search import Hit, search
from .vectors import TokenVectors, as_token_vectors


def rerank(
    query_vectors: TokenVectors | Sequence[Tensor] | Tensor,
    document_vectors: TokenVectors | Sequence[Tensor] | Tensor,
    candidates: Sequence[Sequence[Hit]],
    *,
    document_ids: Sequence[str] | None = None,
    top_k: int | None = None,
    show_progress: bool = False,
) -> list[list[Hit]]:
    """
    Ranks what a first stage found by [`maxsim`]: [`search`] among the candidates of each query alone.

    Args:
        query_vectors ([`TokenVectors`], sequence of `torch.Tensor` of shape `(tokens, dim)`, or `torch.Tensor` of
            shape `(queries, tokens, dim)`): the queries.
        document_vectors (as `query_vectors`): the documents.
        candidates (sequence of sequences of [`Hit`]):
            For each query the hits of the first stage, such as [`BM25`]; their order and scores do not matter.
        document_ids (sequence of `str`, *optional*):
            Name of each document, in the order of `document_vectors`; without them hits name positions.
        top_k (`int`, *optional*):
            Length of the rankings. Defaults to all candidates.
        show_progress (`bool`, defaults to `False`): whether to show a progress bar.

    Returns:
        `list[list[Hit]]`: for each query its candidates with their MaxSim scores, best first, equal scores by position
        of the document; empty where there are no candidates.

    Raises:
        ValueError: the number of candidate lists is not that of queries, the number of ids not that of documents, an
            id is there twice, a candidate is no document, or as in [`search`].
    """
    queries = as_token_vectors(query_vectors, name="query_vectors")
    documents = as_token_vectors(document_vectors, name="document_vectors")
    if len(candidates) != len(queries):
        raise ValueError(f"candidates has {len(candidates)} lists for {len(queries)} queries; pass one list a query")
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k is {top_k}; it must be at least 1")
    ids = list(range(len(documents)) if document_ids is None else document_ids)
    positions = {document: position for position, document in enumerate(ids)}
    if len(ids) != len(documents) or len(positions) != len(documents):
        raise ValueError(
            f"document_ids has {len(ids)} entries, {len(positions)} of them different, for {len(documents)} "
            "documents; pass one id a document"
        )
    reranked = []
    for row, hits in enumerate(tqdm(candidates, desc="Reranking", unit="query", disable=not show_progress)):
        unknown = next((hit.document for hit in hits if hit.document not in positions), None)
        if unknown is not None:
            raise ValueError(f"candidates[{row}] holds {unknown!r}, which is none of the documents; check their ids")
        found = sorted({positions[hit.document] for hit in hits})
        if not found:
            reranked.append([])
            continue
        pool = TokenVectors.from_list([documents[i] for i in found])
        [ranking] = search(
            queries[row : row + 1], pool, top_k or len(found), document_ids=[ids[position] for position in found]
        )
        reranked.append(ranking)
    return reranked
