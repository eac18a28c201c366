"""How often words and tokens occur in texts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import islice

import torch
from torch import Tensor

from ..model import OpticalProcessor


_TEXTS_AT_A_TIME = 1000


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
