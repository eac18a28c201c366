from __future__ import annotations

import os
import weakref
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from torch import Tensor

from ..checks import check_choice, check_number
from ..errors import DataError, short_repr
from ..model import OpticalModel
from ..retrieval import Hit, OpticalRetriever, TokenVectors
from ..retrieval.vectors import as_token_vectors
from ..storage.json_files import read_json, write_json
from ..storage.locking import shared_lock
from ..storage.safety import inside
from ..storage.staging import recover, staged_directory
from .documents import IndexedDocument, read_documents
from .part import Part, write_part


INDEX_FILE = "index.json"
_FORMAT_VERSION = 1
# Keeps two processes from adding documents at once.
_LOCK = ".index.lock"
_DTYPES = {"float16": torch.float16, "float32": torch.float32}
# Documents whose vectors are in memory while a part is written.
_PART = 5_000


@dataclass(frozen=True)
class _Settings:
    """The entries of `index.json` other than the parts."""

    base_model: str
    base_fingerprint: str
    roles: dict[str, Any]
    dim: int
    dtype: str
    format_version: int = _FORMAT_VERSION


class RetrievalIndex:
    """
    Documents and their token vectors in a folder, searched exactly.

    The folder holds `index.json` and a folder `part-00000`, `part-00001`, ... for the documents that were added
    together, with `vectors.safetensors` and `documents.parquet`. Vectors are mapped from disk, so an index may be
    larger than memory. Adding and deleting documents never rewrites a part. If writing is interrupted, the folder
    holds either the old index or the new one.

    Use [`~RetrievalIndex.build`] or [`~RetrievalIndex.open`]. Open it again to see what other processes have written.

    Example:

    ```python
    >>> from hf_optical import OpticalRetriever
    >>> from hf_optical.index import RetrievalIndex

    >>> retriever = OpticalRetriever.from_pretrained("sentence-transformers/all-MiniLM-L6-v2")
    >>> documents = ["The Nile is a river in Africa.", "Bread is baked from flour."]
    >>> index = RetrievalIndex.build("outputs/index", documents, retriever)
    >>> (hit,) = retriever.search("Which rivers are in Africa?", index, top_k=1)
    >>> index.document(hit.document).text
    'The Nile is a river in Africa.'
    ```
    """

    def __init__(self, folder: Path, settings: _Settings, parts: list[Part]):
        self.folder, self.settings, self.parts = folder, settings, parts
        # A fingerprint takes seconds for a large model, so each model is checked once.
        self._checked: weakref.WeakSet[OpticalModel] = weakref.WeakSet()

    @classmethod
    def build(
        cls,
        folder: str | os.PathLike,
        documents: Any,
        retriever: OpticalRetriever,
        *,
        dtype: str = "float16",
        batch_size: int = 32,
        show_progress: bool = False,
        **columns: Any,
    ) -> RetrievalIndex:
        """
        Encode documents with the base of a retriever and save the index.

        Args:
            folder (`str` or `os.PathLike`): Folder of the new index.
            documents: Texts, dictionaries, or a file, as in [`read_documents`].
            retriever ([`OpticalRetriever`]): Its base encodes the documents. Its packs have no effect.
            dtype (`str`, defaults to `"float16"`): Data type of the vectors on disk, `"float16"` or `"float32"`.
            batch_size (`int`, defaults to 32), show_progress (`bool`, defaults to `False`): As in [`encode_texts`].
            columns (`str`): `id_column`, `text_column` and `title_column`, as in [`read_documents`].

        Raises:
            FileExistsError: If the folder already holds an index.
            DataError: If there are no documents, one of them is invalid, or two have the same id.
        """
        check_choice("dtype", dtype, _DTYPES)
        folder, base = Path(folder), retriever.model.name_or_path or ""
        settings = _Settings(
            # A relative path would be lost when the index is opened from another folder.
            base_model=os.path.abspath(base) if os.path.isdir(base) else base,
            base_fingerprint=retriever.model.fingerprint(),
            roles=retriever.processor.roles,
            dim=retriever.model.embedding_dim,
            dtype=dtype,
        )
        index = cls(folder, settings, [])
        with index._writing(new=True) as staged:
            index._write_parts(staged, read_documents(documents, **columns), retriever, batch_size, show_progress)
        return index

    @classmethod
    def open(cls, folder: str | os.PathLike) -> RetrievalIndex:
        """
        Open an index.

        Raises:
            OSError: If there is no index, a file is damaged, or a newer version of hf_optical wrote it.
        """
        folder = Path(folder)
        if folder.is_dir():
            recover(folder)
        if not (folder / INDEX_FILE).is_file():
            raise FileNotFoundError(f"{folder} must be the folder of an index, but it has no {INDEX_FILE}")
        with shared_lock(folder):
            return cls(folder, *_read_index(folder))

    def add(
        self,
        documents: Any,
        retriever: OpticalRetriever,
        *,
        batch_size: int = 32,
        show_progress: bool = False,
        **columns: Any,
    ) -> None:
        """
        Add documents. The arguments are those of [`~RetrievalIndex.build`].

        Raises:
            ValueError: If the base of the retriever is not the one that encoded the index.
            DataError: If a document is invalid, or its id is already in the index.
        """
        self.check_base(retriever.model)
        with self._writing() as staged:
            first_number = sum(len(part.ids) for part in self.parts)
            rows = read_documents(documents, first_number=first_number, **columns)
            self._write_parts(staged, rows, retriever, batch_size, show_progress)

    def delete(self, ids: Iterable[str]) -> None:
        """
        Delete documents, so that they are no longer found. Their vectors stay on disk.

        Raises:
            KeyError: If an id is not in the index. Then nothing is deleted.
        """
        with self._writing() as staged:
            deleted = {part.name: part.deleted.copy() for part in self.parts}
            for key in dict.fromkeys(ids):
                deleted[self._part_of(key).name].append(key)
            self._write_index_file(staged, [(part.name, len(part.ids), deleted[part.name]) for part in self.parts])

    @torch.no_grad()
    def search(
        self,
        query_vectors: TokenVectors | Sequence[Tensor] | Tensor,
        top_k: int = 10,
        *,
        show_progress: bool = False,
    ) -> list[list[Hit]]:
        """
        Find the documents with the highest [`maxsim`] score. Arguments are as in [`~retrieval.search`].

        Returns:
            `list[list[Hit]]`: The hits `(document id, score)` of each query, best first.

        Raises:
            ValueError: If `top_k` is below 1, or the vectors have another dimension than those of the index.
        """
        check_number("top_k", top_k, at_least=1)
        if len(query_vectors) == 0:
            return []
        queries = as_token_vectors(query_vectors, name="query_vectors").to(torch.float32)
        rankings = [part.search(queries, top_k, show_progress) for part in self.parts]
        # The sort is stable: equal scores stay in the order of the parts.
        return [
            sorted((hit for hits in own for hit in hits), key=lambda hit: -hit.score)[:top_k]
            for own in zip(*rankings, strict=True)
        ]

    def document(self, document_id: str) -> IndexedDocument:
        """
        Read a document: its `id`, `title`, `text` and other `columns`.

        Raises:
            KeyError: If the id is not in the index.
        """
        return self._part_of(document_id).document(document_id)

    def check_base(self, model: OpticalModel) -> None:
        """
        Check that the queries of a model match the index.

        A model is checked the first time; training it afterwards goes unnoticed.

        Raises:
            ValueError: If another base encoded the documents.
        """
        if model in self._checked:
            return
        expected, found = self.settings.base_fingerprint, model.fingerprint()
        if found != expected:
            raise ValueError(
                f"the queries must be encoded on the base of the index in {self.folder}, "
                f"{self.settings.base_model or 'unnamed'} (fingerprint {expected[:12]}), got "
                f"{model.name_or_path or 'an unnamed model'} (fingerprint {found[:12]}); open a pack of that base, or "
                "build the index again"
            )
        self._checked.add(model)

    @property
    def ids(self) -> list[str]:
        """Ids of the documents, in the order in which they were added."""
        return [key for part in self.parts for key in part.positions]

    def __len__(self) -> int:
        return sum(len(part.positions) for part in self.parts)

    def __contains__(self, document_id: object) -> bool:
        return any(document_id in part.positions for part in self.parts)

    def __repr__(self) -> str:
        settings = self.settings
        return (
            f"RetrievalIndex({str(self.folder)!r}: {len(self)} documents, dim={settings.dim}, dtype={settings.dtype}, "
            f"base={settings.base_model!r})"
        )

    def _part_of(self, key: str) -> Part:
        for part in self.parts:
            if key in part.positions:
                return part
        raise KeyError(f"there is no document {short_repr(key)} in the index in {self.folder}")

    @contextmanager
    def _writing(self, new: bool = False) -> Iterator[Path]:
        """Give a folder whose files move into the index when the block ends; no other process writes until then."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self.folder / _LOCK):
            recover(self.folder)
            if new and (self.folder / INDEX_FILE).exists():
                raise FileExistsError(f"{self.folder} already holds an index; add to it, or choose another folder")
            if not new:  # another process may have added documents
                self.settings, self.parts = _read_index(self.folder)
            with staged_directory(self.folder) as staged:
                yield staged
        self.settings, self.parts = _read_index(self.folder)

    def _write_parts(
        self,
        staged: Path,
        documents: Iterator[IndexedDocument],
        retriever: OpticalRetriever,
        batch_size: int,
        show_progress: bool,
    ) -> None:
        listed = [(part.name, len(part.ids), part.deleted) for part in self.parts]
        seen: set[str] = set()
        while chunk := list(islice(documents, _PART)):
            for document in chunk:
                if document.id in seen or document.id in self:
                    raise DataError(f"document ids must be unique in an index, got {short_repr(document.id)} again")
                seen.add(document.id)
            texts = [document.full_text for document in chunk]
            encoded = retriever.encode_documents(texts, batch_size=batch_size, show_progress=show_progress)
            name = f"part-{len(listed):05}"
            write_part(staged / name, chunk, TokenVectors.from_list(encoded).to(_DTYPES[self.settings.dtype]))
            listed.append((name, len(chunk), []))
        if not seen:
            raise DataError("documents must not be empty")
        self._write_index_file(staged, listed)

    def _write_index_file(self, staged: Path, parts: Sequence[tuple[str, int, list[str]]]) -> None:
        listed = [{"name": name, "documents": count, "deleted": deleted} for name, count, deleted in parts]
        write_json(staged / INDEX_FILE, {**asdict(self.settings), "parts": listed})


def _read_index(folder: Path) -> tuple[_Settings, list[Part]]:
    """Read `index.json` and open the parts that it lists."""
    file = folder / INDEX_FILE
    part = {"name": str, "deleted": [str]}
    kind = {"base_model": str, "base_fingerprint": str, "roles": dict, "dim": int, "dtype": str, "parts": [part]}
    stored = read_json(file, {"format_version": int, **kind})
    stored = {name: value for name, value in stored.items() if value is not None}
    if stored.get("format_version") != _FORMAT_VERSION:
        raise OSError(f"{file} must have format version {_FORMAT_VERSION}; open it with the hf_optical that wrote it")
    try:
        settings = _Settings(**{each.name: stored[each.name] for each in fields(_Settings)})
        parts = [Part(inside(folder, each["name"], file), each["deleted"]) for each in stored["parts"]]
    except KeyError as error:
        raise OSError(f"{file} is damaged (it lacks {error}); build the index again") from error
    return settings, parts
