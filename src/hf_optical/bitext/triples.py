"""Training triples for ranking: queries with relevant and irrelevant documents."""

from __future__ import annotations

import re
from collections.abc import Iterator
from random import Random
from typing import Any

from datasets import Dataset, Features, List, Value

from ..errors import DataError, format_names
from ..model.texts import is_blank
from .sources import build_dataset, check_keys, read_rows, read_text, source_name


_NEGATIVES = re.compile(r"negatives?(_\d+)?")
_FEATURES = Features(query=Value("string"), positive=Value("string"), negatives=List(Value("string")))


def load_triples(
    name_or_file: Any,
    *,
    config_name: str | None = None,
    split: str = "train",
    revision: str | None = None,
) -> Dataset:
    """
    Load queries, each with a relevant document and any number of irrelevant ones.

    Args:
        name_or_file (`str`, `os.PathLike`, or rows in memory):
            A file, dataset folder, Hub dataset or object in memory, as in [`load_bitext`], with the columns `query`,
            `positive` and optionally `negative`, `negative_1`, `negative_2`, ... (a text each, or empty) or
            `negatives` (a list of texts).
        config_name (`str`, *optional*), split (`str`, defaults to `"train"`), revision (`str`, *optional*):
            Configuration, split and revision of a dataset.

    Returns:
        `datasets.Dataset` with the columns `query`, `positive` (`str`) and `negatives` (`list[str]`).

    Raises:
        DataError: the file or dataset is missing, unreadable or empty, or a query or document is blank or not text.
            The message names the row.
    """

    name = source_name(name_or_file)

    def triples() -> Iterator[tuple[dict[str, Any], int]]:
        for index, row in enumerate(read_rows(name_or_file, config_name, split, revision)):
            place = f"{name}, row {index}"
            check_keys(row, ["query", "positive"], f"{place} has no column", "; rows must hold texts, not ids")
            query, positive, *negatives = (
                read_text(value, name, place, required=True)
                for name, value in [("query", row.get("query")), ("positive", row.get("positive")), *_negatives(row)]
            )
            triple = {"query": query, "positive": positive, "negatives": negatives}
            yield triple, sum(map(len, [query, positive, *negatives]))

    return build_dataset(triples(), _FEATURES, name)


def join_triples(pairs: Dataset, triples: Dataset, seed: int = 0) -> Dataset:
    """Add a triple to each sentence pair, in a seeded order that uses every triple once before it repeats any."""
    if not len(triples) or not set(_FEATURES) <= set(triples.column_names):
        raise DataError(
            f"triples must have rows with the columns {', '.join(_FEATURES)}, got {len(triples)} rows with "
            f"{format_names(triples.column_names) or 'no columns'}; load them with `load_triples`"
        )
    order: list[int] = []
    for turn in range(-(-len(pairs) // len(triples))):
        rows = list(range(len(triples)))
        Random(f"{seed} {turn}").shuffle(rows)
        order += rows
    chosen = triples.select(order[: len(pairs)])
    joined = {name: pairs[name][:] for name in pairs.column_names}
    return Dataset.from_dict(joined | {name: chosen[name][:] for name in _FEATURES})


def _negatives(row: dict[str, Any]) -> list[tuple[str, Any]]:
    """The irrelevant documents of a row, by column; an empty cell of a table stands for none."""
    columns = sorted(filter(_NEGATIVES.fullmatch, row), key=lambda name: (len(name), name))
    found = []
    for name in columns:
        given = row[name]
        if not given or isinstance(given, str) and is_blank(given):
            continue
        found += [(name, text) for text in (given if isinstance(given, list) else [given])]
    return found
