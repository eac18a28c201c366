"""
Extreme transport problems and token embeddings for property tests.

Hypothesis draws, prints and shrinks a short description from which the tensors are made.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor


COSTS = ("cosine", "duplicates", "opposites", "constant", "rough", "ranks", "forbidden", "any size", "any number")
WEIGHTS = ("uniform", "masked", "1e-6 to 1e6", "one hot", "tiny", "huge")
VECTORS = ("random", "duplicates", "opposites", "identical", "some zero", "short", "long")
DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def property_test(few: int, many: int, **drawn: st.SearchStrategy) -> Callable[[Callable[..., None]], Callable]:
    """
    Test a property with a few examples that are always the same, and, marked slow, with many new ones.

    The fast test does not shrink failures, which would take too long.
    """

    def decorate(holds: Callable[..., None]) -> Callable[[int, bool], None]:
        @pytest.mark.parametrize(
            ("examples", "always_the_same"),
            [
                pytest.param(few, True, id="few"),
                pytest.param(many, False, id="many", marks=[pytest.mark.slow, pytest.mark.timeout(3600)]),
            ],
        )
        def test(examples: int, always_the_same: bool) -> None:
            phases = set(Phase) - ({Phase.shrink, Phase.explain} if always_the_same else set())
            settings(
                max_examples=examples,
                derandomize=always_the_same,
                database=None,
                deadline=None,
                phases=phases,
                suppress_health_check=list(HealthCheck),
                print_blob=True,
            )(given(**drawn)(holds))()

        test.__doc__ = holds.__doc__
        return test

    return decorate


def lengths(most: int = 300) -> st.SearchStrategy[int]:
    return st.one_of(st.integers(1, 4), st.integers(1, min(40, most)), st.integers(1, most))


@dataclass(frozen=True)
class Problem:
    """
    A batch of transport problems.

    Args:
        sizes (`tuple` of pairs of `int`): rows and columns of each; the cost holds `nan` beyond.
        cost (`str`): one of `COSTS`.
        rows (`str`), columns (`str`): one of `WEIGHTS`.
        dtype (`torch.dtype`): of the cost.
        seed (`int`): of all that is drawn at random.
    """

    sizes: tuple[tuple[int, int], ...]
    cost: str
    rows: str
    columns: str
    dtype: torch.dtype
    seed: int

    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        """Cost `(batch, n, m)`, row weights `(batch, n)` and column weights `(batch, m)`."""
        generator = torch.Generator().manual_seed(self.seed)
        n, m = (max(size[side] for size in self.sizes) for side in (0, 1))
        batch = len(self.sizes)
        cost = torch.full((batch, n, m), math.nan, dtype=self.dtype)
        rows, columns = torch.zeros(batch, n), torch.zeros(batch, m)
        for index, (a, b) in enumerate(self.sizes):
            cost[index, :a, :b] = _cost(self.cost, a, b, self.dtype, generator)
            rows[index, :a] = _weights(self.rows, a, generator)
            columns[index, :b] = _weights(self.columns, b, generator)
        return cost, rows, columns


def problems(
    costs: tuple[str, ...] = COSTS,
    weights: tuple[str, ...] = WEIGHTS,
    dtypes: tuple[torch.dtype, ...] = DTYPES,
    longest: int = 300,
    batch: int = 3,
) -> st.SearchStrategy[Problem]:
    sizes = st.lists(st.tuples(lengths(longest), lengths(longest)), min_size=1, max_size=batch).map(tuple)
    return st.builds(
        Problem,
        sizes=sizes,
        cost=st.sampled_from(costs),
        rows=st.sampled_from(weights),
        columns=st.sampled_from(weights),
        dtype=st.sampled_from(dtypes),
        seed=st.integers(0, 2**31),
    )


def epsilons(least: float = 0.001, most: float = 10.0) -> st.SearchStrategy[float]:
    """Positive numbers, as many small as large ones."""
    return st.floats(math.log10(least), math.log10(most)).map(lambda power: round(10**power, 6))


def _cost(kind: str, n: int, m: int, dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    uniform, most = torch.rand(n, m, generator=generator, dtype=torch.float64), torch.finfo(dtype).max
    if dtype == torch.float64:
        most = 1e300
    if kind in ("cosine", "duplicates", "opposites"):
        student, teacher = _vectors("random", n, 8, generator), _vectors("random", m, 8, generator)
        if kind != "cosine":
            student = teacher[torch.arange(n) % min(m, 3)] * (-1 if kind == "opposites" else 1)
        cost = 1 - torch.nn.functional.cosine_similarity(student[:, None], teacher[None], dim=2)
    elif kind == "constant":
        cost = torch.full((n, m), [0.0, 2.0, -5.0][generator.initial_seed() % 3])
    elif kind == "rough":
        cost = 2 * uniform
    elif kind == "ranks":  # sums of what rows and columns cost: every plan is optimal
        cost = 100 * (uniform[:, :1] + uniform[:1])
    elif kind == "forbidden":
        cost = torch.where(uniform < 0.3, most, 2 * uniform)
    elif kind == "any size":  # of one sign and level, from the smallest to the largest
        size = 10 ** (math.log10(most) * (2 * torch.rand(1, generator=generator, dtype=torch.float64).item() - 1))
        cost = uniform * size * (-1 if generator.initial_seed() % 2 else 1)
    else:
        cost = (10 ** (math.log10(most) * (2 * uniform - 1))) * torch.randn(n, m, generator=generator).sign()
    return cost.double().clamp(-most, most).to(dtype)


def _weights(kind: str, size: int, generator: torch.Generator) -> Tensor:
    random = torch.rand(size, generator=generator)
    one = torch.arange(size) == torch.randint(size, (1,), generator=generator)
    if kind == "uniform":
        return torch.ones(size)
    if kind == "masked":
        return (one | (random < 0.6)).float()
    if kind == "1e-6 to 1e6":
        return 10 ** (12 * random - 6)
    if kind == "one hot":
        return torch.where(one, 1e6, 1e-6)
    return (random + 0.1) * (1e-35 if kind == "tiny" else 1e35)


@dataclass(frozen=True)
class Pairs:
    """
    A batch of sentence pairs, as token embeddings and masks.

    Args:
        sizes (`tuple` of pairs of `int`): places of student and teacher in each pair.
        vectors (`str`): one of `VECTORS`.
        weights (`str`): one of `WEIGHTS`, for both.
        dtype (`torch.dtype`): of the embeddings.
        dim (`int`): numbers of a vector.
        junk (`float`): what padding holds.
        seed (`int`): of all that is drawn at random.
    """

    sizes: tuple[tuple[int, int], ...]
    vectors: str
    weights: str
    dtype: torch.dtype
    dim: int
    junk: float
    seed: int

    def tensors(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Student `(batch, n, dim)`, teacher `(batch, m, dim)` and the weights of their tokens; 0 is padding."""
        sides = [[], []]
        for index, size in enumerate(self.sizes):
            generator = torch.Generator().manual_seed(self.seed + index)
            shared = _vectors("random", 3, self.dim, generator)
            for side, length in enumerate(size):
                vectors = _vectors(self.vectors, length, self.dim, generator)
                if self.vectors in ("duplicates", "opposites", "identical"):
                    vectors = shared[torch.arange(length) % (1 if self.vectors == "identical" else 3)]
                    vectors = -vectors if side and self.vectors == "opposites" else vectors
                sides[side].append((vectors.to(self.dtype), _weights(self.weights, length, generator)))
        padded = []
        for side in sides:
            longest = max(len(weights) for _, weights in side)
            vectors = torch.full((len(side), longest, self.dim), self.junk, dtype=self.dtype)
            masses = torch.zeros(len(side), longest)
            for index, (own, weights) in enumerate(side):
                vectors[index, : len(own)] = own.masked_fill((weights == 0).unsqueeze(1), self.junk)
                masses[index, : len(weights)] = weights
            padded.append((vectors, masses))
        (student, student_mass), (teacher, teacher_mass) = padded
        return student, teacher, student_mass, teacher_mass

    def each_alone(self) -> list[tuple[Tensor, Tensor, Tensor, Tensor]]:
        """Every pair as a batch of its own, without padding at its end."""
        return [
            dataclasses.replace(self, sizes=(size,), seed=self.seed + index).tensors()
            for index, size in enumerate(self.sizes)
        ]


