"""Another base from the same encoder: token vectors that are centered, or smaller."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from ..checks import check_number
from ..languages.adapters import lock_of, use_language
from ..languages.pack import LanguagePack
from ..model import OpticalModel
from ..model.modeling_optical import evaluating
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


def center_vectors(
    retriever: OpticalRetriever,
    texts: Iterable[str],
    *,
    batch_size: int = 32,
    show_progress: bool = False,
) -> OpticalRetriever:
    """
    Copy a retriever and subtract the mean from its token vectors, so that they differ more.

    The token vectors of encoders that were trained for sentence vectors lie in a narrow cone: any two of them are
    similar ([`Geometry`]). A linear layer with a bias after the encoder, or the bias of the layer that is there,
    subtracts their mean. It becomes part of the base, as in [`reduce_dimension`].

    Args:
        retriever ([`OpticalRetriever`]): The retriever.
        texts (iterable of `str`): Some hundred documents, such as the first ones of the corpus.
        batch_size (`int`, defaults to 32), show_progress (`bool`, defaults to `False`): As in [`encode_texts`].

    Raises:
        ValueError: If the texts have no token, or the packs search the index of another teacher.

    Example:

    ```python
    >>> from hf_optical.retrieval import OpticalRetriever, center_vectors

    >>> retriever = OpticalRetriever.from_pretrained("sentence-transformers/all-MiniLM-L6-v2")
    >>> centered = center_vectors(retriever, ["The Nile is a river.", "Bread is baked from flour."])
    >>> centered.model.config.projection_bias
    True
    ```
    """
    texts = as_texts(texts)
    check_number("batch_size", batch_size, at_least=1)
    _check_teacher(retriever)
    mean = _mean_state(retriever, texts, batch_size, show_progress)
    weight, _ = _projection_of(retriever.model)
    return _with_base(retriever, weight, -weight @ mean)


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
    _check_teacher(retriever)
    check_number("dim", dim, at_least=1, at_most=retriever.model.embedding_dim - 1)
    vectors = torch.cat(
        retriever.encode_documents(texts, batch_size=batch_size, show_progress=show_progress)
        or [torch.empty(0, retriever.model.embedding_dim)]
    )
    check_number("the number of tokens in texts", len(vectors), at_least=dim, cure="pass more texts")
    projection = fit_projection(vectors, dim).double()
    weight, bias = _projection_of(retriever.model)
    return _with_base(retriever, projection @ weight, None if bias is None else projection @ bias)


def _check_teacher(retriever: OpticalRetriever) -> None:
    if retriever.teacher is not None:
        raise ValueError(
            f"the open packs search the index of {retriever.teacher.name_or_path}, not of their base; change that "
            "model first, and train packs with the result as teacher"
        )


@torch.no_grad()
def _mean_state(retriever: OpticalRetriever, texts: list[str], batch_size: int, show_progress: bool) -> Tensor:
    """Mean of the hidden states of all tokens that take part in matching, as the base reads documents."""
    model, processor = retriever.model, retriever.processor
    total, count = torch.zeros(model.config.encoder_config.hidden_size, dtype=torch.float64), 0
    texts = sorted(texts, key=len)  # batches of similar lengths have little padding
    starts = range(0, len(texts), batch_size)
    for start in tqdm(starts, desc="Finding the mean vector", unit="batch", disable=not show_progress):
        inputs = processor.encode_checked(texts[start : start + batch_size], "document")
        mask = inputs.pop("token_mask")
        inputs = {name: tensor.to(model.device) for name, tensor in inputs.items()}
        with use_language(model, None), evaluating(model):
            states = model.encoder(**inputs).last_hidden_state
        found = states[mask.bool()].cpu().double()
        total, count = total + found.sum(0), count + len(found)
    check_number("the number of tokens in texts", count, at_least=1, cure="pass documents with text")
    return total / count


def _projection_of(model: OpticalModel) -> tuple[Tensor, Tensor | None]:
    """The linear layer after the encoder in double precision; without one, the identity."""
    if model.projection is None:
        return torch.eye(model.embedding_dim, dtype=torch.float64), None
    layer = model.projection
    return layer.weight.detach().cpu().double(), None if layer.bias is None else layer.bias.detach().cpu().double()


def _with_base(retriever: OpticalRetriever, weight: Tensor, bias: Tensor | None) -> OpticalRetriever:
    """Copy a retriever and its packs, with another projection after the encoder."""
    with lock_of(retriever.model):
        copied = copy.copy(retriever)
        copied.model = copy.deepcopy(retriever.model)
        # Each retriever learns words of its own documents.
        copied.processor = copy.copy(retriever.processor)
        copied._processors = {code: copy.copy(own) for code, own in retriever._processors.items()}
        copied._packs = dict(retriever._packs)
    _project(copied.model, weight, bias)
    fingerprint = copied.model.fingerprint()
    copied._packs = {code: _moved(pack, fingerprint) for code, pack in copied._packs.items()}
    return copied


def _moved(pack: LanguagePack, fingerprint: str) -> LanguagePack:
    """A pack on another base, which has no name yet. It is the teacher too, and nothing was measured with it."""
    gone = ("teacher", "teacher_revision", "results")
    details = {name: value for name, value in pack.details.items() if name not in gone}
    return replace(
        pack,
        base_model="",
        base_revision=None,
        base_fingerprint=fingerprint,
        details={**details, "teacher_fingerprint": fingerprint},
    )


def _project(model: OpticalModel, weight: Tensor, bias: Tensor | None) -> None:
    """Replace the layer after the encoder by one with the weight `(dim, hidden)` and the bias `(dim,)`."""
    layer = nn.Linear(weight.shape[1], len(weight), bias=bias is not None)
    layer.load_state_dict({"weight": weight.float()} | ({} if bias is None else {"bias": bias.float()}))
    model.projection = layer.to(model.device, model.dtype)
    model.config.projection_dim, model.config.projection_bias = len(weight), bias is not None
    # It is another base, which has no name until it is saved.
    model.name_or_path, model.revision = "", None
