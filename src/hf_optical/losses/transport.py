from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ..transport import TransportDiagnostics, transport_plan
from ..transport.plan import check_options
from .inputs import check_reduction, lengths, prepare, reduced


class OTAlignmentLoss(nn.Module):
    """Optimal-transport alignment of a student's token embeddings with those of a teacher, OPTICAL-style.

    For each pair of sentences, the cost of a student token and a teacher token is one minus the cosine of their
    embeddings. The transport plan is a soft alignment of the two sentences, and the loss of the pair is the mean cost
    of what it aligns, `sum(plan * cost)`. The plan carries no gradient, the cost does: by the envelope theorem this is
    the gradient of the transport problem's optimum. It is written out, and has no derivative of its own in turn.

    Vectors need not be normalised; a zero vector, or one shorter than 1e-15 in float32, costs 1 beside any. All is
    computed in float32, also under autocast and on half precision inputs, or in float64 if an input is. A pair's loss
    depends neither on padding nor on the other pairs of the batch.

    Args:
        solver (`str`, *optional*, defaults to `"sinkhorn"`):
            `"sinkhorn"`, `"proximal"`, `"exact"`, `"unbalanced"` or `"partial"`, see
            [`~transport.transport_plan`] for it and for the options that follow.
        epsilon (`float`, *optional*, defaults to 0.05):
            Entropic regularisation, in units of cost. A large one aligns each token with all tokens, and so draws the
            student's tokens together: watch `entropy` in the diagnostics.
        max_iterations (`int`, *optional*, defaults to 1000): Most iterations of an iterative solver.
        tolerance (`float`, *optional*, defaults to 1e-6): L1 marginal error at which an iterative solver stops.
        marginal_penalty (`float`, *optional*, defaults to 1.0): Price of missing a marginal, for `"unbalanced"`.
        transported_mass (`float`, *optional*, defaults to 0.8): Part of the mass that `"partial"` aligns.
        reduction (`str`, *optional*, defaults to `"mean"`): `"mean"` or `"sum"` over the pairs, or `"none"`.

    Raises:
        ValueError: If an option is out of its range.

    Examples:

    ```python
    >>> import torch
    >>> from hf_optical.losses import OTAlignmentLoss

    >>> student = torch.randn(2, 7, 128, requires_grad=True)  # 2 sentences of up to 7 tokens
    >>> teacher = torch.randn(2, 5, 128)  # their translations, of up to 5
    >>> student_mask = torch.tensor([[1, 1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0, 0]])
    >>> loss = OTAlignmentLoss(solver="sinkhorn", epsilon=0.05)
    >>> loss(student, teacher, student_mask).backward()
    >>> student.grad.shape
    torch.Size([2, 7, 128])

    ```

    Citation:

    ```bibtex
    @inproceedings{huang2023optical,
        title={Improving Cross-lingual Information Retrieval on Low-Resource Languages
               via Optimal Transport Distillation},
        author={Huang, Zhiqi and Yu, Puxuan and Allan, James},
        booktitle={Proceedings of the Sixteenth ACM International Conference on Web Search and Data Mining},
        year={2023},
        note={arXiv:2301.12566}
    }
    ```
    """

    def __init__(
        self,
        solver: str = "sinkhorn",
        epsilon: float = 0.05,
        max_iterations: int = 1000,
        tolerance: float = 1e-6,
        marginal_penalty: float = 1.0,
        transported_mass: float = 0.8,
        reduction: str = "mean",
    ) -> None:
        super().__init__()
        check_options(solver, epsilon, max_iterations, tolerance, marginal_penalty, transported_mass)
        check_reduction(reduction)
        self.options = {
            "solver": solver,
            "epsilon": epsilon,
            "max_iterations": max_iterations,
            "tolerance": tolerance,
            "marginal_penalty": marginal_penalty,
            "transported_mass": transported_mass,
        }
        self.reduction = reduction

    def forward(
        self,
        student_embeddings: Tensor,
        teacher_embeddings: Tensor,
        student_mask: Tensor | None = None,
        teacher_mask: Tensor | None = None,
        student_weights: Tensor | None = None,
        teacher_weights: Tensor | None = None,
        return_diagnostics: bool = False,
    ) -> Tensor | tuple[Tensor, TransportDiagnostics]:
        """Loss of a batch of sentence pairs.

        Args:
            student_embeddings (`Tensor` of shape `(batch, n, dim)`): Token embeddings; padding may hold anything.
            teacher_embeddings (`Tensor` of shape `(batch, m, dim)`): Token embeddings; padding may hold anything.
            student_mask (`Tensor` of shape `(batch, n)`, *optional*): Boolean or 0/1, true for tokens.
            teacher_mask (`Tensor` of shape `(batch, m)`, *optional*): Boolean or 0/1, true for tokens.
            student_weights (`Tensor` of shape `(batch, n)`, *optional*):
                Masses of the student's tokens, not negative; what the mask leaves is normalised to sum to one.
                Uniform by default.
            teacher_weights (`Tensor` of shape `(batch, m)`, *optional*): Masses of the teacher's tokens, likewise.
            return_diagnostics (`bool`, *optional*, defaults to `False`): Whether to tell how the plans were found.

        Returns:
            `Tensor`: a scalar, or of shape `(batch,)` with `reduction="none"`; or `tuple` of it and
            [`~transport.TransportDiagnostics`].

        Raises:
            ValueError: If shapes do not meet, a sentence has no token with mass, a weight is negative or not finite,
                or an embedding of a token is not finite; the message tells in which batch entries.
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
        """The soft alignment itself, shape `(batch, n, m)`, without gradient; arguments as in `forward`."""
        return self._align(
            student_embeddings, teacher_embeddings, student_mask, teacher_mask, student_weights, teacher_weights
        )[1]

    def _align(self, *arguments: Tensor | None) -> tuple[Tensor, Tensor, TransportDiagnostics]:
        student, teacher, student_mass, teacher_mass = prepare(*arguments)
        with torch.no_grad(), torch.autocast(student.device.type, enabled=False):
            # The products are divided by the lengths, not the vectors before: they are the smaller.
            student_lengths, teacher_lengths = lengths(student), lengths(teacher).transpose(1, 2)
            cosine = (student @ teacher.transpose(1, 2)).div_(student_lengths).div_(teacher_lengths)
            try:
                plan, diagnostics = transport_plan(
                    1.0 - cosine, student_mass, teacher_mass, return_diagnostics=True, **self.options
                )
            except ValueError as error:
                raise ValueError(f"With the student's tokens as rows and the teacher's as columns: {error}") from error
        costs = _PlanCost.apply(student, teacher, plan, cosine, student_lengths, teacher_lengths)
        return costs, plan, diagnostics

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={value!r}" for name, value in {**self.options, "reduction": self.reduction}.items())


class _PlanCost(torch.autograd.Function):
    """`sum(plan * (1 - cosine))` of each pair, shape `(batch,)`, differentiated by hand.

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
