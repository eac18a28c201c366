"""Exact and partial transport by the network simplex of POT, one problem after the other, in float64 on the CPU."""

from __future__ import annotations

import numpy as np
import ot
import torch
from torch import Tensor

from .entropic import marginal_error


def network_simplex(
    cost: Tensor, row_weights: Tensor, column_weights: Tensor, transported_mass: float = 1.0
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Minimises `<P, C>` over plans that move `transported_mass` out of the rows and into the columns.

    Less than all of the mass is moved by giving each side a token more, which takes what stays at no cost (Caffarelli
    and McCann 2010; Chapel et al. 2020, arXiv 2002.08276).

    Arguments and results are those of [`~entropic.sinkhorn`]; `transported_mass` is above 0 and at most 1. The error
    of a partial plan is the mass above the weights plus the difference of the moved mass to `transported_mass`. POT
    does not report iterations: they are 0.
    """
    plan = torch.zeros(cost.shape, dtype=torch.float64)
    converged = torch.ones(len(cost), dtype=torch.bool)
    costs, rows, columns = (tensor.cpu().double().numpy() for tensor in (cost, row_weights, column_weights))
    for index in range(len(costs)):
        real = np.ix_(rows[index] > 0, columns[index] > 0)
        a, b = rows[index][rows[index] > 0], columns[index][columns[index] > 0]
        sub_plan, converged[index] = _solve(costs[index][real], a / a.sum(), b / b.sum(), transported_mass)
        plan[index].numpy()[real] = sub_plan
    plan, converged = plan.to(cost), converged.to(cost.device)
    if transported_mass < 1:
        excess = (plan.sum(2) - row_weights).relu().sum(1) + (plan.sum(1) - column_weights).relu().sum(1)
        error = excess + (plan.sum((1, 2)) - transported_mass).abs()
    else:
        error = marginal_error(plan, row_weights.unsqueeze(2), column_weights.unsqueeze(1))
    return plan, error, torch.zeros(len(cost), dtype=torch.long, device=cost.device), converged


def _solve(
    cost: np.ndarray, rows: np.ndarray, columns: np.ndarray, transported_mass: float
) -> tuple[np.ndarray, bool]:
    n, m = cost.shape
    # Moved mass is fixed, so costs may be shifted and scaled. POT gives up on some negative ones, and its tolerance is
    # absolute: differences of 1e-12 it would not see. Large ones stay, so as not to make others small.
    cost = cost - cost.min()
    cost /= min(cost.max(), 1.0) or 1.0
    if transported_mass < 1:
        # Positive ones, without which mass could go from one additional token to the other.
        cost = np.pad(cost + 1.0, (0, 1))
        cost[n, m] = 2.0 * cost.max()
        rows = np.append(rows, 1.0 - transported_mass)
        columns = np.append(columns, 1.0 - transported_mass)
    plan, log = ot.emd(rows, columns, cost, log=True)
    return plan[:n, :m], log["warning"] is None
