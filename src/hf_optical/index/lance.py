from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import torch
from filelock import FileLock
from torch import Tensor
from tqdm.auto import tqdm

from ..checks import check_choice, check_number, import_optional
from ..errors import short_repr
from ..retrieval import Hit, TokenVectors
from ..retrieval.search import best_documents
from .documents import IndexedDocument
from .effort import Effort, efforts
from .lance_rows import (
    DATASET_OPTIONS,
    VECTORS,
    dataset_uri,
    document_schema,
    id_condition,
    metadata_fields,
    open_dataset,
    read_settings,
    read_vectors,
    readable_errors,
    to_documents,
    to_table,
    where_errors,
)
from .partitions import TOKENS_PER_PARTITION, number_of_partitions, train_partitions
from .protocol import Chunk, Index, check_unit, list_of_ids
from .recall import Block, exact_hits, measured_recall
from .settings import IndexSettings


if TYPE_CHECKING:
    import lance

_INDEX, _ID_INDEX = "hf_optical_vectors", "hf_optical_ids"
_EFFORT_KEY = "hf_optical.effort"
_LOCK = ".index.lock"
# Ids in one condition.
_IDS = 2_000
# Documents whose vectors are read at a time.
_BLOCK = 512
# A condition that no more documents fulfil is searched exactly.
_FEW = 1_000
# Parts of documents that replace queries in measuring, and their tokens.
_SAMPLE, _SAMPLE_TOKENS = 100, 12
# Bits a number -> kind of inverted index in Lance: RaBitQ of residuals, or scalar quantisation.
_KINDS: dict[int, tuple[str, dict[str, Any]]] = {
    **{bits: ("IVF_RQ", {"num_bits": bits}) for bits in (1, 2, 4)},
    8: ("IVF_SQ", {}),
}
_TORCH_DTYPES = {"float16": torch.float16, "float32": torch.float32}


