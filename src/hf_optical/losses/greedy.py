from __future__ import annotations

import torch
from torch import Tensor, nn

from .inputs import check_reduction, check_shapes, reduced, require_mass, token_mass, unit_vectors, working_dtype


class GreedyAlignmentLoss(nn.Module):
    """
    Greedy one-to-one token alignment, then the distance of what is aligned, as in Dr.DECR (arXiv 2112.08185).

    The pair of tokens with the smallest cosine distance of all is aligned and both leave, again and again, until the
    shorter sentence has no token left ([`greedy_alignment`]). The loss of a sentence pair is the mean squared distance
    of the aligned unit vectors; summed over `dim` and not averaged, so that its size does not depend on it. What
    remains of the longer sentence is not learned from.

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
                `(batch, m)`, *optional*):
                What the tokens count for: an aligned pair counts as the mean of its two, each side's summing to one.
                Uniform by default, which is Dr.DECR's. They do not change the alignment.

        Returns:
            `Tensor`: a scalar, or of shape `(batch,)` with `reduction="none"`.

        Raises:
            ValueError: If shapes do not meet, a sentence has no token with mass, a weight is negative or not finite,
                or an embedding of a token is not finite.
        """
        check_shapes(student_embeddings, teacher_embeddings)
        dtype = working_dtype(student_embeddings, teacher_embeddings)
        student_mass = token_mass("student", student_embeddings, student_mask, student_weights, dtype)
        teacher_mass = token_mass("teacher", teacher_embeddings, teacher_mask, teacher_weights, dtype)
        require_mass("student", student_mass)
        require_mass("teacher", teacher_mass)
        with torch.autocast(student_embeddings.device.type, enabled=False):
            student = unit_vectors(student_embeddings, student_mass, dtype)
            teacher = unit_vectors(teacher_embeddings, teacher_mass, dtype)
            rows, columns, aligned = greedy_alignment(
                1.0 - student @ teacher.transpose(1, 2), student_mass > 0, teacher_mass > 0
            )
            student = student.gather(1, rows.unsqueeze(2).expand(-1, -1, student.shape[2]))
            teacher = teacher.gather(1, columns.unsqueeze(2).expand(-1, -1, teacher.shape[2]))
            shares = [
                mass.gather(1, positions) / mass.sum(1, keepdim=True)
                for mass, positions in ((student_mass, rows), (teacher_mass, columns))
            ]
            weights = sum(shares) * aligned
            losses = ((student - teacher).square().sum(2) * weights).sum(1) / weights.sum(1)
        return reduced(losses, self.reduction)

    def extra_repr(self) -> str:
        return f"reduction={self.reduction!r}"


@torch.no_grad()
def greedy_alignment(cost: Tensor, row_mask: Tensor, column_mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """
    Repeatedly aligns the row and the column of the smallest cost and takes both away, for all matrices at once.

    Args:
        cost (`Tensor` of shape `(batch, n, m)`): Finite where both masks are true. Of equal costs the first by row,
            then by column, goes first.
        row_mask (`Tensor` of shape `(batch, n)`), column_mask (`Tensor` of shape `(batch, m)`): Boolean, true for what
            is to be aligned.

    Returns:
        `tuple` of three `Tensor` of shape `(batch, k)`, where `k` is the smaller of the two sides in the batch's
        largest matrix: the rows, their columns, and whether the place holds a pair (Boolean; false behind the last).

    Raises:
        ValueError: If a cost to be aligned is not finite.
    """
    allowed = row_mask.unsqueeze(2) & column_mask.unsqueeze(1)
    if not torch.isfinite(cost[allowed]).all():
        wrong = (~torch.isfinite(cost) & allowed).flatten(1).any(1)
        raise ValueError(
            f"the cost is not finite in batch entries {wrong.nonzero()[:5, 0].tolist()}; look at the embeddings."
        )
    left = cost.masked_fill(~allowed, torch.inf)
    batch, _, columns = left.shape
    entries = torch.arange(batch, device=cost.device)
    pairs = torch.minimum(row_mask.sum(1), column_mask.sum(1))
    chosen_rows, chosen_columns = [], []
    for _ in range(int(pairs.max())):
        place = left.flatten(1).argmin(1)
        row, column = place // columns, place % columns
        left[entries, row] = torch.inf
        left[entries, :, column] = torch.inf
        chosen_rows.append(row)
        chosen_columns.append(column)
    aligned = torch.arange(len(chosen_rows), device=cost.device) < pairs.unsqueeze(1)
    return torch.stack(chosen_rows, 1), torch.stack(chosen_columns, 1), aligned
