"""Entropic solvers: Sinkhorn, unbalanced Sinkhorn and the proximal point method.

The state of every solver here is the logarithm of the plan itself. Rows and columns are rescaled in the kernel domain
for a few iterations, and the scalings are then absorbed into the logarithm (Schmitzer 2019, arXiv 1610.06519). This
costs a fraction of an iteration in logarithms, and it is stable: large numbers belong only to entries of the plan that
vanish, whatever epsilon is.

Reductions are written as a product and a sum, not as a matrix product, because the precision of the latter depends on
global switches (TF32, bfloat16) and marginals need all of float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor


# Iterations between two looks at the marginals; each look absorbs the scalings and costs one synchronisation.
CHECK_EVERY = 10
# Below this L1 marginal error a problem is close enough to its solution for over-relaxation to be safe.
RELAX_BELOW = 0.1
# A scaling leaves this range only far from the solution; the next absorption lets it go on from there.
SCALING_RANGE = (1e-30, 1e30)

State = tuple[Tensor, ...]
Step = Callable[[State, int], tuple[State, Tensor, Tensor, Tensor]]


def sinkhorn(
    cost: Tensor,
    row_weights: Tensor,
    column_weights: Tensor,
    epsilon: float,
    max_iterations: int,
    tolerance: float,
    marginal_penalty: float = math.inf,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Minimises `<P, C> + epsilon KL(P | a b^T)`, with exact or with penalised marginals.

    With an infinite `marginal_penalty` the marginals of the plan are `a` and `b` (Cuturi 2013, arXiv 1306.0895). With
    a finite one, `rho`, they are free and `rho KL(P 1 | a) + rho KL(P^T 1 | b)` joins the objective (Chizat et al.
    2018, arXiv 1607.05816). Both are the same alternate scaling: the optimal plan is `a b^T exp((f + g - C) /
    epsilon)`, its row sums are `a exp(-f / rho)`, its column sums `b exp(-g / rho)`.

    Args:
        cost (`Tensor` of shape `(batch, n, m)`): Finite costs.
        row_weights (`Tensor` of shape `(batch, n)`): Masses that sum to one; zero marks padding.
        column_weights (`Tensor` of shape `(batch, m)`): Masses that sum to one; zero marks padding.
        epsilon (`float`): Entropic regularisation, in units of cost.
        max_iterations (`int`): Most iterations a problem may take.
        tolerance (`float`): L1 marginal error at which a problem stops.
        marginal_penalty (`float`): `rho`, in units of cost.

    Returns:
        `tuple`: plan `(batch, n, m)`, error, iterations and converged, each `(batch,)`. The error is the L1 distance
        of the plan's row and column sums to those above.
    """
    power = 1.0 if math.isinf(marginal_penalty) else marginal_penalty / (marginal_penalty + epsilon)
    ratio = epsilon / marginal_penalty

    reduced, row_potential, column_potential = _reduce(cost / epsilon, row_weights > 0, column_weights > 0)
    log_plan = row_weights.log().unsqueeze(2) + column_weights.log().unsqueeze(1) - reduced
    log_rows = row_weights.log() - ratio * row_potential
    log_columns = column_weights.log() - ratio * column_potential
    relaxed = torch.zeros_like(row_weights[:, 0], dtype=torch.bool)

    def step(state: State, iterations: int) -> tuple[State, Tensor, Tensor, Tensor]:
        log_plan, log_rows, log_columns, relaxed = state
        if ratio > 0:
            log_rows, log_columns = _balance(log_rows, log_columns)
        plan, log_u, log_v = _scale(log_plan, log_rows, log_columns, relaxed, power, iterations)
        log_plan = log_plan + log_u.unsqueeze(2) + log_v.unsqueeze(1)
        log_rows, log_columns = log_rows - ratio * log_u, log_columns - ratio * log_v
        error = marginal_error(plan, log_rows.exp(), log_columns.exp())
        return (log_plan, log_rows, log_columns, error < RELAX_BELOW), plan, error, error <= tolerance

    return _solve_each((log_plan, log_rows, log_columns, relaxed), step, max_iterations)


