"""The protocol of all engines: what an index stores, what it can do, and whose queries it takes."""

from __future__ import annotations

import os
import weakref
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, ClassVar

import torch
from torch import Tensor
from typing_extensions import Self

from ..checks import check_choice, check_length, check_number, check_shape
from ..errors import DataError, short_repr
from ..model import OpticalModel
from ..retrieval import Hit, OpticalRetriever, TokenVectors
from ..retrieval.vectors import as_token_vectors
from .documents import IndexedDocument, next_number, read_documents
from .recall import Block, exact_hits, measured_recall
from .settings import IndexSettings


# Documents that are encoded and written at a time.
CHUNK = 5_000

# Documents and their vectors, in half or single precision.
Chunk = tuple[Sequence[IndexedDocument], TokenVectors]


class Index(ABC):
    """
    Documents and their token vectors, ready for search: the protocol of all engines.

    Open one with [`open_index`], or make one with [`create_index`].

    Every engine returns true [`maxsim`] scores of its vectors as they are stored. An approximate engine may miss
    documents; [`~Index.recall`] measures how many.
    """

    # Data types in which the engine stores vectors, the default first.
    dtypes: ClassVar[tuple[str, ...]] = ("float16",)

    def __init__(self, uri: str, settings: IndexSettings):
        self.uri, self.settings = uri, settings
        self._closed = False
        # A fingerprint takes seconds for a large model, so each model is checked once.
        self._checked: weakref.WeakSet[OpticalModel] = weakref.WeakSet()

    # Making and opening

    @classmethod
    @abstractmethod
    def create(cls, uri: str | os.PathLike, settings: IndexSettings) -> Self:
        """
        Make an empty index.

        Raises:
            FileExistsError: If there already is an index.
            ValueError: If the engine does not store vectors of that data type.
        """

    @classmethod
    @abstractmethod
    def open(cls, uri: str | os.PathLike) -> Self:
        """
        Open an index.

        Raises:
            FileNotFoundError: If there is no index.
            OSError: If it is damaged, cannot be reached, or a newer version of hf_optical wrote it.
        """

    # Writing

    def add(
        self,
        ids: Iterable[str],
        vectors: TokenVectors | Sequence[Tensor],
        metadata: Sequence[Mapping[str, Any]] | None = None,
    ) -> None:
        """
        Add documents that were encoded before. If this fails, nothing is added.

        Args:
            ids (iterable of `str`): Their ids, none of which is in the index.
            vectors ([`TokenVectors`], or sequence of `Tensor` of shape `(tokens, dim)`):
                Unit vectors of their tokens, encoded by the base of the index.
            metadata (sequence of mappings, *optional*):
                Values of each document. `title` and `text` are its title and text; `where` filters by the others.

        Raises:
            ValueError: If the vectors have another dimension, the numbers of ids, vectors and metadata differ, or
                another process has replaced the index by one of another base.
            DataError: If an id occurs twice or is already in the index, or a vector is not finite.
        """
        ids, packed = list_of_ids(ids), as_token_vectors(vectors)
        rows = [{}] * len(ids) if metadata is None else metadata
        check_length("vectors", packed, len(ids), "ids")
        check_length("metadata", rows, len(ids), "ids")
        documents = [
            IndexedDocument(
                str(key),
                str(row.get("title") or ""),
                str(row.get("text") or ""),
                {name: value for name, value in row.items() if name not in ("title", "text")},
            )
            for key, row in zip(ids, rows, strict=True)
        ]
        self._add(self._checked_chunks([(documents, packed)]))

    def add_documents(
        self,
        documents: Any,
        retriever: OpticalRetriever,
        *,
        batch_size: int = 32,
        show_progress: bool = False,
        **columns: Any,
    ) -> None:
        """
        Encode documents with the [`~OpticalRetriever.indexer`] of a retriever and add them. If this fails, nothing is
        added.

        Args:
            documents:
                Texts, dictionaries, or a file, as in [`read_documents`]. Those without an id get numbers above all
                numbers in the index.
            retriever ([`OpticalRetriever`]):
                Its base encodes the documents, or the teacher of its packs if that is another model.
            batch_size (`int`, defaults to 32), show_progress (`bool`, defaults to `False`): As in [`encode_texts`].
            columns (`str`): `id_column`, `text_column` and `title_column`, as in [`read_documents`].

        Raises:
            ValueError: If the base of the retriever is not the one that encoded the index, or another process has
                replaced the index by one of another base.
            DataError: If there are no documents, one is invalid, or an id occurs twice or is already in the index.
        """
        retriever = retriever.indexer
        self.check_base(retriever.model)

        def encoded() -> Iterator[Chunk]:
            # Read by `_add`, which has seen by then what other processes have added.
            read = read_documents(documents, first_number=next_number(self.ids), **columns)
            while chunk := list(islice(read, CHUNK)):
                texts = [document.full_text for document in chunk]
                found = retriever.encode_documents(texts, batch_size=batch_size, show_progress=show_progress)
                yield chunk, TokenVectors.from_list(found)

        self._add(self._checked_chunks(encoded()))

    @abstractmethod
    def delete(self, ids: Iterable[str]) -> None:
        """
        Delete documents.

        Raises:
            KeyError: If an id is not in the index. Then nothing is deleted.
        """

    @abstractmethod
    def build(
        self,
        recall: float = 0.98,
        *,
        queries: TokenVectors | Sequence[Tensor] | None = None,
        top_k: int = 10,
        show_progress: bool = False,
    ) -> float:
        """
        Train the engine on the documents, and choose how much it reads per query.

        Call it after adding documents. Documents that are added later are found too; call it again when there are
        several times as many.

        Args:
            recall (`float`, defaults to 0.98):
                Share of the exact `top_k` documents that a search must find. The fastest setting that finds as many
                is stored in the index.
            queries ([`TokenVectors`] or sequence of `Tensor`, *optional*):
                Queries to measure with. By default, parts of documents of the index, which are easier than questions.
            top_k (`int`, defaults to 10): Length of the rankings that are compared.

        Returns:
            `float`: The recall that was measured. It is 1 for the exact engine.

        Raises:
            ValueError: If `recall` is not above 0 and at most 1, or the index of an engine to train has no documents.
        """

    @abstractmethod
    def compact(self) -> int | None:
        """
        Tidy up the files of the index after many additions and deletions. Searches find the same documents as before.

        Returns:
            `int`, *optional*: Bytes that were freed, where the engine counts them.
        """

    # Reading

    @abstractmethod
    def search(
        self,
        query_vectors: TokenVectors | Sequence[Tensor] | Tensor,
        top_k: int = 10,
        *,
        where: str | None = None,
        show_progress: bool = False,
    ) -> list[list[Hit]]:
        """
        Find the documents with the highest [`maxsim`] score.

        Args:
            query_vectors ([`TokenVectors`], sequence of `Tensor` of shape `(tokens, dim)`, or padded `Tensor`):
                The queries.
            top_k (`int`, defaults to 10): Length of the rankings.
            where (`str`, *optional*):
                Condition on the metadata in SQL, such as `"year >= 1990 AND source IN ('news', 'book')"`.

        Returns:
            `list[list[Hit]]`: The hits `(document id, score)` of each query, best first.

        Raises:
            ValueError: If `top_k` is below 1, the vectors have another dimension than those of the index, the
                condition does not parse, or queries have weights and the engine only knows the cosine.
        """

    @abstractmethod
    def documents(self, ids: Sequence[str]) -> list[IndexedDocument]:
        """
        Read documents, in the order of `ids`.

        Raises:
            KeyError: If an id is not in the index.
        """

    def document(self, document_id: str) -> IndexedDocument:
        """Read one document. Raises `KeyError` if it is not in the index."""
        return self.documents([document_id])[0]

    def recall(
        self,
        queries: TokenVectors | Sequence[Tensor] | Tensor,
        sample: int = 100,
        *,
        top_k: int = 10,
        show_progress: bool = False,
    ) -> float:
        """
        Measure the share of the exact `top_k` documents that [`~Index.search`] finds.

        One pass over all vectors gives the exact rankings.

        Args:
            queries: As `query_vectors` of [`~Index.search`].
            sample (`int`, defaults to 100): Number of queries to measure with, drawn at random (always the same ones).
            top_k (`int`, defaults to 10): Length of the rankings.

        Returns:
            `float`: The mean over the queries, between 0 and 1.
        """
        check_number("sample", sample, at_least=1)
        packed = self._queries(queries, top_k)
        check_number("the number of queries", len(packed), at_least=1)
        chosen = torch.randperm(len(packed), generator=torch.Generator().manual_seed(0))[:sample].sort().values
        packed = packed.take(chosen.tolist())
        exact = exact_hits(self._blocks(), packed, top_k, len(self) if show_progress else None)
        return measured_recall(self.search(packed, top_k), exact)

    @property
    @abstractmethod
    def ids(self) -> list[str]:
        """Ids of the documents."""

    @abstractmethod
    def __len__(self) -> int: ...

    def __contains__(self, document_id: object) -> bool:
        return isinstance(document_id, str) and document_id in self._present([document_id])

    def word_counts(self) -> dict[str, int]:
        """How often words occur in the documents, for [`~OpticalRetriever.learn_spelling`]; none if not counted."""
        return {}

    def close(self) -> None:
        """Release files and connections. A search then raises `ValueError`."""
        self._closed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: Any) -> None:
        self.close()

    def check_base(self, model: OpticalModel) -> None:
        """
        Check that the queries of a model match the index.

        A model is checked the first time; training it afterwards goes unnoticed.

        Raises:
            ValueError: If another base encoded the documents.
        """
        if model in self._checked:
            return
        self.settings.check_base(model, self.uri)
        self._checked.add(model)

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({self.uri!r}: {len(self)} documents, dim={self.settings.dim}, "
            f"dtype={self.settings.dtype}, base={self.settings.base_model!r})"
        )

    # For engines

    @abstractmethod
    def _add(self, chunks: Iterator[Chunk]) -> None:
        """
        Store documents, all or none. The chunks are checked, but for ids that the index holds: `_check_new`.

        They are made while they are read, and must be read when no other process can add documents.
        """

    @abstractmethod
    def _present(self, ids: Sequence[str]) -> set[str]:
        """Those of `ids` that are in the index."""

    @abstractmethod
    def _blocks(self) -> Iterator[Block]:
        """All documents, some at a time: their ids and their vectors, to be scored exactly."""

    def _renew_settings(self, stored: IndexSettings) -> None:
        """
        Take the settings that are stored now. Call it before writing, when no other process can write.

        Raises:
            ValueError: If another process has built the index again, on another base. The vectors to add do not fit.
        """
        if stored.base_fingerprint != self.settings.base_fingerprint:
            raise ValueError(f"the index in {self.uri} was replaced by one of another base; open it again")
        self.settings = stored

    def _check_new(self, ids: Sequence[str]) -> None:
        """Raise `DataError` if one of `ids` is in the index."""
        for key in self._present(ids):
            raise DataError(f"document ids must be unique in an index, got {short_repr(key)} again")

    def _checked_chunks(self, chunks: Iterable[Chunk]) -> Iterator[Chunk]:
        seen: set[str] = set()
        for documents, vectors in chunks:
            check_shape("vectors", vectors.values, ("tokens", self.settings.dim), "encode with the base of the index")
            wrong = ~vectors.values.isfinite().all(1)
            if wrong.any():
                row = int(wrong.nonzero()[0])
                key = documents[int(torch.searchsorted(vectors.offsets, row, right=True)) - 1].id
                raise DataError(f"vectors must be finite numbers, got others in document {short_repr(key)}")
            for document in documents:
                if document.id in seen:
                    raise DataError(f"document ids must be unique in an index, got {short_repr(document.id)} again")
                seen.add(document.id)
            yield documents, vectors
        if not seen:
            raise DataError("documents must not be empty")

    def _queries(self, query_vectors: TokenVectors | Sequence[Tensor] | Tensor, top_k: int) -> TokenVectors:
        """Check the arguments of a search, and that the index is open. The queries are in float32."""
        if self._closed:
            raise ValueError("the index is closed; open it again")
        check_number("top_k", top_k, at_least=1)
        if len(query_vectors) == 0:
            return TokenVectors(torch.empty(0, self.settings.dim), torch.empty(0))
        queries = as_token_vectors(query_vectors, name="query_vectors").to(torch.float32)
        check_shape(
            "query_vectors", queries.values, ("tokens", self.settings.dim), "encode with the base of the index"
        )
        return queries

    @classmethod
    def _check_dtype(cls, dtype: str) -> None:
        check_choice("dtype", dtype, cls.dtypes, f"these are the data types of {cls.__name__}")


def list_of_ids(ids: Iterable[str]) -> list[str]:
    """
    The ids as a list.

    Raises:
        TypeError: If they are a single string, whose letters would be taken for ids.
    """
    if isinstance(ids, str):
        raise TypeError(f"ids must be a list of ids, got one string; pass [{short_repr(ids)}]")
    return list(ids)


def check_unit(queries: TokenVectors, engine: str) -> None:
    """
    Refuse queries whose vectors are not unit vectors, for engines that only know the cosine.

    The length of a query vector is the weight of its token; the cosine would ignore it.

    Raises:
        ValueError: If a query vector does not have length 1.
    """
    lengths = queries.values.norm(dim=1)
    if len(lengths) and (lengths - 1).abs().max() > 1e-2:
        raise ValueError(
            f"query_vectors must be unit vectors, because {engine} only knows the cosine and would ignore the weights "
            f"of tokens, got a vector of length {lengths[(lengths - 1).abs().argmax()]:.3g}; search the exact engine"
        )
