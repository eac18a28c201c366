from __future__ import annotations

import torch
from torch import Tensor, nn

from .inputs import check_reduction, prepare, reduced, require_mass


class PairLoss(nn.Module):
    """
    A loss between the token embeddings of two sentences, for each pair of a batch; called as [`OTAlignmentLoss`].

    Subclasses say what it is in `pair_losses`.

    Args:
        reduction (`str`, *optional*, defaults to `"mean"`): `"mean"` or `"sum"` over the pairs, or `"none"`.

    Raises:
        ValueError: If `reduction` is another.
    """

    def __init__(self, reduction: str = "mean") -> None:
        super().__init__()
        check_reduction(reduction)
        self.reduction = reduction

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
        Loss of a batch of sentence pairs.

        Args:
            student_embeddings (`Tensor` of shape `(batch, n, dim)`), teacher_embeddings (`Tensor` of shape
                `(batch, m, dim)`): Token embeddings; padding may hold anything.
            student_mask (`Tensor` of shape `(batch, n)`, *optional*), teacher_mask (`Tensor` of shape `(batch, m)`,
                *optional*): Boolean or 0/1, true for tokens.
            student_weights (`Tensor` of shape `(batch, n)`, *optional*), teacher_weights (`Tensor` of shape
                `(batch, m)`, *optional*): What the tokens count for, not negative. Alike by default.

        Returns:
            `Tensor`: a scalar, or of shape `(batch,)` with `reduction="none"`.

        Raises:
            ValueError: If shapes do not meet, a sentence has no token with mass, a weight is negative or not finite,
                or an embedding of a token is not finite; the message tells in which batch entries.
        """
        student, teacher, student_mass, teacher_mass = prepare(
            student_embeddings, teacher_embeddings, student_mask, teacher_mask, student_weights, teacher_weights
        )
        require_mass("student", student_mass)
        require_mass("teacher", teacher_mass)
        with torch.autocast(student.device.type, enabled=False):
            return reduced(self.pair_losses(student, teacher, student_mass, teacher_mass), self.reduction)

    def pair_losses(self, student: Tensor, teacher: Tensor, student_mass: Tensor, teacher_mass: Tensor) -> Tensor:
        """Losses of shape `(batch,)`; embeddings and masses are zero at padding, and not normalised."""
        raise NotImplementedError

    def extra_repr(self) -> str:
        return f"reduction={self.reduction!r}"
