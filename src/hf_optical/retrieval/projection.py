"""Smaller token vectors: a projection of the base, fitted by principal components."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor, nn

from ..checks import check_number
from ..languages.adapters import lock_of
from ..model.texts import as_texts
from .retriever import OpticalRetriever


def fit_projection(vectors: Tensor, dim: int) -> Tensor:
    """
    The projection that keeps most of the inner products of vectors: their principal components, without centring.

    Args:
        vectors (`torch.Tensor` of shape `(tokens, old_dim)`): Token vectors of documents.
        dim (`int`): New dimension.

    Returns:
        `torch.Tensor` of shape `(dim, old_dim)`: Orthonormal rows in float32, the most important first.
    """
    check_number("dim", dim, at_least=1, at_most=vectors.shape[1])
    moments = torch.zeros(vectors.shape[1], vectors.shape[1], dtype=torch.float64)
    for block in vectors.split(65_536):
        moments += (block.float().T @ block.float()).double()
    components = torch.linalg.eigh(moments).eigenvectors  # the largest last
    return components[:, -dim:].T.flip(0).float().contiguous()


def reduce_dimension(
    retriever: OpticalRetriever,
    texts: Iterable[str],
    dim: int,
    *,
    batch_size: int = 32,
    show_progress: bool = False,
) -> OpticalRetriever:
    """
    Copy a retriever with smaller token vectors, which take less memory and time in an index.

    A linear projection after the encoder, fitted on the vectors of `texts`, becomes part of the base. The packs that
    are open come along: their queries take the same projection. Save the copy with
    [`~OpticalRetriever.save_pretrained`]; it is another base, so that documents are encoded again.

    Args:
        retriever ([`OpticalRetriever`]): The retriever.
        texts (iterable of `str`): Some thousand documents, such as the first ones of the corpus.
        dim (`int`): New dimension, smaller than that of the base.
        batch_size (`int`, defaults to 32), show_progress (`bool`, defaults to `False`): As in [`encode_texts`].

    Raises:
        ValueError: If `dim` is not between 1 and one less than the dimension of the base, the texts have fewer tokens
            than `dim`, or the packs search the index of another teacher.

    Example:

    ```python
    >>> from hf_optical.retrieval import OpticalRetriever, reduce_dimension

    >>> retriever = OpticalRetriever.from_pretrained("sentence-transformers/all-MiniLM-L6-v2")
    >>> small = reduce_dimension(retriever, ["The Nile is a river.", "Bread is baked from flour."], 8)
    >>> small.encode_queries(["What is the Nile?"])[0].shape
    torch.Size([7, 8])
    ```
    """
    texts = as_texts(texts)
    if retriever.teacher is not None:
        raise ValueError(
            f"the open packs search the index of {retriever.teacher.name_or_path}, not of their base; reduce that "
            "model first, and train packs with the result as teacher"
        )
    check_number("dim", dim, at_least=1, at_most=retriever.model.embedding_dim - 1)
    vectors = torch.cat(
        retriever.encode_documents(texts, batch_size=batch_size, show_progress=show_progress)
        or [torch.empty(0, retriever.model.embedding_dim)]
    )
    check_number("the number of tokens in texts", len(vectors), at_least=dim, cure="pass more texts")
    with lock_of(retriever.model):
        small = copy.copy(retriever)
        small.model = copy.deepcopy(retriever.model)
        # Each retriever learns words of its own documents.
        small.processor = copy.copy(retriever.processor)
        small._processors = {code: copy.copy(own) for code, own in retriever._processors.items()}
        small._packs = dict(retriever._packs)
    _project(small, fit_projection(vectors, dim))
    fingerprint = small.model.fingerprint()
    # The teacher of the packs was the base, which this one replaces.
    small._packs = {
        code: replace(pack, base_fingerprint=fingerprint, details={**pack.details, "teacher_fingerprint": fingerprint})
        for code, pack in small._packs.items()
    }
    return small


def _project(retriever: OpticalRetriever, projection: Tensor) -> None:
    """Put a projection `(dim, old_dim)` after that of the model."""
    model, old = retriever.model, retriever.model.projection
    weight, bias = projection.double(), None
    if old is not None:
        weight = weight @ old.weight.detach().double().cpu()
        bias = None if old.bias is None else projection.double() @ old.bias.detach().double().cpu()
    layer = nn.Linear(weight.shape[1], len(weight), bias=bias is not None)
    with torch.no_grad():
        layer.weight.copy_(weight)
        if bias is not None:
            layer.bias.copy_(bias)
    model.projection = layer.to(model.device, model.dtype)
    model.config.projection_dim, model.config.projection_bias = len(weight), bias is not None
    # It is another base, which has no name until it is saved.
    model.name_or_path, model.revision = "", None
