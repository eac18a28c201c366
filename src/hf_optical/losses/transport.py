from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..transport import Solver, TransportDiagnostics, make_solver, transport_plan
from .inputs import lengths, reduced
from .pairs import PairLoss


Cost = Callable[[Tensor, Tensor], Tensor]


class OTAlignmentLoss(PairLoss):
    """Optimal-transport alignment of a student's token embeddings with a teacher's, OPTICAL-style (arXiv 2301.12566).

    The transport plan between the tokens of a sentence and those of its translation is a soft alignment, and the loss
    of the pair is the mean cost of what it aligns, `sum(plan * cost)`. The plan carries no gradient, the cost does: by
    the envelope theorem this is the gradient of the transport problem's optimum.

    The default cost of two tokens is one minus the cosine of their embeddings. They need not be normalised; a zero
    vector, or in float32 one shorter than 1e-15, costs 1 next to any other. Everything is computed in float32, also
    under autocast and on half precision inputs, or in float64 if an input is. A pair's loss depends neither on padding
    nor on the other pairs of the batch.

    Args:
        solver (`str` or [`~transport.Solver`], *optional*, defaults to `"sinkhorn"`):
            A solver or its name, see [`~transport.transport_plan`].
        cost (`Callable`, *optional*):
            Costs `(batch, n, m)` of student embeddings `(batch, n, dim)` and teacher embeddings `(batch, m, dim)`,
            differentiable; finite between tokens, anything at padding. By default the cosine cost, whose gradient is
            written by hand and has no second derivative.
        reduction (`str`, *optional*, defaults to `"mean"`): `"mean"` or `"sum"` over the pairs, or `"none"`.
        center (`Tensor` of shape `(dim,)`, *optional*):
            Subtracted from the embeddings of both sides before the cost, as in [`PairLoss`].
        options: With the name of a solver, its options, as in [`~transport.make_solver`].

    Raises:
        TypeError: If no solver has an option of that name.
        ValueError: If an option is out of its range.

    Examples:

    ```python
    >>> import torch
    >>> from hf_optical.losses import OTAlignmentLoss

    >>> student = torch.randn(2, 7, 128, requires_grad=True)  # 2 sentences of up to 7 tokens
    >>> teacher = torch.randn(2, 5, 128)  # their translations, of up to 5
    >>> student_mask = torch.tensor([[1, 1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0, 0]])
    >>> loss = OTAlignmentLoss("sinkhorn", epsilon=0.05)
    >>> loss(student, teacher, student_mask).backward()
    >>> student.grad.shape
    torch.Size([2, 7, 128])

    ```
    """

    def __init__(
        self,
        solver: str | Solver = "sinkhorn",
        *,
        cost: Cost | None = None,
        reduction: str = "mean",
        center: Tensor | None = None,
        **options: Any,
    ) -> None:
        super().__init__(reduction, center)
        self.solver = make_solver(solver, **options)
        self.cost = cost

    def forward(  # type: ignore[override]  # returns more if asked to
        self,
        student_embeddings: Tensor,
        teacher_embeddings: Tensor,
        student_mask: Tensor | None = None,
        teacher_mask: Tensor | None = None,
        student_weights: Tensor | None = None,
        teacher_weights: Tensor | None = None,
        return_diagnostics: bool = False,
    ) -> Tensor | tuple[Tensor, TransportDiagnostics]:
        """Compute the loss of a batch of sentence pairs.

        Args:
            student_embeddings, ..., teacher_weights: As in [`PairLoss`]; weights are normalised to sum to one.
            return_diagnostics (`bool`, *optional*, defaults to `False`):
                Whether to return the diagnostics of the solver too.

        Returns:
            `Tensor`: a scalar, or of shape `(batch,)` with `reduction="none"`; or `tuple` of it and
            [`~transport.TransportDiagnostics`].

        Raises:
            ValueError: As in [`PairLoss`], or if a cost between tokens is not finite.
        """
        costs, _, diagnostics = self._align(
            student_embeddings, teacher_embeddings, student_mask, teacher_mask, student_weights, teacher_weights
        )
        loss = reduced(costs, self.reduction)
        return (loss, diagnostics) if return_diagnostics else loss

    def plan(
        self,
        student_embeddings: Tensor,
        teacher_embeddings: Tensor,
        student_mask: Tensor | None = None,
        teacher_mask: Tensor | None = None,
        student_weights: Tensor | None = None,
        teacher_weights: Tensor | None = None,
    ) -> Tensor:
        """Compute the soft alignment, shape `(batch, n, m)`, without gradient; arguments as in `forward`."""
        return self._align(
            student_embeddings, teacher_embeddings, student_mask, teacher_mask, student_weights, teacher_weights
        )[1]

    def _align(self, *inputs: Any) -> tuple[Tensor, Tensor, TransportDiagnostics]:
        """Costs of the pairs `(batch,)`, their plans `(batch, n, m)` and the solver's diagnostics."""
        student, teacher, student_mass, teacher_mass = self.prepare(*inputs)
        with torch.autocast(student.device.type, enabled=False):
            if self.cost is not None:
                cost = self.cost(student, teacher)
                plan, diagnostics = self._solve(cost, student_mass, teacher_mass)
                # Not by multiplying: padding may cost nan.
                return (plan * cost.masked_fill(plan == 0, 0.0)).sum((1, 2)), plan, diagnostics
            with torch.no_grad():
                # The products are divided by the lengths, not the vectors before: they are the smaller.
                student_lengths, teacher_lengths = lengths(student), lengths(teacher).transpose(1, 2)
                cosine = (student @ teacher.transpose(1, 2)).div_(student_lengths).div_(teacher_lengths)
                plan, diagnostics = self._solve(1.0 - cosine, student_mass, teacher_mass)
            costs = _PlanCost.apply(student, teacher, plan, cosine, student_lengths, teacher_lengths)
        return costs, plan, diagnostics

    def _solve(self, cost: Tensor, rows: Tensor, columns: Tensor) -> Any:
        return transport_plan(cost, rows, columns, solver=self.solver, return_diagnostics=True)

    def extra_repr(self) -> str:
        cost = "" if self.cost is None else f"cost={getattr(self.cost, '__name__', self.cost)!s}, "
        return f"solver={self.solver}, {cost}{super().extra_repr()}"


