"""Entropic solvers: Sinkhorn, unbalanced Sinkhorn and the proximal point method.

Rows and columns are rescaled in the kernel domain. The kernel is kept as a logarithm too, which takes the scalings up
when they have become large (Schmitzer 2019, arXiv 1610.06519). This costs a fraction of iterations in logarithms, and
it is stable: large numbers belong only to entries of the plan that vanish, whatever epsilon is.

Reductions are written as a product and a sum, not as a matrix product, because the precision of the latter depends on
global switches (TF32, bfloat16) and marginals need all of float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor


# Iterations between two looks at the marginals; each look costs about one iteration and one synchronisation.
CHECK_EVERY = 10
# Below this L1 marginal error a problem is close enough to its solution for over-relaxation to be safe.
RELAX_BELOW = 0.3
# Over-relaxation keeps the fixed point and takes about a third of the iterations (Thibault et al. 2021, arXiv
# 1711.01851).
RELAXATION = 1.75
# A scaling would leave this range only far from the solution; after the next absorption it goes on from there.
SCALING_RANGE = (1e-30, 1e30)
# An entry of the kernel below the smallest number may matter once a row's scaling times a column's is above this.
ABSORB_ABOVE = 1e15

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
    """
    Minimises `<P, C> + epsilon KL(P | a b^T)`, with exact or with penalised marginals.

    With an infinite `marginal_penalty` the marginals of the plan are `a` and `b` (Cuturi 2013, arXiv 1306.0895). With
    a finite one, `rho`, they are free and `rho KL(P 1 | a) + rho KL(P^T 1 | b)` joins the objective (Chizat et al.
    2018, arXiv 1607.05816). Both are the same alternate scaling: the optimal plan is `a b^T exp((f + g - C) /
    epsilon)`, its row sums are `a exp(-f / rho)`, its column sums `b exp(-g / rho)`.

    Costs `(batch, n, m)` are finite. Weights `(batch, n)` and `(batch, m)` sum to one; zero marks padding.

    Returns:
        `tuple`: plan `(batch, n, m)`, error, iterations and converged, each `(batch,)`. The error is the L1 distance
            of the plan's row and column sums to those above.
    """
    power = 1.0 if math.isinf(marginal_penalty) else marginal_penalty / (marginal_penalty + epsilon)
    ratio = epsilon / marginal_penalty

    log_plan, row_potential, column_potential = _log_kernel(cost, row_weights, column_weights, epsilon)
    u, v = (weights.clamp_min(SCALING_RANGE[0]) for weights in _sides(row_weights, column_weights))
    # The scalings begin with the weights, and so are more than the exponentials of the potentials.
    log_rows, log_columns = ((1 + ratio) * weights.log() for weights in _sides(row_weights, column_weights))
    log_rows, log_columns = log_rows - ratio * row_potential, log_columns - ratio * column_potential

    def step(state: State, iterations: int) -> tuple[State, Tensor, Tensor, Tensor]:
        log_plan, kernel, log_rows, log_columns, u, v, relaxation = state
        if ratio > 0:
            log_rows, log_columns = _balance(log_rows, log_columns, ratio * u.log(), ratio * v.log())
        u, v = _scale(kernel, u, v, log_rows, log_columns, relaxation, power, iterations)
        plan, log_u, log_v = u * kernel * v, u.log(), v.log()
        error = marginal_error(plan, (log_rows - ratio * log_u).exp(), (log_columns - ratio * log_v).exp())
        large = u.amax((1, 2)) * v.amax((1, 2)) > ABSORB_ABOVE
        if large.any():
            log_plan = log_plan + log_u + log_v
            log_rows, log_columns = log_rows - ratio * log_u, log_columns - ratio * log_v
            kernel, u, v = _exp(log_plan), torch.ones_like(u), torch.ones_like(v)
        state = log_plan, kernel, log_rows, log_columns, u, v, _relaxation(error)
        return state, plan, error, (error <= tolerance) & ~large

    state = log_plan, _exp(log_plan), log_rows, log_columns, u, v, torch.ones_like(u[:, :1])
    return _solve_each(state, step, max_iterations)


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

    Arguments and results are those of [`sinkhorn`]. A step has `CHECK_EVERY` of the `max_iterations`, and a problem
    stops when both its L1 marginal error and the L1 change of its plan in the last step are at most `tolerance`.
    """
    log_kernel, _, _ = _log_kernel(cost, row_weights, column_weights, epsilon)
    log_rows, log_columns = (weights.log() for weights in _sides(row_weights, column_weights))

    def step(state: State, iterations: int) -> tuple[State, Tensor, Tensor, Tensor]:
        log_kernel, log_plan, log_v, log_rows, log_columns, relaxation = state
        previous = _exp(log_plan)
        # The first iteration is in logarithms: the new costs could make all of a row underflow.
        log_plan = log_plan + log_kernel + log_v
        log_plan = log_plan + _log_scaling(log_plan, log_rows, dim=2)
        correction = _log_scaling(log_plan, log_columns, dim=1)
        log_plan = log_plan + correction
        kernel, u, w = _exp(log_plan), torch.ones_like(log_rows), torch.ones_like(log_columns)
        u, w = _scale(kernel, u, w, log_rows, log_columns, relaxation, 1.0, iterations - 1)
        plan = u * kernel * w
        log_plan = log_plan + u.log() + w.log()
        log_v = log_v + correction + w.log()
        error = marginal_error(plan, log_rows.exp(), log_columns.exp())
        change = (plan - previous).abs().sum((1, 2))
        state = log_kernel, log_plan, log_v, log_rows, log_columns, _relaxation(error)
        return state, plan, error, torch.maximum(error, change) <= tolerance

    log_v, relaxation = torch.zeros_like(log_columns), torch.ones_like(log_rows[:, :1])
    state = log_kernel, log_rows + log_columns, log_v, log_rows, log_columns, relaxation
    return _solve_each(state, step, max_iterations)


