"""How much a search of an inverted index of tokens reads."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Effort:
    """
    How much a search reads.

    Args:
        probes (`int`): Partitions that are read for each query token.
        tokens (`int`):
            Tokens found for each query token. A document without any of them gets the worst of their scores there, so
            more of them need more probes.
        documents (`int`): Documents that are then scored by [`maxsim`].
        top_k (`int`): Length of the rankings that this was measured with. Longer ones read in proportion.
    """

    probes: int = 16
    tokens: int = 200
    documents: int = 40
    top_k: int = 10

    def scaled(self, top_k: int) -> Effort:
        """The effort for rankings of another length."""
        scale = max(1.0, top_k / self.top_k)
        return Effort(self.probes, math.ceil(scale * self.tokens), math.ceil(scale * self.documents), top_k)


def efforts(partitions: int, top_k: int) -> Iterator[Effort]:
    """Efforts from low to high. Tokens beyond those that the probed partitions cover only add noise."""
    for probes in (2**power for power in range(1, 9)):
        if probes > max(2, partitions):
            break
        for tokens in (5, 10, 20, 40):
            yield Effort(probes, tokens * top_k, 4 * top_k, top_k)
    yield Effort(partitions, 100 * top_k, 20 * top_k, top_k)
