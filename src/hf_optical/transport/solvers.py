"""
The solvers of [`transport_plan`]: frozen dataclasses that hold their options, check them and solve a batch.

A further solver is a subclass of [`Solver`] with a line in `SOLVERS`; everything else (command line, losses, cards)
reads its options from its fields.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from torch import Tensor

from ..checks import check_choice, check_number
from .entropic import proximal, sinkhorn
from .exact import network_simplex


# The plan (batch, n, m); its error, the iterations used and whether the tolerance was met, each (batch,).
Solution = tuple[Tensor, Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class Solver:
    """Base class of the solvers; call one with costs `(batch, n, m)` and the normalised masses of both sides."""

    def __call__(self, cost: Tensor, row_weights: Tensor, column_weights: Tensor) -> Solution:
        raise NotImplementedError

    @property
    def smallest_divisor(self) -> float:
        """The smallest number by which the solver divides costs, for a check against overflow."""
        return 1.0


@dataclass(frozen=True)
class Sinkhorn(Solver):
    """
    Entropic transport (Cuturi 2013, arXiv 1306.0895): `min <P, C> + epsilon KL(P | a b^T)`.

    Args:
        epsilon (`float`, defaults to 0.01):
            Entropic regularisation, in units of cost. The number of iterations grows as it shrinks; a large one aligns
            every token with all others.
        max_iterations (`int`, defaults to 100):
            Maximum number of Sinkhorn iterations per problem. The diagnostics report what is then missing.
        tolerance (`float`, defaults to 1e-3):
            L1 marginal error at which a problem stops, checked every ten iterations. Float32 rounds at about 3e-7.

    Raises:
        ValueError: an option is out of its range.
    """

    epsilon: float = 0.01
    max_iterations: int = 100
    tolerance: float = 1e-3

    def __post_init__(self) -> None:
        cure = "use Exact() for transport without regularisation"
        check_number("epsilon", self.epsilon, above=0, finite=True, cure=cure)
        check_number("max_iterations", self.max_iterations, at_least=1)
        check_number("tolerance", self.tolerance, at_least=0)

    def __call__(self, cost: Tensor, row_weights: Tensor, column_weights: Tensor) -> Solution:
        return sinkhorn(cost, row_weights, column_weights, **vars(self))

    @property
    def smallest_divisor(self) -> float:
        return self.epsilon


@dataclass(frozen=True)
class Proximal(Sinkhorn):
    """
    The inexact proximal point method IPOT (Xie et al. 2020, arXiv 1802.04307): nearly exact, and batched.

    `epsilon` is the size of a step, for which 0.05 to 0.1 suit cosine costs; with smaller steps the marginals cannot
    follow. Ten of the iterations make a step. A problem also waits for a plan that changes by at most `tolerance` in a
    step, and usually takes all its iterations.
    """

    def __call__(self, cost: Tensor, row_weights: Tensor, column_weights: Tensor) -> Solution:
        return proximal(cost, row_weights, column_weights, **vars(self))


@dataclass(frozen=True)
class Unbalanced(Sinkhorn):
    """
    Entropic transport whose marginals may be missed at a price (Chizat et al. 2018, arXiv 1607.05816).

    Suits pairs that translate loosely. See [`Sinkhorn`] for the first three options.

    Args:
        marginal_penalty (`float`, defaults to 1.0):
            Price, in units of cost, of the KL divergence of each marginal from its weights. Tokens whose every cost
            is well above it keep their mass to themselves, and costs below 0 draw more mass than the weights have;
            infinity is [`Sinkhorn`].
    """

    marginal_penalty: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("marginal_penalty", self.marginal_penalty, above=0)

    @property
    def smallest_divisor(self) -> float:
        return min(self.epsilon, self.marginal_penalty)


@dataclass(frozen=True)
class Exact(Solver):
    """Exact transport by POT's network simplex, one problem at a time on the CPU."""

    def __call__(self, cost: Tensor, row_weights: Tensor, column_weights: Tensor) -> Solution:
        return network_simplex(cost, row_weights, column_weights)


@dataclass(frozen=True)
class Partial(Solver):
    """
    Exact transport of a part of the mass (Chapel et al. 2020, arXiv 2002.08276), for pairs that translate loosely.

    Args:
        transported_mass (`float`, defaults to 0.8): the part that is moved, above 0 and at most 1.
    """

    transported_mass: float = 0.8

    def __post_init__(self) -> None:
        check_number("transported_mass", self.transported_mass, above=0, at_most=1)

    def __call__(self, cost: Tensor, row_weights: Tensor, column_weights: Tensor) -> Solution:
        return network_simplex(cost, row_weights, column_weights, self.transported_mass)


SOLVERS: dict[str, type[Solver]] = {
    "sinkhorn": Sinkhorn,
    "proximal": Proximal,
    "exact": Exact,
    "unbalanced": Unbalanced,
    "partial": Partial,
}
"""Name -> solver."""


def make_solver(solver: str | Solver = "sinkhorn", **options: Any) -> Solver:
    """
    Build a solver from its name.

    Args:
        solver (`str` or [`Solver`], defaults to `"sinkhorn"`): a name in `SOLVERS`, or a solver, returned as it is.
        options: options of the solver; those of other solvers are left unused, so that one set of settings can serve
            all of them.

    Raises:
        TypeError: no solver has an option of that name, or options come with a solver that has its own.
        ValueError: there is no such solver, or an option is out of its range.
    """
    takes_options = () if isinstance(solver, Solver) else SOLVERS.values()
    known = {field.name for each in takes_options for field in fields(each)}
    if unknown := sorted(set(options) - known):
        raise TypeError(f"unexpected options {', '.join(unknown)} for the solver {solver!r}")
    if isinstance(solver, Solver):
        return solver
    check_choice("solver", solver, SOLVERS)
    own = {field.name for field in fields(SOLVERS[solver])}
    return SOLVERS[solver](**{name: value for name, value in options.items() if name in own})
