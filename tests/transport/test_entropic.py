"""Sinkhorn, unbalanced Sinkhorn and IPOT against POT."""

from __future__ import annotations

import math

import numpy as np
import ot
import pytest
import torch

from .test_plan import ITERATIVE, cosine_costs, random_weights, transport_plan


def problems(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return cosine_costs(6, 14, 11, seed), random_weights(6, 14, seed + 1), random_weights(6, 11, seed + 2)


def trimmed(cost: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor, index: int) -> list[np.ndarray]:
    """Weights, weights and cost of one problem without its padding, in float64."""
    a, b = (weights[index][weights[index] > 0].double() for weights in (rows, columns))
    real = cost[index][rows[index] > 0][:, columns[index] > 0].double()
    return [(a / a.sum()).numpy(), (b / b.sum()).numpy(), real.numpy()]


def untrimmed(plan: np.ndarray, shape: torch.Size) -> torch.Tensor:
    padded = torch.zeros(shape, dtype=torch.float64)
    padded[: plan.shape[0], : plan.shape[1]] = torch.from_numpy(plan)
    return padded


@pytest.mark.parametrize(("epsilon", "dtype"), [(0.02, torch.float32), (0.2, torch.float64)])
def test_sinkhorn_equals_pot(epsilon: float, dtype: torch.dtype) -> None:
    cost, rows, columns = problems()
    plan, diagnostics = transport_plan(cost.to(dtype), rows, columns, epsilon=epsilon, return_diagnostics=True)
    assert diagnostics.converged.all()
    for index in range(6):
        a, b, real = trimmed(cost, rows, columns, index)
        expected = ot.sinkhorn(a, b, real, epsilon, method="sinkhorn_log", stopThr=1e-12, numItermax=100_000)
        torch.testing.assert_close(plan[index].double(), untrimmed(expected, cost[0].shape), atol=2e-6, rtol=0)
        assert (plan[index].double() * cost[index]).sum().item() == pytest.approx((expected * real).sum(), abs=1e-5)


@pytest.mark.parametrize(("epsilon", "penalty"), [(0.02, 1.0), (0.05, 0.1)])
def test_unbalanced_equals_pot(epsilon: float, penalty: float) -> None:
    cost, rows, columns = problems()
    plan, diagnostics = transport_plan(
        cost, rows, columns, solver="unbalanced", epsilon=epsilon, marginal_penalty=penalty, return_diagnostics=True
    )
    assert diagnostics.converged.all()
    for index in range(6):
        a, b, real = trimmed(cost, rows, columns, index)
        expected = ot.unbalanced.sinkhorn_unbalanced(a, b, real, epsilon, penalty, stopThr=1e-12, numItermax=100_000)
        torch.testing.assert_close(plan[index].double(), untrimmed(expected, cost[0].shape), atol=2e-6, rtol=0)


def test_unbalanced_converges_to_sinkhorn() -> None:
    cost, rows, columns = problems()
    balanced = transport_plan(cost, rows, columns)
    for penalty, tolerance in ((1e4, 1e-4), (math.inf, 0)):
        plan = transport_plan(cost, rows, columns, solver="unbalanced", marginal_penalty=penalty)
        torch.testing.assert_close(plan, balanced, atol=tolerance, rtol=0)


def test_unbalanced_leaves_out_unmatched_tokens() -> None:
    cost = torch.full((1, 3, 2), 2.0)
    cost[0, 0, 0] = cost[0, 1, 1] = 0.0
    mass = transport_plan(cost, solver="unbalanced", marginal_penalty=0.2)[0].sum(1)
    assert mass[2] < 1e-2 and mass[:2].min() > 0.3


def test_proximal_converges_to_exact_cost() -> None:
    epsilon = 0.05
    cost, rows, columns = problems()
    plan = transport_plan(cost, rows, columns, solver="proximal", epsilon=epsilon)
    entropic = transport_plan(cost, rows, columns, solver="sinkhorn", epsilon=epsilon)
    for index in range(6):
        exact = ot.emd2(*trimmed(cost, rows, columns, index))
        gap, entropic_gap = ((p[index] * cost[index]).sum().item() - exact for p in (plan, entropic))
        assert gap == pytest.approx(0, abs=2e-4)
        assert abs(gap) < 0.1 * entropic_gap or entropic_gap < 1e-5


@pytest.mark.parametrize("solver", ITERATIVE)
@pytest.mark.parametrize("epsilon", [0.001, 1.0])
def test_plan_is_finite_for_extreme_inputs(solver: str, epsilon: float) -> None:
    generator = torch.Generator().manual_seed(3)
    extreme = 10 ** (-12 * torch.rand(2, 16, generator=generator))
    cases = {
        "rough costs": (2 * torch.rand(2, 16, 16, generator=generator), None, None),
        "bfloat16": (cosine_costs(2, 16, 16).bfloat16(), None, None),
        "extreme marginals": (2 * torch.rand(2, 16, 16, generator=generator), extreme, extreme.flip(1)),
        "identical vectors": (torch.zeros(2, 16, 16), None, None),
        "equal costs": (torch.full((2, 16, 16), 2.0), extreme, None),
        "one row": (2 * torch.rand(2, 1, 16, generator=generator), None, extreme),
        "one token": (torch.full((2, 1, 1), 2.0), None, None),
        "large costs": (1e4 * torch.rand(2, 16, 16, generator=generator), None, None),
    }
    for name, case in cases.items():
        plan, diagnostics = transport_plan(*case, solver=solver, epsilon=epsilon, return_diagnostics=True)
        assert plan.isfinite().all() and (plan >= 0).all(), name
        assert diagnostics.marginal_error.isfinite().all() and diagnostics.entropy.isfinite().all(), name
        if solver == "unbalanced":
            continue
        assert plan.sum((1, 2)).sub(1).abs().max() < 1e-4, name
        if name in ("identical vectors", "equal costs", "one row", "one token"):
            assert diagnostics.converged.all() and diagnostics.marginal_error.max() < 2e-6, name


def test_identical_vectors_give_the_independent_plan() -> None:
    rows, columns = random_weights(3, 7, 1), random_weights(3, 9, 2)
    plan = transport_plan(torch.zeros(3, 7, 9), rows, columns)
    expected = (rows / rows.sum(1, keepdim=True)).unsqueeze(2) * (columns / columns.sum(1, keepdim=True)).unsqueeze(1)
    torch.testing.assert_close(plan, expected)


def test_small_weights_are_met_to_relative_precision() -> None:
    """A mass of 1e-9 beside large ones keeps its own row: nothing is clamped away."""
    rows = torch.tensor([[1e-9, 1.0, 1.0]])
    plan = transport_plan(cosine_costs(1, 3, 4), rows)
    assert plan[0, 0].sum().item() == pytest.approx(5e-10, rel=1e-3)
