"""Ranking of the translations in a batch: the student's sentence must rank them as the teacher's translation does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..bitext.loading import iter_sentences
from ..losses import RankingLoss
from .base import Blocks, LanguageData, Method, PairReader, Reader, Reading, Run


class PairRanking(Method):
    """
    Ranking of the English sentences of a batch by late interaction, with the teacher's own scores as the target.

    The student's sentence is the query, the teacher reads its translation as the query of the target, and both rank
    the translations of the whole batch, which the teacher reads as documents ([`RankingLoss`]). So the loss of a pair
    depends on its batch. It shares `ranking_temperature` and `ranking_weight` with code switching.
    """

    name = "ranking"
    card_settings = (*Method.card_settings, "ranking_temperature", "ranking_weight")
    description = (
        "the student's sentence learns to rank the {teacher_language} sentences of the batch as its translation ranks "
        "them for the frozen teacher"
    )
    tags = ("knowledge-distillation",)

    def __init__(self, settings: Any):
        super().__init__(settings)
        self.loss = RankingLoss(settings.ranking_temperature, reduction="none")

    def reader(self, data: LanguageData) -> Reader:
        return RankedPairReader(data, self.settings.roles, self.settings.align_special_tokens)

    def teacher_texts(self, texts: Any, teacher_language: str) -> dict[str, list[str]]:
        own = super().teacher_texts(texts, teacher_language)
        return own | {"document": [*iter_sentences(texts, teacher_language)]}

    def losses(self, read: Reading, run: Run) -> dict[str, Tensor]:
        student, teacher = read.student["pairs"], read.teacher("pairs")
        documents = read.teacher("translations")
        target = RankingLoss.scores(teacher.embeddings, documents.embeddings, teacher.mask, documents.mask)
        losses = self.loss(student.embeddings, documents.embeddings, student.mask, documents.mask, target)
        return {"ranking": self.settings.ranking_weight * losses}


@dataclass
class RankedPairReader(PairReader):
    """Rows of sentence pairs -> the block `"pairs"`, and for the teacher the block `"translations"`, as documents."""

    def __call__(self, rows: Sequence[dict[str, Any]]) -> Blocks:
        blocks = super().__call__(rows)
        english = [row["translation"][self.data.teacher_language] for row in rows]
        blocks.teacher["translations"] = self.data.teacher.documents(english)
        return blocks
