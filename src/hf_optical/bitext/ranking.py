"""English texts to rank, and what a student reads of them while it is fine-tuned on code-switched text."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from datasets import Dataset, Features, List, Value
from torch import Tensor

from ..errors import DataError
from ..model import OpticalProcessor
from ..model.texts import is_blank
from .loading import gathered, read_rows, text_of
from .reading import listed, shown


_EXAMPLE = '{"query": "...", "positive": "...", "negatives": ["..."]}'
_COLUMNS = ("query", "positive", "negatives")


@dataclass
class CodeSwitchedRanking:
    """
    English queries and documents, some words of which are switched into the new language before the student reads them
    (Litschko et al. 2023, arXiv 2305.05295).

    Every query of a batch ranks all documents of the batch, so the loss of a query depends on what else is in its
    batch, and on how large that is. Where a row has them, the texts are its `query`, its `positive` and its
    `negatives`; otherwise each English sentence is a query and a document. Queries and documents need switchers that
    draw differently: where a sentence is both, the same draw would make the relevant document the query's own copy.

    Args:
        processor ([`OpticalProcessor`]): with what the student reads.
        switch_query (callable, *optional*): query -> query with words switched, such as a [`CodeSwitcher`].
        switch_document (callable, *optional*):
            Likewise. Documents that are not switched are not read by the student: they come from an index that stays
            as it is.
        labels (`bool`, defaults to `False`):
            Whether it is told which document is relevant. Then no text is twice among the documents of a batch, so
            that none counts as relevant in one place and irrelevant in another.
    """

    processor: OpticalProcessor
    switch_query: Callable[[str], str] | None = None
    switch_document: Callable[[str], str] | None = None
    labels: bool = False

    def texts(
        self, rows: Sequence[dict[str, Any]], english: list[str]
    ) -> tuple[list[str], list[str], list[int] | None]:
        """
        What is ranked, in English.

        Returns:
            `tuple`: the queries; the documents, first the relevant one of each query, in order, then the others; and,
            with `labels`, the place of each query's relevant document among them.
        """
        queries, documents = english, english
        if "query" in rows[0]:
            queries = [row["query"] for row in rows]
            negatives = [negative for row in rows for negative in row["negatives"]]
            documents = [*(row["positive"] for row in rows), *negatives]
        if not self.labels:
            return queries, documents, None
        places = {text: place for place, text in enumerate(dict.fromkeys(documents))}
        return queries, list(places), [places[text] for text in documents[: len(queries)]]

    def for_student(self, queries: list[str], documents: list[str]) -> dict[str, dict[str, Tensor]]:
        """`queries` and, where these are switched, `documents`, as the student reads them."""
        switched = queries if self.switch_query is None else [*map(self.switch_query, queries)]
        blocks = {"queries": self.processor.queries(switched)}
        if self.switch_document is not None:
            blocks["documents"] = self.processor.documents([*map(self.switch_document, documents)])
        return blocks


def load_triples(
    name_or_file: str | os.PathLike,
    *,
    config_name: str | None = None,
    split: str = "train",
    revision: str | None = None,
) -> Dataset:
    """
    Queries with a relevant document each and, if there are any, irrelevant ones.

    Args:
        name_or_file (`str` or `os.PathLike`):
            A file, or the id or folder of a dataset, as in [`load_bitext`], with the columns `query`, `positive` and
            perhaps `negative` (a text, or empty) or `negatives` (a list of texts).
        config_name (`str`, *optional*), split (`str`, defaults to `"train"`), revision (`str`, *optional*):
            Which part of a dataset.

    Returns:
        `datasets.Dataset` with the columns `query`, `positive` (`str`) and `negatives` (`list[str]`).

    Raises:
        DataError: the file or dataset is missing, unreadable or empty, a row lacks a query or its positive, or a
            negative is blank or no text. The message names the row.
    """

    def triples() -> Iterator[tuple[dict[str, Any], int]]:
        for index, row in enumerate(read_rows(name_or_file, config_name, split, revision, _EXAMPLE)):
            where = f"{name_or_file}, row {index}"
            texts = {name: text_of(row, name, where) for name in ("query", "positive")}
            for name, text in texts.items():
                if is_blank(text):
                    raise DataError(f"{where} has no {name!r} (it has {listed(row)}); write one into each row")
            negatives = _negatives(row, where)
            yield {**texts, "negatives": negatives}, sum(map(len, [*texts.values(), *negatives]))

    text = Value("string")
    dataset = gathered(triples(), Features(query=text, positive=text, negatives=List(text)))
    if not len(dataset):
        raise DataError(f"{name_or_file} has no rows; pass queries with their relevant documents")
    return dataset


def join_triples(pairs: Dataset, triples: Dataset, seed: int = 0) -> Dataset:
    """
    The sentence pairs, each with a triple beside it: in a seeded order, none again before all were there.

    Drawn once: a pair keeps its triple in every epoch, and of more triples than pairs the others are left out.

    Raises:
        DataError: `triples` is empty or lacks a column.
    """
    lacking = [name for name in _COLUMNS if name not in triples.column_names]
    if lacking or len(triples) == 0:
        raise DataError(
            f"triples have {len(triples)} rows with the columns {listed(triples.column_names) or 'none'}, and need "
            f"{', '.join(_COLUMNS)}; `load_triples` makes such a dataset"
        )
    order: list[int] = []
    for turn in range(-(-len(pairs) // len(triples))):
        rows = list(range(len(triples)))
        Random(f"{seed} {turn}").shuffle(rows)
        order += rows
    chosen = triples.select(order[: len(pairs)])
    joined = {name: pairs[name][:] for name in pairs.column_names}
    return Dataset.from_dict(joined | {name: chosen[name][:] for name in _COLUMNS})


def _negatives(row: dict[str, Any], where: str) -> list[str]:
    """The irrelevant documents of a row; an empty cell of a table holds none."""
    given = row.get("negatives") or row.get("negative") or []
    if isinstance(given, str):
        return [] if is_blank(given) else [given]
    if not isinstance(given, list):
        raise DataError(f"{where}: the negatives are {shown(given)}; write a list of texts, as in {_EXAMPLE}")
    texts = [text_of({"negatives": text}, "negatives", where) for text in given]
    if any(map(is_blank, texts)):
        raise DataError(f"{where} has a blank text among its negatives; leave it out")
    return texts
