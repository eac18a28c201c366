"""Cut a corpus of many files into shards of equal size, and read one."""

from __future__ import annotations

import glob
import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from ..bitext.sources import READERS, read_rows
from ..errors import DataError, error_summary
from ..storage.data_files import file_ending, read_objects
from .documents import IndexedDocument, read_documents
from .lance_rows import document_schema
from .settings import IndexSettings


# Documents that are in memory while a file is checked.
_BLOCK = 10_000


class Columns(NamedTuple):
    """Names of the columns to read, as in [`read_documents`]."""

    id_column: str | None = None
    text_column: str = "text"
    title_column: str = "title"


class CorpusFile(NamedTuple):
    """
    A file of the corpus.

    Attributes:
        path (`str`): Its absolute path, the same on all machines.
        bytes (`int`): Its size.
        rows (`int`): Number of documents.
    """

    path: str
    bytes: int
    rows: int


class Piece(NamedTuple):
    """Rows `start` to `stop - 1` of a file; `first_number` is the position of the first one in the corpus."""

    path: str
    start: int
    stop: int
    first_number: int


def find_files(corpus: str | os.PathLike | Sequence[str | os.PathLike]) -> list[str]:
    """
    List the files of a corpus: paths, or patterns such as `corpus/*.jsonl.gz`, sorted within each pattern.

    Raises:
        DataError: If a pattern has no match, a file is listed twice, or a format is unknown.
    """
    files: list[str] = []
    for pattern in [corpus] if isinstance(corpus, (str, os.PathLike)) else corpus:
        # A file may have a name that is a pattern.
        found = [os.fspath(pattern)] if os.path.isfile(pattern) else sorted(glob.glob(os.fspath(pattern)))
        if not found:
            raise DataError(f"corpus {os.fspath(pattern)} must be files that exist, or a pattern that matches some")
        files += map(os.path.abspath, found)
    for path in files:
        if not os.path.isfile(path) or file_ending(Path(path)) not in READERS:
            raise DataError(f"corpus file {path} must be a {', '.join(READERS)} file, compressed or not")
    if len(set(files)) < len(files):
        twice = next(path for path in files if files.count(path) > 1)
        raise DataError(f"corpus must name every file once, got {twice} twice")
    return files


def count_rows(_: None, file: tuple[str, int]) -> int:
    """Count the documents of a file; a line that cannot be read raises a `DataError` that names it."""
    return sum(1 for _ in read_rows(file[0]))


def scan_file(shared: tuple[Columns, IndexSettings], file: tuple[str, int]) -> tuple[np.ndarray, pa.Schema]:
    """
    Check every document of a file, whose first one has the number `file[1]`.

    Returns:
        The ids, hashed to 64 bits: uint64 of shape `(rows,)`. And a schema that fits all rows.
    """
    columns, settings = shared
    hashes, schema = [np.empty(0, np.uint64)], document_schema(settings)
    documents = _read_file(file, columns)
    while block := list(islice(documents, _BLOCK)):
        hashes.append(np.array([hash_id(document.id) for document in block], np.uint64))
        schema = merge_schemas([schema, document_schema(settings, block)], file[0])
    return np.concatenate(hashes), schema


def find_ids(shared: tuple[Columns, np.ndarray], file: tuple[str, int]) -> list[tuple[str, str]]:
    """Find the ids whose hashes are given, each with its place."""
    columns, hashes = shared
    wanted = set(hashes.tolist())
    return [
        (document.id, place_of(file[0], row))
        for row, document in enumerate(_read_file(file, columns))
        if hash_id(document.id) in wanted
    ]


def hash_id(key: str) -> int:
    """A hash that is the same in every process."""
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "little")


def _read_file(file: tuple[str, int], columns: Columns) -> Iterator[IndexedDocument]:
    path, first_number = file
    for document in read_documents(path, first_number=first_number, **columns._asdict()):
        # A column may have no values in a part of the corpus, which leaves its type open.
        present = {name: value for name, value in document.columns.items() if value is not None}
        yield document._replace(columns=present)


def merge_schemas(schemas: Sequence[pa.Schema], place: str) -> pa.Schema:
    """A schema that fits the rows of all `schemas`, such as one with a float column for whole numbers and floats."""
    try:
        return pa.unify_schemas(schemas, promote_options="permissive")
    except pa.ArrowException as error:
        raise DataError(f"{place} must have values of one type in each column: {error_summary(error)}") from error


def cut(files: Sequence[CorpusFile], shards: int, first_number: int = 0) -> list[list[Piece]]:
    """Cut the rows of all files, end to end, into at most `shards` shards whose sizes differ by at most one row."""
    total = sum(file.rows for file in files)
    shards = min(shards, total)
    bounds = [total * number // shards for number in range(shards + 1)] if shards else [0]
    cuts: list[list[Piece]] = [[] for _ in bounds[1:]]
    first = shard = 0
    for file in files:
        row = 0
        while row < file.rows:
            stop = min(file.rows, bounds[shard + 1] - first)
            cuts[shard].append(Piece(file.path, row, stop, first_number + first + row))
            row = stop
            shard += first + row == bounds[shard + 1]
        first += file.rows
    return cuts


def read_piece(piece: Piece, columns: Columns) -> Iterator[IndexedDocument]:
    """Read the documents of a piece. A compressed file is decompressed from its start."""
    return islice(_read_file((piece.path, piece.first_number - piece.start), columns), piece.start, piece.stop)


def place_of(path: str, row: int, last: int | None = None) -> str:
    """
    Name the line of a row for a message, or the lines from `row` to `last`, as an editor counts them.

    Files whose lines are not rows are counted in rows, from 0.
    """
    last = row if last is None else last
    if file_ending(Path(path)) == ".jsonl":
        with suppress(DataError):  # the file has changed or become damaged since
            places = [place for _, place in islice(read_objects(Path(path), lists=True), row, last + 1)]
            if places:
                end = f" to {places[-1].rpartition(' ')[2]}" if last > row else ""
                return f"{places[0].replace(', line ', ', lines ') if end else places[0]}{end}"
    return f"{path}, row {row}" if last == row else f"{path}, rows {row} to {last}"
