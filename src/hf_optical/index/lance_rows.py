"""
Documents as rows of a Lance dataset.

| column | type |
|---|---|
| `id`, `title`, `text` | string |
| `vectors` | list of fixed-size lists of float16 or float32: a unit vector for each token |
| one for each key of the metadata | inferred from the values |

The schema's metadata holds the settings of the index as JSON, under `hf_optical`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from numbers import Number
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import torch

from ..checks import import_optional
from ..errors import DataError, error_summary, format_names, short_repr
from ..retrieval import TokenVectors
from .conditions import condition_error
from .documents import IndexedDocument
from .settings import IndexSettings


if TYPE_CHECKING:
    import lance

VECTORS = "vectors"
SETTINGS_KEY = b"hf_optical"
# For all functions of Lance that write.
DATASET_OPTIONS: dict[str, Any] = {"data_storage_version": "2.1"}
_TEXTS = ("id", "title", "text")
# Lance trains no index on int8.
_DTYPES = {"float16": pa.float16(), "float32": pa.float32()}
# Types of metadata that no condition of a search could compare.
_UNKNOWN = (pa.types.is_null,)
# Where in its source Lance raised an error, and what may hold a secret.
_PLACE = re.compile(r",? ?\S*/[\w/.-]+\.rs:\d+(:\d+)?|Invalid user input: ")
_SECRET = re.compile(r"(?i)(key|secret|token|credential|signature|password)(\w*\W{1,4})[\w/+=.-]{8,}")


def document_schema(settings: IndexSettings, documents: Sequence[IndexedDocument] = ()) -> pa.Schema:
    """
    The schema of a dataset, with a column for each key of the documents' metadata.

    Raises:
        DataError: If a key cannot be a column, or the values of one have several types.
    """
    columns = metadata_fields(documents)
    return pa.schema(
        [
            pa.field("id", pa.string(), nullable=False),
            pa.field("title", pa.string()),
            pa.field("text", pa.string()),
            pa.field(VECTORS, vectors_type(settings)),
            *columns,
        ],
        {SETTINGS_KEY: settings.to_json().encode()},
    )


def vectors_type(settings: IndexSettings) -> pa.DataType:
    """The type of the vectors of a document."""
    return pa.list_(pa.list_(_DTYPES[settings.dtype], settings.dim))


def metadata_fields(documents: Sequence[IndexedDocument]) -> list[pa.Field]:
    """Infer columns from the metadata of documents. Columns without any value are of strings."""
    names = dict.fromkeys(str(name) for document in documents for name in document.columns)
    refused = [name for name in names if name in (*_TEXTS, VECTORS) or not re.fullmatch(r"[A-Za-z]\w*", name)]
    if refused:
        raise DataError(
            f"names of metadata must be letters, digits and underscores, and not those of other columns, got "
            f"{format_names(refused)}; rename them"
        )
    found = []
    for name in names:
        try:
            kind = pa.array([document.columns.get(name) for document in documents]).type
        except (pa.ArrowException, OverflowError) as error:
            raise DataError(f"metadata {name!r} must have values of one type; {error_summary(error)}") from error
        found.append(pa.field(name, pa.string() if any(unknown(kind) for unknown in _UNKNOWN) else kind))
    return found


def to_table(documents: Sequence[IndexedDocument], vectors: TokenVectors, schema: pa.Schema) -> pa.Table:
    """
    Rows of documents.

    Args:
        documents (sequence of [`IndexedDocument`]): The documents.
        vectors ([`TokenVectors`]): Their vectors.
        schema (`pyarrow.Schema`): From [`document_schema`], of these documents or of others of the dataset.

    Raises:
        DataError: If a value does not fit its column, or there is no such column.
    """
    texts = {name: pa.array([getattr(each, name) for each in documents], pa.string()) for name in _TEXTS}
    columns: dict[str, pa.Array] = {**texts, VECTORS: _vectors_array(vectors, schema.field(VECTORS).type)}
    if new := {name for document in documents for name in document.columns} - set(schema.names):
        raise DataError(f"metadata must have columns in the index, got {format_names(sorted(new))}; add them there")
    for field in schema:
        if field.name not in columns:
            columns[field.name] = _column([document.columns.get(field.name) for document in documents], field)
    return pa.table([columns[name] for name in schema.names], schema=schema)


def to_documents(table: pa.Table) -> list[IndexedDocument]:
    """The documents of rows, with or without their vectors."""
    documents = []
    for row in table.to_pylist():
        texts = {name: row.pop(name) or "" for name in _TEXTS}
        columns = {name: value for name, value in row.items() if not name.startswith("_") and value is not None}
        columns.pop(VECTORS, None)
        documents.append(IndexedDocument(**texts, columns=columns))
    return documents


def read_vectors(column: pa.ChunkedArray | pa.Array) -> TokenVectors:
    """The vectors of rows, in half precision."""
    dim = column.type.value_type.list_size
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    values = [chunk.flatten().flatten().to_numpy(zero_copy_only=False).reshape(-1, dim) for chunk in chunks]
    lengths = [chunk.value_lengths().fill_null(0).to_numpy(zero_copy_only=False) for chunk in chunks]
    joined = np.concatenate(values) if values else np.empty((0, dim), np.float16)
    return TokenVectors(torch.from_numpy(joined), torch.from_numpy(np.concatenate([*lengths, np.empty(0, np.int64)])))


def read_settings(schema: pa.Schema, uri: str) -> IndexSettings:
    """
    Read the settings of an index from the schema of its dataset.

    Raises:
        OSError: If it is not the dataset of an index, or a newer version of hf_optical wrote it.
    """
    stored = (schema.metadata or {}).get(SETTINGS_KEY)
    if stored is None:
        raise OSError(f"{uri} must be an index of hf_optical, but its schema has no {SETTINGS_KEY.decode()!r}")
    settings = IndexSettings.from_json(stored, uri)
    found = schema.field(VECTORS).type if VECTORS in schema.names else None
    if found is None or not pa.types.is_list(found) or getattr(found.value_type, "list_size", None) != settings.dim:
        raise OSError(f"{uri} must hold vectors of {settings.dim} numbers, got {found}; build the index again")
    return settings


def open_dataset(uri: str, storage_options: dict[str, str] | None = None) -> lance.LanceDataset:
    """
    Open a Lance dataset. Credentials of object storage come from the environment, such as `AWS_ACCESS_KEY_ID`.

    Raises:
        FileNotFoundError: If there is none.
        OSError: If it cannot be read.
    """
    lance = import_optional("lance", "lance")
    with readable_errors(uri):
        return lance.dataset(uri, storage_options=storage_options)


def dataset_uri(uri: str) -> str:
    """A URI as it is, or the absolute path of a folder."""
    return uri if "://" in uri else str(Path(uri).resolve())


@contextmanager
def readable_errors(uri: str) -> Iterator[None]:
    """Raise Lance's errors as `OSError`, with the URI, without places in its source, and without secrets."""
    try:
        yield
    except DataError:
        raise
    except (OSError, ValueError, RuntimeError) as error:
        reason = lance_reason(error)
        if re.search(r"not found|no such file|does not exist|NoSuchBucket", reason, flags=re.IGNORECASE):
            raise FileNotFoundError(f"there is no Lance dataset in {uri}: {reason}") from None
        raise OSError(f"{uri} cannot be read or written: {reason}") from None


