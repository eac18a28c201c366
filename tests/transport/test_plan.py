"""`transport_plan`: what holds for every solver."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch

import hf_optical.transport.entropic
import hf_optical.transport.plan
from hf_optical.transport import SOLVERS, Partial, TransportDiagnostics, Unbalanced, make_solver


# More accurate than training needs: the tests compare with other solvers.
ACCURATE = {"epsilon": 0.05, "max_iterations": 1000, "tolerance": 1e-6}
transport_plan = partial(hf_optical.transport.transport_plan, **ACCURATE)
ITERATIVE = ("sinkhorn", "proximal", "unbalanced")


def cosine_costs(batch: int, n: int, m: int, seed: int = 0) -> torch.Tensor:
    """Costs between loosely aligned token sets, float32."""
    generator = torch.Generator().manual_seed(seed)
    columns = torch.randn(batch, m, 16, generator=generator)
    rows = columns[:, torch.arange(n) % m] + torch.randn(batch, n, 16, generator=generator)
    return 1 - torch.nn.functional.cosine_similarity(rows.unsqueeze(2), columns.unsqueeze(1), dim=3)


def random_weights(batch: int, size: int, seed: int) -> torch.Tensor:
    """Random masses of which the last few are padding, in each problem another number."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, size + 1, (batch, 1), generator=generator)
    return (torch.rand(batch, size, generator=generator) + 0.05) * (torch.arange(size) < lengths)


@pytest.mark.parametrize(
    ("solver", "dtype"), [("sinkhorn", torch.float64), ("proximal", torch.float32), ("exact", torch.float32)]
)
def test_marginals_are_met(solver: str, dtype: torch.dtype) -> None:
    rows, columns = random_weights(6, 9, 1).to(dtype), random_weights(6, 11, 2).to(dtype)
    plan, diagnostics = transport_plan(
        cosine_costs(6, 9, 11).to(dtype), rows, columns, solver=solver, epsilon=0.1, return_diagnostics=True
    )
    assert plan.dtype == dtype
    rows, columns = rows / rows.sum(1, keepdim=True), columns / columns.sum(1, keepdim=True)
    error = (plan.sum(2) - rows).abs().sum(1) + (plan.sum(1) - columns).abs().sum(1)
    torch.testing.assert_close(diagnostics.marginal_error, error, atol=1e-6, rtol=0)
    assert error.max() < (2e-6 if solver != "proximal" else 1e-4)


@pytest.mark.parametrize(("solver", "epsilon"), [("sinkhorn", 0.005), *((solver, 0.05) for solver in SOLVERS)])
def test_plan_is_independent_of_padding_and_batch(solver: str, epsilon: float) -> None:
    """Not so for IPOT with a step too large for its marginals: it swings, and magnifies rounding."""
    cost, rows, columns = cosine_costs(8, 12, 10), random_weights(8, 12, 1), random_weights(8, 10, 2)
    options = {"solver": solver, "epsilon": epsilon}
    plan = transport_plan(cost, rows, columns, **options)
    padding = (rows == 0).unsqueeze(2) | (columns == 0).unsqueeze(1)
    assert (plan[padding] == 0).all() and (plan >= 0).all()
    for junk in (math.nan, -math.inf, 1e30):
        assert torch.equal(transport_plan(cost.masked_fill(padding, junk), rows, columns, **options), plan)

    order = torch.randperm(8, generator=torch.Generator().manual_seed(0))
    permuted = transport_plan(cost[order], rows[order], columns[order], **options)
    torch.testing.assert_close(permuted, plan[order], atol=1e-6, rtol=0)

    for index in range(8):
        n, m = int((rows[index] > 0).sum()), int((columns[index] > 0).sum())
        one = slice(index, index + 1)
        alone = transport_plan(cost[one, :n, :m], rows[one, :n], columns[one, :m], **options)
        torch.testing.assert_close(alone[0], plan[index, :n, :m], atol=1e-6, rtol=0)

    pad = torch.nn.functional.pad
    padded = transport_plan(
        pad(cost, (0, 7, 0, 5), value=math.nan), pad(rows, (0, 5)), pad(columns, (0, 7)), **options
    )
    torch.testing.assert_close(padded[:, :12, :10], plan, atol=1e-6, rtol=0)


