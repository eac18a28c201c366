from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from ..model.linear import linear
from .vectors import TokenVectors, as_token_vectors, convert


# Query and document tokens per block of similarities. On a CPU a block of 4 MB stays in the cache between the product
# and the maximum. On other devices the number of kernel launches dominates, so blocks are 512 MB.
_CPU_BLOCK = (256, 4096)
_DEVICE_BLOCK = (4096, 32768)


def maxsim(
    query_vectors: TokenVectors | Sequence[Tensor] | Tensor,
    document_vectors: TokenVectors | Sequence[Tensor] | Tensor,
    query_mask: Tensor | None = None,
    document_mask: Tensor | None = None,
) -> Tensor:
    r"""
    Late-interaction score of every query with every document (ColBERT, Khattab & Zaharia 2020, equation 3):

    $$S_{q,d} = \sum_{i \in q} \max_{j \in d} q_i \cdot d_j$$

    Scores are computed block by block on packed tokens, in float32 whatever the stored data type and autocast. Masked
    tokens are left out rather than zeroed, so they never exceed a negative similarity, and the score of a pair does
    not depend on the other texts of a batch. Documents may be on another device than queries; they are moved a block
    at a time.

    Args:
        query_vectors ([`TokenVectors`], sequence of `torch.Tensor` of shape `(tokens, dim)`, or `torch.Tensor` of
            shape `(queries, tokens, dim)`): The queries.
        document_vectors (as `query_vectors`): The documents, with the same `dim`.
        query_mask (`torch.Tensor` of shape `(queries, tokens)`, *optional*):
            Nonzero for the query tokens to match. Only for a padded tensor.
        document_mask (`torch.Tensor` of shape `(documents, tokens)`, *optional*): The same for documents.

    Returns:
        `torch.Tensor` of shape `(queries, documents)`: Scores in float32, on the device of the queries,
        differentiable. -inf where the query or the document has no tokens.

    Raises:
        ValueError: If a shape does not fit, `dim` differs, or a mask is given for vectors that are not padded.
    """
    queries = as_token_vectors(query_vectors, query_mask, "query_vectors")
    documents = as_token_vectors(document_vectors, document_mask, "document_vectors")
    if queries.dim != documents.dim:
        raise ValueError(
            f"query_vectors have dim {queries.dim} and document_vectors {documents.dim}; encode both with one model"
        )
    device = queries.values.device
    query_tokens, document_tokens = _CPU_BLOCK if device.type == "cpu" else _DEVICE_BLOCK
    scores = torch.empty(len(queries), len(documents), device=device)
    with torch.autocast(device.type, enabled=False):
        queries = queries.to(torch.float32)
        parts = [(slice(*part), queries[slice(*part)]) for part in queries.blocks(query_tokens)]
        for first, last in documents.blocks(document_tokens):
            start, stop = documents.offsets[[first, last]].tolist()
            # Extra rows keep all products at one size, because `linear` takes longer on a size it has not seen.
            rows = convert(documents.values[start : max(stop, start + document_tokens)], device, torch.float32)
            product = linear if len(rows) >= document_tokens else functional.linear
            for texts, part in parts:
                similarities = product(rows, part.values)[: stop - start]
                best = _segment_max(similarities, documents.lengths[first:last])  # (documents, query tokens)
                lengths = part.lengths.to(device)
                # `segment_reduce` adds sequentially, which in float32 would be off by 1e-5.
                sums = torch.segment_reduce(best.T.contiguous().double(), "sum", lengths=lengths, unsafe=True)
                scores[texts, first:last] = sums.masked_fill((lengths == 0)[:, None], -torch.inf)
    return scores


def _segment_max(rows: Tensor, lengths: Tensor) -> Tensor:
    """Maximum of each run of `lengths` rows, of shape `(len(lengths), columns)`. -inf for an empty run."""
    if rows.device.type != "cpu":
        return torch.segment_reduce(rows, "max", lengths=lengths.to(rows.device), unsafe=True)
    # `segment_reduce` is not vectorised on a CPU. `scatter_reduce_` is, if an index is expanded to a whole row.
    runs = torch.repeat_interleave(lengths)[:, None].expand_as(rows)
    best = rows.new_full((len(lengths), rows.shape[1]), -torch.inf)
    return best.scatter_reduce_(0, runs, rows, "amax")
