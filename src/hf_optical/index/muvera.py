"""One vector for each text, whose inner product approximates MaxSim: the candidate stage of an approximate search."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from ..retrieval import TokenVectors


# Texts that are encoded at a time, which bounds memory.
_TEXTS = 256


@dataclass(frozen=True)
class Muvera:
    """
    Fixed dimensional encodings of token vectors (MUVERA, Dhulipala et al. 2024, arXiv 2405.19504, section 2).

    Each repetition cuts space by random hyperplanes into `2**planes` clusters. A query's encoding is the sum of its
    tokens in each cluster, a document's the mean; an empty cluster of a document gets the token whose signs differ
    from the cluster's the least. Random signs then project every cluster to `projected` numbers. So an inner product
    pairs the tokens of a query with those of a document that lie in the same cluster, as MaxSim would. Encodings are
    linear in the query: weights of its tokens count.

    Args:
        dim (`int`): Numbers in a token vector.
        planes (`int`, defaults to 2), projected (`int`, defaults to 64), repetitions (`int`, defaults to 20):
            See above. Encodings have `repetitions * 2**planes * projected` numbers. At this size, few clusters with
            many numbers find more of the best passages than the paper's 32 clusters with 16.
        seed (`int`, defaults to 0): Seed of the hyperplanes and signs.
    """

    dim: int
    planes: int = 2
    projected: int = 64
    repetitions: int = 20
    seed: int = 0

    @property
    def size(self) -> int:
        """Numbers in an encoding."""
        return self.repetitions * 2**self.planes * self.projected

    def queries(self, vectors: TokenVectors) -> Tensor:
        """Encodings of queries: float32 of shape `(texts, size)`."""
        return self._encode(vectors, is_query=True)

    def documents(self, vectors: TokenVectors) -> Tensor:
        """Encodings of documents: float32 of shape `(texts, size)`, zero for a document without tokens."""
        return self._encode(vectors, is_query=False)

    @cached_property
    def _random(self) -> tuple[Tensor, Tensor]:
        """Hyperplanes `(dim, repetitions * planes)` and signs `(repetitions, dim, projected)`."""
        # Equal on every machine: the stream of `RandomState` never changes, unlike those of torch and newer numpy.
        state = np.random.RandomState(self.seed)
        planes = state.standard_normal((self.dim, self.repetitions * self.planes))
        signs = state.choice([-1.0, 1.0], (self.repetitions, self.dim, self.projected)) / self.projected**0.5
        return torch.from_numpy(planes).float(), torch.from_numpy(signs).float()

    @cached_property
    def _differing_signs(self) -> Tensor:
        """How many signs differ between two clusters: `(2**planes, 2**planes)`."""
        clusters = torch.arange(2**self.planes)
        bits = (clusters[:, None] >> torch.arange(self.planes)) & 1
        return (bits[:, None] != bits).sum(-1)

    @torch.no_grad()
    def _encode(self, vectors: TokenVectors, is_query: bool) -> Tensor:
        parts = [vectors[start : start + _TEXTS] for start in range(0, len(vectors), _TEXTS)]
        return torch.cat([torch.empty(0, self.size), *(self._encode_part(part, is_query) for part in parts)])

    def _encode_part(self, vectors: TokenVectors, is_query: bool) -> Tensor:
        planes, signs = self._random
        values, texts = vectors.values.float(), len(vectors)
        text_of = torch.repeat_interleave(vectors.lengths)
        powers = 2 ** torch.arange(self.planes)
        sides = (values @ planes > 0).view(-1, self.repetitions, self.planes)
        clusters = 2**self.planes
        encoded = torch.empty(texts, self.repetitions, clusters, self.projected)
        for repetition in range(self.repetitions):
            cluster_of = (sides[:, repetition] * powers).sum(1)
            place = text_of * clusters + cluster_of
            tokens = values @ signs[repetition]
            sums = torch.zeros(texts * clusters, self.projected).index_add_(0, place, tokens)
            if not is_query:
                counts = torch.bincount(place, minlength=texts * clusters)
                sums /= counts.clamp(min=1)[:, None]
                self._fill(sums, counts, tokens, cluster_of, text_of, vectors)
            encoded[:, repetition] = sums.view(texts, clusters, self.projected)
        return encoded.flatten(1)

    def _fill(
        self,
        sums: Tensor,
        counts: Tensor,
        tokens: Tensor,
        cluster_of: Tensor,
        text_of: Tensor,
        vectors: TokenVectors,
    ) -> None:
        """Give each empty cluster of a document the token of the document that lies closest to it."""
        clusters = 2**self.planes
        empty = ((counts.view(-1, clusters) == 0) & (vectors.lengths > 0)[:, None]).nonzero()
        # The smallest number of signs that differ, then the first token that has it.
        rank = self._differing_signs[cluster_of] * len(tokens) + torch.arange(len(tokens))[:, None]
        best = torch.full((len(vectors), clusters), len(tokens) * (self.planes + 1))
        best.scatter_reduce_(0, text_of[:, None].expand_as(rank), rank, "amin")
        token = best[empty[:, 0], empty[:, 1]] % max(len(tokens), 1)
        sums[empty[:, 0] * clusters + empty[:, 1]] = tokens[token]
