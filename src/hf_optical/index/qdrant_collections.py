"""Collections of Qdrant with token vectors and MUVERA vectors: on a server, or in a folder through qdrant-edge."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol
from urllib.parse import parse_qs, urlsplit

import numpy as np

from ..checks import import_optional
from ..errors import error_summary
from ..storage.staging import staged_directory
from .qdrant_filter import Filter


# Names of the vectors of a point: those of its tokens, and the one that finds candidates.
TOKENS, CANDIDATES = "tokens", "muvera"
# Numbers and points in one request, whose JSON has about ten bytes a number. Points come with vectors or without.
_NUMBERS, _POINTS, _PAYLOADS = 1_000_000, 32, 1_000
# Queries in one request.
_QUERIES = 16
_INFO = "hf_optical"
# Makes a folder an index of this engine.
INFO_FILE = "qdrant_index.json"
# Edges of the graph over the candidates' vectors; of the token vectors there must be none, since Qdrant would compare
# all tokens with all tokens.
_EDGES, _CONSTRUCTION, _FULL_SCAN = 16, 100, 10_000


class Point(NamedTuple):
    """A document: the key of its point, its payload, the vectors of its tokens, and its MUVERA vector."""

    key: str
    payload: dict[str, Any]
    tokens: np.ndarray
    encoding: np.ndarray

    @property
    def vectors(self) -> dict[str, np.ndarray]:
        """Vectors by name. A document without tokens has none, and is never found."""
        return {TOKENS: self.tokens, CANDIDATES: self.encoding} if len(self.tokens) else {}


class Collection(Protocol):
    """What an index needs of Qdrant. `info` is a text that belongs to the collection."""

    def read_info(self) -> str | None: ...
    def write_info(self, info: str) -> None: ...
    def create(self, dim: int, size: int, dtype: str, info: str) -> None: ...
    def index_payload(self, key: str, numbers: bool) -> None: ...
    def drop(self) -> None: ...
    def upsert(self, points: Iterable[Point]) -> None: ...
    def delete(self, keys: Sequence[str]) -> None: ...
    def payloads(self, keys: Sequence[str]) -> dict[str, dict[str, Any]]: ...
    def scroll(self, fields: list[str], vectors: bool) -> Iterator[list[tuple[dict[str, Any], Any]]]: ...
    def count(self) -> int: ...
    def optimize(self) -> None: ...
    def close(self) -> None: ...

    def search(
        self, encodings: np.ndarray, tokens: Sequence[np.ndarray], limit: int, candidates: int, where: Filter | None
    ) -> list[list[tuple[str, float]]]: ...


def collection_at(uri: str | os.PathLike) -> Collection:
    """The collection of `qdrant://host:port/collection`, or of a folder."""
    if str(uri).startswith("qdrant://"):
        return ServerCollection.at(str(uri))
    return FolderCollection(Path(uri))


class ServerCollection:
    """
    A collection on a Qdrant server or cluster.

    Args:
        client (`qdrant_client.QdrantClient`): The connection, which may also be the client's local mode.
        name (`str`): Name of the collection.
        place (`str`): Where it is, for messages.
    """

    def __init__(self, client: Any, name: str, place: str):
        self.client, self.name, self.place = client, name, place
        self.models = import_optional("qdrant_client", "qdrant").models

    @classmethod
    def at(cls, uri: str) -> ServerCollection:
        """
        Connect to the collection of a URI. The variable `QDRANT_API_KEY` may hold the server's key.

        Raises:
            ValueError: If the URI is not `qdrant://host:port/collection`, with `?https=true` or without.
        """
        parts = urlsplit(uri)
        name, options = parts.path.strip("/"), parse_qs(parts.query)
        try:
            host, port = parts.hostname, parts.port
        except ValueError:
            host = None
        if not host or not name or "/" in name or set(options) - {"https"} or parts.username:
            raise ValueError(f"the URI must be qdrant://host:port/collection, or with ?https=true, got {uri!r}")
        client = import_optional("qdrant_client", "qdrant").QdrantClient(
            host=host,
            port=port or 6333,
            https=options.get("https") == ["true"],
            api_key=os.environ.get("QDRANT_API_KEY"),
            timeout=120,
            check_compatibility=False,  # asks at once, and warns where there is no server
        )
        return cls(client, name, f"qdrant://{host}:{port or 6333}/{name}")

    def read_info(self) -> str | None:
        with self._errors():
            if not self.client.collection_exists(self.name):
                return None
            info = (self.client.get_collection(self.name).config.metadata or {}).get(_INFO)
        if not isinstance(info, str):
            raise OSError(f"{self.place} is not an index of hf_optical; choose another collection")
        return info

    def write_info(self, info: str) -> None:
        with self._errors():
            self.client.update_collection(self.name, metadata={_INFO: info})

    def create(self, dim: int, size: int, dtype: str, info: str) -> None:
        models = self.models
        kind = {"distance": models.Distance.DOT, "datatype": models.Datatype(dtype), "on_disk": True}
        quantized = models.ScalarQuantizationConfig(type=models.ScalarType.INT8, always_ram=True)
        vectors = {
            TOKENS: models.VectorParams(
                size=dim,
                multivector_config=models.MultiVectorConfig(comparator=models.MultiVectorComparator.MAX_SIM),
                hnsw_config=models.HnswConfigDiff(m=0),
                **kind,
            ),
            CANDIDATES: models.VectorParams(
                size=size,
                hnsw_config=models.HnswConfigDiff(m=_EDGES, ef_construct=_CONSTRUCTION),
                quantization_config=models.ScalarQuantization(scalar=quantized),
                **kind,
            ),
        }
        with self._errors():
            self.client.create_collection(self.name, vectors, metadata={_INFO: info})
        self.index_payload("id", numbers=False)

    def index_payload(self, key: str, numbers: bool) -> None:
        kinds = self.models.PayloadSchemaType
        with self._errors():
            self.client.create_payload_index(self.name, key, kinds.FLOAT if numbers else kinds.KEYWORD)

    def drop(self) -> None:
        with self._errors():
            self.client.delete_collection(self.name)

    def upsert(self, points: Iterable[Point]) -> None:
        for some in _requests(points):
            written = [
                self.models.PointStruct(
                    id=point.key,
                    payload=point.payload,
                    vector={name: vector.tolist() for name, vector in point.vectors.items()},
                )
                for point in some
            ]
            with self._errors():
                self.client.upsert(self.name, written, wait=True)

    def delete(self, keys: Sequence[str]) -> None:
        with self._errors():
            self.client.delete(self.name, self.models.PointIdsList(points=list(keys)), wait=True)

    def payloads(self, keys: Sequence[str]) -> dict[str, dict[str, Any]]:
        with self._errors():
            return {str(each.id): each.payload for each in self.client.retrieve(self.name, list(keys))}

    def scroll(self, fields: list[str], vectors: bool) -> Iterator[list[tuple[dict[str, Any], Any]]]:
        options: dict[str, Any] = {"with_payload": fields, "with_vectors": [TOKENS] if vectors else False}
        options["limit"] = _POINTS if vectors else _PAYLOADS
        after = None
        while True:
            with self._errors():
                records, after = self.client.scroll(self.name, offset=after, **options)
            yield [(each.payload, (each.vector or {}).get(TOKENS)) for each in records]
            if after is None:
                return

    def count(self) -> int:
        with self._errors():
            return self.client.count(self.name, exact=True).count

    def optimize(self) -> None:
        """Wait until the server has built its graphs."""
        with self._errors():
            while self.client.get_collection(self.name).status == self.models.CollectionStatus.YELLOW:
                time.sleep(1)

    def close(self) -> None:
        self.client.close()

    def search(
        self, encodings: np.ndarray, tokens: Sequence[np.ndarray], limit: int, candidates: int, where: Filter | None
    ) -> list[list[tuple[str, float]]]:
        models = self.models
        kept = models.Filter(**where) if where else None
        # The candidates are scored again, by their tokens.
        quantization = models.QuantizationSearchParams(rescore=False)
        params = models.SearchParams(hnsw_ef=candidates, quantization=quantization)
        requests = [
            models.QueryRequest(
                prefetch=models.Prefetch(
                    query=encoding.tolist(), using=CANDIDATES, limit=candidates, filter=kept, params=params
                ),
                query=own.tolist(),
                using=TOKENS,
                limit=limit,
                with_payload=["id"],
            )
            for encoding, own in zip(encodings, tokens, strict=True)
        ]
        answers = []
        for start in range(0, len(requests), _QUERIES):
            with self._errors():
                answers += self.client.query_batch_points(self.name, requests[start : start + _QUERIES])
        return [[(point.payload["id"], point.score) for point in answer.points] for answer in answers]

    @contextmanager
    def _errors(self) -> Iterator[None]:
        exceptions = import_optional("qdrant_client.http.exceptions", "qdrant")
        try:
            yield
        except exceptions.ResponseHandlingException as error:
            raise OSError(
                f"{self.place} cannot be reached ({error_summary(error)}); is the server running?"
            ) from error
        except exceptions.UnexpectedResponse as error:
            raise OSError(f"{self.place} refused a request: {error_summary(error)}") from error


class FolderCollection:
    """
    A collection in a folder, through qdrant-edge. One process at a time can open it.

    Args:
        folder (`Path`): The folder.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.edge = import_optional("qdrant_edge", "qdrant")
        self._shard: Any = None

    @property
    def shard(self) -> Any:
        if self._shard is None:
            with self._errors():
                self._shard = self.edge.EdgeShard.load(str(self.folder))
        return self._shard

    def read_info(self) -> str | None:
        file = self.folder / INFO_FILE
        return file.read_text(encoding="utf-8") if file.is_file() else None

    def write_info(self, info: str) -> None:
        with staged_directory(self.folder) as staged:
            (staged / INFO_FILE).write_text(info, encoding="utf-8")

    def create(self, dim: int, size: int, dtype: str, info: str) -> None:
        edge = self.edge
        datatype = {"float16": edge.VectorStorageDatatype.Float16, "float32": edge.VectorStorageDatatype.Float32}[
            dtype
        ]
        kind = {"distance": edge.Distance.Dot, "datatype": datatype, "memory": edge.Memory.Cold}
        vectors = {
            TOKENS: edge.EdgeVectorParams(
                dim,
                multivector_config=edge.MultiVectorConfig(edge.MultiVectorComparator.MaxSim),
                hnsw_config=edge.HnswIndexConfig(0, _CONSTRUCTION, _FULL_SCAN),
                **kind,
            ),
            CANDIDATES: edge.EdgeVectorParams(
                size,
                hnsw_config=edge.HnswIndexConfig(_EDGES, _CONSTRUCTION, _FULL_SCAN),
                quantization_config=edge.ScalarQuantizationConfig(edge.ScalarType.Int8, memory=edge.Memory.Pinned),
                **kind,
            ),
        }
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._errors():
            self._shard = edge.EdgeShard.create(str(self.folder), edge.EdgeConfig(vectors=vectors))
        self.index_payload("id", numbers=False)
        self.shard.flush()
        # Last, because it makes the folder an index.
        self.write_info(info)

    def index_payload(self, key: str, numbers: bool) -> None:
        kinds = self.edge.PayloadSchemaType
        self._update(self.edge.UpdateOperation.create_field_index(key, kinds.Float if numbers else kinds.Keyword))

    def drop(self) -> None:
        (self.folder / INFO_FILE).unlink()
        self.close()
        for name in ("segments", "wal"):
            shutil.rmtree(self.folder / name, ignore_errors=True)
        (self.folder / "edge_config.json").unlink(missing_ok=True)

    def upsert(self, points: Iterable[Point]) -> None:
        for some in _requests(points):
            made = [self.edge.Point(point.key, point.vectors, point.payload) for point in some]
            self._update(self.edge.UpdateOperation.upsert_points(made))
        self.shard.flush()

    def delete(self, keys: Sequence[str]) -> None:
        self._update(self.edge.UpdateOperation.delete_points(list(keys)))
        self.shard.flush()

    def payloads(self, keys: Sequence[str]) -> dict[str, dict[str, Any]]:
        with self._errors():
            return {str(each.id): each.payload for each in self.shard.retrieve(list(keys), True, False)}

    def scroll(self, fields: list[str], vectors: bool) -> Iterator[list[tuple[dict[str, Any], Any]]]:
        after = None
        while True:
            request = self.edge.ScrollRequest(
                after,
                _POINTS if vectors else _PAYLOADS,
                with_payload=fields,
                with_vector=[TOKENS] if vectors else False,
            )
            with self._errors():
                records, after = self.shard.scroll(request)
            yield [(each.payload, (each.vector or {}).get(TOKENS)) for each in records]
            if after is None:
                return

    def count(self) -> int:
        with self._errors():
            return self.shard.count(self.edge.CountRequest(exact=True))

    def optimize(self) -> None:
        with self._errors():
            self.shard.optimize()

    def close(self) -> None:
        if self._shard is not None:
            self._shard.close()
            self._shard = None

    def search(
        self, encodings: np.ndarray, tokens: Sequence[np.ndarray], limit: int, candidates: int, where: Filter | None
    ) -> list[list[tuple[str, float]]]:
        edge = self.edge
        kept = self._filter(where) if where else None
        # The candidates are scored again, by their tokens.
        params = edge.SearchParams(hnsw_ef=candidates, quantization=edge.QuantizationSearchParams(rescore=False))
        requests = [
            edge.QueryRequest(
                limit,
                query=edge.Query.Nearest(own, TOKENS),
                prefetches=[
                    edge.Prefetch(candidates, edge.Query.Nearest(encoding, CANDIDATES), params=params, filter=kept)
                ],
                with_payload=["id"],
            )
            for encoding, own in zip(encodings, tokens, strict=True)
        ]
        with self._errors():
            answers = self.shard.query_batch(edge.QueryBatchRequest(requests))
        return [[(point.payload["id"], point.score) for point in answer] for answer in answers]

    def _update(self, operation: Any) -> None:
        with self._errors():
            self.shard.update(operation)

    def _filter(self, where: Filter) -> Any:
        """A filter in JSON as an object of qdrant-edge, which does not read JSON."""
        edge = self.edge
        if "is_empty" in where:
            return edge.IsEmptyCondition(where["is_empty"]["key"])
        if "key" not in where:
            return edge.Filter(**{name: [self._filter(each) for each in own] for name, own in where.items()})
        if "match" in where:
            return edge.FieldCondition(where["key"], match=edge.MatchValue(where["match"]["value"]))
        return edge.FieldCondition(where["key"], range=edge.RangeFloat(**where["range"]))

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except OSError:  # of an inner block
            raise
        except Exception as error:
            busy = "failed to open WAL" in str(error)
            cure = "another process has opened it; a server serves several" if busy else "build the index again"
            raise OSError(f"{self.folder} cannot be used ({error_summary(error)}); {cure}") from error


def _requests(points: Iterable[Point]) -> Iterator[list[Point]]:
    """Points, as many at a time as fit into a request."""
    some: list[Point] = []
    numbers = 0
    for point in points:
        own = point.tokens.size + point.encoding.size
        if some and (numbers + own > _NUMBERS or len(some) == _POINTS):
            yield some
            some, numbers = [], 0
        some.append(point)
        numbers += own
    if some:
        yield some
