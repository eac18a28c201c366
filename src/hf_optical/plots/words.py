"""Token vectors of a text, grouped by words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..model import OpticalProcessor
from ..model.special_tokens import special_ids
from ..model.words import APOSTROPHE_OR_HYPHEN, Word, clusters, find_words
from ..retrieval import OpticalRetriever


class ReadText(NamedTuple):
    """An encoded text with its words, without special and skipped tokens."""

    vectors: Tensor  # (tokens, dim)
    ids: Tensor  # (tokens,)
    words: Tensor  # (words, tokens), 1.0 where a token belongs to a word; each token has one word
    spans: list[tuple[int, int]]  # start and end of each word in the text


class NoWordError(ValueError):
    """Raised for a text without words that take part in matching."""


def read_words(retriever: OpticalRetriever, text: str, role: str, language: str) -> ReadText:
    """Encode a text as `role` and group its tokens by its words, or in scripts without spaces each by itself."""
    processor = retriever.processor_of(language)
    encode = retriever.encode_queries if role == "query" else retriever.encode_documents
    (vectors,) = encode([text], language=language)
    inputs = processor([text], role)
    ids, matched = inputs["input_ids"][0], inputs["token_mask"][0]
    special = special_ids(processor)
    places = _places(processor, text, role, set(special.tolist()))
    # The text may have been truncated, so there may be fewer tokens than places.
    ordinary = (~torch.isin(ids, special)).nonzero().flatten().tolist()
    found = [(at, place) for at, place in zip(ordinary, places, strict=False) if matched[at] and place is not None]
    if not found:
        raise NoWordError(f"{text!r} holds no word to match; pass a sentence")
    positions, starts = zip(*found, strict=True)
    spans = _spans(text, starts)
    word_of = torch.tensor([next(i for i, (_, stop) in enumerate(spans) if start < stop) for start in starts])
    rows = matched.cumsum(0)[list(positions)] - 1
    words = torch.nn.functional.one_hot(word_of, len(spans)).T.float()
    return ReadText(vectors[rows], ids[list(positions)], words, spans)


def _places(processor: OpticalProcessor, text: str, role: str, special: set[int]) -> list[int | None]:
    """First character in `text` of each ordinary token before truncation; `None` for tokens of the prompt."""
    prompt = getattr(processor, f"{role}_prompt")
    read, origins = _nearest(processor, text, repair=role == "query")
    read = prompt + read
    try:
        encoding = processor.tokenizer(read, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    except NotImplementedError as error:
        raise ValueError("the tokenizer gives no offsets; use a fast tokenizer") from error
    places: list[int | None] = []
    for token, (start, _) in zip(encoding["input_ids"], encoding["offset_mapping"], strict=True):
        if token in special:
            continue
        # Some tokenizers include the space before a word in its token.
        while start < len(read) and read[start].isspace():
            start += 1
        places.append(origins[start - len(prompt)] if len(prompt) <= start < len(read) else None)
    return places


def _nearest(processor: OpticalProcessor, text: str, repair: bool) -> tuple[str, list[int]]:
    """The text with nearest words filled in, and the position in `text` that each of its characters comes from."""
    if processor.nearest_words is None:
        return text, list(range(len(text)))
    parts: list[str] = []
    origins: list[int] = []
    end = 0
    for start, stop, nearest in processor.nearest_words.replacements(text, repair):
        parts += [text[end:start], nearest]
        origins += [*range(end, start), *[start] * len(nearest)]
        end = stop
    return "".join([*parts, text[end:]]), [*origins, *range(end, len(text))]


def _spans(text: str, starts: Sequence[int]) -> list[tuple[int, int]]:
    """Spans of the words in which tokens start."""
    spans: list[tuple[int, int]] = []
    for word in _words_and_marks(text):
        inside = sorted({start for start in starts if word.start <= start < word.stop})
        if inside and not word.spaced:
            spans += zip(inside, [*inside[1:], word.stop], strict=True)
        elif inside:
            spans.append((word.start, word.stop))
    return spans


def _words_and_marks(text: str) -> Iterator[Word]:
    """The words of a text, with apostrophes and hyphens inside them, and the visible characters between them."""
    end = 0
    for word in [*find_words(text, joined_by=APOSTROPHE_OR_HYPHEN), Word("", len(text), len(text), True)]:
        for mark in clusters(text[end : word.start]):
            if not mark.isspace():
                yield Word(mark, end, end + len(mark), True)
            end += len(mark)
        yield word
        end = word.stop