class _PlanCost(torch.autograd.Function):
    """Compute `sum(plan * (1 - cosine))` of each pair, shape `(batch,)`, with a gradient written by hand.

    A gradient is one matrix product and one more pass over the vectors, where automatic differentiation of normalised
    vectors takes six, which costs more than the product.
    """

    @staticmethod
    def forward(
        ctx: Any,
        student: Tensor,
        teacher: Tensor,
        plan: Tensor,
        cosine: Tensor,
        student_lengths: Tensor,
        teacher_lengths: Tensor,
    ) -> Tensor:
        shares = plan * cosine
        ctx.save_for_backward(student, teacher, plan, shares, student_lengths, teacher_lengths)
        return plan.sum((1, 2)) - shares.sum((1, 2))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        student, teacher, plan, shares, student_lengths, teacher_lengths = ctx.saved_tensors
        gradient = gradient[:, None, None]
        weights, shares = plan * (gradient / student_lengths) / teacher_lengths, gradient * shares
        of_student = of_teacher = None
        with torch.autocast(student.device.type, enabled=False):
            if ctx.needs_input_grad[0]:
                along = shares.sum(2, keepdim=True) / student_lengths.square()
                of_student = torch.baddbmm(along * student, weights, teacher, alpha=-1)
            if ctx.needs_input_grad[1]:
                along = (shares.sum(1, keepdim=True) / teacher_lengths.square()).transpose(1, 2)
                of_teacher = torch.baddbmm(along * teacher, weights.transpose(1, 2), student, alpha=-1)
        return of_student, of_teacher, None, None, None, None
