"""The entry to transport: validation, normalisation, blocks of problems, diagnostics."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..checks import check_entries, check_shape
from .solvers import Solver, Unbalanced, make_solver


# Entries of the cost that a CPU works on at a time: 1 MB in float32, which its cache holds.
BLOCK_SIZE = 2**18


class TransportDiagnostics(NamedTuple):
    """Report how well each problem of a batch was solved.

    Attributes:
        marginal_error (`Tensor` of shape `(batch,)`): L1 distance of the plan's row sums to the row weights plus that
            of its column sums to the column weights. For `"unbalanced"`, whose marginals are free, the distance is to
            the marginals that its optimality condition asks for (they tend to the weights as the penalty grows). For
            `"partial"` it is the mass above the weights plus the difference of the moved mass to `transported_mass`.
        entropy (`Tensor` of shape `(batch,)`): Entropy of the plan, divided by its mass, in nats: between 0 and
            `log(n m)`, and largest, the sum of the entropies of both marginals, where the plan aligns nothing. 0 for
            an unbalanced plan that moves nothing.
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
    solver: str | Solver = "sinkhorn",
    return_diagnostics: bool = False,
    **options: Any,
) -> Tensor | tuple[Tensor, TransportDiagnostics]:
    """Compute the optimal transport plans of a batch of problems, without gradient.

    Each problem is solved on its own: its plan depends neither on the other problems of the batch nor on padding. The
    computation is in float32, also under autocast and for half precision costs, and in float64 for float64 costs and
    for costs that would overflow float32 on the way.

    Args:
        cost (`Tensor` of shape `(batch, n, m)`):
            Cost of moving a unit of mass from row `i` to column `j`. Where a row or a column has no mass the cost may
            be anything, `nan` included. To forbid a pair of tokens, give it a cost some thousand times the others';
            at 1e12 times, `"exact"` and `"partial"` round the others away.
        row_weights (`Tensor` of shape `(batch, n)`, *optional*):
            Mass of each row, not negative; a boolean or 0/1 mask will do. Normalised to sum to one in each problem.
            Rows of zero mass are padding and exactly 0 in the plan. Uniform by default.
        column_weights (`Tensor` of shape `(batch, m)`, *optional*): Mass of each column, likewise.
        solver (`str` or [`Solver`], *optional*, defaults to `"sinkhorn"`):
            A solver such as `Sinkhorn(epsilon=0.05)`, or its name: `"sinkhorn"`, `"proximal"`, `"exact"`,
            `"unbalanced"` or `"partial"`. See [`Sinkhorn`], [`Proximal`], [`Exact`], [`Unbalanced`], [`Partial`].
        return_diagnostics (`bool`, *optional*, defaults to `False`): Whether to return a `TransportDiagnostics` too.
        options:
            With the name of a solver, its options, as in [`make_solver`].

    Returns:
        `Tensor` of shape `(batch, n, m)`, or `tuple` of it and `TransportDiagnostics`.

    Raises:
        TypeError: If `cost` or weights are not tensors, or no solver has an option of that name.
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
    solver = make_solver(solver, **options)
    _check_shapes(cost, row_weights, column_weights)
    dtype = torch.float64 if cost.dtype == torch.float64 else torch.float32
    batch, n, m = cost.shape
    with torch.autocast(cost.device.type, enabled=False):
        cost = cost.to(dtype)
        rows = cost.new_ones(batch, n) if row_weights is None else row_weights.to(cost)
        columns = cost.new_ones(batch, m) if column_weights is None else column_weights.to(cost)
        totals = rows.sum(1, keepdim=True), columns.sum(1, keepdim=True)
        # Costs are divided by these, and several quotients added up.
        divisor = min(1.0, solver.smallest_divisor) / 8
        # One number for all checks: not finite if anything is wrong, or if padding holds what must not be read.
        suspects = rows.sqrt(), columns.sqrt(), *totals, *(1 / total for total in totals)
        if not (sum(each.sum() for each in suspects) + (torch.linalg.vector_norm(cost) + 1) / divisor).isfinite():
            cost = cost.masked_fill(~((rows > 0).unsqueeze(2) & (columns > 0).unsqueeze(1)), 0.0)
            _check_values(cost, rows, columns)
            cost = _without_overflow(cost, divisor)
        plan, diagnostics = _in_blocks(solver, cost, (rows / totals[0]).to(cost), (columns / totals[1]).to(cost))
        if cost.dtype != dtype:
            plan = plan.to(dtype)
            diagnostics = TransportDiagnostics(
                *(part.to(dtype) if part.is_floating_point() else part for part in diagnostics)
            )
    if isinstance(solver, Unbalanced):
        check_entries(
            ~diagnostics.marginal_error.isfinite(),
            "cost is so far below 0 that the unbalanced plan overflows; raise it or marginal_penalty",
        )
    return (plan, diagnostics) if return_diagnostics else plan


def _in_blocks(solver: Solver, cost: Tensor, rows: Tensor, columns: Tensor) -> tuple[Tensor, TransportDiagnostics]:
    """Solve problems of similar size together, so that they share little padding and, on a CPU, fit its cache."""
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
        part, error, iterations, converged = solver(cost[index, :n, :m], rows[index, :n], columns[index, :m])
        plan[index, :n, :m] = part
        for values, found in zip(diagnostics, (error, _entropy(part), iterations, converged), strict=True):
            values[index] = found
    return plan, diagnostics


def _sizes(weights: Tensor) -> list[int]:
    """Number of tokens up to the last one with mass, for each problem."""
    return ((weights > 0) * torch.arange(1, weights.shape[1] + 1, device=weights.device)).amax(1).tolist()


def _blocks(n: list[int], m: list[int], most: float) -> Iterator[tuple[list[int], int, int]]:
    """Group problems, largest first, into blocks of at most `most` entries, of which a quarter may be padding."""
    block: list[int] = []
    height = width = tokens = 0
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


def _check_shapes(cost: Tensor, row_weights: Tensor | None, column_weights: Tensor | None) -> None:
    check_shape("cost", cost, ("batch", "n", "m"), cure="use cost.unsqueeze(0) for a single problem")
    if not cost.is_floating_point():
        raise ValueError(f"cost must have a floating point dtype, got {cost.dtype}; use cost.float()")
    batch, n, m = cost.shape
    for name, weights, size in (("row_weights", row_weights, n), ("column_weights", column_weights, m)):
        if weights is not None:
            check_shape(name, weights, (batch, size))


def _check_values(cost: Tensor, rows: Tensor, columns: Tensor) -> None:
    """Check values; `cost` is 0 where there is no mass."""
    for name, weights in (("row_weights", rows), ("column_weights", columns)):
        unfit = ~(weights.sum(1).isfinite() & (weights >= 0).all(1))
        check_entries(unfit, f"{name} must be finite and not negative")
        check_entries(~(weights > 0).any(1), f"{name} must have some mass; leave out problems without a token")
    unfit = ~cost.isfinite().all(2).all(1)
    check_entries(unfit, "cost must be finite between tokens with mass; look for nan in what it is computed from")


def _without_overflow(cost: Tensor, divisor: float) -> Tensor:
    """Return the costs in a dtype in which they can be divided by `divisor`."""
    for dtype in dict.fromkeys((cost.dtype, torch.float64)):
        cost = cost.to(dtype)
        overflows = ~((cost.abs().amax((1, 2)) + 1) / divisor).isfinite()
        if not overflows.any():
            return cost
    most = torch.finfo(torch.float64).max * divisor
    check_entries(overflows, f"cost must not be above {most:.0e} in size with these options, or dividing it overflows")
    return cost
