"""Rows of a file in any supported format, or of a dataset folder or Hub dataset."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
from datasets import Dataset, Features

from ..errors import DataError, short_repr
from ..model.texts import is_blank
from ..storage.data_files import COMPRESSED, read_objects, read_parquet, read_table
from ..storage.hub_datasets import read_dataset


def _read_json(path: Path) -> Iterator[dict[str, Any]]:
    return (row for row, _ in read_objects(path, lists=True))


# Ending of a file's name -> function that reads its rows. A new format is a function and a line here.
READERS: dict[str, Callable[[Path], Iterator[dict[str, Any]]]] = {
    ".csv": partial(read_table, separator=","),
    ".json": _read_json,
    ".jsonl": _read_json,
    ".parquet": read_parquet,
    ".tsv": partial(read_table, separator="\t"),
}
# A batch of rows that Arrow converts at once: its arrays hold at most 2 GiB of text.
_BATCH_ROWS, _BATCH_CHARACTERS = 10_000, 2**26


def read_rows(
    name_or_file: str | os.PathLike, config_name: str | None, split: str, revision: str | None
) -> Iterator[dict[str, Any]]:
    """
    Read the rows of a file, a dataset folder or a Hub dataset.

    Files are not read by the loaders of `datasets`: these guess types (a sentence `"NA"` becomes missing, `"12"` a
    number), copy the file to the user's cache and do not say which row is wrong.

    Raises:
        DataError: the file or dataset is missing, unreadable or of an unknown format.
    """
    path = Path(name_or_file)
    ending = (path.with_suffix("") if path.suffix.lower() in COMPRESSED else path).suffix.lower()
    # `Path.is_file` raises an error for names that are too long.
    if ending in READERS and not os.path.isdir(path):
        return READERS[ending](path)
    if os.path.isfile(path) or (path.is_absolute() and not os.path.isdir(path)):
        raise DataError(f"{path} must be an existing {', '.join(READERS)} file, or a dataset")
    return read_dataset(str(name_or_file), config_name, split, revision)


def read_text(value: Any, name: str, place: str, *, required: bool = False) -> str:
    """
    Check that a value of a row is text; a missing one is `""`.

    Raises:
        DataError: it is of another type, or nothing of it is visible though it is `required`.
    """
    text = "" if value is None else value
    if not isinstance(text, str) or required and is_blank(text):
        raise DataError(f"{place}: {name!r} must be text{' and not blank' * required}, got {short_repr(value)}")
    return text


def build_dataset(rows: Iterable[tuple[dict[str, Any], int]], features: Features, source: Any) -> Dataset:
    """
    Build a dataset in memory, batch by batch, as Arrow takes a fifth of the memory of Python objects.

    Args:
        rows (iterable of `(dict, int)`): the rows, each with its number of characters.
        features (`datasets.Features`): the columns.
        source: what the rows come from, for the error message.

    Raises:
        DataError: there are no rows.
    """
    schema, batches, batch, characters = features.arrow_schema, [], [], 0
    for row, length in rows:
        batch.append(row)
        characters += length
        if len(batch) == _BATCH_ROWS or characters > _BATCH_CHARACTERS:
            batches.append(pa.RecordBatch.from_pylist(batch, schema))
            batch, characters = [], 0
    if batch:
        batches.append(pa.RecordBatch.from_pylist(batch, schema))
    if not batches:
        raise DataError(f"{source} has no rows")
    return Dataset(pa.Table.from_batches(batches, schema))
