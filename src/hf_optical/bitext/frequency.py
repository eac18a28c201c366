"""How often words and tokens occur in texts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
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
    counts = Counter(
        word.text
        for text in texts
        for word in find_words(normalize(text))
        if word.spaced and word.has_letter and len(word.text) <= _LONGEST_KNOWN
    )
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
