"""Rows of a dataset -> a batch: every method's blocks of text, tokenised and stacked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from ..model import OpticalProcessor
from .base import Inputs, Reader


@dataclass
class DistillationCollator:
    """
    Make a batch of sentence pairs of one language.

    The student reads everything in one forward, so its blocks are stacked, one after the other.

    Args:
        readers (`dict[str, list[Reader]]`): language -> the readers of its methods, from [`Method.reader`].
        processors (`dict[str, OpticalProcessor]`): language -> the student's processor, which pads.
        teacher_vectors (callable, *optional*):
            Looks up the teacher's token vectors `(batch, tokens, dim)` for the inputs of a block.

    Returns:
        `dict`: `language`, the code; `index`, the row numbers of the pairs, of shape `(batch,)`; `student`, the
        arguments of [`OpticalModel.forward`], and `blocks`, name -> its first row and the row after its last;
        `teacher`, name -> arguments, with `embeddings` if its vectors are looked up; and `targets`.

    Raises:
        ValueError: when called with rows of several languages, or of one without readers.
    """

    readers: dict[str, list[Reader]]
    processors: dict[str, OpticalProcessor]
    teacher_vectors: Callable[[Inputs], Tensor] | None = None

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        language = self._language(rows)
        student: dict[str, Inputs] = {}
        batch: dict[str, Any] = {
            "language": language,
            "index": torch.tensor([row["index"] for row in rows]),
            "teacher": {},
            "targets": {},
        }
        for read in self.readers[language]:
            blocks = read(rows)
            student |= blocks.student
            batch["teacher"] |= {name: self._with_vectors(block) for name, block in blocks.teacher.items()}
            batch["targets"] |= blocks.targets
        ends = list(accumulate(len(block["input_ids"]) for block in student.values()))
        batch["student"] = self.processors[language].pad(list(student.values()))
        batch["blocks"] = dict(zip(student, zip([0, *ends], ends, strict=False), strict=True))
        return batch

    def _language(self, rows: list[dict[str, Any]]) -> str:
        only = next(iter(self.readers)) if len(self.readers) == 1 else None
        found: set[Any] = {row.get("language", only) for row in rows}
        if len(found) > 1 or not found <= self.readers.keys():
            raise ValueError(
                f"a batch must be in one of the languages {', '.join(self.readers)}, got rows in "
                f"{', '.join(sorted(map(str, found)))}"
            )
        return found.pop()

    def _with_vectors(self, block: Inputs) -> Inputs:
        return block if self.teacher_vectors is None else {**block, "embeddings": self.teacher_vectors(block)}