@contextmanager
def where_errors(where: str | None, uri: str) -> Iterator[None]:
    """Raise Lance's errors as those of a condition, if there is one."""
    try:
        with readable_errors(uri):
            yield
    except OSError as error:
        if where is None or not isinstance(error.__context__, ValueError):
            raise
        raise ValueError(condition_error(where, lance_reason(error.__context__))) from None


def id_condition(ids: Sequence[str]) -> str:
    """The condition that a row has one of some ids."""
    return "id IN ({})".format(", ".join("'" + key.replace("'", "''") + "'" for key in ids))


def lance_reason(error: BaseException) -> str:
    """Lance's message without the place in its source, and without keys and tokens."""
    return _SECRET.sub(r"\1\2...", error_summary(Exception(_PLACE.sub("", str(error)))))


def _vectors_array(vectors: TokenVectors, kind: pa.DataType) -> pa.Array:
    number = kind.value_type.value_type
    values = vectors.to("cpu", torch.float32 if number == pa.float32() else torch.float16).values.contiguous().numpy()
    tokens = pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1), number), type=kind.value_type)
    return pa.ListArray.from_arrays(pa.array(vectors.offsets.numpy(), pa.int32()), tokens, type=kind)


def _column(values: list[Any], field: pa.Field) -> pa.Array:
    try:
        column = pa.array(values, field.type)
    except (pa.ArrowException, OverflowError, TypeError):
        column = None
    if column is None or any(_truncates(value, field.type) for value in values):
        wrong = next((value for value in values if not _fits(value, field.type)), None)
        raise DataError(
            f"metadata {field.name!r} must be of type {field.type}, which it has in the index, got {short_repr(wrong)}"
        )
    return column


def _fits(value: Any, kind: pa.DataType) -> bool:
    try:
        pa.array([value], kind)
    except (pa.ArrowException, OverflowError, TypeError):
        return False
    return not _truncates(value, kind)


def _truncates(value: Any, kind: pa.DataType) -> bool:
    """Whether a whole number would be stored for a fraction: pyarrow raises no error for that."""
    if value is None:
        return False
    if pa.types.is_integer(kind):
        return isinstance(value, Number) and value % 1 != 0  # type: ignore[operator]
    if pa.types.is_list(kind):
        return any(_truncates(each, kind.value_type) for each in value)
    if pa.types.is_struct(kind):
        return any(_truncates(dict(value).get(field.name), field.type) for field in kind)
    return False
