"""Exact and partial transport against POT."""

from __future__ import annotations

import ot
import pytest
import torch

from .test_entropic import problems, trimmed
from .test_plan import transport_plan


def test_exact_cost_equals_pot() -> None:
    cost, rows, columns = problems()
    plan, diagnostics = transport_plan(cost, rows, columns, solver="exact", return_diagnostics=True)
    assert diagnostics.converged.all() and diagnostics.marginal_error.max() < 1e-6
    for index in range(6):
        expected = ot.emd2(*trimmed(cost, rows, columns, index))
        assert (plan[index] * cost[index]).sum().item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("mass", [0.05, 0.99])
def test_partial_cost_equals_pot(mass: float) -> None:
    cost, rows, columns = problems()
    plan, diagnostics = transport_plan(
        cost, rows, columns, solver="partial", transported_mass=mass, return_diagnostics=True
    )
    assert diagnostics.converged.all() and diagnostics.marginal_error.max() < 1e-6
    torch.testing.assert_close(plan.sum((1, 2)), torch.full((6,), mass))
    for index in range(6):
        a, b, real = trimmed(cost, rows, columns, index)
        expected = (ot.partial.partial_wasserstein(a, b, real, m=mass) * real).sum()
        assert (plan[index] * cost[index]).sum().item() == pytest.approx(expected, abs=1e-6)


def test_partial_with_full_mass_equals_exact() -> None:
    cost, rows, columns = problems()
    exact = transport_plan(cost, rows, columns, solver="exact")
    assert torch.equal(transport_plan(cost, rows, columns, solver="partial", transported_mass=1.0), exact)


def test_partial_moves_its_mass_for_any_constant_cost() -> None:
    """Costs that are all zero, or negative, still leave the mass asked for to be moved."""
    cost = torch.tensor([0.0, -3.0, 5.0]).reshape(3, 1, 1).expand(3, 3, 4)
    plan = transport_plan(cost, solver="partial", transported_mass=0.6)
    torch.testing.assert_close(plan.sum((1, 2)), torch.full((3,), 0.6))


def test_partial_leaves_out_the_most_expensive() -> None:
    cost = torch.tensor([[[0.0, 1.0], [1.0, 0.9]]])
    plan = transport_plan(cost, solver="partial", transported_mass=0.5)
    torch.testing.assert_close(plan, torch.tensor([[[0.5, 0.0], [0.0, 0.0]]]))


@pytest.mark.parametrize(
    ("solver", "scale", "shift"), [("exact", 1e-30, 0.0), ("exact", 1e30, -1e30), ("partial", 0.0, -5.0)]
)
def test_plan_is_invariant_to_scale_and_shift_of_costs(solver: str, scale: float, shift: float) -> None:
    cost, rows, columns = problems()
    expected = transport_plan(cost.double(), rows, columns, solver=solver)
    cost = cost.double() * scale + shift
    plan, diagnostics = transport_plan(cost, rows, columns, solver=solver, return_diagnostics=True)
    assert diagnostics.converged.all() and diagnostics.marginal_error.max() < 1e-6
    torch.testing.assert_close((plan * cost).sum((1, 2)), (expected * cost).sum((1, 2)), rtol=1e-9, atol=1e-12 * scale)
