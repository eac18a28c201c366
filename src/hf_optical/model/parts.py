"""Splitting of batches on a CPU into parts of similar length."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor


# The activations of so many tokens stay in the processor's cache.
_MOST_TOKENS = 1024
# Cost of one more part, in tokens: calls of torch, and accumulating the gradients of all weights once more.
_COST = 64


def parts_of(read: Tensor) -> Iterator[tuple[Tensor | slice, int]]:
    """
    Split a batch on a CPU into parts with little padding and not too many tokens: their rows, and their length.

    `read`, of shape `(batch, tokens)`, marks the tokens that the model reads, including mask tokens.
    """
    batch, tokens = read.shape
    if read.device.type != "cpu" or batch < 2 or torch.compiler.is_compiling() or torch.jit.is_tracing():
        yield slice(None), tokens
        return
    lengths = (read * torch.arange(1, tokens + 1)).amax(1).clamp(min=1)
    order = lengths.argsort(descending=True, stable=True)
    in_order = lengths[order].numpy()
    for start, stop in _cuts(in_order):
        yield order[start:stop], int(in_order[start])


def _cuts(lengths: np.ndarray) -> list[tuple[int, int]]:
    """Find the cheapest split of rows sorted by length; `cheapest[stop]` is the cost of the rows before `stop`."""
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
