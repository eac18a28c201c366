"""Transport plans and losses are finite and non-negative for any numbers, and report when they did not converge."""

from __future__ import annotations

import dataclasses
import math
import warnings

import numpy as np
import ot
import pytest
import torch
from hypothesis import assume, reject
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment
from strategies import Pairs, Problem, epsilons, pairs, problems, property_test
from torch import Tensor
from transport.test_entropic import trimmed
from transport.test_plan import ITERATIVE

from hf_optical.losses import GreedyAlignmentLoss, OTAlignmentLoss, RankingLoss, SentenceMSELoss
from hf_optical.transport import SOLVERS, TransportDiagnostics, transport_plan


COSINE = ("cosine", "duplicates", "opposites")


def solve(problem: Problem, **options) -> tuple[Tensor, Tensor, Tensor, Tensor, TransportDiagnostics]:
    """Cost, normalised weights, plan and diagnostics, all but the last in float64."""
    cost, rows, columns = problem.tensors()
    with warnings.catch_warnings():
        # POT warns when its simplex gives up; `converged` is then false.
        warnings.filterwarnings("ignore", "numItermax reached before optimality")
        plan, diagnostics = transport_plan(cost, rows, columns, return_diagnostics=True, **options)
    assert plan.dtype == diagnostics.entropy.dtype == (cost.dtype if cost.dtype == torch.float64 else torch.float32)
    rows, columns = (weights.double() / weights.double().sum(1, keepdim=True) for weights in (rows, columns))
    return cost.double(), rows, columns, plan.double(), diagnostics


@pytest.mark.promise(
    "Numbers",
    "For any lengths (1 to 300), masks, costs, weights (1e-6 to 1e6 and beyond), precision and epsilon (0.001 to 10), "
    "a transport plan is finite, non-negative and zero at padding. Its diagnostics give the true marginal error, and "
    "a plan that misses the tolerance is not marked `converged`.",
)
@property_test(
    few=60,
    many=10_000,
    problem=problems(),
    solver=st.sampled_from(list(SOLVERS)),
    epsilon=epsilons(),
    iterations=st.sampled_from([1, 10, 100, 1000]),
)
def test_plan_is_valid_and_convergence_is_reported(
    problem: Problem, solver: str, epsilon: float, iterations: int
) -> None:
    options = {"solver": solver, "epsilon": epsilon, "max_iterations": iterations, "tolerance": 1e-6}
    try:
        cost, rows, columns, plan, diagnostics = solve(problem, **options)
    except ValueError as error:
        assert solver == "unbalanced" and "so far below 0 that the unbalanced plan overflows" in str(error)
        real = (problem.tensors()[1] > 0).unsqueeze(2) & (problem.tensors()[2] > 0).unsqueeze(1)
        assert problem.tensors()[0][real].min() < -10
        return
    real = (rows > 0).unsqueeze(2) & (columns > 0).unsqueeze(1)
    assert plan.isfinite().all() and (plan >= 0).all() and (plan[~real] == 0).all()
    assert all(part.isfinite().all() for part in diagnostics)
    most = plan.shape[1] * plan.shape[2]
    assert (diagnostics.entropy >= 0).all() and (diagnostics.entropy <= math.log(most) + 1e-4).all()

    reported, converged = diagnostics.marginal_error.double(), diagnostics.converged
    assert (reported[converged] <= (1e-6 if solver in ITERATIVE else 1e-5)).all()
    if solver in ITERATIVE:
        assert converged[diagnostics.iterations < iterations].all() and diagnostics.iterations.max() <= iterations
    else:
        assert converged.all() and not diagnostics.iterations.any()
    row_sums, column_sums = plan.sum(2), plan.sum(1)
    if solver in ("sinkhorn", "proximal", "exact"):
        error = (row_sums - rows).abs().sum(1) + (column_sums - columns).abs().sum(1)
        torch.testing.assert_close(reported, error, atol=1e-5, rtol=1e-3)
    elif solver == "partial":
        assert (row_sums - rows).max() <= 1e-6 and (column_sums - columns).max() <= 1e-6
        torch.testing.assert_close(plan.sum((1, 2)), torch.full(rows.shape[:1], 0.8).double(), atol=1e-5, rtol=0)


@pytest.mark.promise(
    "Numbers",
    "Cosine costs with an epsilon of at least 0.1 converge, even with duplicate or opposite vectors and nearly "
    "one-hot weights.",
)
@property_test(few=20, many=4_000, problem=problems(costs=COSINE), epsilon=epsilons(0.1))
def test_cosine_costs_converge(problem: Problem, epsilon: float) -> None:
    """Without this test, a solver that never converges would pass the one above."""
    *_, diagnostics = solve(problem, epsilon=epsilon, tolerance=1e-5)
    assert diagnostics.converged.all()


@pytest.mark.promise(
    "Numbers",
    "Converged plans equal those of POT. Exact and partial costs equal those of POT and SciPy, for costs of any size "
    "and sign.",
)
@property_test(
    few=12,
    many=2_000,
    problem=problems(costs=(*COSINE, "constant", "rough"), dtypes=(torch.float64,), longest=60, batch=1),
    epsilon=epsilons(0.02),
)
def test_converged_plan_equals_pot(problem: Problem, epsilon: float) -> None:
    cost, rows, columns, plan, diagnostics = solve(problem, epsilon=epsilon, tolerance=1e-9, max_iterations=10_000)
    assume(diagnostics.converged.all())
    a, b, real = trimmed(cost, rows, columns, 0)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sinkhorn did not converge")
        expected, log = ot.sinkhorn(
            a, b, real, epsilon, method="sinkhorn_log", stopThr=1e-10, numItermax=20_000, log=True
        )
    if not log["err"][-1] <= 1e-9:
        reject()
    found = plan[0][rows[0] > 0][:, columns[0] > 0].numpy()
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert (found * real).sum() == pytest.approx((expected * real).sum(), abs=1e-6)


