from __future__ import annotations

import errno
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from itertools import groupby, islice
from pathlib import Path

import torch
from filelock import FileLock
from torch import Tensor

from ..checks import check_number
from ..errors import short_repr
from ..retrieval import Hit, TokenVectors
from ..storage.json_files import read_json, write_json
from ..storage.locking import shared_lock
from ..storage.safety import inside
from ..storage.staging import discard, recover, staged_directory
from .conditions import MetadataTable
from .documents import IndexedDocument, next_number
from .part import Part, write_part
from .protocol import CHUNK, Chunk, Index, list_of_ids
from .recall import Block
from .settings import IndexSettings


INDEX_FILE = "index.json"
# Keeps two processes from adding documents at once.
_LOCK = ".index.lock"
_DTYPES = {"float16": torch.float16, "float32": torch.float32, "int8": torch.int8}
_EXISTS = "{} already holds an index; add to it, or choose another folder"


class RetrievalIndex(Index):
    """
    Documents and their token vectors in a folder, searched exactly.

    The folder holds `index.json` and a folder `part-00000`, `part-00001`, ... for the documents that were added
    together, with `vectors.safetensors`, `documents.parquet` and `words.json`. Vectors are mapped from disk, so an
    index may be larger than memory. Adding and deleting documents never rewrites a part; [`~RetrievalIndex.compact`]
    joins small parts. If writing is interrupted, the folder holds either the old index or the new one.

    Vectors take two bytes a number (`"float16"`), four (`"float32"`) or one (`"int8"`, as in [`TokenVectors.to`]).

    Make one with [`create_index`], and open it with [`open_index`]. Open it again to see what other processes have
    written.

    Example:

    ```python
    >>> from hf_optical import OpticalRetriever
    >>> from hf_optical.index import create_index

    >>> retriever = OpticalRetriever.from_pretrained("sentence-transformers/all-MiniLM-L6-v2")
    >>> documents = ["The Nile is a river in Africa.", "Bread is baked from flour."]
    >>> index = create_index("outputs/index", retriever, documents)
    >>> (hit,) = retriever.search("Which rivers are in Africa?", index, top_k=1)
    >>> index.document(hit.document).text
    'The Nile is a river in Africa.'
    ```
    """

    dtypes = tuple(_DTYPES)

    def __init__(self, folder: Path, settings: IndexSettings, parts: list[Part]):
        super().__init__(str(folder), settings)
        self.folder, self.parts = folder, parts
        self._metadata: MetadataTable | None = None

    @classmethod
    def create(cls, uri: str | os.PathLike, settings: IndexSettings) -> RetrievalIndex:
        """Make an empty index. Its folder is written with the first documents."""
        cls._check_dtype(settings.dtype)
        if (Path(uri) / INDEX_FILE).exists():
            raise FileExistsError(_EXISTS.format(uri))
        return cls(Path(uri), settings, [])

    @classmethod
    def open(cls, uri: str | os.PathLike) -> RetrievalIndex:
        """
        Open an index.

        Raises:
            OSError: If there is no index, a file is damaged, or a newer version of hf_optical wrote it.
        """
        folder = Path(uri)
        if folder.is_dir():
            recover(folder)
        if not (folder / INDEX_FILE).is_file():
            raise FileNotFoundError(f"{folder} must be the folder of an index, but it has no {INDEX_FILE}")
        with shared_lock(folder):
            return cls(folder, *_read_index(folder))

    def delete(self, ids: Iterable[str]) -> None:
        """
        Delete documents, so that they are no longer found. They stay on disk until [`~RetrievalIndex.compact`].

        Raises:
            KeyError: If an id is not in the index. Then nothing is deleted.
        """
        ids = list_of_ids(ids)
        if self._is_new:
            self.documents(ids)  # raises the error for the first of them
            return
        with self._writing() as staged:
            deleted = {part.name: part.deleted.copy() for part in self.parts}
            for key in dict.fromkeys(ids):
                deleted[self._part_of(key).name].append(key)
            self._write_index_file(staged, [(part.name, len(part.ids), deleted[part.name]) for part in self.parts])

    def build(
        self,
        recall: float = 0.98,
        *,
        queries: TokenVectors | Sequence[Tensor] | None = None,
        top_k: int = 10,
        show_progress: bool = False,
    ) -> float:
        """Do nothing: there is nothing to train. Returns 1, the recall of an exact search."""
        check_number("recall", recall, above=0, at_most=1)
        return 1.0

    def compact(self) -> int:
        """
        Join small parts, and remove deleted documents from the disk.

        Call it after hundreds of additions, because each part slows searches down, or after deleting many documents.
        Vectors are copied bit by bit. Scores may change by rounding, below 1e-5, because they are computed in other
        blocks.

        Parts of 2,500 documents or more are rewritten only if documents in them were deleted. New parts have at most
        5,000 documents, which are in memory together. Until the end, the disk holds the old parts too. Other processes
        go on reading what they opened, and wait before they write.

        Returns:
            `int`: Bytes that were freed.
        """
        if self._is_new:
            return 0
        freed = 0
        with self._writing() as staged:
            names, listed = [part.name for part in self.parts], []
            for stays, run in groupby(self.parts, lambda part: not part.deleted and 2 * len(part.ids) >= CHUNK):
                parts = list(run)
                if stays or (len(parts) == 1 and not parts[0].deleted):
                    listed += [(part.name, len(part.ids), part.deleted) for part in parts]
                    continue
                kept = (each for part in parts for each in part.kept())
                while chunk := list(islice(kept, CHUNK)):
                    documents, vectors = zip(*chunk, strict=True)
                    names.append(_name_after(names))
                    write_part(staged / names[-1], documents, TokenVectors.from_list(vectors))
                    listed.append((names[-1], len(documents), []))
                    freed -= _size(staged / names[-1])
                for part in parts:
                    discard(staged / part.name)
                    freed += _size(part.folder)
            self._write_index_file(staged, listed)
        return freed

    @torch.no_grad()
    def search(
        self,
        query_vectors: TokenVectors | Sequence[Tensor] | Tensor,
        top_k: int = 10,
        *,
        where: str | None = None,
        show_progress: bool = False,
    ) -> list[list[Hit]]:
        """
        Find the documents with the highest [`maxsim`] score, as [`Index.search`]. The search is exact.

        A query vector may have any length, which is the weight of its token.
        """
        queries = self._queries(query_vectors, top_k)
        found = self._fulfilling(where)
        rankings = [part.search(queries, top_k, show_progress, found.get(part.name)) for part in self.parts]
        # The sort is stable: equal scores stay in the order of the parts.
        return [
            sorted((hit for hits in own for hit in hits), key=lambda hit: -hit.score)[:top_k]
            for own in zip(*rankings, strict=True)
        ] or [[] for _ in range(len(queries))]

    def documents(self, ids: Sequence[str]) -> list[IndexedDocument]:
        """Read documents, in the order of `ids`. Raises `KeyError` if an id is not in the index."""
        return [self._part_of(key).document(key) for key in list_of_ids(ids)]

    def word_counts(self) -> dict[str, int]:
        """How often words occur in the documents: 50,000 words of each part at most."""
        # The files of parts that another process has compacted are gone; its own parts count the same words.
        there = all(part.folder.is_dir() for part in self.parts)
        counts: Counter[str] = Counter()
        for part in self.parts if there else self.open(self.folder).parts:
            counts.update(part.word_counts())
        return dict(counts)

    @property
    def ids(self) -> list[str]:
        """Ids of the documents, in the order in which they were added."""
        return [key for part in self.parts for key in part.positions]

    def __len__(self) -> int:
        return sum(len(part.positions) for part in self.parts)

    def close(self) -> None:
        """Release the files of the index."""
        super().close()
        self.parts = []
        self._forget_metadata()

    def _add(self, chunks: Iterator[Chunk]) -> None:
        with self._writing(new=self._is_new) as staged:
            listed = [(part.name, len(part.ids), part.deleted) for part in self.parts]
            for documents, vectors in chunks:
                self._check_new([document.id for document in documents])
                name = _name_after(each for each, *_ in listed)
                write_part(staged / name, documents, vectors.to(_DTYPES[self.settings.dtype]))
                listed.append((name, len(documents), []))
            self._write_index_file(staged, listed)

    @property
    def _is_new(self) -> bool:
        """Whether nothing was added yet, by any process."""
        return not self.parts and not (self.folder / INDEX_FILE).exists()

    def _present(self, ids: Sequence[str]) -> set[str]:
        return {key for key in ids for part in self.parts if key in part.positions}

    def _blocks(self) -> Iterator[Block]:
        for part in self.parts:
            yield from part.blocks()

    def _part_of(self, key: str) -> Part:
        for part in self.parts:
            if key in part.positions:
                return part
        raise KeyError(f"there is no document {short_repr(key)} in the index in {self.folder}")

    def _fulfilling(self, where: str | None) -> dict[str, Tensor]:
        """For each part, a mask of the documents that fulfil a condition."""
        if where is None:
            return {}
        if self._metadata is None:
            names = dict.fromkeys(name for part in self.parts for each in part.documents() for name in each.columns)
            everything = (document for part in self.parts for document in part.documents())
            self._metadata = MetadataTable(everything, list(names))
        counts = [len(part.ids) for part in self.parts]
        found = torch.zeros(sum(counts), dtype=torch.bool)
        found[self._metadata.matching(where)] = True
        return {part.name: own for part, own in zip(self.parts, found.split(counts), strict=True)}

    def _forget_metadata(self) -> None:
        if self._metadata is not None:
            self._metadata.close()
            self._metadata = None

    @contextmanager
    def _writing(self, new: bool = False) -> Iterator[Path]:
        """Give a folder whose files move into the index when the block ends; no other process writes until then."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self.folder / _LOCK):
            recover(self.folder)
            if new and (self.folder / INDEX_FILE).exists():
                raise FileExistsError(_EXISTS.format(self.folder))
            if not new:  # another process may have added documents
                settings, parts = _read_index(self.folder)
                self._renew_settings(settings)
                self.parts = parts
            with staged_directory(self.folder) as staged:
                yield staged
            self._forget_metadata()
            self.settings, self.parts = _read_index(self.folder)

    def _write_index_file(self, staged: Path, parts: Sequence[tuple[str, int, list[str]]]) -> None:
        listed = [{"name": name, "documents": count, "deleted": deleted} for name, count, deleted in parts]
        write_json(staged / INDEX_FILE, {**asdict(self.settings), "parts": listed})


def _read_index(folder: Path) -> tuple[IndexSettings, list[Part]]:
    """Read `index.json` and open the parts that it lists."""
    file = folder / INDEX_FILE
    part = {"name": str, "deleted": [str]}
    kind = {"base_model": str, "base_fingerprint": str, "roles": dict, "dim": int, "dtype": str, "parts": [part]}
    stored = read_json(file, {"format_version": int, **kind})
    settings = IndexSettings.from_dict(stored, str(file))
    try:
        if stored.get("parts") is None:
            raise KeyError("parts")
        parts = [Part(inside(folder, each["name"], file), each["deleted"]) for each in stored["parts"]]
    except KeyError as error:
        raise OSError(f"{file} is damaged (it lacks {error}); build the index again") from error
    except OSError as error:
        if error.errno not in (errno.EMFILE, errno.ENFILE):
            raise
        raise OSError(
            error.errno,
            f"the index in {folder} has {len(stored['parts'])} parts, too many for the limit of open files; raise the "
            "limit once (ulimit -n) and compact the index",
        ) from error
    return settings, parts


def _name_after(names: Iterable[str]) -> str:
    """Name of the next part. Numbers of parts that were compacted are not used again while there are later ones."""
    return f"part-{next_number(name.removeprefix('part-') for name in names):05}"


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir())