class LanceIndex(Index):
    """
    Documents and their token vectors in a Lance dataset, in a folder or in object storage.

    [`~LanceIndex.build`] trains an inverted index over the tokens. A search finds the documents with the nearest
    tokens in it, and scores the best of them by [`maxsim`] of their stored vectors. Documents that were added later
    are searched exactly. Before training, all documents are.

    Every change is a new version of the dataset; readers go on with the version that they opened. A process that is
    killed leaves the version before, and files that [`~LanceIndex.compact`] removes.

    Several processes may add documents at the same time. In a folder they take turns. Object storage (`s3://...`) has
    no lock, so two of them may give the same number to documents without ids; give the documents ids there.

    A search needs memory for the trained index, about `dim / 8` bytes a token with `bits=1`.

    Make one with [`create_index`]`(..., engine="lance")`, and open it with [`open_index`].
    """

    dtypes = tuple(_TORCH_DTYPES)

    def __init__(self, uri: str, settings: IndexSettings, dataset: lance.LanceDataset | None = None):
        super().__init__(uri, settings)
        self._dataset = dataset
        stored = dataset.config().get(_EFFORT_KEY) if dataset is not None else None
        self.effort = Effort(**json.loads(stored)) if stored else Effort()
        self._trained = dataset is not None and any(each.name == _INDEX for each in dataset.describe_indices())

    @classmethod
    def create(cls, uri: str | os.PathLike, settings: IndexSettings) -> LanceIndex:
        """Make an empty index. The dataset is written with the first documents."""
        cls._check_dtype(settings.dtype)
        place = dataset_uri(str(uri))
        try:
            open_dataset(place)
        except FileNotFoundError:
            return cls(place, settings)
        raise FileExistsError(f"{place} already holds an index; add to it, or choose another place")

    @classmethod
    def open(cls, uri: str | os.PathLike) -> LanceIndex:
        place = dataset_uri(str(uri))
        dataset = open_dataset(place)
        return cls(place, read_settings(dataset.schema, place), dataset)

    @property
    def dataset(self) -> lance.LanceDataset:
        """The dataset, for what only Lance can do, such as tags and versions."""
        if self._dataset is None:
            raise FileNotFoundError(f"the index in {self.uri} is empty; add documents first")
        return self._dataset

    def delete(self, ids: Iterable[str]) -> None:
        wanted = list(dict.fromkeys(list_of_ids(ids)))
        self._refresh()
        missing = set(wanted) - self._present(wanted)
        if missing:
            raise KeyError(f"there is no document {short_repr(min(missing))} in the index in {self.uri}")
        if wanted:
            with readable_errors(self.uri):
                self.dataset.delete(id_condition(wanted))

    def build(
        self,
        recall: float = 0.98,
        *,
        queries: TokenVectors | Sequence[Tensor] | None = None,
        top_k: int = 10,
        show_progress: bool = False,
        bits: int = 1,
        partitions: int | None = None,
    ) -> float:
        """
        Train the inverted index, and find the effort that reaches a recall, as [`Index.build`].

        Args:
            recall, queries, top_k, show_progress: As in [`Index.build`].
            bits (`int`, defaults to 1): Bits for each number in the inverted index: 1, 2 or 4 (RaBitQ), or 8.
            partitions (`int`, *optional*): Number of partitions of the tokens. Defaults to their square root.
        """
        check_number("recall", recall, above=0, at_most=1)
        check_choice("bits", bits, _KINDS)
        self._refresh()
        check_number("the number of documents", len(self), at_least=1, cure="add documents first")
        measuring = self._parts_of_documents() if queries is None else self._queries(queries, top_k)
        check_number("the number of queries", len(measuring), at_least=1)
        centroids = self._train_partitions(partitions, show_progress)
        kind, options = _KINDS[bits]
        with readable_errors(self.uri):
            self.dataset.create_index(
                VECTORS,
                kind,
                _INDEX,
                metric="cosine",
                replace=True,
                num_partitions=len(centroids),
                ivf_centroids=centroids.numpy(),
                **options,
            )
            self.dataset.create_scalar_index("id", "BTREE", name=_ID_INDEX, replace=True)
        self._trained = True
        exact = exact_hits(self._blocks(), measuring, top_k, len(self) if show_progress else None)
        best, measured = self.effort, -1.0
        for self.effort in efforts(len(centroids), top_k):
            found = measured_recall(self.search(measuring, top_k), exact)
            if found > measured:
                best, measured = self.effort, found
            if measured >= recall:
                break
        self.effort = best
        with readable_errors(self.uri):
            self.dataset.update_config({_EFFORT_KEY: json.dumps(asdict(best))})
        return measured

    def compact(self) -> None:
        """Join small files, bring the inverted index up to date, and delete versions of more than two weeks ago."""
        self._refresh()
        with readable_errors(self.uri):
            self.dataset.optimize.compact_files()
            self.dataset.optimize.optimize_indices()
            self.dataset.cleanup_old_versions()

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
        Find documents, as [`Index.search`].

        Queries must be unit vectors. A condition that few documents fulfil is searched exactly. Documents without
        tokens are never found.
        """
        queries = self._queries(query_vectors, top_k)
        check_unit(queries, "Lance")
        if self._dataset is None or not len(queries):
            return [[] for _ in range(len(queries))]
        if where is not None:
            with where_errors(where, self.uri):
                few = self.dataset.scanner(columns=["id"], filter=where, limit=_FEW + 1).to_table().num_rows <= _FEW
            if few:
                return exact_hits(self._blocks(where), queries, top_k)
        if not self._trained and where is None:
            return exact_hits(self._blocks(), queries, top_k, len(self) if show_progress else None)
        with ThreadPoolExecutor(min(len(queries), os.cpu_count() or 1)) as pool:
            found = pool.map(lambda query: self._search_one(query, top_k, where), queries.to_list())
            return list(tqdm(found, "Searching", len(queries), unit="query", disable=not show_progress))

    def documents(self, ids: Sequence[str]) -> list[IndexedDocument]:
        ids = list_of_ids(ids)
        found: dict[str, IndexedDocument] = {}
        columns = [name for name in self.dataset.schema.names if name != VECTORS] if self._dataset else []
        for start in range(0, len(ids) if columns else 0, _IDS):
            wanted = ids[start : start + _IDS]
            with readable_errors(self.uri):
                table = self.dataset.to_table(columns=columns, filter=id_condition(wanted))
            found |= {document.id: document for document in to_documents(table)}
        if missing := set(ids) - set(found):
            raise KeyError(f"there is no document {short_repr(min(missing))} in the index in {self.uri}")
        return [found[key] for key in ids]

    @property
    def ids(self) -> list[str]:
        if self._dataset is None:
            return []
        with readable_errors(self.uri):
            return self.dataset.to_table(columns=["id"])["id"].to_pylist()

    def __len__(self) -> int:
        if self._dataset is None:
            return 0
        with readable_errors(self.uri):
            return self.dataset.count_rows()

    def close(self) -> None:
        super().close()
        self._dataset, self._trained = None, False

    def _add(self, chunks: Iterator[Chunk]) -> None:
        lance = import_optional("lance", "lance")
        # Several processes may add at once. On one machine they take turns, so that no id is added twice.
        with self._lock():
            self._refresh()
            schema = None if self._dataset is None else self._dataset.schema
            fragments: list[Any] = []
            for documents, vectors in chunks:
                self._check_new([document.id for document in documents])
                if schema is None:
                    schema = document_schema(self.settings, documents)
                new = [field for field in metadata_fields(documents) if field.name not in schema.names]
                schema = pa.schema([*schema, *new], schema.metadata)
                table = to_table(documents, vectors, schema)
                with readable_errors(self.uri):
                    if new and self._dataset is not None:
                        self._dataset.add_columns(pa.schema(new))
                    mode = "create" if self._dataset is None and not fragments else "append"
                    place = self._dataset or self.uri
                    fragments += lance.fragment.write_fragments(table, place, schema, mode=mode, **DATASET_OPTIONS)
            with readable_errors(self.uri):
                if self._dataset is None:
                    operation = lance.LanceOperation.Overwrite(schema, fragments)
                    self._dataset = lance.LanceDataset.commit(self.uri, operation)
                else:
                    operation = lance.LanceOperation.Append(fragments)
                    self._dataset = lance.LanceDataset.commit(self._dataset, operation, self._dataset.version)

    def _present(self, ids: Sequence[str]) -> set[str]:
        found: set[str] = set()
        for start in range(0, len(ids) if self._dataset is not None else 0, _IDS):
            condition = id_condition(ids[start : start + _IDS])
            with readable_errors(self.uri):
                found.update(self.dataset.to_table(columns=["id"], filter=condition)["id"].to_pylist())
        return found

    def _blocks(self, where: str | None = None) -> Iterator[Block]:
        if self._dataset is None:
            return
        with readable_errors(self.uri):
            batches = self.dataset.to_batches(
                columns=["id", VECTORS], filter=where, batch_size=_BLOCK, batch_readahead=1, fragment_readahead=1
            )
            for batch in batches:
                if len(batch):
                    yield batch["id"].to_pylist(), read_vectors(batch[VECTORS])

    def _search_one(self, query: Tensor, top_k: int, where: str | None) -> list[Hit]:
        """Find documents by their nearest tokens, and score the best of them."""
        if len(query) == 0:
            return []
        effort = self.effort.scaled(top_k)
        nearest = {
            "column": VECTORS,
            "q": query.to(_TORCH_DTYPES[self.settings.dtype]).numpy(),
            "k": max(effort.tokens, effort.documents),
            "nprobes": effort.probes,
            "metric": "cosine",
        }
        with where_errors(where, self.uri):
            table = self.dataset.to_table(
                columns=["id", VECTORS, "_distance"],
                nearest=nearest,
                filter=where,
                prefilter=True,
                limit=effort.documents,
            )
        queries = TokenVectors(query, torch.tensor([len(query)]))
        return best_documents(queries, read_vectors(table[VECTORS]), top_k, table["id"].to_pylist())[0]

    def _train_partitions(self, partitions: int | None, show_progress: bool) -> Tensor:
        first = self._sample(_SAMPLE)
        tokens = max(1, round(len(first.values) / max(1, len(first)) * len(self)))
        partitions = number_of_partitions(tokens) if partitions is None else partitions
        check_number("partitions", partitions, at_least=1)
        wanted = TOKENS_PER_PARTITION * partitions
        # Tokens of one document are alike, so that a quarter of them is taken.
        values = self._sample(math.ceil(4 * wanted / max(1, tokens / len(self)))).values
        chosen = torch.randperm(len(values), generator=torch.Generator().manual_seed(0))[:wanted]
        return train_partitions(values[chosen], min(partitions, len(chosen)), show_progress)

    def _parts_of_documents(self) -> TokenVectors:
        """Some tokens of some documents, as queries."""
        return TokenVectors.from_list([own[:_SAMPLE_TOKENS].float() for own in self._sample(_SAMPLE).to_list()])

    def _sample(self, documents: int) -> TokenVectors:
        """Vectors of documents drawn at random, always the same ones."""
        rows = torch.randperm(len(self), generator=torch.Generator().manual_seed(0))[:documents].sort().values
        with readable_errors(self.uri):
            return read_vectors(self.dataset.take(rows.tolist(), columns=[VECTORS])[VECTORS])

    def _refresh(self) -> None:
        """See what other processes have written, before writing."""
        dataset = self._dataset
        if dataset is not None:
            with readable_errors(self.uri):
                dataset.checkout_latest()
        else:
            with suppress(FileNotFoundError):
                dataset = open_dataset(self.uri)
        if dataset is not None:
            try:
                self._renew_settings(read_settings(dataset.schema, self.uri))
            except (OSError, ValueError):
                self.close()  # the dataset is already that of the other index
                raise
        self._dataset = dataset

    @contextmanager
    def _lock(self) -> Iterator[None]:
        if "://" in self.uri:
            yield
        else:
            folder = Path(self.uri)
            folder.mkdir(parents=True, exist_ok=True)
            with FileLock(folder / _LOCK):
                yield
