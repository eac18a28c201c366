from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ..checks import check_choice
from ..retrieval import OpticalRetriever
from .protocol import Index
from .retrieval_index import INDEX_FILE, RetrievalIndex
from .settings import IndexSettings


# Name of an engine -> what its index is. The module is imported when it is used.
ENGINES = ("exact", "lance", "qdrant")
# What a folder holds -> its index.
_ENTRIES = {INDEX_FILE: "RetrievalIndex", "_versions": "LanceIndex", "qdrant_index.json": "QdrantIndex"}


def open_index(uri: str | os.PathLike) -> Index:
    """
    Open an index, whatever its engine.

    Args:
        uri (`str` or `os.PathLike`):
            Where it is:

            - a folder: [`RetrievalIndex`], [`LanceIndex`] or [`QdrantIndex`], by what the folder holds;
            - `s3://bucket/...`, or another URI of object storage: [`LanceIndex`];
            - `qdrant://host:port/collection`: [`QdrantIndex`] of a server.

    Raises:
        FileNotFoundError: If there is no index.
        OSError: If it is damaged, cannot be reached, or a newer version of hf_optical wrote it.
        ImportError: If the library of the engine is not installed.
    """
    return _engine_at(uri).open(uri)


def create_index(
    uri: str | os.PathLike,
    retriever: OpticalRetriever,
    documents: Any = None,
    *,
    engine: str | None = None,
    dtype: str | None = None,
    **options: Any,
) -> Index:
    """
    Make an index, encoding documents with the base of a retriever.

    Args:
        uri (`str` or `os.PathLike`): Where it will be, as in [`open_index`].
        retriever ([`OpticalRetriever`]):
            Its base encodes the documents, or the teacher of its packs if that is another model.
        documents (*optional*): Texts, dictionaries, or a file, as in [`read_documents`].
        engine (`str`, *optional*): `"exact"`, `"lance"` or `"qdrant"`, for a folder. Defaults to `"exact"`.
        dtype (`str`, *optional*): Data type of the vectors. Defaults to the engine's first, half precision.
        options: `batch_size`, `show_progress`, and columns, as in [`~Index.add_documents`].

    Raises:
        FileExistsError: If there already is an index.
        ValueError: If `uri` is that of another engine than `engine`, such as `s3://...` with `"exact"`.
        DataError: If a document is invalid, or two have the same id.
    """
    kind = _engine_at(uri) if engine is None else _engine(engine)
    named = _engine_of_scheme(uri)
    if named is not None and engine not in (None, named):
        raise ValueError(f"engine must be {named!r} for {uri}, got {engine!r}; leave it out, or pass a folder")
    check_engine(uri, kind)
    index = kind.create(uri, IndexSettings.of(retriever, dtype or kind.dtypes[0]))
    if documents is not None:
        index.add_documents(documents, retriever, **options)
    return index


def check_engine(uri: str | os.PathLike, kind: type[Index]) -> None:
    """Raise `FileExistsError` if a folder holds an index of another engine: one would hide the other."""
    for entry, name in _ENTRIES.items():
        if name != kind.__name__ and (Path(uri) / entry).exists():
            raise FileExistsError(
                f"{uri} already holds an index of another engine ({name}); add to it, or choose another folder"
            )


def _engine_of_scheme(uri: str | os.PathLike) -> str | None:
    """The only engine for a URI such as `s3://...`; `None` for folders, where all engines work."""
    scheme, separator, _ = str(uri).partition("://")
    return ("qdrant" if scheme == "qdrant" else "lance") if separator else None


def _engine_at(uri: str | os.PathLike) -> type[Index]:
    if named := _engine_of_scheme(uri):
        return _engine(named)
    if (Path(uri) / "qdrant_index.json").is_file():
        return _engine("qdrant")
    if (Path(uri) / "_versions").is_dir() and not (Path(uri) / INDEX_FILE).is_file():
        return _engine("lance")
    return RetrievalIndex


def _engine(name: str) -> type[Index]:
    check_choice("engine", name, ENGINES)
    if name == "lance":
        from .lance import LanceIndex

        return LanceIndex
    if name == "qdrant":
        from .qdrant import QdrantIndex

        return QdrantIndex
    return RetrievalIndex
