"""An anchor that keeps the student's English where it was before training."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..checks import check_number
from ..model import OpticalModel
from ..options import option
from .base import Blocks, LanguageData, Method, PairReader, Reader, Reading, Run


@dataclass(repr=False)
class AnchorSettings:
    """Settings of [`Anchor`], which is added to any method."""

    anchor_weight: float = option(0.0, "Weight of the term that keeps the student's English where it was.")

    def check_settings(self) -> None:
        check_number("anchor_weight", self.anchor_weight, at_least=0, cure="pass 0 to turn the anchor off")


class Anchor(Method):
    """Cosine distance, token by token, of the student's English vectors from those before training."""

    blocks = ("anchor",)

    def start(self, student: OpticalModel) -> None:
        # Under an adapter the base never changes, so the copy can share its weights.
        shared = {} if self.settings.train_all_weights else {id(weight): weight for weight in student.parameters()}
        self.reference = copy.deepcopy(student, shared).eval()

    def reader(self, data: LanguageData) -> Reader:
        return AnchorReader(data, self.settings.roles, self.settings.align_special_tokens)

    def teacher_texts(self, *_: Any) -> dict[str, list[str]]:
        return {}

    def losses(self, read: Reading, run: Run) -> dict[str, Tensor]:
        now, inputs = read.student["anchor"], read.inputs["anchor"]
        with torch.no_grad():
            before = self.reference.to(now.embeddings.device)(**inputs)
        distance = 1 - (now.embeddings * before.embeddings).sum(-1)
        losses = (distance * now.mask).sum(-1) / now.mask.sum(-1)
        return {"anchor": self.settings.anchor_weight * losses}


class AnchorReader(PairReader):
    """Rows of sentence pairs -> their English side, read by the student without its pack's words."""

    def __call__(self, rows: Sequence[dict[str, Any]]) -> Blocks:
        english = [row["translation"][self.data.teacher_language] for row in rows]
        return Blocks(student={"anchor": self.tokenize(self.data.base, english)})
