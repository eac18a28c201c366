"""Fine-tuning on code-switched text: a dictionary, English texts with words switched, a ranking to learn."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any, ClassVar

import torch
from datasets import Dataset
from torch import Tensor

from ..bitext.code_switching import CodeSwitcher
from ..bitext.dictionaries import Dictionary, learn_dictionary
from ..bitext.entries import switching_dictionary, without_switched
from ..bitext.loading import iter_sentences
from ..checks import check_choice, check_number
from ..errors import DataError
from ..losses import RankingLoss
from ..model import OpticalProcessor
from ..options import option
from .base import ROLES, Blocks, LanguageData, Method, Reader, Reading, Run


logger = logging.getLogger(__name__)

TARGETS = ("teacher", "labels")


@dataclass(repr=False)
class CodeSwitchSettings:
    """Settings of [`CodeSwitch`]."""

    switch_probability: float = option(0.5, "Probability of switching a word.")
    switch_side: str = option("query", "Texts in which words are switched.", ROLES)
    ranking_target: str = option("teacher", "Ranking to learn: the teacher's, or labels.", TARGETS)
    ranking_temperature: float = option(0.2, "Temperature of the scores in a ranking.")
    ranking_weight: float = option(1.0, "Weight of the ranking next to the other losses.")

    def check_settings(self) -> None:
        check_choice("switch_side", self.switch_side, ROLES)
        check_choice("ranking_target", self.ranking_target, TARGETS)
        check_number("switch_probability", self.switch_probability, at_least=0, at_most=1)
        check_number("ranking_weight", self.ranking_weight, above=0, cure="for no ranking choose method='ot'")
        check_number("ranking_temperature", self.ranking_temperature, above=0)


class CodeSwitch(Method):
    """
    Ranking of English texts, some words of which are switched into the new language (Litschko et al. 2023).

    The texts are those of the `triples`, or else the English sentences of the pairs.
    """

    name = "code_switch"
    blocks = ("queries", "documents")
    card_settings = (
        *("switch_probability", "switch_side", "ranking_target", "ranking_temperature", "ranking_weight"),
    )
    description = (
        "the student learns to rank {teacher_language} texts, some words of which were switched by a dictionary, "
        "{target}"
    )
    tags = ("code-switching",)
    citations: ClassVar = (
        """@article{litschko2023boosting,
  title={Boosting Zero-shot Cross-lingual Retrieval by Training on Artificially Code-Switched Data},
  author={Litschko, Robert and Artemova, Ekaterina and Plank, Barbara},
  journal={arXiv:2305.05295},
  year={2023}
}""",
    )
    uses_labels = True

    def __init__(self, settings: Any):
        super().__init__(settings)
        self.loss = RankingLoss(settings.ranking_temperature, reduction="none")

    def reader(self, data: LanguageData) -> Reader:
        settings, language = self.settings, data.language
        if data.entries:
            dictionary = switching_dictionary(data.entries)
        elif data.pairs is not None:
            pairs = without_switched(data.pairs)
            dictionary = learn_dictionary(pairs, data.student.tokenizer, language, data.teacher_language)
        else:
            raise ValueError("code switching learns its words from train_dataset; pass it, or a dictionary")
        if data.pairs is not None:
            share = _coverage(dictionary, data.pairs, data.teacher_language)
            if not share:
                raise DataError(
                    f"the dictionary for {language!r} contains no word of the {data.teacher_language!r} texts; it "
                    "must translate between these languages"
                )
            level = logging.INFO if share > 0.05 else logging.WARNING
            logger.log(level, "The dictionary for %s contains %.1f %% of the words to switch.", language, 100 * share)
        switch_query = switch_document = None
        if settings.switch_side != "document":
            switch_query = CodeSwitcher(dictionary, settings.switch_probability, settings.seed)
        if settings.switch_side != "query":
            switch_document = CodeSwitcher(dictionary, settings.switch_probability, f"{settings.seed} document")
        # An English word that stays must not be read as a word of the new language that is spelled like it.
        processor = data.student.as_written()
        labels = settings.ranking_target == "labels"
        return CodeSwitchedRanking(
            processor, switch_query, switch_document, labels, data.teacher, data.teacher_language
        )

    def teacher_texts(self, texts: Dataset, teacher_language: str) -> dict[str, list[str]]:
        queries, documents = _ranked(texts, teacher_language)
        return {"document": documents, "query": queries if self.settings.ranking_target == "teacher" else []}

    def losses(self, read: Reading, run: Run) -> dict[str, Tensor]:
        documents = read.teacher("documents")
        if self.settings.ranking_target == "labels":
            target = read.targets["relevant"]
        else:
            queries = read.teacher("queries")
            target = RankingLoss.scores(queries.embeddings, documents.embeddings, queries.mask, documents.mask)
        queries, documents = read.student["queries"], read.student.get("documents", documents)
        losses = self.loss(queries.embeddings, documents.embeddings, queries.mask, documents.mask, target)
        return {"ranking": self.settings.ranking_weight * losses}

    @classmethod
    def describe(cls, settings: dict[str, Any], **names: str) -> str:
        target = "as the frozen teacher ranks them"
        if settings.get("ranking_target") == "labels":
            target = "the relevant one for a query before all others"
        return super().describe(settings, target=target, **names)


@dataclass
class CodeSwitchedRanking:
    """
    Rows -> English queries and documents to rank, some words of which are switched into the new language.

    Every query of a batch ranks all documents of the batch, so the loss of a query depends on the other rows and on
    the batch size. If the rows have them, the texts are `query`, `positive` and `negatives`; otherwise each English
    sentence is a query and a document. Queries and documents need switchers that draw differently: with the same draw,
    the relevant document of a sentence would be the query's own copy.

    Args:
        switch_query (callable, *optional*): query -> query with words switched, such as a [`CodeSwitcher`].
        switch_document (callable, *optional*):
            Likewise. Documents that are not switched are read by the teacher alone, like those of an index.
        labels (`bool`, defaults to `False`):
            Whether the target is the relevant document. Then no text is twice among the documents of a batch, so that
            none is relevant in one place and irrelevant in another.
        processor, teacher ([`OpticalProcessor`]), teacher_language (`str`): as in [`LanguageData`].
    """

    processor: OpticalProcessor
    switch_query: Callable[[str], str] | None = None
    switch_document: Callable[[str], str] | None = None
    labels: bool = False
    teacher: OpticalProcessor | None = None
    teacher_language: str = "en"

    def __call__(self, rows: Sequence[dict[str, Any]]) -> Blocks:
        queries, documents, relevant = self.texts(rows)
        blocks = Blocks(student=self.for_student(queries, documents))
        teacher = self.teacher or self.processor
        if relevant is None:
            blocks.teacher["queries"] = teacher.queries(queries)
        else:
            blocks.targets["relevant"] = torch.tensor(relevant)
        blocks.teacher["documents"] = teacher.documents(documents)
        return blocks

    def texts(self, rows: Sequence[dict[str, Any]]) -> tuple[list[str], list[str], list[int] | None]:
        """
        Return queries, documents (relevant ones first) and, with `labels`, the place of each query's relevant one.
        """
        if "query" in rows[0]:
            queries = [row["query"] for row in rows]
            negatives = [negative for row in rows for negative in row["negatives"]]
            documents = [*(row["positive"] for row in rows), *negatives]
        else:
            queries = documents = [row["translation"][self.teacher_language] for row in rows]
        if not self.labels:
            return queries, documents, None
        places = {text: place for place, text in enumerate(dict.fromkeys(documents))}
        return queries, list(places), [places[text] for text in documents[: len(queries)]]

    def for_student(self, queries: list[str], documents: list[str]) -> dict[str, dict[str, Tensor]]:
        """Tokenise the queries and, if they are switched, the documents for the student."""
        switched = queries if self.switch_query is None else [*map(self.switch_query, queries)]
        blocks = {"queries": self.processor.queries(switched)}
        if self.switch_document is not None:
            blocks["documents"] = self.processor.documents([*map(self.switch_document, documents)])
        return blocks


def _ranked(texts: Dataset, teacher_language: str) -> tuple[list[str], list[str]]:
    """Queries and documents, of triples if there are any, otherwise of sentence pairs."""
    if "query" not in texts.column_names:
        return (list(iter_sentences(texts, teacher_language)),) * 2
    negatives = [negative for row in texts["negatives"] for negative in row]
    return list(texts["query"]), [*texts["positive"], *negatives]


def _coverage(dictionary: Dictionary, texts: Dataset, teacher_language: str) -> float:
    """The share of the words that could be switched that the dictionary contains, in the first ten thousand texts."""
    return dictionary.coverage(islice(chain(*_ranked(texts, teacher_language)), 10_000))