def pairs(
    vectors: tuple[str, ...] = VECTORS,
    weights: tuple[str, ...] = WEIGHTS,
    dtypes: tuple[torch.dtype, ...] = DTYPES,
    longest: int = 40,
) -> st.SearchStrategy[Pairs]:
    sizes = st.lists(st.tuples(lengths(longest), lengths(longest)), min_size=1, max_size=4).map(tuple)
    return st.builds(
        Pairs,
        sizes=sizes,
        vectors=st.sampled_from(vectors),
        weights=st.sampled_from(weights),
        dtype=st.sampled_from(dtypes),
        dim=st.sampled_from([1, 2, 8, 128]),
        junk=st.sampled_from([0.0, 1.0, 6e4, math.nan, math.inf, -math.inf]),
        seed=st.integers(0, 2**31),
    )


def _vectors(kind: str, size: int, dim: int, generator: torch.Generator) -> Tensor:
    vectors: Any = torch.randn(size, dim, generator=generator)
    if kind == "some zero":
        return vectors.masked_fill(torch.rand(size, 1, generator=generator) < 0.5, 0.0)
    if kind in ("short", "long"):  # as far as float16 goes
        return vectors * (1e-3 if kind == "short" else 1e3) ** torch.rand(size, 1, generator=generator)
    return vectors
