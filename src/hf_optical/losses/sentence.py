from __future__ import annotations

import torch
from torch import Tensor, nn

from .inputs import check_reduction, check_shapes, reduced, require_mass, token_mass, working_dtype


class SentenceMSELoss(nn.Module):
    """
    Distance of the sentences' mean vectors, as sentence-vector distillation has it (Reimers & Gurevych 2020,
    arXiv 2004.09813): no token is aligned with any.

    The loss of a sentence pair is the squared distance of the two means of token vectors; summed over `dim` and not
    averaged, so that its size does not depend on it. The vectors are taken as they are, without normalising them.

    Called as [`OTAlignmentLoss`], in whose place it stands.

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
                `(batch, m)`, *optional*): Weights of the means. Uniform by default.

        Returns:
            `Tensor`: a scalar, or of shape `(batch,)` with `reduction="none"`.

        Raises:
            ValueError: If shapes do not meet, a sentence has no token with mass, or a weight is negative or not
                finite.
        """
        check_shapes(student_embeddings, teacher_embeddings)
        dtype = working_dtype(student_embeddings, teacher_embeddings)
        with torch.autocast(student_embeddings.device.type, enabled=False):
            student = _mean_vectors("student", student_embeddings, student_mask, student_weights, dtype)
            teacher = _mean_vectors("teacher", teacher_embeddings, teacher_mask, teacher_weights, dtype)
            losses = (student - teacher).square().sum(1)
        return reduced(losses, self.reduction)

    def extra_repr(self) -> str:
        return f"reduction={self.reduction!r}"


def _mean_vectors(
    side: str, embeddings: Tensor, mask: Tensor | None, weights: Tensor | None, dtype: torch.dtype
) -> Tensor:
    mass = token_mass(side, embeddings, mask, weights, dtype)
    require_mass(side, mass)
    embeddings = embeddings.masked_fill((mass <= 0).unsqueeze(2), 0.0).to(dtype)
    return (embeddings * mass.unsqueeze(2)).sum(1) / mass.sum(1, keepdim=True)
