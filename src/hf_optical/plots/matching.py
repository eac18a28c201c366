"""Why a passage was found: the words of a question and those that they match best in it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..retrieval import OpticalRetriever
from .words import NoWordError, ReadText, read_words


class WordMatch(NamedTuple):
    """
    A word of a question and the word of a passage that it matches best.

    Attributes:
        word (`str`): of the question.
        start (`int`), stop (`int`): where in the passage the other word begins and ends.
        similarity (`float`): mean over the tokens of `word` of their greatest cosine with a token of the other.
        weight (`float`): mean of what the tokens of the passage's word count for.
    """

    word: str
    start: int
    stop: int
    similarity: float
    weight: float


@torch.no_grad()
def match_words(
    retriever: OpticalRetriever,
    question: str,
    passages: Sequence[str],
    language: str | None = None,
    *,
    passage_weights: Tensor | None = None,
) -> list[list[WordMatch]]:
    """
    What MaxSim finds in passages for each word of a question, special tokens aside.

    Args:
        retriever ([`OpticalRetriever`]): base and packs.
        question (`str`): read as a query, with the pack of its language.
        passages (sequence of `str`): read as documents, by the bare base.
        language (`str`, *optional*): of the question. Defaults to the language that is set.
        passage_weights (`Tensor` of shape `(vocabulary,)`, *optional*):
            What each token id counts for, e.g. [`~bitext.inverse_document_frequency`] of the documents: it does not
            change what matches, and tells words like *and*, which match well in many passages, from telling ones.
            1 by default.

    Returns:
        `list[list[WordMatch]]`: for each passage one for each word of the question, in its order; none for a passage
        without words.

    Raises:
        KeyError: no pack for `language` is open.
        ValueError: the question holds no word.
    """
    query = read_words(retriever, question, "query", retriever.language if language is None else language)
    words = [question[start:stop] for start, stop in query.spans]
    share = query.words / query.words.sum(1, keepdim=True)  # (words, tokens), each word's tokens alike
    matches = []
    for passage in passages:
        try:
            document = read_words(retriever, passage, "document", None)
        except NoWordError:
            matches.append([])
            continue
        weights = torch.ones(len(document.ids)) if passage_weights is None else passage_weights[document.ids]
        weights = document.words @ weights / document.words.sum(1)
        similarity, place = (share @ _best(query, document)).max(1)
        found = zip(words, place.tolist(), similarity.tolist(), weights[place].tolist(), strict=True)
        matches.append([WordMatch(word, *document.spans[i], *values) for word, i, *values in found])
    return matches


def _best(query: ReadText, document: ReadText) -> Tensor:
    """Of each token of a query and each word of a document, the greatest cosine: `(query tokens, document words)`."""
    cosines = (query.vectors @ document.vectors.T)[:, None].expand(-1, len(document.spans), -1)
    return cosines.masked_fill(document.words[None] == 0, -torch.inf).amax(2)
