"""Explain a search result by the words of the passage that best match those of the question."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..retrieval import BASE, OpticalRetriever
from .words import NoWordError, ReadText, read_words


class WordMatch(NamedTuple):
    """
    A word of a question and the word of a passage that it matches best.

    Attributes:
        word (`str`): Word of the question.
        start (`int`), stop (`int`): Character span of the matching word in the passage.
        similarity (`float`): Maximum cosine with a token of the matching word, averaged over the tokens of `word`.
        weight (`float`): Mean weight of the tokens of the matching word.
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
    Find the word of each passage that MaxSim matches with each word of a question, without special tokens.

    Args:
        retriever ([`OpticalRetriever`]): The base with its packs.
        question (`str`): The question, encoded as a query with the pack of its language.
        passages (sequence of `str`): The passages, encoded as documents by the bare base.
        language (`str`, *optional*): Language of the question. Defaults to the active language.
        passage_weights (`Tensor` of shape `(vocabulary,)`, *optional*):
            Weight of each token id, such as [`~bitext.inverse_document_frequency`] of the documents. Weights do not
            change the matches. They distinguish informative words from words like *and* that match in many passages.
            Defaults to 1.

    Returns:
        `list[list[WordMatch]]`: For each passage, one match per word of the question, in order. Empty for a passage
        without words.

    Raises:
        KeyError: If no pack for `language` is open.
        ValueError: If the question holds no words.
    """
    query = read_words(retriever, question, "query", retriever.language if language is None else language)
    words = [question[start:stop] for start, stop in query.spans]
    share = query.words / query.words.sum(1, keepdim=True)  # (words, tokens), uniform over the tokens of a word
    matches: list[list[WordMatch]] = []
    for passage in passages:
        try:
            document = read_words(retriever, passage, "document", BASE)
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
    """Maximum cosine of each query token with the tokens of each document word: `(query tokens, document words)`."""
    cosines = (query.vectors @ document.vectors.T)[:, None].expand(-1, len(document.spans), -1)
    return cosines.masked_fill(document.words[None] == 0, -torch.inf).amax(2)
