"""`OTAlignmentLoss` compared with POT and finite differences."""

from __future__ import annotations

import doctest
import math
from functools import partial

import ot
import pytest
import torch
from torch import Tensor

import hf_optical.losses.transport
import hf_optical.transport.plan
from hf_optical.transport import TransportDiagnostics


# More accurate than training needs: the tests compare with other solvers.
ACCURATE = {"epsilon": 0.05, "max_iterations": 1000, "tolerance": 1e-6}
OTAlignmentLoss = partial(hf_optical.losses.OTAlignmentLoss, **ACCURATE)
transport_plan = partial(hf_optical.transport.transport_plan, **ACCURATE)


def pairs(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Four pairs of unequal lengths: student, teacher and their masks."""
    generator = torch.Generator().manual_seed(0)
    teacher = torch.randn(4, 6, 5, generator=generator, dtype=dtype)
    student = teacher[:, [0, 1, 2, 3, 4, 5, 0, 1]] + torch.randn(4, 8, 5, generator=generator, dtype=dtype)
    student_mask = torch.arange(8) < torch.tensor([8, 5, 1, 7]).unsqueeze(1)
    teacher_mask = torch.arange(6) < torch.tensor([6, 6, 4, 1]).unsqueeze(1)
    return student, teacher, student_mask, teacher_mask


def cosine_cost(student: Tensor, teacher: Tensor) -> Tensor:
    return 1 - torch.nn.functional.cosine_similarity(student.unsqueeze(2), teacher.unsqueeze(1), dim=3)


def pot_cost(solver: str, index: int, weights: tuple[Tensor, Tensor], epsilon: float = 0.05) -> float:
    """The loss of one pair, by POT on its tokens alone."""
    student, teacher, student_mask, teacher_mask = pairs(torch.float64)
    keep, columns = student_mask[index], teacher_mask[index]
    cost = cosine_cost(student, teacher)[index][keep][:, columns].numpy()
    a, b = (mass / mass.sum() for mass in (weights[0][index][keep].numpy(), weights[1][index][columns].numpy()))
    if solver == "exact":
        return float(ot.emd2(a, b, cost))
    plan = ot.sinkhorn(a, b, cost, epsilon, method="sinkhorn_log", stopThr=1e-12, numItermax=10_000)
    return float((plan * cost).sum())


@pytest.mark.parametrize(
    ("solver", "tolerance", "dtype", "weighted"),
    [
        ("exact", 1e-6, torch.float32, True),
        ("sinkhorn", 1e-5, torch.float32, False),
        ("sinkhorn", 1e-5, torch.float64, True),
    ],
)
def test_loss_equals_pot(solver: str, tolerance: float, dtype: torch.dtype, weighted: bool) -> None:
    inputs = pairs(torch.float64)
    generator = torch.Generator().manual_seed(1)
    weights = tuple(
        torch.rand(mask.shape, generator=generator, dtype=torch.float64) + 0.1 if weighted else mask.double()
        for mask in inputs[2:]
    )
    student, teacher = (embeddings.to(dtype) for embeddings in inputs[:2])
    given = tuple(mass.to(dtype) for mass in weights) if weighted else (None, None)
    loss = OTAlignmentLoss(solver=solver, reduction="none")(student, teacher, *inputs[2:], *given)
    assert loss.dtype == dtype
    for index in range(4):
        assert loss[index].item() == pytest.approx(pot_cost(solver, index, weights), abs=tolerance)


@pytest.mark.parametrize("solver", ["sinkhorn", "partial"])
def test_gradient_equals_that_with_fixed_plan(solver: str) -> None:
    """The plan held fixed, the cost differentiated: the gradient is equal, and gradcheck passes on that function."""
    student, teacher, *masks = pairs(torch.float64)
    student.requires_grad_()
    teacher.requires_grad_()
    loss = OTAlignmentLoss(solver=solver, reduction="sum")
    plan = loss.plan(student, teacher, *masks)
    assert not plan.requires_grad

    def envelope(student: Tensor, teacher: Tensor) -> Tensor:
        return (plan * cosine_cost(student, teacher)).sum()

    assert torch.autograd.gradcheck(envelope, (student, teacher))
    expected = torch.autograd.grad(envelope(student, teacher), (student, teacher))
    actual = torch.autograd.grad(loss(student, teacher, *masks), (student, teacher))
    torch.testing.assert_close(actual, expected)


def test_gradient_equals_finite_differences_of_the_optimum() -> None:
    """Finite differences of the exact optimum, and of the entropic objective, in which the plan follows the cost."""
    student, teacher, *masks = pairs(torch.float64)
    student.requires_grad_()
    epsilon = 0.1

    def exact_value(student: Tensor) -> Tensor:
        cost = cosine_cost(student, teacher)
        return (transport_plan(cost, *masks, solver="exact") * cost).sum()

    def entropic_value(student: Tensor) -> Tensor:
        cost = cosine_cost(student, teacher)
        plan = transport_plan(cost, *masks, epsilon=epsilon, tolerance=1e-13, max_iterations=10_000)
        return (plan * cost).sum() + epsilon * torch.special.xlogy(plan, plan).sum()

    for solver, value in (("exact", exact_value), ("sinkhorn", entropic_value)):
        loss = OTAlignmentLoss(solver, epsilon=epsilon, tolerance=1e-13, max_iterations=10_000, reduction="sum")
        (gradient,) = torch.autograd.grad(loss(student, teacher, *masks), student)
        direction = torch.randn(student.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
        with torch.no_grad():
            difference = (value(student + 1e-6 * direction) - value(student - 1e-6 * direction)) / 2e-6
        assert (gradient * direction).sum().item() == pytest.approx(difference.item(), abs=1e-6)


@pytest.mark.parametrize("solver", ["sinkhorn", "exact"])
def test_content_of_padding_does_not_matter(solver: str) -> None:
    student, teacher, student_mask, teacher_mask = pairs()
    loss = OTAlignmentLoss(solver=solver)
    results = []
    for value in (1.0, math.nan, math.inf, 1e30):
        inputs = [
            embeddings.masked_fill(~mask.unsqueeze(2), value).requires_grad_()
            for embeddings, mask in ((student, student_mask), (teacher, teacher_mask))
        ]
        cost = loss(*inputs, student_mask, teacher_mask)
        results.append((cost.detach(), *torch.autograd.grad(cost, inputs)))
    for clean, *with_junk in zip(*results, strict=True):
        assert clean.isfinite().all() and all(torch.equal(clean, each) for each in with_junk)
    assert (results[1][1][~student_mask] == 0).all()


@pytest.mark.parametrize("solver", ["sinkhorn", "exact"])
def test_loss_is_independent_of_padding_and_batch(solver: str) -> None:
    student, teacher, student_mask, teacher_mask = pairs()
    loss = OTAlignmentLoss(solver=solver, reduction="none")
    together = loss(student, teacher, student_mask, teacher_mask)
    for index in range(4):
        n, m = int(student_mask[index].sum()), int(teacher_mask[index].sum())
        alone = loss(student[index : index + 1, :n], teacher[index : index + 1, :m])
        torch.testing.assert_close(alone, together[index : index + 1], atol=1e-6, rtol=0)


def test_reductions_and_diagnostics() -> None:
    inputs = pairs()
    costs, diagnostics = OTAlignmentLoss(reduction="none")(*inputs, return_diagnostics=True)
    assert costs.shape == (4,)
    assert isinstance(diagnostics, TransportDiagnostics) and diagnostics.entropy.shape == (4,)
    torch.testing.assert_close(OTAlignmentLoss()(*inputs), costs.mean())
    torch.testing.assert_close(OTAlignmentLoss(reduction="sum")(*inputs), costs.sum())


def test_loss_is_float32_under_autocast_and_for_half_precision() -> None:
    student, teacher, *masks = pairs()
    loss = OTAlignmentLoss()
    expected = loss(student, teacher, *masks)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(loss(student, teacher, *masks), expected)
    half = student.bfloat16().requires_grad_(), teacher.half()
    cost = loss(*half, *masks)
    assert cost.dtype == torch.float32
    assert torch.equal(cost, loss(half[0].float(), half[1].float(), *masks))
    cost.backward()
    assert half[0].grad.dtype == torch.bfloat16 and half[0].grad.isfinite().all()


def test_autocast_does_not_change_the_gradient() -> None:
    student, teacher, *masks = pairs()
    student.requires_grad_()
    cost = OTAlignmentLoss()(student, teacher, *masks)
    (expected,) = torch.autograd.grad(cost, student, retain_graph=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(torch.autograd.grad(cost, student)[0], expected)


def test_weighted_sums_of_costs_have_correct_gradients() -> None:
    """Each pair's cost with a weight of its own, on both sides, against finite differences."""
    student, teacher, *masks = pairs(torch.float64)
    loss, weights = OTAlignmentLoss(solver="exact", reduction="none"), torch.tensor([1.0, -2.0, 0.5, 0.0])
    student.requires_grad_(), teacher.requires_grad_()
    total = (loss(student, teacher, *masks) * weights).sum()
    for vectors, gradient in zip((student, teacher), torch.autograd.grad(total, (student, teacher)), strict=True):
        direction = torch.randn(vectors.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
        with torch.no_grad():
            values = []
            for sign in (1, -1):
                vectors += sign * 1e-6 * direction
                values.append((loss(student, teacher, *masks) * weights).sum().item())
                vectors -= sign * 1e-6 * direction
        assert (gradient * direction).sum().item() == pytest.approx((values[0] - values[1]) / 2e-6, abs=1e-7)


@pytest.mark.parametrize("solver", ["sinkhorn", "unbalanced", "exact"])
@pytest.mark.parametrize("case", ["identical vectors", "same vector everywhere", "one token", "zero vectors"])
def test_loss_is_finite_for_degenerate_pairs(case: str, solver: str) -> None:
    vectors = torch.randn(2, 6, 5, generator=torch.Generator().manual_seed(0))
    vectors = {
        "identical vectors": vectors,
        "same vector everywhere": vectors[:, :1].expand(2, 6, 5),
        "one token": vectors[:, :1],
        "zero vectors": torch.zeros(2, 6, 5),
    }[case]
    for dtype in (torch.float32, torch.bfloat16):
        student = vectors.to(dtype, copy=True).requires_grad_()
        loss = OTAlignmentLoss(solver=solver, epsilon=0.005)(student, vectors.to(dtype))
        loss.backward()
        assert loss.isfinite() and student.grad.isfinite().all()
        if case in ("same vector everywhere", "one token") and solver != "unbalanced":
            assert loss.item() == pytest.approx(0, abs=1e-6)
        if case == "zero vectors" and solver != "unbalanced":
            assert loss.item() == pytest.approx(1, abs=1e-6)


def test_zero_vector_has_a_gradient_of_ordinary_size() -> None:
    student, teacher, *_ = pairs()
    student[0, 0] = 0
    student.requires_grad_()
    OTAlignmentLoss()(student, teacher).backward()
    assert student.grad.abs().max() < 10


@pytest.mark.parametrize("length", [1e15, 2e-15])
def test_loss_and_gradient_of_very_long_and_short_vectors(length: float) -> None:
    student, teacher, *masks = pairs()
    loss, results = OTAlignmentLoss(), []
    for scale in (1.0, length):
        scaled = (student * scale).requires_grad_()
        cost = loss(scaled, teacher, *masks)
        results.append((cost.detach(), torch.autograd.grad(cost, scaled)[0] * scale))
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("length", [1e-16, 1e-38])
def test_vanishing_vectors_count_as_zero_vectors(length: float) -> None:
    student, teacher, *masks = pairs()
    short = (student * length).requires_grad_()
    loss = OTAlignmentLoss()(short, teacher, *masks)
    loss.backward()
    assert loss.item() == pytest.approx(1) and short.grad.abs().max() < 10


def test_any_cost_may_take_the_place_of_the_cosine() -> None:
    """The cosine by automatic differentiation is the default; another cost is that of POT, with its own gradient."""
    student, teacher, *masks = pairs(torch.float64)
    student.requires_grad_()
    default, same = (OTAlignmentLoss(cost=cost)(student, teacher, *masks) for cost in (None, cosine_cost))
    torch.testing.assert_close(same, default)
    gradients = [torch.autograd.grad(loss, student)[0] for loss in (default, same)]
    torch.testing.assert_close(*gradients)

    def distance(student: Tensor, teacher: Tensor) -> Tensor:
        return torch.cdist(student, teacher)

    losses = OTAlignmentLoss("exact", cost=distance, reduction="none")(student, teacher, *masks)
    for index in range(4):
        rows, columns = (
            each[index][mask[index]].detach().numpy() for each, mask in zip((student, teacher), masks, strict=True)
        )
        expected = ot.emd2(ot.unif(len(rows)), ot.unif(len(columns)), ot.dist(rows, columns, "euclidean"))
        assert losses[index].item() == pytest.approx(expected, abs=1e-9)
    junk = student.detach().masked_fill(~masks[0].unsqueeze(2), math.nan).requires_grad_()
    assert torch.equal(OTAlignmentLoss("exact", cost=distance, reduction="none")(junk, teacher, *masks), losses)


STUDENT, TEACHER = torch.ones(2, 3, 4), torch.ones(2, 5, 4)


@pytest.mark.promise(
    "Numbers",
    "Embeddings that are not finite, or too large to be squared, raise an error that names the side and the batch "
    "entries; they never give a wrong loss.",
)
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((STUDENT, torch.ones(2, 5, 6)), r"teacher_embeddings must have shape \(2, m, 4\), got \(2, 5, 6\)"),
        ((STUDENT[0], TEACHER[0]), r"student_embeddings must have shape \(batch, n, dim\), got \(3, 4\)"),
        ((STUDENT, TEACHER, torch.ones(2, 5)), r"student_mask must have shape \(2, 3\)"),
        (
            (STUDENT, TEACHER, None, None, None, -torch.ones(2, 5)),
            r"teacher has no token with mass, or weights that are negative.*teacher_weights.*\[0, 1\]",
        ),
        ((STUDENT, TEACHER, torch.tensor([[1], [0]]).expand(2, 3)), r"student has no token with mass.*\[1\]"),
        ((STUDENT, TEACHER.index_fill(0, torch.tensor(0), 1e25)), r"teacher_embeddings.*too large.*\[0\]"),
        ((STUDENT.index_fill(0, torch.tensor(1), math.nan), TEACHER), r"student_embeddings are not finite.*\[1\]"),
    ],
)
def test_invalid_input_raises(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        OTAlignmentLoss()(*arguments)


def test_invalid_options_raise_at_construction() -> None:
    for options in ({"reduction": "average"}, {"solver": "emd"}, {"epsilon": -1}):
        with pytest.raises(ValueError, match=f"{next(iter(options))} must be"):
            OTAlignmentLoss(**options)


@pytest.mark.parametrize("module", [hf_optical.losses.transport, hf_optical.transport.plan])
def test_docstring_examples(module) -> None:
    results = doctest.testmod(module)
    assert results.attempted and not results.failed
