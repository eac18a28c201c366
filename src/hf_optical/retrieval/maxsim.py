from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from ..model.linear import linear
from .vectors import TokenVectors, as_token_vectors


# Query tokens and document tokens whose similarities are held at once. On a CPU 4 MB, which stay in its cache
# between the product and the maximum; elsewhere 512 MB, because there it is the number of kernels that costs.
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

    Computed on packed tokens, block by block, in float32 whatever the stored type and autocast. A token that is
    masked takes no part: it cannot beat a negative similarity, and the score of a pair does not depend on the texts
    beside it. Documents may live on another device than queries and are moved a block at a time.

    Args:
        query_vectors ([`TokenVectors`], sequence of `torch.Tensor` of shape `(tokens, dim)`, or `torch.Tensor` of
            shape `(queries, tokens, dim)`): the queries.
        document_vectors (as `query_vectors`): the documents, of the same `dim`.
        query_mask (`torch.Tensor` of shape `(queries, tokens)`, *optional*):
            Nonzero where a query token takes part. Only beside a padded tensor.
        document_mask (`torch.Tensor` of shape `(documents, tokens)`, *optional*):
            As `query_mask`, for documents.

    Returns:
        `torch.Tensor` of shape `(queries, documents)`, float32, on the device of the queries, differentiable. -inf
        where the query or the document has no token.

    Raises:
        ValueError: a shape does not fit, `dim` differs, or there is a mask beside vectors that are not padded.
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
            # Rows behind the block keep all products at one size, since a new size costs `linear` some time.
            rows = documents.values[start : max(stop, start + document_tokens)].to(device, torch.float32)
            product = linear if len(rows) >= document_tokens else functional.linear
            for texts, part in parts:
                similarities = product(rows, part.values)[: stop - start]
                best = _segment_max(similarities, documents.lengths[first:last])  # (documents, query tokens)
                lengths = part.lengths.to(device)
                # It adds one after the other, which in float32 would be off by 1e-5.
                sums = torch.segment_reduce(best.T.contiguous().double(), "sum", lengths=lengths, unsafe=True)
                scores[texts, first:last] = sums.masked_fill((lengths == 0)[:, None], -torch.inf)
    return scores


def _segment_max(rows: Tensor, lengths: Tensor) -> Tensor:
    """Maximum of each run of `lengths` rows, -inf for an empty run: `(len(lengths), columns)`."""
    if rows.device.type != "cpu":
        return torch.segment_reduce(rows, "max", lengths=lengths.to(rows.device), unsafe=True)
    # `segment_reduce` does not vectorise on a CPU; this does where one index stands for a whole row.
    runs = torch.repeat_interleave(lengths)[:, None].expand_as(rows)
    best = rows.new_full((len(lengths), rows.shape[1]), -torch.inf)
    return best.scatter_reduce_(0, runs, rows, "amax")
