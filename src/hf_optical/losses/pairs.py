from __future__ import annotations

import torch
from torch import Tensor, nn

from ..checks import check_choice, check_shape
from .inputs import prepare, reduced


class PairLoss(nn.Module):
    """
    Base class of the losses between the token embeddings of a sentence and of its translation.

    Subclasses implement [`~PairLoss.pair_losses`].

    Args:
        reduction (`str`, *optional*, defaults to `"mean"`): `"mean"` or `"sum"` over the pairs, or `"none"`.
        center (`Tensor` of shape `(dim,)`, *optional*):
            Subtracted from the embeddings of both sides: the mean of the teacher's, for models whose embeddings lie in
            a narrow cone ([`Geometry`]).

    Raises:
        ValueError: If `reduction` is not one of these.
    """

    def __init__(self, reduction: str = "mean", center: Tensor | None = None) -> None:
        super().__init__()
        check_choice("reduction", reduction, ("mean", "sum", "none"))
        self.reduction = reduction
        self.center: Tensor | None
        self.register_buffer("center", center, persistent=False)

    def forward(
        self,
        student_embeddings: Tensor,
        teacher_embeddings: Tensor,
        student_mask: Tensor | None = None,
        teacher_mask: Tensor | None = None,
        student_weights: Tensor | None = None,
        teacher_weights: Tensor | None = None,
    ) -> Tensor:
        """
        Compute the loss of a batch of sentence pairs.

        Args:
            student_embeddings (`Tensor` of shape `(batch, n, dim)`), teacher_embeddings (`Tensor` of shape
                `(batch, m, dim)`): Token embeddings; padding may hold anything.
            student_mask (`Tensor` of shape `(batch, n)`, *optional*), teacher_mask (`Tensor` of shape `(batch, m)`,
                *optional*): Boolean or 0/1, true for tokens.
            student_weights (`Tensor` of shape `(batch, n)`, *optional*), teacher_weights (`Tensor` of shape
                `(batch, m)`, *optional*): Weights of the tokens, not negative. Equal by default.

        Returns:
            `Tensor`: a scalar, or of shape `(batch,)` with `reduction="none"`.

        Raises:
            ValueError: If shapes do not match, a sentence has no token with mass, a weight is negative or not finite,
                or an embedding of a token is not finite; the message lists the batch entries.
        """
        inputs = self.prepare(
            student_embeddings, teacher_embeddings, student_mask, teacher_mask, student_weights, teacher_weights
        )
        with torch.autocast(student_embeddings.device.type, enabled=False):
            return reduced(self.pair_losses(*inputs), self.reduction)

    def prepare(self, *inputs: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Check the inputs, see [`prepare`], and center the embeddings."""
        student, teacher, student_mass, teacher_mass = prepare(*inputs)  # type: ignore[arg-type]
        if self.center is not None:
            check_shape("center", self.center, (student.shape[2],))
            center = self.center.to(student)
            student, teacher = student - center, teacher - center
        return student, teacher, student_mass, teacher_mass

    def pair_losses(self, student: Tensor, teacher: Tensor, student_mass: Tensor, teacher_mass: Tensor) -> Tensor:
        """
        Compute losses of shape `(batch,)`.

        The inputs are checked and in float32 or float64. Masses are zero at padding, and not normalised.
        """
        raise NotImplementedError

    def extra_repr(self) -> str:
        return f"reduction={self.reduction!r}" + (", centered" if self.center is not None else "")
