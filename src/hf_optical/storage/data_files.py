"""Lines, JSON objects and table rows from files that may be compressed, damaged or hostile."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import os
import re
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from itertools import islice, zip_longest
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO
from xml.etree import ElementTree

import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import DataError, error_summary, short_repr


# A file, or a member of a ZIP archive.
DataPath = Path | zipfile.Path
_OPENERS: dict[str, Callable[[BinaryIO], Any]] = {".bz2": bz2.open, ".gz": gzip.open, ".xz": lzma.open}
COMPRESSED = tuple(_OPENERS)
_READ_ERRORS = (
    *(OSError, EOFError, ValueError, RuntimeError, csv.Error, ElementTree.ParseError),
    *(zlib.error, lzma.LZMAError, zipfile.BadZipFile),
)
_ESCAPED_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")

# Limits against small archives that fill the memory. In bytes: a line or a JSON list; a file once decompressed, where
# that is also `_MOST_TIMES` its size; and what a row counts at least.
_LONGEST, _MOST_BYTES, _MOST_TIMES, _ROW = 2**28, 2**30, 300, 256
# Values in a line or list of JSON, or in a table row: a value of two bytes takes up to a hundred in memory.
_MOST_VALUES = 10**7
# Parquet rows that are decoded together, and the bytes that they may add up to.
_BATCH, _BATCH_BYTES = 1000, 2**28


def read_lines(path: DataPath) -> Iterator[tuple[str, str]]:
    """
    Read the lines of a UTF-8 text file that are not blank, each after its place, `FILE, line N`.

    Only a newline ends a line, unlike in `str.splitlines`. The file may be compressed (`.gz`, `.bz2` or `.xz`; gzip is
    recognised under any name). A byte order mark is skipped.

    Raises `DataError` if the file is missing or damaged, is not UTF-8, has a line of more than 256 MiB, or
    decompresses to more than 1 GiB and more than 300 times its size.
    """
    with _open(path, "it must be UTF-8 text") as file:
        for line in file.lines():
            text = line.rstrip("\r\n")
            if text.strip():
                yield file.place, text


def read_aligned(paths: Sequence[DataPath]) -> Iterator[tuple[str, ...]]:
    """Read text files whose lines belong together, such as the two sides of a Moses corpus."""
    for lines in zip_longest(*map(_text_lines, paths)):
        if None in lines:
            raise DataError(f"{' and '.join(map(str, paths))} must have the same number of lines")
        yield lines


def _text_lines(path: DataPath) -> Iterator[str]:
    with _open(path, "it must be UTF-8 text") as file:
        yield from (line.rstrip("\r\n") for line in file.lines())


def read_objects(path: DataPath, *, lists: bool = False) -> Iterator[tuple[dict[str, Any], str]]:
    """
    Read the objects of a JSON lines file, or, with `lists`, of a file that holds a single list, each with its place.

    Raises `DataError` as [`read_lines`] does, and if the content is not valid JSON objects, has more than ten million
    values in a line, or holds an unpaired surrogate.
    """
    with _open(path, "it must hold one JSON object a line, in UTF-8") as file:
        for line in file.lines():
            if not line.strip():
                continue
            if lists and line.lstrip().startswith("["):
                values = _parse_list(line, file)
                rows: Iterable[tuple[Any, str]] = (
                    (value, f"{path}, row {index}") for index, value in enumerate(values)
                )
            else:
                rows = [(_parse_json(line.rstrip()), file.place)]
            for row, place in rows:
                if not isinstance(row, dict):
                    raise ValueError(f"expected an object, got {short_repr(row)}")
                yield row, place


def read_table(path: DataPath, separator: str, *, complete: bool = False) -> Iterator[dict[str, Any]]:
    """
    Read the rows of a table with a header, such as CSV.

    Raises `DataError` as [`read_lines`] does, and if a row has more fields than the header (or fewer, if rows must be
    `complete`), more than ten million fields, or unbalanced quotation marks.
    """
    _allow_long_fields()
    fields = _Limit(_MOST_VALUES, "fields in one row")
    with _open(path, "fields that hold a quotation mark or the separator must be quoted, in UTF-8") as file:

        def lines() -> Iterator[str]:
            for line in file.lines():
                fields.add(line.count(separator))
                # Tables may end their lines with a single carriage return.
                for number, part in enumerate(io.StringIO(line, newline=""), file.line):
                    file.line = number
                    yield part

        # Without `strict`, an unclosed quotation mark would swallow the lines that follow.
        for row in csv.DictReader(lines(), delimiter=separator, strict=True):
            fields.total = 0
            if None in row or complete and None in row.values():
                raise csv.Error(f"{'more' if None in row else 'fewer'} fields than the header")
            yield row


def _allow_long_fields() -> None:
    # The default of 128 KiB is too low for long texts. The limit holds for the whole process, so it is only raised.
    csv.field_size_limit(max(csv.field_size_limit(), _LONGEST))


def read_tsv(path: DataPath) -> Iterator[dict[str, Any]]:
    """
    Read the rows of a tab-separated table with a header.

    Quotation marks follow the rules of CSV where they are balanced. In other rows, as from Tatoeba, they are text.
    """
    if not _has_row_per_line(path):
        yield from read_table(path, "\t", complete=True)
        return
    _allow_long_fields()
    header: list[str] = []
    with _open(path, "it must be a table in UTF-8") as file:
        for line in file.lines():
            _Limit(_MOST_VALUES, "fields in one row").add(line.count("\t"))
            fields = line.rstrip("\r\n").split("\t")
            with suppress(csv.Error, StopIteration):
                unquoted = next(csv.reader([line], delimiter="\t", strict=True))
                fields = unquoted if len(unquoted) == len(fields) else fields
            if header and fields != [""]:
                yield dict(zip(header, fields, strict=True))
            header = header or fields


def _has_row_per_line(path: DataPath) -> bool:
    """Whether all lines of a tab-separated table have the same number of fields, however they are quoted."""
    with _open(path, "it must be a table in UTF-8") as file:
        texts = (line.rstrip("\r\n") for line in file.lines())
        return len({-1 if "\r" in text else text.count("\t") for text in texts if text} | {-1}) == 2


def read_tmx(path: DataPath) -> Iterator[dict[str, dict[str, str]]]:
    """
    Read the translation units of a TMX file (Translation Memory eXchange 1.4): `{"translation": {code: text}}`.

    A code with a region, such as `EN-US`, is also there as `en`. Formatting codes inside a segment are dropped.
    """
    elements = _Limit(_MOST_VALUES, "elements in one unit")
    parents: list[ElementTree.Element] = []
    with _open(path, "it must be a TMX file") as file:
        # Entities are bounded by expat itself, and external ones are never loaded.
        for event, element in ElementTree.iterparse(file, events=("start", "end")):
            if event == "start":
                elements.add(1)
                parents.append(element)
                continue
            parents.pop()
            if _tag(element) == "tu":
                yield {"translation": _unit(element)}
                elements.total = 0
                parents[-1].clear() if parents else element.clear()


def _tag(element: ElementTree.Element) -> str:
    return element.tag.rpartition("}")[2]


def _unit(unit: ElementTree.Element) -> dict[str, str]:
    texts: dict[str, str] = {}
    for variant in unit:
        code = variant.get("{http://www.w3.org/XML/1998/namespace}lang") or variant.get("lang") or ""
        for segment in (each for each in variant if _tag(each) == "seg"):
            text = _segment(segment).strip()
            texts.setdefault(code, text)
            texts.setdefault(re.split("[-_]", code)[0].lower(), text)
    return texts


def _segment(element: ElementTree.Element) -> str:
    """The text of a segment, without native codes (`bpt`, `ept`, `it`, `ph`, `ut`)."""
    parts = [element.text or ""]
    for child in element:
        parts += [_segment(child) if _tag(child) in ("hi", "sub") else "", child.tail or ""]
    return "".join(parts)


def zip_members(path: Path) -> list[zipfile.Path]:
    """List the files of a ZIP archive; they are read without being extracted."""
    try:
        archive = zipfile.ZipFile(path)
    except _READ_ERRORS as error:
        raise DataError(f"{path} cannot be read ({error_summary(error)}); it must be a ZIP archive") from error
    return [zipfile.Path(archive, name) for name in archive.namelist() if not name.endswith("/")]


def file_ending(path: DataPath) -> str:
    """The ending of a file's name in lower case, without that of its compression: `.jsonl` of `A.JSONL.gz`."""
    name = PurePosixPath(path.name)
    return (name.with_suffix("") if name.suffix.lower() in COMPRESSED else name).suffix.lower()


