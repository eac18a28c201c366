"""The one place where files of lines, objects and tables are opened: what is wrong in them is told with its line."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import os
import re
import reprlib
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import DataError, printable
from ..model.texts import half_character


# Ending -> how a file of that kind begins, and what opens it.
_COMPRESSED: dict[str, tuple[bytes, Callable[[BinaryIO], BinaryIO]]] = {
    ".bz2": (b"BZh", bz2.open),
    ".gz": (b"\x1f\x8b", gzip.open),
    ".xz": (b"\xfd7zXZ\x00", lzma.open),
}
COMPRESSED = tuple(_COMPRESSED)
_UNREADABLE = (OSError, EOFError, zlib.error, lzma.LZMAError)
# Of a line, or of a list in JSON, in bytes: some hundred bytes of an archive can unfold to a line without end.
_LONGEST = 2**28
# Values of a line or list in JSON, or of a row of a table: one of two bytes takes up to a hundred in memory.
_MOST_VALUES = 10**7
# What a file may unfold to in all, in bytes, or so many times its own size; a row counts as `_ROW` bytes at least.
_UNFOLDED, _TIMES, _ROW = 2**30, 300, 256
# Rows of Parquet that are unpacked together, and the bytes that they may come to.
_BATCH, _BATCH_BYTES = 1000, 2**28
_ESCAPED_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")

_repr = reprlib.Repr()
_repr.maxstring = _repr.maxother = _repr.maxlong = 60
_repr.maxdict = _repr.maxlist = 3
_repr.maxlevel = 2


def shown(value: Any) -> str:
    """A value as an error message shows it: on one line, shortened, whatever it is."""
    return f"{_repr.repr(value):.200}"


def listed(names: Iterable[Any]) -> str:
    """The names of columns or languages, as an error message shows them: printable whatever they are."""
    return f"{', '.join(shown(str(name))[1:-1] for name in islice(names, 100)):.300}"


def told(error: BaseException) -> str:
    """What an error of a library says, as a message of ours shows it: on one short line that can be printed."""
    text = " ".join(str(error).split()) or type(error).__name__
    return f"{printable(text):.500}"


def read_lines(path: Path) -> Iterator[tuple[str, str]]:
    """
    The lines of a text file that are not blank, each after `FILE, line N`. Only a newline ends a line, whatever
    Unicode says.

    The file may be compressed, by `.gz`, `.bz2` or `.xz`; one by gzip under any name. A byte order mark is no text.

    Raises:
        DataError: the file is missing, unreadable, no UTF-8, has a line that fills 256 MiB, or is an archive that
            unfolds to over 1 GiB and over 300 times its size.
    """
    for number, line in _lines(path):
        text = line.rstrip("\r\n")
        if text.strip():
            yield f"{path}, line {number}", text


def read_objects(path: Path, *, lists: bool = False, example: str = "") -> Iterator[tuple[dict[str, Any], str]]:
    """
    The objects of a file in JSON lines, each with where it stands.

    Args:
        path (`Path`): the file, as in [`read_lines`].
        lists (`bool`, defaults to `False`): whether the file may also be one list of objects, over several lines.
        example (`str`, *optional*): an object, for the message about what is none.

    Raises:
        DataError: as in [`read_lines`]; or what is there is no JSON, no object, nested too deeply, of more than ten
            million values, or holds a half of a character (an unpaired surrogate). Names the line.
    """
    lines = _lines(path)
    for number, line in lines:
        if not line.strip():
            continue
        if lists and line.lstrip().startswith("["):
            rows = _parse_json("".join(_bounded(path, line, lines)), path, number)
            found = ((row, f"{path}, row {index}") for index, row in enumerate(rows))
        else:
            found = [(_parse_json(line.rstrip(), path, number), f"{path}, line {number}")]
        for row, where in found:
            if not isinstance(row, dict):
                wanted = f" such as {example}" if example else ""
                raise DataError(f"{where}: {shown(row)} in place of an object{wanted}")
            yield row, where


def read_table(path: Path, separator: str) -> Iterator[dict[str, Any]]:
    """
    The rows of a table with a header, such as CSV.

    Raises:
        DataError: as in [`read_lines`]; or a row has more fields than the header, or over ten million, or quotation
            marks that do not match. Names the line.
    """
    # A limit of the whole process, and with 128 KiB too low for a long text; it is never lowered.
    csv.field_size_limit(max(csv.field_size_limit(), _LONGEST))
    separators = 0

    def lines() -> Iterator[str]:
        nonlocal separators
        for number, line in _lines(path):
            separators += line.count(separator)
            if separators > _MOST_VALUES:
                raise DataError(f"{path}, line {number}: a row of over {_MOST_VALUES:,} fields; this is no table")
            # A table may end its lines by a carriage return alone.
            yield from io.StringIO(line, newline="")

    # Strict: an open quotation mark would otherwise swallow the lines that follow.
    reader = csv.DictReader(lines(), delimiter=separator, strict=True)
    try:
        for row in reader:
            separators = 0
            if None in row:
                raise csv.Error("more fields than the header has")
            yield row
    except csv.Error as error:
        raise DataError(
            f"{path}, line {reader.line_num}: {error}; a field that holds a quotation mark or the separator must be "
            "quoted"
        ) from error


def read_parquet(path: Path) -> Iterator[dict[str, Any]]:
    """
    The rows of a file in Parquet.

    Raises:
        DataError: the file is missing, damaged in whatever way, or unfolds to over 1 GiB and over 300 times its size.
    """
    try:
        declare, unfold = _unfolding(path), _unfolding(path)
        with _open(path) as file:
            for batch in _batches(file, declare):
                unfold(batch.nbytes + _ROW * len(batch))
                yield from batch.to_pylist()
    except DataError:
        raise
    # Nothing but the library is at work here, and there is no class for all that it raises on a damaged file.
    except Exception as error:
        raise DataError(f"{path} cannot be read ({told(error)}); fetch or write it again") from error


def _batches(file: BinaryIO, declare: Callable[[int], None]) -> Iterator[pa.RecordBatch]:
    """
    The rows of a file in Parquet, few at a time where they may be long: a value is stored once, however many rows hold
    it, and each row unpacks it anew. What a group of rows is said to unfold to is declared first.
    """
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
        # There a value is stored as what it has more than the last.
        if any("DELTA_BYTE_ARRAY" in chunk.encodings for chunk in chunks):
            longest += size
        rows = max(1, min(_BATCH, _BATCH_BYTES // max(1, longest)))
        for batch in parquet.iter_batches(rows, row_groups=[group]):
            # A column of categories would bring all of them along with each batch.
            arrays = [
                each.dictionary_decode() if pa.types.is_dictionary(each.type) else each for each in batch.columns
            ]
            yield pa.RecordBatch.from_arrays(arrays, names=batch.schema.names)


@contextmanager
def _open(path: Path) -> Iterator[BinaryIO]:
    with open(path, "rb") as raw:
        ending = path.suffix.lower()
        head = raw.peek(8)
        if ending in _COMPRESSED and not head.startswith(_COMPRESSED[ending][0]):
            raise DataError(
                f"{path} is not a {ending[1:]} file though its name ends in {ending}; rename it or fetch it again"
            )
        if head.startswith(_COMPRESSED[".gz"][0]):
            ending = ".gz"
        if ending not in _COMPRESSED:
            yield raw
        else:
            with _COMPRESSED[ending][1](raw) as file:
                yield file


def _unfolding(path: Path) -> Callable[[int], None]:
    """
    Told bytes that a file unfolds to, it raises [`DataError`] when they are too many: some hundred bytes can hold
    what no memory does.
    """
    most, unfolded = max(_UNFOLDED, _TIMES * path.stat().st_size), 0

    def unfold(size: int) -> None:
        nonlocal unfolded
        unfolded += size
        if unfolded > most:
            raise DataError(
                f"{path} unfolds to over {most // 2**20} MiB, far beyond its size on the disk; fetch it again, or "
                "unpack it yourself if it is what it should be"
            )

    return unfold


def _lines(path: str | os.PathLike) -> Iterator[tuple[int, str]]:
    """All lines with their ends, each after its number, counted from 1."""
    path, number = Path(path), 0
    try:
        unfold = _unfolding(path)
        with _open(path) as file:
            for number, line in enumerate(iter(lambda: file.readline(_LONGEST + 1), b""), start=1):
                if len(line) > _LONGEST:
                    raise DataError(
                        f"{path}, line {number} is longer than {_LONGEST // 2**20} MiB; the file is no text, or "
                        "damaged"
                    )
                unfold(len(line) + _ROW)
                yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}, line {number}: not text in UTF-8 ({error.reason}); save it as UTF-8") from error
    except _UNREADABLE as error:
        reason = getattr(error, "strerror", None) or error
        place = f" after line {number}" if number else ""
        raise DataError(f"{path} cannot be read{place} ({reason}); check it, or fetch it again") from error


def _bounded(path: Path, line: str, lines: Iterator[tuple[int, str]]) -> Iterator[str]:
    """`line` and all that follow."""
    size = len(line)
    yield line
    for _, line in lines:
        size += len(line)
        if size > _LONGEST:
            raise DataError(f"{path} is a list of more than {_LONGEST // 2**20} MiB; write one object a line")
        yield line


def _parse_json(text: str, path: Path, number: int) -> Any:
    """The JSON of a text that begins in line `number`."""
    if text.count(",") + text.count(":") > _MOST_VALUES:
        raise DataError(f"{path}, line {number}: over {_MOST_VALUES:,} values at once; write one flat object a line")
    try:
        value = json.loads(text)
        if _ESCAPED_SURROGATE.search(text) and (half := half_character(json.dumps(value, ensure_ascii=False))):
            raise DataError(f"{path}, line {number}: {half}; put the whole character there, or take it out")
        return value
    except json.JSONDecodeError as error:
        raise DataError(
            f"{path}, line {number + error.lineno - 1}: not JSON ({error.msg}, column {error.colno}); write one "
            "object a line"
        ) from error
    except RecursionError as error:
        raise DataError(f"{path}, line {number}: nested too deeply; write one flat object a line") from error
    except DataError:
        raise
    except ValueError as error:  # a number of thousands of digits
        raise DataError(f"{path}, line {number}: not JSON that can be read ({error})") from error
