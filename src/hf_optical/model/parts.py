"""A batch on a CPU, read in parts of like length."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor


# What a layer makes of so many tokens stays in the processor's cache, and in memory already at hand.
_MOST_TOKENS = 1024
# What one more part costs, in tokens: calls of torch, and gradients of all weights that are added once more.
_COST = 64


def parts_of(read: Tensor) -> Iterator[tuple[Tensor | slice, int]]:
    """
    Cuts a batch so that the fewest padding tokens are read, and not too many tokens at once. Elsewhere than on a CPU,
    where it is the number of calls that costs, the batch stays whole.

    Args:
        read (`torch.BoolTensor` of shape `(batch, tokens)`): where there is something to read, if only a mask token.

    Yields:
        The rows of a part, and up to which position they are read.
    """
    batch, tokens = read.shape
    if read.device.type != "cpu" or batch < 2 or torch.compiler.is_compiling() or torch.jit.is_tracing():
        yield slice(None), tokens
        return
    lengths = (read * torch.arange(1, tokens + 1)).amax(1).clamp(min=1)
    order = lengths.argsort(descending=True, stable=True)
    lengths = lengths[order].numpy()
    for start, stop in _cuts(lengths):
        yield order[start:stop], int(lengths[start])


def _cuts(lengths: np.ndarray) -> list[tuple[int, int]]:
    """The cheapest way to cut rows, the longest first: `cheapest[stop]` is what the rows before `stop` cost."""
    cheapest, first = np.zeros(len(lengths) + 1), np.zeros(len(lengths) + 1, np.int64)
    for stop in range(1, len(lengths) + 1):
        rows = np.arange(stop, 0, -1)
        tokens = rows * lengths[:stop]
        costs = np.where((tokens > _MOST_TOKENS) & (rows > 1), np.inf, cheapest[:stop] + tokens + _COST)
        first[stop] = costs.argmin()
        cheapest[stop] = costs[first[stop]]
    cuts, stop = [], len(lengths)
    while stop:
        cuts.append((int(first[stop]), stop))
        stop = cuts[-1][0]
    return cuts[::-1]
