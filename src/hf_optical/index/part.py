"""A part of an index: the vectors and documents that were added together."""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from ..bitext.frequency import count_written
from ..retrieval import Hit, TokenVectors
from ..retrieval.search import best_documents
from ..storage.json_files import read_json, write_json
from ..storage.mapping import map_file
from .documents import IndexedDocument
from .recall import Block


_VECTORS, _DOCUMENTS, _WORDS = "vectors.safetensors", "documents.parquet", "words.json"
# Documents that are decoded together when one of them is read.
_ROW_GROUP = 1000
# Tokens of the documents that are read at a time.
_BLOCK_TOKENS = 262_144
_SCHEMA = pa.schema([(name, pa.string()) for name in ("id", "title", "text", "columns")])


def write_part(folder: Path, documents: Sequence[IndexedDocument], vectors: TokenVectors) -> None:
    """Write a part into an empty folder."""
    folder.mkdir(parents=True)
    vectors.save(folder / _VECTORS)
    rows = [
        {**each._asdict(), "columns": json.dumps(each.columns, ensure_ascii=False, default=str)} for each in documents
    ]
    pq.write_table(pa.Table.from_pylist(rows, _SCHEMA), folder / _DOCUMENTS, row_group_size=_ROW_GROUP)
    write_json(folder / _WORDS, count_written(each.full_text for each in documents))


class Part:
    """A part of an index, opened from its folder; `deleted` are the ids of documents that were deleted."""

    def __init__(self, folder: Path, deleted: Sequence[str]):
        self.folder, self.name, self.deleted = folder, folder.name, list(deleted)
        self.vectors = TokenVectors.open(folder / _VECTORS)
        # Mapped like the vectors, so that documents can be read after another process has compacted the index.
        self._mapped = map_file(folder / _DOCUMENTS)
        self._metadata: Any = None
        try:
            with self._open() as file:
                self._metadata = file.metadata
                self.ids: list[str] = file.read(["id"])["id"].to_pylist()
        except (pa.ArrowException, KeyError, ValueError) as error:
            raise OSError(f"{folder / _DOCUMENTS} is damaged ({error}); build the index again") from error
        if len(self.ids) != len(self.vectors):
            raise OSError(f"{folder} has {len(self.ids)} documents and {len(self.vectors)} vectors; build it again")

    @cached_property
    def positions(self) -> dict[str, int]:
        """Id -> position, of the documents that are not deleted."""
        deleted = set(self.deleted)
        return {key: position for position, key in enumerate(self.ids) if key not in deleted}

    def search(
        self, queries: TokenVectors, top_k: int, show_progress: bool, keep: Tensor | None = None
    ) -> list[list[Hit]]:
        """Rank the documents that are not deleted, and of these only those in the mask `keep`, if there is one."""
        if self.deleted:
            present = torch.zeros(len(self.ids), dtype=torch.bool)
            present[list(self.positions.values())] = True
            keep = present if keep is None else keep & present
        if keep is not None and 4 * int(keep.sum()) < len(keep):  # few documents are read on their own
            positions = keep.nonzero()[:, 0].tolist()
            ids = [self.ids[position] for position in positions]
            return best_documents(queries, self.vectors.take(positions), top_k, ids, show_progress=show_progress)
        return best_documents(queries, self.vectors, top_k, self.ids, keep=keep, show_progress=show_progress)

    def blocks(self) -> Iterator[Block]:
        """Ids and vectors of the documents that are not deleted."""
        for start, stop in self.vectors.blocks(_BLOCK_TOKENS):
            kept = [i for i in range(start, stop) if self.positions.get(self.ids[i]) == i]
            vectors = self.vectors[start:stop] if len(kept) == stop - start else self.vectors.take(kept)
            yield [self.ids[i] for i in kept], vectors

    def kept(self) -> Iterator[tuple[IndexedDocument, Tensor]]:
        """Documents that are not deleted, and their vectors as they are stored."""
        for position, document in enumerate(self.documents()):
            if self.positions.get(document.id) == position:
                yield document, self.vectors[position]

    def word_counts(self) -> dict[str, int]:
        """How often words occur in the documents, deleted ones too; none in a part of an earlier version."""
        file = self.folder / _WORDS
        counts = read_json(file) if file.is_file() else {}
        if not all(type(count) is int and count > 0 for count in counts.values()):
            raise OSError(f"{file} is damaged (a count is not a whole number above 0); build the index again")
        return counts

    def documents(self) -> Iterator[IndexedDocument]:
        """Read all documents, deleted ones too."""
        with self._open() as file:
            for batch in file.iter_batches(_ROW_GROUP):
                yield from (_document(row) for row in batch.to_pylist())

    def document(self, key: str) -> IndexedDocument:
        """Read a document that is not deleted."""
        position = self.positions[key]
        groups = range(self._metadata.num_row_groups)
        starts = [0, *accumulate(self._metadata.row_group(i).num_rows for i in groups)]
        group = bisect_right(starts, position) - 1
        with self._open() as file:
            rows = file.read_row_group(group)
        (row,) = rows.slice(position - starts[group], 1).to_pylist()
        return _document(row)

    def _open(self) -> pq.ParquetFile:
        """A reader of its own for each call: Arrow crashes the process if threads share one."""
        return pq.ParquetFile(pa.BufferReader(self._mapped), metadata=self._metadata)


def _document(row: dict[str, Any]) -> IndexedDocument:
    return IndexedDocument(**{**row, "columns": json.loads(row["columns"])})
