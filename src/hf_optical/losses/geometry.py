"""The geometry of a teacher's token vectors, to which the cost of transport is fitted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..checks import check_number
from .inputs import unit_vectors


@dataclass(frozen=True, eq=False)
class Geometry:
    """
    Where the token vectors of a model lie, and how far the costs between the tokens of a sentence differ.

    The vectors of many models lie in a narrow cone around their mean: any two tokens are similar, so cosine costs
    hardly separate a translation from other words. Costs of centered vectors do.

    Attributes:
        mean (`Tensor` of shape `(dim,)`): mean of the unit vectors; zero if they are not centered.
        spread (`float`):
            Root mean square of the costs between the tokens of a sentence, after their row and column means are
            subtracted. A transport plan depends on these differences alone, so epsilon is relative to them, as in
            OTT-JAX.
    """

    mean: Tensor
    spread: float

    @classmethod
    def of(cls, sentences: Sequence[Tensor], center: bool = True) -> Geometry:
        """
        Measure the geometry of sentences.

        Args:
            sentences (sequence of `Tensor`): token vectors of each sentence, shape `(tokens, dim)`.
            center (`bool`, defaults to `True`): whether the mean is subtracted before costs are computed.

        Raises:
            ValueError: there are no sentences.
        """
        units = _unit_vectors(sentences)
        mean = torch.cat(units).mean(0) * center
        squares, count = 0.0, 0
        for each in units:
            centered = unit_vectors((each - mean).unsqueeze(0))[0]
            costs = 1.0 - centered @ centered.T
            costs = costs - costs.mean(0) - costs.mean(1, keepdim=True) + costs.mean()
            squares += float(costs.square().sum())
            count += costs.numel()
        return cls(mean, (squares / count) ** 0.5)

    def epsilon(self, relative: float) -> float:
        """Epsilon of a size relative to the spread, rounded to one digit; at least 1e-4."""
        return max(float(f"{relative * self.spread:.0e}"), 1e-4)


def mean_vector(sentences: Sequence[Tensor]) -> Tensor:
    """
    The mean of the unit vectors of sentences, each of shape `(tokens, dim)`. Its length is 1 if all are the same.

    Raises:
        ValueError: there are no sentences.
    """
    return torch.cat(_unit_vectors(sentences)).mean(0)


def _unit_vectors(sentences: Sequence[Tensor]) -> list[Tensor]:
    check_number("number of sentences", len(sentences), at_least=1)
    return [unit_vectors(each.float().unsqueeze(0))[0] for each in sentences]