@property_test(
    few=12,
    many=3_000,
    problem=problems(costs=(*COSINE, "rough"), longest=60, batch=1),
    mass=st.floats(0.05, 0.99),
)
def test_exact_and_partial_costs_equal_pot(problem: Problem, mass: float) -> None:
    for solver in ("exact", "partial"):
        cost, rows, columns, plan, _ = solve(problem, solver=solver, transported_mass=mass)
        a, b, real = trimmed(cost, rows, columns, 0)
        if solver == "exact":
            expected = ot.emd2(a, b, real)
        else:
            expected = (ot.partial.partial_wasserstein(a, b, real, m=mass) * real).sum()
        assert (plan[0] * cost[0]).nansum().item() == pytest.approx(expected, abs=3e-6)


@property_test(
    few=12, many=3_000, problem=problems(weights=("uniform",), longest=60, batch=1), size=st.integers(1, 60)
)
def test_exact_cost_equals_best_assignment(problem: Problem, size: int) -> None:
    """Equal numbers of rows and columns with equal mass, and costs of any size and sign."""
    cost, _, _, plan, _ = solve(dataclasses.replace(problem, sizes=((size, size),)), solver="exact")
    cost = cost[0].numpy()
    spread = (cost.max() - cost.min()) or 1.0
    scaled = (cost - cost.min()) / spread
    rows, columns = linear_sum_assignment(scaled)
    assert (plan[0].numpy() * scaled).sum() == pytest.approx(scaled[rows, columns].mean(), abs=1e-6)


LOSSES = {
    **{
        solver: OTAlignmentLoss(solver, epsilon=0.05, max_iterations=100, tolerance=1e-6, reduction="none")
        for solver in SOLVERS
    },
    "greedy": GreedyAlignmentLoss(reduction="none"),
    "sentence": SentenceMSELoss(reduction="none"),
}


def with_gradients(loss, student: Tensor, teacher: Tensor, *masses: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Each pair's loss, and the gradient of their sum for student and teacher."""
    student, teacher = student.clone().requires_grad_(), teacher.clone().requires_grad_()
    losses = loss(student, teacher, masses[0] > 0, masses[1] > 0, *masses)
    assert losses.shape == (len(student),)
    losses.sum().backward()
    return losses.detach(), student.grad, teacher.grad


@pytest.mark.promise(
    "Numbers",
    "Every loss and its gradient are finite in float16, bfloat16, float32 and float64, and padding gets no gradient, "
    "whatever it contains.",
)
@property_test(few=30, many=6_000, drawn=pairs(), name=st.sampled_from(list(LOSSES)), epsilon=epsilons())
def test_losses_and_gradients_are_finite_and_ignore_padding(drawn: Pairs, name: str, epsilon: float) -> None:
    loss = (
        OTAlignmentLoss(name, epsilon=epsilon, tolerance=1e-6, reduction="none") if name in SOLVERS else LOSSES[name]
    )
    student, teacher, *masses = drawn.tensors()
    losses, *gradients = with_gradients(loss, student, teacher, *masses)
    assert losses.isfinite().all()
    if name != "sentence":
        assert (losses >= -1e-5).all()
    for gradient, mass in zip(gradients, masses, strict=True):
        assert gradient.dtype == drawn.dtype and gradient.isfinite().all()
        assert (gradient[mass == 0] == 0).all()


@pytest.mark.promise(
    "Numbers",
    "The loss and gradient of a sentence pair do not depend on the other pairs in the batch or on padding.",
)
@property_test(
    few=20,
    many=2_000,
    drawn=pairs(
        vectors=("random", "long", "short"),  # the others have ties, so that several plans are optimal
        weights=("uniform", "masked", "1e-6 to 1e6"),
        dtypes=(torch.float32, torch.float64, torch.float16),
    ),
    name=st.sampled_from(list(LOSSES)),
)
def test_loss_and_gradient_of_a_pair_are_independent_of_the_batch(drawn: Pairs, name: str) -> None:
    """Neither padding, its content nor the other pairs matter."""
    assume(drawn.dim > 2)  # ties are common in a plane too
    losses, *gradients = with_gradients(LOSSES[name], *drawn.tensors())
    for index, alone in enumerate(drawn.each_alone()):
        loss, *own = with_gradients(LOSSES[name], *alone)
        size = max(1.0, loss.abs().item())
        torch.testing.assert_close(losses[index : index + 1], loss, atol=2e-5 * size, rtol=0)
        for gradient, expected in zip(gradients, own, strict=True):
            scale = expected.abs().max().double().item() or 1.0
            found = gradient[index, : expected.shape[1]].double()
            tolerance = (1e-2 if drawn.dtype == torch.float16 else 1e-3) * scale
            torch.testing.assert_close(found, expected[0].double(), atol=tolerance, rtol=0)


@property_test(few=15, many=4_000, drawn=pairs(weights=("uniform", "masked")))
def test_ranking_loss_is_finite_and_ignores_padding(drawn: Pairs) -> None:
    """The student's vectors are the queries, the teacher's the documents."""
    queries, documents, query_mask, document_mask = drawn.tensors()
    queries.requires_grad_(), documents.requires_grad_()
    masks = query_mask > 0, document_mask > 0
    losses = RankingLoss(reduction="none")(queries, documents, *masks, torch.arange(len(queries)))
    losses.sum().backward()
    assert losses.isfinite().all() and (losses >= -1e-6).all()
    for vectors, mask in zip((queries, documents), masks, strict=True):
        assert vectors.grad.isfinite().all() and (vectors.grad[~mask] == 0).all()
