from __future__ import annotations

from torch import Tensor

from .pairs import PairLoss


class SentenceMSELoss(PairLoss):
    """
    Distance of the sentences' mean vectors, as sentence-vector distillation has it (Reimers & Gurevych 2020,
    arXiv 2004.09813): no token is aligned with any.

    The loss of a sentence pair is the squared distance of the two means of token vectors, weighted where weights are
    given; summed over `dim` and not averaged, so that its size does not depend on it. The vectors are taken as they
    are, without normalising them.

    The paper has two terms: beside this one, of the translation, that the student's vector of the teacher's own
    sentence stays near the teacher's. Only the former is here: where a student starts as the teacher and trains an
    adapter, its English stays what it is without the adapter.

    Args:
        reduction (`str`, *optional*, defaults to `"mean"`): `"mean"` or `"sum"` over the pairs, or `"none"`.

    Raises:
        ValueError: If `reduction` is another.
    """

    def pair_losses(self, student: Tensor, teacher: Tensor, student_mass: Tensor, teacher_mass: Tensor) -> Tensor:
        return (_mean(student, student_mass) - _mean(teacher, teacher_mass)).square().sum(1)


def _mean(embeddings: Tensor, mass: Tensor) -> Tensor:
    # Shares first: what is summed, and its gradient, could overflow where masses are large or small.
    shares = mass / mass.sum(1, keepdim=True)
    return (embeddings * shares.unsqueeze(2)).sum(1)
