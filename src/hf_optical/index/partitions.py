"""Partitions of token vectors for an inverted index."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional
from tqdm.auto import tqdm


# Tokens for each partition that it is trained on, and rounds of k-means. More of either changes recall by less than
# .005.
TOKENS_PER_PARTITION = 64
_ROUNDS = 8
# Tokens whose similarities to all centroids are in memory.
_BLOCK = 8_192


def number_of_partitions(tokens: int) -> int:
    """The power of two nearest to the square root of the number of tokens, at least one."""
    return 2 ** max(0, round(math.log2(max(1, tokens)) / 2))


def train_partitions(values: Tensor, partitions: int, show_progress: bool = False) -> Tensor:
    """
    Spherical k-means, from the same random start each time.

    Args:
        values (`torch.Tensor` of shape `(tokens, dim)`): Unit vectors, at least `partitions`.
        partitions (`int`): Number of centroids.
        show_progress (`bool`, defaults to `False`): Whether to show a progress bar.

    Returns:
        `torch.Tensor` of shape `(partitions, dim)`: The centroids, unit vectors in float32.
    """
    generator = torch.Generator().manual_seed(0)
    values = values.float()
    centroids = values[torch.randperm(len(values), generator=generator)[:partitions]]
    for _ in tqdm(range(_ROUNDS), "Training partitions", disable=not show_progress):
        nearest = torch.cat([(block @ centroids.T).argmax(1) for block in values.split(_BLOCK)])
        sums = torch.zeros_like(centroids).index_add_(0, nearest, values)
        empty = torch.bincount(nearest, minlength=partitions) == 0
        sums[empty] = values[torch.randint(len(values), (int(empty.sum()),), generator=generator)]
        centroids = functional.normalize(sums, dim=1)
    return centroids
