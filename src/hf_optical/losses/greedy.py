from __future__ import annotations

import torch
from torch import Tensor

from ..checks import check_entries
from .inputs import unit_vectors
from .pairs import PairLoss


class GreedyAlignmentLoss(PairLoss):
    """
    Greedy one-to-one token alignment, then the distance of what is aligned, as in Dr.DECR (arXiv 2112.08185).

    The two tokens with the smallest cosine distance are aligned and removed, repeatedly, until the shorter sentence
    has no token left ([`greedy_alignment`]). The loss of a sentence pair is the mean squared distance of the aligned
    unit vectors; summed over `dim` and not averaged, so that its size does not depend on it. The remaining tokens of
    the longer sentence have no loss.

    With weights, which Dr.DECR does not have, two aligned tokens get the mean of their weights, the weights of each
    sentence summing to one. Weights do not change the alignment. By default [`OTDistillationTrainer`] passes weights
    and leaves special tokens out; `marginals="uniform"` and `align_special_tokens=True` give the loss of the paper.

    Arguments and errors are those of [`PairLoss`].
    """

    def pair_losses(self, student: Tensor, teacher: Tensor, student_mass: Tensor, teacher_mass: Tensor) -> Tensor:
        student, teacher = unit_vectors(student), unit_vectors(teacher)
        cost = 1.0 - student @ teacher.transpose(1, 2)
        rows, columns, aligned = greedy_alignment(cost, student_mass > 0, teacher_mass > 0)
        student = student.gather(1, rows.unsqueeze(2).expand(-1, -1, student.shape[2]))
        teacher = teacher.gather(1, columns.unsqueeze(2).expand(-1, -1, teacher.shape[2]))
        shares = [
            mass.gather(1, positions) / mass.sum(1, keepdim=True)
            for mass, positions in ((student_mass, rows), (teacher_mass, columns))
        ]
        weights = sum(shares) * aligned
        return ((student - teacher).square().sum(2) * weights).sum(1) / weights.sum(1)


@torch.no_grad()
def greedy_alignment(cost: Tensor, row_mask: Tensor, column_mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """
    Repeatedly align and remove the row and the column of the smallest cost, for all matrices at once.

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
    check_entries(
        (~torch.isfinite(cost) & allowed).flatten(1).any(1), "the cost is not finite; look for nan in the embeddings"
    )
    left = cost.masked_fill(~allowed, torch.inf)
    batch, _, columns = left.shape
    entries = torch.arange(batch, device=cost.device)
    pairs = torch.minimum(row_mask.sum(1), column_mask.sum(1))
    count = max(pairs.tolist(), default=0)
    chosen = torch.zeros(2, batch, count, dtype=torch.long, device=cost.device)
    for step in range(count):
        place = left.flatten(1).argmin(1)
        row, column = place // columns, place % columns
        left[entries, row] = torch.inf
        left[entries, :, column] = torch.inf
        chosen[0, :, step], chosen[1, :, step] = row, column
    aligned = torch.arange(count, device=cost.device) < pairs.unsqueeze(1)
    return chosen[0], chosen[1], aligned
