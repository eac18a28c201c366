"""Weights of query tokens: frequent words count less."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from ..checks import check_length
from ..model import OpticalProcessor
from ..model.added_words import composing_normalizer
from ..model.mapping import token_spans
from ..model.texts import as_texts
from ..model.words import find_words


# By name, or the weights of the tokens of each query.
Weights: TypeAlias = str | Iterable[Tensor]
WEIGHTS = ("idf",)
# A word of this probability has half the weight of a rare one.
_HALF = 1e-3


def frequency_weights(processor: OpticalProcessor, queries: Iterable[str]) -> list[Tensor]:
    """
    Weigh the tokens of queries by how rare their words are (smooth inverse frequency, Arora et al. 2017).

    A word that makes up a share `p` of the sentence pairs of a pack has the weight `a / (a + p)` with `a = 0.001`:
    nearly 1 if it is rare, and 1 if it is unknown, as most names are. All tokens of a word have its weight. Special
    tokens, punctuation and words of scripts without spaces have the weight 1. Without a pack, shares are those in the
    documents that [`~OpticalRetriever.learn_spelling`] has read.

    Args:
        processor ([`OpticalProcessor`]): That of a pack, or of a base that has learned words of documents.
        queries (iterable of `str`): The queries.

    Returns:
        `list[Tensor]`: A float32 tensor of shape `(tokens,)` per query, in the order of its vectors.

    Raises:
        TypeError: If `queries` is a single string or holds something other than strings.
        DataError: If a query holds an unpaired surrogate.
        ValueError: If the processor knows no words, or its tokenizer gives no character offsets.
    """
    texts = as_texts(queries, "queries")
    counts = processor.known_words.get("language") or processor.known_words.get("documents")
    if not counts:
        raise ValueError(
            "weights='idf' needs to know how often words occur, but the pack holds no words of its sentence pairs; "
            "train it again, or call learn_spelling(documents)"
        )
    total, normal = sum(counts.values()), composing_normalizer(processor.tokenizer).normalize_str
    read = [text if processor.nearest_words is None else processor.nearest_words(text) for text in texts]
    found = []
    for text, spans in zip(read, token_spans(processor, read, "query"), strict=True):
        weights = torch.ones(processor.query_length if processor.query_expansion else max(len(spans), 1))
        for word in find_words(text):
            if word.spaced:
                inside = (spans[:, 0] < word.stop) & (word.start < spans[:, 1])
                share = counts.get(normal(word.text).strip("▁ "), 0) / total
                weights[: len(spans)][inside] = _HALF / (_HALF + share)
        found.append(weights)
    return found


def apply_weights(vectors: Sequence[Tensor], weights: Iterable[Tensor]) -> list[Tensor]:
    """
    Multiply the vectors of each query by the weights of its tokens.

    Args:
        vectors (sequence of `Tensor` of shape `(tokens, dim)`): The queries.
        weights (iterable of `Tensor` of shape `(tokens,)`): Weights from 0, one tensor per query.

    Raises:
        ValueError: If the number of tensors or the shape of one does not fit, or a weight is negative or not finite.
    """
    given = [torch.as_tensor(own, dtype=torch.float32) for own in weights]
    check_length("weights", given, len(vectors), "queries")
    for position, (own, rows) in enumerate(zip(given, vectors, strict=True)):
        if own.shape != rows.shape[:1]:
            raise ValueError(
                f"weights[{position}] must have one entry for each of the {len(rows)} tokens of its query, got the "
                f"shape {tuple(own.shape)}"
            )
        # A negative weight would turn the maximum of MaxSim into a minimum.
        valid = (own >= 0) & own.isfinite()
        if not valid.all():
            raise ValueError(f"weights[{position}] must be finite numbers from 0, got {own[~valid][0].item()}")
    return [own[:, None] * rows for own, rows in zip(given, vectors, strict=True)]
