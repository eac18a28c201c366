"""English texts to rank, and what a student reads of them while it is fine-tuned on code-switched text."""

from __future__ import annotations

import os
from collections.abc import Iterator
from random import Random
from typing import Any

from datasets import Dataset, Features, List, Value

from ..errors import DataError
from ..model.texts import is_blank
from .loading import gathered, read_rows, text_of
from .reading import listed, shown


_EXAMPLE = '{"query": "...", "positive": "...", "negatives": ["..."]}'
_COLUMNS = ("query", "positive", "negatives")


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