def proximal(
    cost: Tensor,
    row_weights: Tensor,
    column_weights: Tensor,
    epsilon: float,
    max_iterations: int,
    tolerance: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Minimises `<P, C>` by the inexact proximal point method IPOT (Xie et al. 2020, arXiv 1802.04307, algorithm 1).

    Each step is an entropic problem whose reference is the last plan, `min <P, C> + epsilon KL(P | P_t)`, solved
    inexactly by a few Sinkhorn iterations. The plan tends to an exact one, and epsilon is only the size of the step.
    They start from the last column scaling: without it the marginals of the plan would not come near the weights,
    since each step moves the potentials by about as much as the one before.

    Args:
        cost (`Tensor` of shape `(batch, n, m)`): Finite costs.
        row_weights (`Tensor` of shape `(batch, n)`): Masses that sum to one; zero marks padding.
        column_weights (`Tensor` of shape `(batch, m)`): Masses that sum to one; zero marks padding.
        epsilon (`float`): Weight of the proximal term, in units of cost.
        max_iterations (`int`): Most Sinkhorn iterations a problem may take, `CHECK_EVERY` of them a step.
        tolerance (`float`): A problem stops when both its L1 marginal error and the L1 change of its plan in the last
            step are at most this.

    Returns:
        `tuple`: plan `(batch, n, m)`, L1 marginal error, iterations and converged, each `(batch,)`.
    """
    log_rows, log_columns = row_weights.log(), column_weights.log()
    reduced, _, _ = _reduce(cost / epsilon, row_weights > 0, column_weights > 0)
    log_plan = log_rows.unsqueeze(2) + log_columns.unsqueeze(1)
    relaxed = torch.zeros_like(row_weights[:, 0], dtype=torch.bool)

    def step(state: State, iterations: int) -> tuple[State, Tensor, Tensor, Tensor]:
        reduced, log_plan, log_v, log_rows, log_columns, relaxed = state
        previous = log_plan.exp()
        # The first iteration is in logarithms: the new costs could make all of a row underflow.
        log_plan = log_plan - reduced + log_v.unsqueeze(1)
        log_plan = log_plan + _log_scaling(log_plan, log_rows, dim=2)
        correction = _log_scaling(log_plan, log_columns, dim=1)
        log_plan = log_plan + correction
        plan, log_u, log_w = _scale(log_plan, log_rows, log_columns, relaxed, 1.0, iterations - 1)
        log_plan = log_plan + log_u.unsqueeze(2) + log_w.unsqueeze(1)
        log_v = log_v + correction.squeeze(1) + log_w
        error = marginal_error(plan, log_rows.exp(), log_columns.exp())
        change = (plan - previous).abs().sum((1, 2))
        state = (reduced, log_plan, log_v, log_rows, log_columns, error < RELAX_BELOW)
        return state, plan, error, torch.maximum(error, change) <= tolerance

    state = (reduced, log_plan, torch.zeros_like(log_columns), log_rows, log_columns, relaxed)
    return _solve_each(state, step, max_iterations)


def marginal_error(plan: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """L1 distance of the plan's row sums to `rows` plus that of its column sums to `columns`, shape `(batch,)`."""
    return (plan.sum(2) - rows).abs().sum(1) + (plan.sum(1) - columns).abs().sum(1)


def _solve_each(state: State, step: Step, max_iterations: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Repeats `step` on the problems that have not stopped.

    A problem that has stopped leaves the batch: its plan cannot depend on its batch mates, and it costs nothing more.
    """
    batch = len(state[0])
    active = torch.arange(batch, device=state[0].device)
    plans = torch.zeros_like(state[0])
    errors = state[0].new_zeros(batch)
    iterations = torch.zeros_like(active)
    converged = torch.zeros_like(active, dtype=torch.bool)
    done = 0
    while len(active):
        count = min(CHECK_EVERY, max_iterations - done)
        state, plan, error, fits = step(state, count)
        done += count
        stopped = fits | (done == max_iterations)
        if stopped.any():
            index = active[stopped]
            plans[index], errors[index] = plan[stopped], error[stopped]
            iterations[index], converged[index] = done, fits[stopped]
            active, state = active[~stopped], tuple(part[~stopped] for part in state)
    return plans, errors, iterations, converged


def _reduce(cost: Tensor, real_rows: Tensor, real_columns: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Subtracts potentials so that every real row and column has smallest cost 0, and no kernel row underflows."""
    row_potential = cost.masked_fill(~real_columns.unsqueeze(1), math.inf).amin(2)
    cost = cost - row_potential.unsqueeze(2)
    column_potential = cost.masked_fill(~real_rows.unsqueeze(2), math.inf).amin(1)
    return cost - column_potential.unsqueeze(1), row_potential, column_potential


def _balance(log_rows: Tensor, log_columns: Tensor) -> tuple[Tensor, Tensor]:
    """Shifts mass between the targets of an unbalanced problem until both sides ask for the same.

    This is the best constant to move from one potential to the other, which leaves the plan as it is and which the
    iteration itself would find last (Séjourné et al. 2022, arXiv 2201.00730).
    """
    shift = (log_rows.logsumexp(1, keepdim=True) - log_columns.logsumexp(1, keepdim=True)) / 2
    return log_rows - shift, log_columns + shift


def _scale(
    log_plan: Tensor, log_rows: Tensor, log_columns: Tensor, relaxed: Tensor, power: float, iterations: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Sinkhorn iterations in the kernel domain: the plan, and the logarithms of its row and column scalings."""
    # Targets are raised to the power while they are logarithms: they may be far below the smallest number.
    kernel, rows, columns = log_plan.exp(), (power * log_rows).exp(), (power * log_columns).exp()
    transposed = kernel.transpose(1, 2).contiguous()
    row_scaling, column_scaling = torch.ones_like(rows), torch.ones_like(columns)
    relaxed = relaxed.unsqueeze(1)
    for iteration in range(iterations):
        relax = relaxed & (iteration < iterations - 1)  # the last one is plain, so that columns fit exactly
        row_scaling = _rescale(row_scaling, rows, _sums(transposed, column_scaling), power, relax)
        column_scaling = _rescale(column_scaling, columns, _sums(kernel, row_scaling), power, relax)
    plan = row_scaling.unsqueeze(2) * kernel * column_scaling.unsqueeze(1)
    return plan, row_scaling.log(), column_scaling.log()


def _sums(kernel: Tensor, scaling: Tensor) -> Tensor:
    """Sums of the kernel over its dimension 1, weighted by `scaling`."""
    return (kernel * scaling.unsqueeze(2)).sum(1)


def _rescale(scaling: Tensor, target: Tensor, sums: Tensor, power: float, relaxed: Tensor) -> Tensor:
    """The scaling that brings `sums` to a target, given as `target ** power`; over-relaxed by 3/2 where asked.

    Over-relaxation keeps the fixed point and takes about a third of the iterations (Thibault et al. 2021, arXiv
    1711.01851); 3/2 makes it a square root.
    """
    fitting = target / sums.clamp_min(torch.finfo(sums.dtype).tiny).pow(power)
    return torch.where(relaxed, fitting * (fitting / scaling).sqrt(), fitting).clamp(*SCALING_RANGE)


def _log_scaling(log_plan: Tensor, log_target: Tensor, dim: int) -> Tensor:
    """What to add to `log_plan` so that its sums over `dim` become `log_target`; minus infinity at padding."""
    sums = log_plan.logsumexp(dim, keepdim=True)
    return (log_target.unsqueeze(dim) - sums).masked_fill(log_target.unsqueeze(dim) == -math.inf, 0.0)
