"""The entry to transport: validation, normalisation, the choice of a solver, diagnostics."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from .entropic import proximal, sinkhorn
from .exact import network_simplex


SOLVERS = ("sinkhorn", "proximal", "exact", "unbalanced", "partial")
# Entries of the cost that a CPU works on at a time: 1 MB in float32, which its cache holds.
BLOCK_SIZE = 2**18

Solver = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor, Tensor]]


class TransportDiagnostics(NamedTuple):
    """How well each problem of a batch was solved.

    Attributes:
        marginal_error (`Tensor` of shape `(batch,)`): L1 distance of the plan's row sums to the row weights plus that
            of its column sums to the column weights. For `"unbalanced"`, whose marginals are free, the distance is to
            the marginals that its optimality condition asks for (they tend to the weights as the penalty grows). For
            `"partial"` it is the mass above the weights plus the difference of the moved mass to `transported_mass`.
        entropy (`Tensor` of shape `(batch,)`): Entropy of the plan, divided by its mass, in nats: between 0 and
            `log(n m)`, and largest, the sum of the entropies of both marginals, where the plan says nothing. 0 for an
            unbalanced plan that moves nothing.
        iterations (`Tensor` of shape `(batch,)`): Iterations used; 0 for `"exact"` and `"partial"`.
        converged (`Tensor` of shape `(batch,)`): Whether the solver met its tolerance.
    """

    marginal_error: Tensor
    entropy: Tensor
    iterations: Tensor
    converged: Tensor


@torch.no_grad()
def transport_plan(
    cost: Tensor,
    row_weights: Tensor | None = None,
    column_weights: Tensor | None = None,
    *,
    solver: str = "sinkhorn",
    epsilon: float = 0.05,
    max_iterations: int = 1000,
    tolerance: float = 1e-6,
    marginal_penalty: float = 1.0,
    transported_mass: float = 0.8,
    return_diagnostics: bool = False,
) -> Tensor | tuple[Tensor, TransportDiagnostics]:
    """Optimal transport plans of a batch of problems, without gradient.

    Each problem is solved on its own: its plan depends neither on the other problems of the batch nor on padding. The
    work is done in float32, also under autocast and for half precision costs, and in float64 for float64 costs and
    for costs that would overflow float32 on the way.

    Args:
        cost (`Tensor` of shape `(batch, n, m)`):
            Cost of moving a unit of mass from row `i` to column `j`. Where a row or a column has no mass the cost may
            be anything, `nan` included. Between tokens a pair is forbidden by a cost some thousand times the others';
            `"exact"` and `"partial"` round the others away beside one of 1e12 times.
        row_weights (`Tensor` of shape `(batch, n)`, *optional*):
            Mass of each row, not negative; a boolean or 0/1 mask will do. Normalised to sum to one in each problem.
            Rows of zero mass are padding and exactly 0 in the plan. Uniform by default.
        column_weights (`Tensor` of shape `(batch, m)`, *optional*):
            Mass of each column, likewise.
        solver (`str`, *optional*, defaults to `"sinkhorn"`):
            One of `SOLVERS`. `"sinkhorn"`: entropic transport (Cuturi 2013). `"proximal"`: IPOT (Xie et al. 2020),
            nearly exact and batched. `"exact"`: POT's network simplex, one problem at a time on the CPU.
            `"unbalanced"`: entropic, with marginals that may be missed at a price (Chizat et al. 2018).
            `"partial"`: exact, moving only a part of the mass. The last two suit pairs that translate loosely.
        epsilon (`float`, *optional*, defaults to 0.05):
            Entropic regularisation of `"sinkhorn"` and `"unbalanced"`, in units of cost: iterations grow as it
            shrinks, and below 0.01 of the spread of costs `"exact"` is the better choice. For `"proximal"` it is the
            size of the step, for which 0.05 to 0.1 suit cosine costs; smaller steps move too fast for the marginals.
        max_iterations (`int`, *optional*, defaults to 1000):
            Most Sinkhorn iterations of a problem, for the three iterative solvers; ten of them are a step of
            `"proximal"`. What is then missing is in the diagnostics.
        tolerance (`float`, *optional*, defaults to 1e-6):
            L1 marginal error at which an iterative solver stops a problem; looked at every ten iterations. Float32
            rounds at about 3e-7. `"proximal"` also waits for a plan that changes by no more than this in a step, and
            usually takes all its iterations.
        marginal_penalty (`float`, *optional*, defaults to 1.0):
            Price, in units of cost, of the KL divergence of each marginal to its weights, for `"unbalanced"`. Tokens
            whose every cost is well above it keep their mass to themselves, and costs below 0 draw more mass than the
            weights have; infinity is `"sinkhorn"`.
        transported_mass (`float`, *optional*, defaults to 0.8):
            Part of the mass that `"partial"` moves, above 0 and at most 1.
        return_diagnostics (`bool`, *optional*, defaults to `False`):
            Whether to return a `TransportDiagnostics` too.

    Returns:
        `Tensor` of shape `(batch, n, m)`, or `tuple` of it and `TransportDiagnostics`.

    Raises:
        TypeError: If `cost` or weights are no tensors.
        ValueError: If a shape, a weight, a cost between tokens with mass, or an option is not as described, or costs
            below 0 draw so much mass into an unbalanced plan that it overflows.

    Examples:

    ```python
    >>> import torch
    >>> from hf_optical.transport import transport_plan

    >>> cost = torch.tensor([[[0.0, 1.0, 0.5], [1.0, 0.0, float("nan")]]])
    >>> mask = torch.tensor([[True, True, False]])
    >>> transport_plan(cost, column_weights=mask, solver="exact")
    tensor([[[0.5000, 0.0000, 0.0000],
             [0.0000, 0.5000, 0.0000]]])

    ```
    """
    check_options(solver, epsilon, max_iterations, tolerance, marginal_penalty, transported_mass)
    _check_shapes(cost, row_weights, column_weights)
    dtype = torch.float64 if cost.dtype == torch.float64 else torch.float32
    batch, n, m = cost.shape
    with torch.autocast(cost.device.type, enabled=False):
        cost = cost.to(dtype)
        rows = cost.new_ones(batch, n) if row_weights is None else row_weights.to(cost)
        columns = cost.new_ones(batch, m) if column_weights is None else column_weights.to(cost)
        totals = rows.sum(1, keepdim=True), columns.sum(1, keepdim=True)
        # Costs are divided by these, and several quotients added up.
        least = min(1.0, epsilon, marginal_penalty) / 8
        # One number, and not finite if anything is amiss or padding holds what must not be read.
        suspects = rows.sqrt(), columns.sqrt(), *totals, *(1 / total for total in totals)
        if not (sum(each.sum() for each in suspects) + (torch.linalg.vector_norm(cost) + 1) / least).isfinite():
            cost = cost.masked_fill(~((rows > 0).unsqueeze(2) & (columns > 0).unsqueeze(1)), 0.0)
            _check_values(cost, rows, columns)
            cost = _without_overflow(cost, least)
        iterative = {"epsilon": epsilon, "max_iterations": max_iterations, "tolerance": tolerance}
        if solver == "sinkhorn":
            solve = partial(sinkhorn, **iterative)
        elif solver == "unbalanced":
            solve = partial(sinkhorn, **iterative, marginal_penalty=marginal_penalty)
        elif solver == "proximal":
            solve = partial(proximal, **iterative)
        else:
            solve = partial(network_simplex, transported_mass=transported_mass if solver == "partial" else 1.0)
        plan, diagnostics = _in_blocks(solve, cost, (rows / totals[0]).to(cost), (columns / totals[1]).to(cost))
        if cost.dtype != dtype:
            plan = plan.to(dtype)
            diagnostics = TransportDiagnostics(
                *(part.to(dtype) if part.is_floating_point() else part for part in diagnostics)
            )
    if solver == "unbalanced" and not (finite := diagnostics.marginal_error.isfinite()).all():
        raise ValueError(
            f"cost is so far below 0 that the unbalanced plan overflows; raise it or marginal_penalty (batch entries "
            f"{(~finite).nonzero().flatten().tolist()})."
        )
    return (plan, diagnostics) if return_diagnostics else plan


def _in_blocks(solve: Solver, cost: Tensor, rows: Tensor, columns: Tensor) -> tuple[Tensor, TransportDiagnostics]:
    """Solves problems of like size together, so that they share little padding and, on a CPU, fit its cache."""
    batch, plan = len(cost), torch.zeros_like(cost)
    diagnostics = TransportDiagnostics(
        cost.new_zeros(batch),
        cost.new_zeros(batch),
        torch.zeros(batch, dtype=torch.long, device=cost.device),
        torch.zeros(batch, dtype=torch.bool, device=cost.device),
    )
    most = BLOCK_SIZE if cost.device.type == "cpu" else math.inf
    for block, n, m in _blocks(_sizes(rows), _sizes(columns), most):
        index = torch.tensor(block, device=cost.device)
        part, error, iterations, converged = solve(cost[index, :n, :m], rows[index, :n], columns[index, :m])
        plan[index, :n, :m] = part
        for values, found in zip(diagnostics, (error, _entropy(part), iterations, converged), strict=True):
            values[index] = found
    return plan, diagnostics


def _sizes(weights: Tensor) -> list[int]:
    """Tokens up to the last with mass."""
    return ((weights > 0) * torch.arange(1, weights.shape[1] + 1, device=weights.device)).amax(1).tolist()


def _blocks(n: list[int], m: list[int], most: float) -> Iterator[tuple[list[int], int, int]]:
    """Problems, the largest first, and the `n` and `m` that hold them: of `most` entries, a quarter of it padding."""
    block, height, width, tokens = [], 0, 0, 0
    for i in sorted(range(len(n)), key=lambda i: -n[i] * m[i]):
        higher, wider, tokens = max(height, n[i]), max(width, m[i]), tokens + n[i] * m[i]
        entries = (len(block) + 1) * higher * wider
        if block and (entries > most or entries - tokens > most / 4):
            yield block, height, width
            block, higher, wider, tokens = [], n[i], m[i], n[i] * m[i]
        block.append(i)
        height, width = higher, wider
    if block:
        yield block, height, width


def _entropy(plan: Tensor) -> Tensor:
    """Entropy of the plan divided by its mass, in nats, shape `(batch,)`."""
    tiny = torch.finfo(plan.dtype).tiny
    mass = plan.sum((1, 2)).clamp_min(tiny)
    return (mass.log() - plan.clamp_min(tiny).log_().mul_(plan).sum((1, 2)) / mass).clamp_min_(0.0)


def check_options(
    solver: str,
    epsilon: float,
    max_iterations: int,
    tolerance: float,
    marginal_penalty: float,
    transported_mass: float,
) -> None:
    """Raises a `ValueError` that names the first option of `transport_plan` that is out of its range."""
    if solver not in SOLVERS:
        raise ValueError(f"solver must be one of {', '.join(map(repr, SOLVERS))}, but is {solver!r}.")
    if not 0 < epsilon < math.inf:
        raise ValueError(f'epsilon must be positive and finite, but is {epsilon}; use solver="exact" for none at all.')
    if max_iterations < 1:
        raise ValueError(f"max_iterations must be at least 1, but is {max_iterations}.")
    if not tolerance >= 0:
        raise ValueError(f"tolerance must be at least 0, but is {tolerance}.")
    if not marginal_penalty > 0:
        raise ValueError(f"marginal_penalty must be positive, but is {marginal_penalty}.")
    if not 0 < transported_mass <= 1:
        raise ValueError(f"transported_mass must be above 0 and at most 1, but is {transported_mass}.")


def _check_shapes(cost: Tensor, row_weights: Tensor | None, column_weights: Tensor | None) -> None:
    if not isinstance(cost, Tensor):
        raise TypeError(f"cost must be a tensor, but is of type {type(cost).__name__}; use torch.as_tensor(cost).")
    if cost.dim() != 3:
        cure = "; use cost.unsqueeze(0) for a single problem" if cost.dim() == 2 else ""
        raise ValueError(f"cost must have shape (batch, n, m), but has shape {tuple(cost.shape)}{cure}.")
    if not cost.is_floating_point():
        raise ValueError(f"cost must be of a floating point dtype, but is {cost.dtype}; use cost.float().")
    batch, n, m = cost.shape
    for name, weights, size in (("row_weights", row_weights, n), ("column_weights", column_weights, m)):
        if weights is None:
            continue
        if not isinstance(weights, Tensor):
            raise TypeError(f"{name} must be a tensor, but is of type {type(weights).__name__}.")
        if weights.shape != (batch, size):
            raise ValueError(
                f"{name} must have shape {(batch, size)}, one mass for each token of a cost of shape "
                f"{tuple(cost.shape)}, but has shape {tuple(weights.shape)}."
            )


def _check_values(cost: Tensor, rows: Tensor, columns: Tensor) -> None:
    """Checks values with one synchronisation; `cost` is 0 where there is no mass."""
    faults = {
        "cost must be finite between tokens with mass; look for nan in what it is computed from": (
            ~cost.isfinite().all(2).all(1)
        )
    }
    for name, weights in (("row_weights", rows), ("column_weights", columns)):
        faults[f"{name} must be finite and not negative"] = ~(weights.sum(1).isfinite() & (weights >= 0).all(1))
        faults[f"{name} must have some mass; leave out problems without a token"] = ~(weights > 0).any(1)
    flags = torch.stack(list(faults.values()))
    if flags.any():
        for message, flag in faults.items():
            if flag.any():
                raise ValueError(f"{message} (batch entries {flag.nonzero().flatten().tolist()}).")


def _without_overflow(cost: Tensor, least: float) -> Tensor:
    """The costs in a type in which they can be divided by `least`; raises `ValueError` if there is none."""
    for dtype in dict.fromkeys((cost.dtype, torch.float64)):
        cost = cost.to(dtype)
        finite = ((cost.abs().amax((1, 2)) + 1) / least).isfinite()
        if finite.all():
            return cost
    raise ValueError(
        f"cost must not be above {torch.finfo(torch.float64).max * least:.0e} in size, with this epsilon and "
        f"marginal_penalty, or dividing by them overflows (batch entries {(~finite).nonzero().flatten().tolist()})."
    )
