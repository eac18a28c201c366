from __future__ import annotations

from torch import Tensor

from .pairs import PairLoss


class SentenceMSELoss(PairLoss):
    """
    Squared distance between the mean vectors of two sentences (Reimers & Gurevych 2020, arXiv 2004.09813).

    The distance is between the means of the token vectors, weighted if weights are given; summed over `dim` and not
    averaged, so that its size does not depend on it. The vectors are not normalised.

    The paper has a second term, which keeps the student's vector of the teacher's own sentence near the teacher's. It
    is left out here: an adapter that can be switched off leaves the student's English as it was.

    Arguments and errors are those of [`PairLoss`].
    """

    def pair_losses(self, student: Tensor, teacher: Tensor, student_mass: Tensor, teacher_mass: Tensor) -> Tensor:
        return (_mean(student, student_mass) - _mean(teacher, teacher_mass)).square().sum(1)


def _mean(embeddings: Tensor, mass: Tensor) -> Tensor:
    # Shares first: the sum and its gradient could overflow where masses are large or small.
    shares = mass / mass.sum(1, keepdim=True)
    return (embeddings * shares.unsqueeze(2)).sum(1)