def read_parquet(path: DataPath) -> Iterator[dict[str, Any]]:
    """Read the rows of a Parquet file."""
    # pyarrow raises errors of many unrelated classes on damaged files.
    with _open(path, "it must be a Parquet file; write or fetch it again", Exception) as file:
        for batch in _batches(file.content, _size_limit(path).add):
            file.size.add(batch.nbytes + _ROW * len(batch))
            yield from batch.to_pylist()


class _Limit:
    """A running total that may not exceed `most`."""

    def __init__(self, most: int, unit: str):
        self.most, self.unit, self.total = most, unit, 0

    def add(self, amount: int) -> None:
        self.total += amount
        if self.total > self.most:
            raise ValueError(f"more than {self.most:,} {self.unit}")


def _size_limit(path: DataPath) -> _Limit:
    file = str(path.root.filename) if isinstance(path, zipfile.Path) else path
    most = max(_MOST_BYTES, _MOST_TIMES * os.path.getsize(file))
    return _Limit(most, "bytes once decompressed, far beyond its size; decompress it yourself if it can be trusted")


class _OpenFile:
    """The decompressed content of a file, and the line that was read last."""

    def __init__(self, path: DataPath):
        self.path, self.line = path, 0
        self.content: BinaryIO
        self.size: _Limit

    @property
    def place(self) -> str:
        return f"{self.path}, line {self.line}" if self.line else str(self.path)

    def lines(self) -> Iterator[str]:
        """Read all lines with their ends."""
        for number, line in enumerate(iter(lambda: self.content.readline(_LONGEST + 1), b""), start=1):
            self.line = number
            _Limit(_LONGEST, "bytes in one line").add(len(line))
            self.size.add(len(line) + _ROW)
            yield line.decode("utf-8-sig" if number == 1 else "utf-8")

    def read(self, size: int = -1) -> bytes:
        content = self.content.read(size)
        self.size.add(len(content))
        return content

    def rest(self, line: str) -> str:
        """Read all that follows `line`, where both are one list."""
        content = self.read(_LONGEST + 1)
        _Limit(_LONGEST, "bytes in one list").add(len(line) + len(content))
        return content.decode()


