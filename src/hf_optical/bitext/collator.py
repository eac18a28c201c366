from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import accumulate, islice
from typing import Any

import torch
from torch import Tensor

from ..model import OpticalProcessor
from .ranking import CodeSwitchedRanking


_TEXTS_AT_A_TIME = 1000


@dataclass
class DistillationCollator:
    """
    Sentence pairs -> what the student reads and what the teacher reads.

    The student reads everything in one forward, so its texts are stacked, block after block:

    - `pairs`: the sentences of the new language, to be aligned with their English. With several roles a block a role:
      rows `0 .. batch-1` are the first role, the next `batch` rows the second.
    - `anchor`: the English sentences in the same order.
    - `queries`, `documents`: the English texts to rank and be ranked, with words of the new language switched in.

    Args:
        student_processor ([`OpticalProcessor`]), teacher_processor ([`OpticalProcessor`]): one for each side.
        language (`str`), teacher_language (`str`): keys of the `translation` feature.
        roles (`tuple[str, ...]`, defaults to `("query",)`): `"query"`, `"document"` or both.
        align (`bool`, defaults to `True`): whether there are pairs to be aligned.
        anchor ([`OpticalProcessor`], *optional*): with what the student also reads the English side.
        ranking ([`CodeSwitchedRanking`], *optional*): with what the student also ranks English texts.
        align_special_tokens (`bool`, defaults to `True`): whether special tokens, role markers and query expansion are
            among what is aligned. Unknown words always are.
        student_weights (`torch.Tensor` of shape `(vocabulary,)`, *optional*), teacher_weights (likewise):
            What each token id counts for in the alignment, see [`inverse_document_frequency`]. Alike by default.
        teacher_vectors (callable, *optional*):
            Looks up the token vectors of the teacher, `(batch, tokens, dim)`, for what its processor gives.

    Returns:
        `dict`: `student`, the arguments of [`OpticalModel.forward`], and `blocks`, name -> its first row and the row
        behind its last; `language`, the code; `index`, the row numbers of the pairs, of shape `(batch,)`. With `align`
        `teacher`, likewise arguments, with `embeddings` where its vectors are looked up, and with weights
        `student_weights` and `teacher_weights`, a number a token. With `ranking` also `teacher_documents` and
        `teacher_queries`, as `teacher`; with its `labels`, in place of the latter, `relevant` of shape `(batch,)`:
        which of the documents is relevant for each query.
    """

    student_processor: OpticalProcessor
    teacher_processor: OpticalProcessor
    language: str
    teacher_language: str
    roles: tuple[str, ...] = ("query",)
    align: bool = True
    anchor: OpticalProcessor | None = None
    ranking: CodeSwitchedRanking | None = None
    align_special_tokens: bool = True
    student_weights: Tensor | None = None
    teacher_weights: Tensor | None = None
    teacher_vectors: Callable[[dict[str, Tensor]], Tensor] | None = None

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        new = [row["translation"][self.language] for row in rows]
        english = [row["translation"][self.teacher_language] for row in rows]
        batch: dict[str, Any] = {"language": self.language, "index": torch.tensor([row["index"] for row in rows])}
        blocks: dict[str, dict[str, Tensor]] = {}
        if self.align:
            blocks["pairs"] = self._to_align(self.student_processor, new)
            batch["teacher"] = self._looked_up(self._to_align(self.teacher_processor, english))
        if self.anchor is not None:
            blocks["anchor"] = self._to_align(self.anchor, english)
        if self.ranking is not None:
            queries, documents, relevant = self.ranking.texts(rows, english)
            blocks |= self.ranking.for_student(queries, documents)
            if relevant is None:
                batch["teacher_queries"] = self._looked_up(self.teacher_processor.queries(queries))
            else:
                batch["relevant"] = torch.tensor(relevant)
            batch["teacher_documents"] = self._looked_up(self.teacher_processor.documents(documents))
        ends = list(accumulate(len(block["input_ids"]) for block in blocks.values()))
        batch["student"] = self.student_processor.pad(list(blocks.values()))
        batch["blocks"] = dict(zip(blocks, zip([0, *ends], ends, strict=False), strict=True))
        if self.align and self.student_weights is not None:
            batch["student_weights"] = self.student_weights[batch["student"]["input_ids"][: ends[0]]]
        if self.align and self.teacher_weights is not None:
            batch["teacher_weights"] = self.teacher_weights[batch["teacher"]["input_ids"]]
        return batch

    def _looked_up(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return batch if self.teacher_vectors is None else {**batch, "embeddings": self.teacher_vectors(batch)}

    def _to_align(self, processor: OpticalProcessor, texts: list[str]) -> dict[str, Tensor]:
        batch = processor.pad([processor(texts, role) for role in self.roles])
        if not self.align_special_tokens:
            words = batch["token_mask"] & ~torch.isin(batch["input_ids"], special_ids(processor))
            # An empty sentence keeps its special tokens: transport needs some mass.
            batch["token_mask"] = torch.where(words.any(1, keepdim=True), words, batch["token_mask"])
        return batch


@dataclass
class MultilingualCollator:
    """
    Sentence pairs of one language, whichever it is -> what its own collator makes of them.

    Args:
        collators (`dict[str, DistillationCollator]`): language -> its collator.

    Raises:
        ValueError: when called with rows whose `language` is not the same, or not known.
    """

    collators: dict[str, DistillationCollator]

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        found = {row["language"] for row in rows}
        if len(found) > 1 or not found <= self.collators.keys():
            raise ValueError(
                f"a batch is of the languages {', '.join(sorted(found))}; it must be of one out of "
                f"{', '.join(self.collators)}"
            )
        return self.collators[found.pop()](rows)

    @property
    def teacher_vectors(self) -> Callable[[dict[str, Tensor]], Tensor] | None:
        """Those of every language's collator."""
        return next(iter(self.collators.values())).teacher_vectors

    @teacher_vectors.setter
    def teacher_vectors(self, vectors: Callable[[dict[str, Tensor]], Tensor] | None) -> None:
        for collator in self.collators.values():
            collator.teacher_vectors = vectors


def inverse_document_frequency(processor: OpticalProcessor, texts: Iterable[str]) -> Tensor:
    """
    How telling each token is: `log(1 + N / (1 + df))` for `N` texts of which `df` hold the token.

    Returns:
        `torch.Tensor` of shape `(vocabulary,)`, above 0 everywhere.
    """
    number, frequency, texts = 0, Counter(), iter(texts)
    while some := list(islice(texts, _TEXTS_AT_A_TIME)):
        number += len(some)
        frequency.update(token for ids in processor.tokenizer(some)["input_ids"] for token in set(ids))
    counts = torch.tensor([frequency[token] for token in range(len(processor.tokenizer))])
    return torch.log1p(number / (1 + counts))


def special_ids(processor: OpticalProcessor) -> Tensor:
    """Ids of special tokens and role markers, of shape `(ids,)`; the unknown token is a word and not among them."""
    tokenizer = processor.tokenizer
    markers = [marker for marker in (processor.query_marker, processor.document_marker) if marker is not None]
    ids = {*tokenizer.all_special_ids, *tokenizer.convert_tokens_to_ids(markers)} - {tokenizer.unk_token_id}
    return torch.tensor(sorted(ids))