@pytest.mark.parametrize("solver", ITERATIVE)
def test_blocks_and_absorption_do_not_change_the_plan(solver: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of one or two problems, and scalings absorbed at every look, against one block and none absorbed."""
    cost, rows, columns = cosine_costs(8, 12, 10), random_weights(8, 12, 1), random_weights(8, 10, 2)
    options = {"solver": solver, "epsilon": 0.02 if solver != "proximal" else 0.1, "return_diagnostics": True}
    plan, diagnostics = transport_plan(cost, rows, columns, **options)
    monkeypatch.setattr(hf_optical.transport.plan, "BLOCK_SIZE", 100)
    monkeypatch.setattr(hf_optical.transport.entropic, "ABSORB_ABOVE", 0.0)
    apart, others = transport_plan(cost, rows, columns, **options)
    torch.testing.assert_close(apart, plan, atol=1e-6, rtol=0)
    torch.testing.assert_close(others.entropy, diagnostics.entropy, atol=1e-5, rtol=0)


def test_weights_are_uniform_by_default_and_masks_have_any_dtype() -> None:
    cost, mask = cosine_costs(3, 5, 4), torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0], [1, 1, 1, 1]])
    uniform = transport_plan(cost)
    torch.testing.assert_close(uniform.sum(2), torch.full((3, 5), 0.2))
    torch.testing.assert_close(transport_plan(cost, torch.full((3, 5), 7), torch.full((3, 4), 2.5)), uniform)
    plans = [transport_plan(cost, None, kind) for kind in (mask, mask.bool(), mask.float(), mask.double() * 1e-3)]
    for plan in plans:
        torch.testing.assert_close(plan.sum(1), mask / mask.sum(1, keepdim=True))
        torch.testing.assert_close(plan, plans[0])


@pytest.mark.parametrize("solver", ["sinkhorn", "exact"])
def test_plan_is_float32_without_gradient(solver: str) -> None:
    cost = cosine_costs(4, 6, 5).bfloat16().requires_grad_()
    plan = transport_plan(cost, solver=solver)
    assert plan.dtype == torch.float32 and not plan.requires_grad
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(transport_plan(cost, solver=solver), plan)
    assert torch.equal(transport_plan(cost.float(), solver=solver), plan)


def test_float32_matmul_precision_does_not_matter() -> None:
    cost = cosine_costs(4, 64, 64)
    plan = transport_plan(cost)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        assert torch.equal(transport_plan(cost), plan)
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("solver", ["sinkhorn", "proximal"])
def test_iterations_stop_at_the_tolerance_or_at_the_maximum(solver: str) -> None:
    cost = torch.cat([torch.zeros(1, 12, 10), cosine_costs(1, 12, 10)])
    loose = transport_plan(cost, solver=solver, epsilon=0.02, tolerance=1e-3, return_diagnostics=True)[1]
    assert isinstance(loose, TransportDiagnostics)
    assert loose.converged.all() and loose.marginal_error.max() <= 1e-3
    assert loose.iterations[0] == 10 and loose.iterations[1] > 10
    short = transport_plan(
        cost, solver=solver, epsilon=0.02, tolerance=1e-9, max_iterations=7, return_diagnostics=True
    )[1]
    assert short.iterations.tolist() == [7, 7] and not short.converged[1]


@pytest.mark.parametrize(
    ("solver", "price"), [*((solver, torch.finfo(torch.float32).max) for solver in ITERATIVE), ("exact", 1e9)]
)
def test_high_cost_forbids_a_pair(solver: str, price: float) -> None:
    cost = cosine_costs(3, 5, 6)
    forbidden = torch.eye(5, 6).bool().expand(3, 5, 6)
    options = {"solver": solver, "epsilon": 0.1, "return_diagnostics": True}
    plan, diagnostics = transport_plan(cost.masked_fill(forbidden, price), **options)
    expected, _ = transport_plan(cost.masked_fill(forbidden, 1e4), **options)
    assert plan.dtype == diagnostics.entropy.dtype == torch.float32
    assert (plan[forbidden] == 0).all() and all(part.isfinite().all() for part in diagnostics)
    torch.testing.assert_close(plan, expected, atol=1e-5, rtol=0)


@pytest.mark.promise(
    "Numbers",
    "Costs up to the largest float32 do not overflow. Results that no float can hold raise an error that names the "
    "batch entries.",
)
@pytest.mark.parametrize("solver", ["sinkhorn", "proximal"])
def test_largest_costs_do_not_overflow(solver: str) -> None:
    most = torch.finfo(torch.float32).max
    cost = torch.tensor([[[most, -most], [-most, most]], [[most, most], [0.0, 0.0]]])
    plan, diagnostics = transport_plan(cost, solver=solver, epsilon=0.001, return_diagnostics=True)
    assert plan.dtype == diagnostics.entropy.dtype == torch.float32 and diagnostics.converged.all()
    assert plan.isfinite().all() and diagnostics.marginal_error.max() <= 1e-6
    torch.testing.assert_close(plan[0], torch.tensor([[0.0, 0.5], [0.5, 0.0]]))


def test_unbalanced_plan_without_mass_has_zero_entropy() -> None:
    cost = torch.full((1, 1, 1), 1e5)
    plan, diagnostics = transport_plan(cost, solver="unbalanced", epsilon=1.0, return_diagnostics=True)
    assert plan.sum() < 1e-40 and diagnostics.entropy == 0 and diagnostics.converged


def test_entropy_is_between_a_permutation_and_independence() -> None:
    cost = 1 - torch.eye(4).unsqueeze(0)
    entropies = [
        transport_plan(cost, epsilon=epsilon, return_diagnostics=True)[1].entropy.item()
        for epsilon in (0.01, 0.3, 1e3)
    ]
    assert entropies[0] == pytest.approx(math.log(4), abs=1e-4)
    assert entropies[2] == pytest.approx(math.log(16), abs=1e-4)
    assert entropies[0] < entropies[1] < entropies[2]


@pytest.mark.parametrize("solver", ["sinkhorn", "exact"])
def test_empty_batch(solver: str) -> None:
    plan, diagnostics = transport_plan(torch.zeros(0, 3, 4), solver=solver, return_diagnostics=True)
    assert plan.shape == (0, 3, 4) and all(part.shape == (0,) for part in diagnostics)


COST = torch.zeros(3, 4, 5)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((torch.zeros(4, 5),), {}, r"cost must have shape \(batch, n, m\).*unsqueeze\(0\)"),
        ((COST.long(),), {}, r"cost must have a floating point dtype, got torch.int64; use cost.float\(\)"),
        ((COST, torch.ones(3, 5)), {}, r"row_weights must have shape \(3, 4\)"),
        ((COST, torch.tensor([[1.0], [-1.0], [-2.0]]).expand(3, 4)), {}, r"row_weights.*not negative.*\[1, 2\]"),
        ((COST, None, torch.full((3, 5), math.nan)), {}, r"column_weights must be finite.*\[0, 1, 2\]"),
        ((COST, torch.tensor([[1], [1], [0]]).expand(3, 4)), {}, r"row_weights must have some mass.*leave out.*\[2\]"),
        ((COST.index_fill(0, torch.tensor(1), math.nan),), {}, r"cost must be finite.*\[1\]"),
        ((COST,), {"epsilon": 0}, r"epsilon must be positive and finite, got 0; use Exact\(\)"),
        ((COST.double() + 1e308,), {}, r"cost must not be above 1e\+306 in size with these options.*\[0, 1, 2\]"),
        ((COST - 1e4,), {"solver": "unbalanced"}, r"so far below 0 that the unbalanced plan overflows.*\[0, 1, 2\]"),
        ((COST,), {"max_iterations": 0}, r"max_iterations must be at least 1"),
        ((COST,), {"solver": "partial", "transported_mass": 1.5}, r"transported_mass must be positive and at most 1"),
    ],
)
def test_invalid_input_raises(arguments: tuple, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        transport_plan(*arguments, **options)


def test_solver_is_a_name_with_options_or_an_object() -> None:
    cost = cosine_costs(3, 5, 4)
    solver = Unbalanced(epsilon=0.1, marginal_penalty=0.3)
    plan = hf_optical.transport.transport_plan(cost, solver=solver)
    named = hf_optical.transport.transport_plan(cost, solver="unbalanced", epsilon=0.1, marginal_penalty=0.3)
    assert torch.equal(plan, named)
    # One set of settings serves every solver; each takes the options that it has.
    assert make_solver("partial", epsilon=0.1, transported_mass=0.5) == Partial(transported_mass=0.5)
    with pytest.raises(TypeError, match="unexpected options epsilno for the solver 'sinkhorn'"):
        make_solver("sinkhorn", epsilno=0.1)
    with pytest.raises(TypeError, match="unexpected options epsilon"):
        make_solver(solver, epsilon=0.1)


def test_non_tensor_raises_type_error() -> None:
    with pytest.raises(TypeError, match=r"cost must be a tensor.*list.*torch.as_tensor"):
        transport_plan([[[0.0]]])
    with pytest.raises(TypeError, match="row_weights must be a tensor"):
        transport_plan(COST, [[1.0]])