@contextmanager
def _open(path: DataPath, expected: str, errors: Any = _READ_ERRORS) -> Iterator[_OpenFile]:
    """Open a file, compressed or not, and name it, the line and what was `expected` in every error of reading it."""
    file = _OpenFile(path)
    raw: Any
    try:
        with path.open("rb") as raw:
            file.size = _size_limit(path)
            ending = ".gz" if raw.peek(2).startswith(b"\x1f\x8b") else PurePosixPath(path.name).suffix.lower()
            with _OPENERS.get(ending, nullcontext)(raw) as file.content:
                yield file
    except errors as error:
        # Errors of JSON count lines from where the parsed text begins.
        file.line += (getattr(error, "lineno", None) or 1) - 1
        reason = getattr(error, "strerror", None) or getattr(error, "msg", None) or error_summary(error)
        raise DataError(f"{file.place} cannot be read ({reason}); {expected}") from error


def _parse_json(text: str) -> Any:
    """Parse JSON with a bounded number of values, all of which UTF-8 can write."""
    _Limit(_MOST_VALUES, "values at once").add(text.count(",") + text.count(":"))
    value = json.loads(text)
    if _ESCAPED_SURROGATE.search(text):
        json.dumps(value, ensure_ascii=False).encode()
    return value


def _parse_list(line: str, file: _OpenFile) -> list[Any]:
    """Parse a list of objects, which may go on to the end of the file; any other list in a line is one value."""
    with suppress(json.JSONDecodeError):
        values = _parse_json(line)
        return values if all(isinstance(value, dict) for value in values) else [values]
    return _parse_json(line + file.rest(line))


def _batches(file: BinaryIO, declare: Callable[[int], None]) -> Iterator[pa.RecordBatch]:
    """Read Parquet in batches of few rows where values are long; `declare` gets the size of each row group first."""
    parquet = pq.ParquetFile(file)
    columns = [parquet.schema.column(index) for index in range(len(parquet.schema))]
    texts = [column.path for column in columns if column.physical_type == "BYTE_ARRAY"]
    stored_once = pq.ParquetFile(file, read_dictionary=texts)
    fixed = sum(column.length or 0 for column in columns)
    for group in range(parquet.num_row_groups):
        metadata = parquet.metadata.row_group(group)
        chunks = [metadata.column(index) for index in range(metadata.num_columns)]
        size = sum(chunk.total_uncompressed_size for chunk in chunks)
        declare(size)
        longest = fixed + sum(batch.nbytes for batch in islice(stored_once.iter_batches(1, row_groups=[group]), 1))
        # This encoding stores a value as its difference from the one before.
        if any("DELTA_BYTE_ARRAY" in chunk.encodings for chunk in chunks):
            longest += size
        rows = max(1, min(_BATCH, _BATCH_BYTES // max(1, longest)))
        for batch in parquet.iter_batches(rows, row_groups=[group]):
            # A dictionary-encoded column would bring its whole dictionary along with each batch.
            arrays = [
                each.dictionary_decode() if pa.types.is_dictionary(each.type) else each for each in batch.columns
            ]
            yield pa.RecordBatch.from_arrays(arrays, names=batch.schema.names)
