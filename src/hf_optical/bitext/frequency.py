"""How often words and tokens occur in texts."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice

import torch
from torch import Tensor

from ..model import OpticalProcessor
from ..model.added_words import composing_normalizer
from ..model.words import find_words


_TEXTS_AT_A_TIME = 1000


# Words of a source that typing errors are repaired by, and letters of the longest.
MOST_KNOWN, _LONGEST_KNOWN = 50_000, 32


def count_known(processor: OpticalProcessor, texts: Iterable[str]) -> dict[str, int]:
    """
    Count the words of texts, by which typing errors are repaired ([`~hf_optical.model.spelling.Spelling`]).

    Words are normalised as the tokenizer does it. Those with digits, with more than 32 letters, and those of scripts
    without spaces between words are left out, as are all but the 50,000 most frequent.
    """
    normalize = composing_normalizer(processor.tokenizer).normalize_str
    return _most_frequent(Counter(word for text in texts for word in _words(normalize(text))))


def count_written(texts: Iterable[str]) -> dict[str, int]:
    """Count the words of texts as they are written, for tokenizers to come; see [`known_of_written`]."""
    return _most_frequent(Counter(word for text in texts for word in _words(unicodedata.normalize("NFC", text))))


def known_of_written(processor: OpticalProcessor, counts: Mapping[str, int]) -> dict[str, int]:
    """Normalise words as the tokenizer does it: the counts of [`count_written`] as those of [`count_known`]."""
    normalize = composing_normalizer(processor.tokenizer).normalize_str
    known: Counter[str] = Counter()
    for written, count in counts.items():
        known.update(dict.fromkeys(_words(normalize(written)), count))
    return _most_frequent(known)


def _words(text: str) -> Iterator[str]:
    for word in find_words(text):
        if word.spaced and word.has_letter and len(word.text) <= _LONGEST_KNOWN:
            yield word.text


def _most_frequent(counts: Counter[str]) -> dict[str, int]:
    return dict(counts.most_common(MOST_KNOWN))


def inverse_document_frequency(processor: OpticalProcessor, texts: Iterable[str]) -> Tensor:
    """
    Compute the inverse document frequency of every token, `log(1 + N / (1 + df))`.

    Args:
        processor ([`OpticalProcessor`]): its tokenizer is used.
        texts (iterable of `str`): `N` texts, `df` of which contain the token.

    Returns:
        `torch.Tensor` of shape `(vocabulary,)`, above 0 everywhere.
    """
    number, texts = 0, iter(texts)
    frequency: Counter[int] = Counter()
    while some := list(islice(texts, _TEXTS_AT_A_TIME)):
        number += len(some)
        frequency.update(token for ids in processor.tokenizer(some)["input_ids"] for token in set(ids))
    counts = torch.tensor([frequency[token] for token in range(len(processor.tokenizer))])
    return torch.log1p(number / (1 + counts))
