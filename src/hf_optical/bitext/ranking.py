"""English texts to rank, and what a student reads of them while it is fine-tuned on code-switched text."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from datasets import Dataset
from torch import Tensor

from ..errors import DataError
from ..model import OpticalProcessor
from .loading import read_rows, text_of


SIDES = ("query", "document", "both")


@dataclass
class CodeSwitchedRanking:
    """
    English queries and documents, some words of which are switched into the new language before the student reads them
    (Litschko et al. 2023, arXiv 2305.05295).

    Every query of a batch ranks all documents of the batch. Where a row has them, they are its `query`, its `positive`
    and its `negatives`; otherwise each English sentence is a query and a document.

    Args:
        processor ([`OpticalProcessor`]): with what the student reads.
        switch (callable): text -> text with words switched, such as a [`CodeSwitcher`].
        side (`str`, defaults to `"query"`):
            What is switched: `"query"`, `"document"` or `"both"`. Documents that are not switched are not read by the
            student: they come from an index that stays as it is.
    """

    processor: OpticalProcessor
    switch: Callable[[str], str]
    side: str = "query"

    def texts(self, rows: Sequence[dict[str, Any]], english: list[str]) -> tuple[list[str], list[str]]:
        """The queries, and the documents: first the relevant one of each query, in order, then the others."""
        if "query" not in rows[0]:
            return english, english
        negatives = [negative for row in rows for negative in row["negatives"]]
        return [row["query"] for row in rows], [*(row["positive"] for row in rows), *negatives]

    def for_student(self, queries: list[str], documents: list[str]) -> dict[str, dict[str, Tensor]]:
        """`queries` and, where these are switched, `documents`, as the student reads them."""
        switched = [*map(self.switch, queries)] if self.side != "document" else queries
        blocks = {"queries": self.processor.queries(switched)}
        if self.side != "query":
            blocks["documents"] = self.processor.documents([*map(self.switch, documents)])
        return blocks


def load_triples(name_or_file: str | os.PathLike, *, split: str = "train", revision: str | None = None) -> Dataset:
    """
    Queries with a relevant document each and, if there are any, irrelevant ones.

    Args:
        name_or_file (`str` or `os.PathLike`):
            A file, or the id or folder of a dataset, as in [`load_bitext`], with the columns `query`, `positive` and
            perhaps `negative` (a text) or `negatives` (a list of texts).
        split (`str`, defaults to `"train"`), revision (`str`, *optional*): which part of a dataset.

    Returns:
        `datasets.Dataset` with the columns `query`, `positive` (`str`) and `negatives` (`list[str]`).

    Raises:
        DataError: the file or dataset is missing, unreadable or empty, or a row lacks a query or its positive. The
            message names the row.
    """
    triples = []
    for index, row in enumerate(read_rows(name_or_file, None, split, revision)):
        where = f"{name_or_file}, row {index}"
        triple: dict[str, Any] = {name: text_of(row, name, where) for name in ("query", "positive")}
        for name, text in triple.items():
            if not text.strip():
                raise DataError(
                    f"{where} has no {name!r} (it has {', '.join(map(str, row))}); write one into each row"
                )
        given = row.get("negatives") or row.get("negative") or []
        given = [given] if isinstance(given, str) else given
        triple["negatives"] = [text_of({"negative": text}, "negative", where) for text in given]
        triples.append(triple)
    if not triples:
        raise DataError(f"{name_or_file} has no rows; pass queries with their relevant documents")
    return Dataset.from_list(triples)


def join_triples(pairs: Dataset, triples: Dataset, seed: int = 0) -> Dataset:
    """The sentence pairs, each with a triple beside it: in a seeded order, none again before all were there."""
    order: list[int] = []
    for turn in range(-(-len(pairs) // len(triples))):
        rows = list(range(len(triples)))
        Random(f"{seed} {turn}").shuffle(rows)
        order += rows
    chosen = triples.select(order[: len(pairs)])
    joined = {name: pairs[name][:] for name in pairs.column_names}
    return Dataset.from_dict(joined | {name: chosen[name][:] for name in ("query", "positive", "negatives")})
