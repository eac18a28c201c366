from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from ..checks import check_number
from ..errors import DataError, short_repr
from ..retrieval import Hit, TokenVectors
from .documents import IndexedDocument
from .muvera import Muvera
from .protocol import Chunk, Index, IndexSettings, list_of_ids
from .qdrant_collections import Collection, Point, collection_at
from .qdrant_filter import payload_key, qdrant_filter
from .recall import Block, exact_hits, measured_recall


# Candidates of an index that was not built.
_CANDIDATES = 400
# Namespace of the points' keys, which Qdrant wants to be UUIDs: they are made from the documents' ids.
_KEYS = uuid.UUID("5f0c2f0e-8a63-5d53-9d0c-0d2b1f6a7c11")
_KINDS: dict[type, str] = {str: "text", int: "number", float: "number", bool: "flag"}
# Documents, and tokens of each, that stand in for queries.
_SAMPLE, _SAMPLE_TOKENS = 100, 12
# Documents whose MUVERA vectors are in memory while they are added.
_POINTS = 256


class QdrantIndex(Index):
    """
    Documents in a collection of [Qdrant](https://qdrant.tech), on a server, on a cluster, or embedded in a folder.

    A search has two stages, both inside Qdrant: a graph (HNSW) over one [`~index.muvera.Muvera`] vector for each
    document finds candidates, and MaxSim of the token vectors, which stay on disk, ranks them. Distances are inner
    products, so weights of query tokens count. Query vectors are rounded to the data type of the index.

    The URI is `qdrant://host:port/collection`, with `?https=true` where the server wants it and its key in the
    variable `QDRANT_API_KEY`; or a folder, which one process at a time can open.

    Documents without tokens are stored but never found. A process that is killed while it adds documents leaves some
    of them in the index; delete them before adding them again.
    """

    dtypes = ("float16", "float32")

    def __init__(self, uri: str, settings: IndexSettings, collection: Collection, more: dict[str, Any] | None = None):
        super().__init__(uri, settings)
        self._collection = collection
        self._created = more is not None
        more = more or {"columns": {}, "candidates": _CANDIDATES, "muvera": asdict(Muvera(settings.dim))}
        # Name of each column that conditions may name -> kind of its values.
        self._columns: dict[str, str] = {"id": "text", "title": "text", "text": "text", **more["columns"]}
        self.candidates: int = more["candidates"]
        self._muvera = Muvera(**more["muvera"])

    @classmethod
    def create(cls, uri: str | os.PathLike, settings: IndexSettings) -> QdrantIndex:
        """Make an empty index. Its collection is made with the first documents."""
        return cls.create_in(collection_at(uri), settings, str(uri))

    @classmethod
    def open(cls, uri: str | os.PathLike) -> QdrantIndex:
        """
        Open an index.

        Raises:
            FileNotFoundError: If there is no such collection.
            OSError: If the server cannot be reached, or the collection is not an index.
        """
        return cls.open_in(collection_at(uri), str(uri))

    @classmethod
    def create_in(cls, collection: Collection, settings: IndexSettings, place: str) -> QdrantIndex:
        """[`~QdrantIndex.create`] in a collection, which need not be there yet."""
        cls._check_dtype(settings.dtype)
        if collection.read_info() is not None:
            raise FileExistsError(f"{place} already holds an index; add to it, or choose another name")
        return cls(place, settings, collection)

    @classmethod
    def open_in(cls, collection: Collection, place: str) -> QdrantIndex:
        """[`~QdrantIndex.open`] a collection."""
        info = collection.read_info()
        if info is None:
            raise FileNotFoundError(f"there is no index at {place}; create it first")
        settings = IndexSettings.from_json(info, place)
        stored = json.loads(info)
        try:
            return cls(
                place, settings, collection, {name: stored[name] for name in ("columns", "candidates", "muvera")}
            )
        except (KeyError, TypeError) as error:
            raise OSError(f"{place} is damaged ({error!r}); build the index again") from error

    def delete(self, ids: Iterable[str]) -> None:
        """Delete documents. Raises `KeyError` if an id is not in the index; then nothing is deleted."""
        keys = {_key(each): each for each in list_of_ids(ids)}
        self._refresh()
        missing = [keys[key] for key in keys.keys() - self._payloads(list(keys)).keys()]
        if missing:
            raise KeyError(f"there is no document {short_repr(missing[0])} in the index at {self.uri}")
        if keys:
            self._collection.delete(list(keys))

    def build(
        self,
        recall: float = 0.98,
        *,
        queries: TokenVectors | Sequence[Tensor] | None = None,
        top_k: int = 10,
        show_progress: bool = False,
    ) -> float:
        """
        Build the graph, and choose how many candidates a search scores, as [`Index.build`].

        The number doubles until the recall is reached. It is stored, and raised for longer rankings.
        """
        check_number("recall", recall, above=0, at_most=1)
        self._refresh()
        count = len(self)
        check_number("the number of documents", count, at_least=1, cure="add documents first")
        self._collection.optimize()
        packed = self._sample() if queries is None else self._queries(queries, top_k)
        exact = exact_hits(self._blocks(), packed, top_k, count if show_progress else None)
        self.candidates, measured = max(25, top_k), 0.0
        while True:
            measured = measured_recall(self.search(packed, top_k), exact)
            if measured >= recall or self.candidates >= count:
                break
            self.candidates *= 2
        self._collection.write_info(self._info())
        return measured

    def compact(self) -> None:
        """Let Qdrant merge segments, and drop deleted documents once they are many. A server does it by itself."""
        if self._created:
            self._collection.optimize()

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
        Find the documents with the highest [`maxsim`] score, as [`Index.search`].

        A query vector may have any length, which is the weight of its token.
        """
        queries = self._queries(query_vectors, top_k)
        condition = None if where is None else qdrant_filter(where, self._columns)
        if not self._created:
            return [[] for _ in range(len(queries))]
        asked = [i for i, length in enumerate(queries.lengths.tolist()) if length]
        found = self._collection.search(
            self._muvera.queries(queries.take(asked)).numpy(),
            [queries[i].numpy() for i in asked],
            top_k,
            max(self.candidates, 2 * top_k),
            condition,
        )
        rankings: list[list[Hit]] = [[] for _ in range(len(queries))]
        for i, hits in zip(asked, found, strict=True):
            rankings[i] = [Hit(*hit) for hit in hits]
        return rankings

    def documents(self, ids: Sequence[str]) -> list[IndexedDocument]:
        """Read documents, in the order of `ids`. Raises `KeyError` if an id is not in the index."""
        ids = list_of_ids(ids)
        found = self._payloads([_key(each) for each in ids])
        for each in ids:
            if _key(each) not in found:
                raise KeyError(f"there is no document {short_repr(each)} in the index at {self.uri}")
        rows = [found[_key(each)] for each in ids]
        return [IndexedDocument(row["id"], row["title"], row["text"], json.loads(row["metadata"])) for row in rows]

    @property
    def ids(self) -> list[str]:
        """Ids of the documents, in no particular order."""
        pages = self._collection.scroll(["id"], vectors=False) if self._created else ()
        return [payload["id"] for page in pages for payload, _ in page]

    def __len__(self) -> int:
        return self._collection.count() if self._created else 0

    def close(self) -> None:
        super().close()
        self._collection.close()

    def _add(self, chunks: Iterator[Chunk]) -> None:
        self._refresh()
        created, written = self._created, []
        try:
            for documents, vectors in chunks:
                self._check_new([document.id for document in documents])
                columns = {**self._columns, **_kinds(documents, self._columns)}
                if not self._created:
                    settings = self.settings
                    self._collection.create(settings.dim, self._muvera.size, settings.dtype, self._info())
                    self._created = True
                if columns != self._columns:
                    for name in columns.keys() - self._columns.keys():
                        self._collection.index_payload(payload_key(name), numbers=columns[name] != "text")
                    self._columns = columns
                    self._collection.write_info(self._info())
                written += [_key(document.id) for document in documents]
                self._collection.upsert(self._points(documents, vectors))
        except BaseException:
            if self._created and not created:
                self._collection.drop()
                self._created = False
            elif written:
                self._collection.delete(written)
            raise

    def _refresh(self) -> None:
        """See what other processes have written, before writing."""
        try:
            stored = self.open_in(self._collection, self.uri)
        except FileNotFoundError:
            if self._created:
                raise
            return
        try:
            self._renew_settings(stored.settings)
        except ValueError:
            super().close()  # the collection is already that of the other index
            raise
        self._created, self.candidates = True, stored.candidates
        self._columns, self._muvera = stored._columns, stored._muvera

    def _points(self, documents: Sequence[IndexedDocument], vectors: TokenVectors) -> Iterator[Point]:
        for start in range(0, len(documents), _POINTS):
            part = vectors[start : start + _POINTS]
            encodings = self._muvera.documents(part).numpy()
            for i, document in enumerate(documents[start : start + _POINTS]):
                yield Point(_key(document.id), _payload(document), part[i].float().numpy(), encodings[i])

    def _present(self, ids: Sequence[str]) -> set[str]:
        keys = {_key(each): each for each in ids}
        return {keys[key] for key in self._payloads(list(keys))}

    def _payloads(self, keys: Sequence[str]) -> dict[str, dict[str, Any]]:
        return self._collection.payloads(keys) if self._created and keys else {}

    def _blocks(self) -> Iterator[Block]:
        for page in self._collection.scroll(["id"], vectors=True) if self._created else ():
            rows = [torch.tensor(tokens) if tokens else torch.empty(0, self.settings.dim) for _, tokens in page]
            if rows:
                yield [payload["id"] for payload, _ in page], TokenVectors.from_list(rows)

    def _sample(self) -> TokenVectors:
        """Tokens that follow each other in a document, as if they were a query."""
        rows: list[Tensor] = []
        for _, vectors in self._blocks():
            rows += [vectors[i][:_SAMPLE_TOKENS] for i in range(len(vectors)) if len(vectors[i])]
            if len(rows) >= _SAMPLE:
                break
        return TokenVectors.from_list(rows[:_SAMPLE] or [torch.empty(0, self.settings.dim)])

    def _info(self) -> str:
        more = {"columns": self._columns, "candidates": self.candidates, "muvera": asdict(self._muvera)}
        return json.dumps({**asdict(self.settings), **more})


def _key(document_id: str) -> str:
    return str(uuid.uuid5(_KEYS, document_id))


def _payload(document: IndexedDocument) -> dict[str, Any]:
    """The payload of a point: the document, and for conditions those of its columns that are texts or numbers."""
    named = {name: value for name, value in document.columns.items() if type(value) in _KINDS}
    return {
        "id": document.id,
        "title": document.title,
        "text": document.text,
        "columns": {name: int(value) if isinstance(value, bool) else value for name, value in named.items()},
        "metadata": json.dumps(document.columns, ensure_ascii=False, default=str),
    }


def _kinds(documents: Sequence[IndexedDocument], known: dict[str, str]) -> dict[str, str]:
    """Kinds of the values of the documents' columns, each of which has one kind throughout the index."""
    kinds = dict(known)
    for document in documents:
        for name, value in document.columns.items():
            kind = _KINDS.get(type(value))
            if kind is not None and kinds.setdefault(name, kind) != kind:
                raise DataError(
                    f"the column {short_repr(name)} must hold values of one kind, {kinds[name]}, got "
                    f"{short_repr(value)} in document {short_repr(document.id)}"
                )
    return kinds
