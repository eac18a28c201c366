"""Rows of a file in any supported format, of a dataset folder or Hub dataset, or of an object in memory."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
from datasets import Dataset, Features

from ..errors import DataError, format_names, short_repr
from ..model.texts import is_blank
from ..storage.data_files import (
    COMPRESSED,
    DataPath,
    file_ending,
    read_aligned,
    read_objects,
    read_parquet,
    read_table,
    read_tmx,
    read_tsv,
    zip_members,
)
from ..storage.hub_datasets import read_dataset


def _read_json(path: DataPath) -> Iterator[dict[str, Any]]:
    return (row for row, _ in read_objects(path, lists=True))


# Ending of a file's name -> function that reads its rows. A new format is a function and a line here.
READERS: dict[str, Callable[[DataPath], Iterator[dict[str, Any]]]] = {
    ".csv": partial(read_table, separator=","),
    ".json": _read_json,
    ".jsonl": _read_json,
    ".parquet": read_parquet,
    ".tmx": read_tmx,
    ".tsv": read_tsv,
}
# A batch of rows that Arrow converts at once: its arrays hold at most 2 GiB of text.
_BATCH_ROWS, _BATCH_CHARACTERS = 10_000, 2**26


def read_rows(
    source: Any,
    config_name: str | None = None,
    split: str = "train",
    revision: str | None = None,
    languages: Sequence[str] = (),
) -> Iterator[Any]:
    """
    Read the rows of a file, a dataset folder, a Hub dataset or an object in memory.

    Files are not read by the loaders of `datasets`: these guess types (a sentence `"NA"` becomes missing, `"12"` a
    number), copy the file to the user's cache and do not say which row is wrong.
    """
    if not isinstance(source, (str, os.PathLike)):
        return _read_memory(source, split, languages)
    path = Path(source)
    if aligned := _find_aligned(path, languages):
        return _read_aligned(aligned, languages)
    # `Path.is_file` raises an error for names that are too long.
    is_folder = os.path.isdir(path)
    if path.suffix.lower() == ".zip" and not is_folder:
        return _read_zip(path, languages)
    if file_ending(path) in READERS and not is_folder:
        return READERS[file_ending(path)](path)
    if os.path.isfile(path) or (path.is_absolute() and not is_folder):
        raise DataError(f"{path} must be an existing {_formats(languages)}, or a dataset")
    return read_dataset(str(source), config_name, split, revision)


def _formats(languages: Sequence[str]) -> str:
    aligned = " and ".join(f"NAME.{code}" for code in languages)
    return f"{', '.join(READERS)} or .zip file" + (f", two aligned files {aligned}" if aligned else "")


def _find_aligned(path: Path, languages: Sequence[str]) -> list[Path]:
    """Find the aligned files of a name they share (`train`) or of one of them (`train.sw`)."""
    if file_ending(path)[1:] in map(str.lower, languages):
        path = path.with_name(path.name.removesuffix(path.suffix if path.suffix in COMPRESSED else "")).with_suffix("")
    elif os.path.exists(path) or not path.name:
        return []
    names = [[f"{path}.{code}{ending}" for ending in ("", *COMPRESSED)] for code in languages]
    files = [Path(name) for same in names for name in same if os.path.isfile(name)]
    return files if len(files) == len(languages) else []


def _read_aligned(paths: Sequence[DataPath], languages: Sequence[str]) -> Iterator[dict[str, Any]]:
    return ({"translation": dict(zip(languages, lines, strict=True))} for lines in read_aligned(paths))


def _read_zip(path: Path, languages: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Read the aligned files of an archive, or else its only file in a supported format."""
    members = zip_members(path)
    sides = [[member for member in members if file_ending(member) == f".{code.lower()}"] for code in languages]
    if sides and all(len(side) == 1 for side in sides):
        return _read_aligned([member for (member,) in sides], languages)
    readable = [member for member in members if file_ending(member) in READERS]
    if len(readable) != 1:
        names = format_names(member.name for member in members)
        raise DataError(f"{path} must hold a single {_formats(languages)}, got {names or 'no files'}")
    return READERS[file_ending(readable[0])](readable[0])


def _read_memory(source: Any, split: str, languages: Sequence[str]) -> Iterator[Any]:
    if isinstance(source, Mapping):
        check_keys(source, [split], "the datasets have no split")
        source = source[split]
    if isinstance(source, (list, tuple)) and source and all(isinstance(each, (str, os.PathLike)) for each in source):
        if len(source) != len(languages):
            raise DataError(
                f"a list must hold one aligned file for each of {', '.join(languages)}, got {len(source)}; pass a "
                "single file by its name"
            )
        return _read_aligned([Path(each) for each in source], languages)
    # Data frames of pandas and polars, in which Arrow turns NaN to null.
    return iter(pa.table(source).to_pylist() if hasattr(source, "__dataframe__") else source)


def source_name(source: Any) -> str:
    """Format a source for messages: the name of a file or dataset, or the type of an object."""
    return str(source) if isinstance(source, (str, os.PathLike)) else type(source).__name__


def check_keys(found: Collection[str], keys: Iterable[str], problem: str, cure: str = "") -> None:
    """Raise `DataError` unless all `keys` are found. The message begins with `problem` and ends with `cure`."""
    missing = [key for key in keys if key not in found]
    if missing:
        raise DataError(f"{problem} {short_repr(missing[0])}, only {format_names(found) or 'empty rows'}{cure}")


def read_text(value: Any, name: str, place: str, *, required: bool = False) -> str:
    """Check that a value of a row is text; a missing one is `""`."""
    text = "" if value is None else value
    if not isinstance(text, str) or required and is_blank(text):
        raise DataError(f"{place}: {name!r} must be text{' and not blank' * required}, got {short_repr(value)}")
    return text


def build_dataset(rows: Iterable[tuple[dict[str, Any], int]], features: Features, source: str) -> Dataset:
    """
    Build a dataset in memory, batch by batch, as Arrow takes a fifth of the memory of Python objects.

    `rows` are rows with their numbers of characters. Without rows, a `DataError` names the `source`.
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
