"""One shard of a corpus in, the metadata of the fragments that hold its documents and vectors out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import Any

import pyarrow as pa

from ..checks import import_optional
from ..errors import DataError, error_summary
from ..retrieval import OpticalRetriever, TokenVectors, open_retriever
from .documents import IndexedDocument
from .lance_rows import DATASET_OPTIONS, lance_reason, to_table
from .settings import IndexSettings
from .shards import Columns, Piece, place_of, read_piece


# Documents that are encoded together, longest first, and named together if that fails.
_BLOCK = 512


@dataclass(frozen=True)
class ShardJob:
    """
    What all shards of a run have in common.

    Args:
        uri (`str`): The Lance dataset.
        model (`str`, *optional*): Folder or Hub id of the base, or of a pack on it, on every machine.
        settings ([`IndexSettings`]): Settings of the index, with the fingerprint that the base must have.
        schema (`pa.Schema`): Schema of the rows.
        columns ([`Columns`]): Columns to read.
        mode (`str`): `"create"`, or `"append"` to a dataset that exists.
        batch_size (`int`): Documents per batch.
    """

    uri: str
    model: str | None
    settings: IndexSettings
    schema: pa.Schema
    columns: Columns
    mode: str
    batch_size: int


def encode_shard(job: ShardJob, shard: Sequence[Piece]) -> dict[str, Any]:
    """
    Encode a shard and write it as fragments, which are part of no dataset until their metadata is committed.

    A call that is repeated, or killed, leaves files that no dataset refers to.

    Returns:
        `{"fragments": [metadata, ...], "rows": int, "tokens": int}`, which JSON can hold.

    Raises:
        RuntimeError: If a document cannot be encoded or the fragment not written; it names the file and the lines.
    """
    import_optional("lance", "lance")
    from lance.fragment import write_fragments

    rows = _EncodedRows(job, shard)
    reader = pa.RecordBatchReader.from_batches(job.schema, rows.batches())
    try:
        fragments = write_fragments(reader, job.uri, job.schema, mode=job.mode, **DATASET_OPTIONS)
    except Exception as error:
        # Lance wraps errors of the reader in a message of its own, with a traceback.
        message = error_summary(rows.error) if rows.error else lance_reason(error)
        raise RuntimeError(f"{rows.place()}: {message}") from rows.error
    return {"fragments": [each.to_json() for each in fragments], "rows": rows.rows, "tokens": rows.tokens}


class _EncodedRows:
    """The rows of a shard, block by block, with what has been read so far."""

    def __init__(self, job: ShardJob, shard: Sequence[Piece]):
        self.job, self.shard = job, shard
        self.rows = self.tokens = 0
        self.error: Exception | None = None
        # File, first and last row of what is being encoded.
        self._current = (shard[0].path, shard[0].start, shard[0].stop - 1)

    def batches(self) -> Iterator[pa.RecordBatch]:
        try:
            retriever = _open_base(self.job.model, self.job.settings.base_fingerprint)
            for piece in self.shard:
                yield from self._encode(piece, retriever)
        except Exception as error:
            self.error = error
            raise

    def place(self) -> str:
        return place_of(*self._current)

    def _encode(self, piece: Piece, retriever: OpticalRetriever) -> Iterator[pa.RecordBatch]:
        row = piece.start
        self._current = (piece.path, row, piece.stop - 1)
        documents = read_piece(piece, self.job.columns)
        while block := list(islice(documents, _BLOCK)):
            self._current = (piece.path, row, row + len(block) - 1)
            try:
                vectors = self._encode_block(block, retriever)
            except Exception:
                self._find_culprit(block, retriever)
                raise
            yield from to_table(block, vectors, self.job.schema).to_batches()
            row += len(block)
            self.rows += len(block)
            self.tokens += len(vectors.values)
        if row < piece.stop:
            raise DataError(f"the file has only {row} rows and had more when the run began")

    def _encode_block(self, block: Sequence[IndexedDocument], retriever: OpticalRetriever) -> TokenVectors:
        texts = [document.full_text for document in block]
        vectors = TokenVectors.from_list(retriever.encode_documents(texts, batch_size=self.job.batch_size))
        if not vectors.values.isfinite().all():
            raise DataError("the base gives vectors that are not finite numbers; check its weights and its data type")
        return vectors

    def _find_culprit(self, block: Sequence[IndexedDocument], retriever: OpticalRetriever) -> None:
        """Narrow the place down to the document that cannot be encoded even alone, if there is one."""
        path, first, _ = self._current
        for row, document in enumerate(block, first):
            try:
                self._encode_block([document], retriever)
            except Exception:
                self._current = (path, row, row)
                return


@lru_cache(maxsize=1)
def _open_base(model: str | None, fingerprint: str) -> OpticalRetriever:
    """Open the base once in a process."""
    # The documents of a pack are encoded by its teacher, if that is another model.
    retriever = open_retriever([model] if model else []).indexer
    found = retriever.model.fingerprint()
    if found != fingerprint:
        raise ValueError(
            f"the base on this machine, {retriever.model.name_or_path} (fingerprint {found[:12]}), must be the one "
            f"that the run began with (fingerprint {fingerprint[:12]}); give all machines the same files"
        )
    return retriever
