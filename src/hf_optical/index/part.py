"""A part of an index: the vectors and documents that were added together."""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Sequence
from functools import cached_property
from itertools import accumulate
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from ..retrieval import Hit, TokenVectors
from ..retrieval.search import best_documents
from .documents import IndexedDocument


_VECTORS, _DOCUMENTS = "vectors.safetensors", "documents.parquet"
# Documents that are decoded together when one of them is read.
_ROW_GROUP = 1000
_SCHEMA = pa.schema([(name, pa.string()) for name in ("id", "title", "text", "columns")])


def write_part(folder: Path, documents: Sequence[IndexedDocument], vectors: TokenVectors) -> None:
    """Write a part into an empty folder."""
    folder.mkdir(parents=True)
    vectors.save(folder / _VECTORS)
    rows = [
        {**each._asdict(), "columns": json.dumps(each.columns, ensure_ascii=False, default=str)} for each in documents
    ]
    pq.write_table(pa.Table.from_pylist(rows, _SCHEMA), folder / _DOCUMENTS, row_group_size=_ROW_GROUP)


class Part:
    """A part of an index, opened from its folder; `deleted` are the ids of documents that were deleted."""

    def __init__(self, folder: Path, deleted: Sequence[str]):
        self.name, self.deleted = folder.name, list(deleted)
        self.vectors = TokenVectors.open(folder / _VECTORS)
        try:
            self._file = pq.ParquetFile(folder / _DOCUMENTS)
            self.ids: list[str] = self._file.read(["id"])["id"].to_pylist()
        except (pa.ArrowException, KeyError, ValueError) as error:
            raise OSError(f"{folder / _DOCUMENTS} is damaged ({error}); build the index again") from error
        if len(self.ids) != len(self.vectors):
            raise OSError(f"{folder} has {len(self.ids)} documents and {len(self.vectors)} vectors; build it again")

    @cached_property
    def positions(self) -> dict[str, int]:
        """Id -> position, of the documents that are not deleted."""
        deleted = set(self.deleted)
        return {key: position for position, key in enumerate(self.ids) if key not in deleted}

    def search(self, queries: TokenVectors, top_k: int, show_progress: bool) -> list[list[Hit]]:
        """Rank the documents that are not deleted."""
        keep = None
        if self.deleted:
            keep = torch.zeros(len(self.ids), dtype=torch.bool)
            keep[list(self.positions.values())] = True
        return best_documents(queries, self.vectors, top_k, self.ids, keep=keep, show_progress=show_progress)

    def document(self, key: str) -> IndexedDocument:
        """Read a document that is not deleted."""
        position = self.positions[key]
        metadata = self._file.metadata
        starts = [0, *accumulate(metadata.row_group(i).num_rows for i in range(metadata.num_row_groups))]
        group = bisect_right(starts, position) - 1
        (row,) = self._file.read_row_group(group).slice(position - starts[group], 1).to_pylist()
        return IndexedDocument(**{**row, "columns": json.loads(row["columns"])})