def marginal_error(plan: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """L1 distance of row and column sums to `rows` `(batch, n, 1)` and `columns` `(batch, 1, m)`, shape `(batch,)`."""
    row_sums, column_sums = plan.sum(2, keepdim=True), plan.sum(1, keepdim=True)
    return (row_sums - rows).abs().sum((1, 2)) + (column_sums - columns).abs().sum((1, 2))


def _solve_each(state: State, step: Step, max_iterations: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Repeats `step` on the problems that have not stopped.

    A problem that has stopped leaves the batch: its plan cannot depend on its batch mates, and it costs nothing more.
    """
    batch = len(state[0])
    active = torch.arange(batch, device=state[0].device)
    plans = torch.empty_like(state[0])
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
            stop, go_on = stopped.nonzero().squeeze(1), (~stopped).nonzero().squeeze(1)
            index = active[stop]
            plans[index], errors[index] = plan[stop], error[stop]
            iterations[index], converged[index] = done, fits[stop]
            active, state = active[go_on], tuple(part[go_on] for part in state)
    return plans, errors, iterations, converged


def _sides(rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
    """Both as factors of a plan, shapes `(batch, n, 1)` and `(batch, 1, m)`."""
    return rows.unsqueeze(2), columns.unsqueeze(1)


def _log_kernel(
    cost: Tensor, row_weights: Tensor, column_weights: Tensor, epsilon: float
) -> tuple[Tensor, Tensor, Tensor]:
    """
    `(f + g - C) / epsilon` and its first two terms, so that no row or column underflows; minus infinity at padding.
    """
    padded_rows, padded_columns = (weights.sign().log() for weights in _sides(row_weights, column_weights))
    log_kernel = torch.sub(padded_columns, cost, alpha=1 / epsilon)
    row_potential = -log_kernel.amax(2, keepdim=True)
    log_kernel += row_potential + padded_rows
    column_potential = -log_kernel.amax(1, keepdim=True).masked_fill(padded_columns < 0, 0.0)
    log_kernel += column_potential
    return log_kernel, row_potential, column_potential


def _exp(logarithms: Tensor) -> Tensor:
    """Not `torch.exp`, which takes up to twenty times as long where its result underflows."""
    return (logarithms * math.log2(math.e)).exp2_()


def _balance(
    log_rows: Tensor, log_columns: Tensor, row_excess: Tensor, column_excess: Tensor
) -> tuple[Tensor, Tensor]:
    """
    Shifts mass between the targets of an unbalanced problem until both sides ask for the same.

    The plan stays as it is; the iteration itself would find this last (Séjourné et al. 2022, arXiv 2201.00730).
    """
    rows, columns = (log_rows - row_excess).logsumexp(1, True), (log_columns - column_excess).logsumexp(2, True)
    return log_rows - (rows - columns) / 2, log_columns + (rows - columns) / 2


def _scale(
    kernel: Tensor,
    u: Tensor,
    v: Tensor,
    log_rows: Tensor,
    log_columns: Tensor,
    relaxation: Tensor,
    power: float,
    iterations: int,
) -> tuple[Tensor, Tensor]:
    """Sinkhorn iterations in the kernel domain, from the row scaling `u` and the column scaling `v` to the next."""
    # Targets are raised to the power while they are logarithms: they may be far below the smallest number.
    rows, columns = ((power * log_target).exp().clamp_min(SCALING_RANGE[0]) for log_target in (log_rows, log_columns))
    relaxed = iterations - 1 if (relaxation > 1).any() else 0  # the last one is plain, so that columns fit exactly
    for iteration in range(iterations):
        exponent = relaxation if iteration < relaxed else None
        u = _rescale(u, rows, (kernel * v).sum(2, keepdim=True), power, exponent)
        v = _rescale(v, columns, (kernel * u).sum(1, keepdim=True), power, exponent)
    return u.masked_fill(log_rows == -math.inf, 1.0), v.masked_fill(log_columns == -math.inf, 1.0)


def _rescale(scaling: Tensor, target: Tensor, sums: Tensor, power: float, exponent: Tensor | None) -> Tensor:
    """The scaling that brings `sums` to a target, given as `target ** power`; over-relaxed by an exponent above 1."""
    fitting = target / (sums if power == 1 else sums.pow_(power))
    if exponent is not None:
        fitting = fitting.div_(scaling).pow_(exponent).mul_(scaling)
    return fitting.clamp_(*SCALING_RANGE)


def _relaxation(error: Tensor) -> Tensor:
    """Exponents for the next iterations, shape `(batch, 1, 1)`."""
    return torch.where(error < RELAX_BELOW, RELAXATION, 1.0).to(error.dtype)[:, None, None]


def _log_scaling(log_plan: Tensor, log_target: Tensor, dim: int) -> Tensor:
    """What to add to `log_plan` so that its sums over `dim` become `log_target`; 0 at padding."""
    return (log_target - log_plan.logsumexp(dim, keepdim=True)).nan_to_num(nan=0.0)
