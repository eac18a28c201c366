from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, TypeVar

from ..bitext.frequency import count_known
from ..checks import check_choice
from ..errors import DataError, short_repr
from ..model import OpticalModel, OpticalProcessor
from ..retrieval import TokenVectors, encode_texts
from ..retrieval.reranking import rerank
from ..retrieval.search import Hit, SearchIndex, search
from ..retrieval.weights import WEIGHTS, apply_weights, frequency_weights
from .datasets import RetrievalDataset
from .metrics import DEFAULT_MEASURES, per_query_metrics, retrieval_metrics, run_from_hits


T = TypeVar("T")


class RetrievalEvaluator:
    """
    Search a fixed document index with the queries of any model, and measure the results.

    The teacher encodes the documents once, when they are first needed. Students only encode queries.

    Args:
        dataset ([`RetrievalDataset`]): Queries, documents and judgements.
        teacher ([`OpticalModel`]), processor ([`OpticalProcessor`]):
            Encode the documents. Don't pass the model object that is being trained: the index must not change.
        document_vectors ([`TokenVectors`], *optional*):
            Precomputed document vectors, in the order of `dataset.corpus`.
        index ([`~retrieval.SearchIndex`], *optional*):
            An index that holds the documents under their ids, such as [`~index.BatchSearch`], to search in place of
            document vectors.
        measures (sequence of `str`, *optional*): As in [`retrieval_metrics`].
        depth (`int`, defaults to 1000): Length of the rankings that are measured (1000 is customary at TREC).
        learn_spelling (`bool`, defaults to `True`):
            Whether processors that repair typing errors know the words of the documents too, as those that
            [`~OpticalRetriever.learn_spelling`] teaches.
        batch_size (`int`, defaults to 32): Number of texts per batch.
        show_progress (`bool`, defaults to `False`):
            Whether to show progress bars while encoding and searching the documents.

    Raises:
        ValueError: the number of document vectors differs from the number of documents.
    """

    def __init__(
        self,
        dataset: RetrievalDataset,
        teacher: OpticalModel,
        processor: OpticalProcessor,
        *,
        document_vectors: TokenVectors | None = None,
        index: SearchIndex | None = None,
        measures: Sequence[str] = DEFAULT_MEASURES,
        depth: int = 1000,
        learn_spelling: bool = True,
        batch_size: int = 32,
        show_progress: bool = False,
    ):
        if document_vectors is not None and len(document_vectors) != len(dataset.corpus):
            raise ValueError(
                f"document_vectors must have one entry for each of the {len(dataset.corpus)} documents, got "
                f"{len(document_vectors)}; encode `dataset.document_texts()`"
            )
        self.dataset = dataset
        self.teacher = teacher
        self.processor = processor
        self._document_vectors = document_vectors
        self.index = index
        self.measures = tuple(measures)
        self.depth = depth
        self.learn_spelling = learn_spelling
        self.batch_size = batch_size
        self.show_progress = show_progress
        self._last_reader: tuple[OpticalProcessor, OpticalProcessor] | None = None

    @property
    def document_vectors(self) -> TokenVectors:
        """Token vectors of the documents, in the order of `dataset.corpus`."""
        if self._document_vectors is None:
            self._document_vectors = encode_texts(
                self.teacher,
                self.processor,
                self.dataset.document_texts(),
                "document",
                batch_size=self.batch_size,
                show_progress=self.show_progress,
            )
        return self._document_vectors

    @cached_property
    def _words(self) -> dict[str, int]:
        return count_known(self.processor, self.dataset.document_texts())

    def _reader(self, processor: OpticalProcessor) -> OpticalProcessor:
        """The processor with the words of the documents. That of the last search is kept: making one takes seconds."""
        if not self.learn_spelling or not processor.known_words:
            return processor
        if self._last_reader is None or self._last_reader[0] is not processor:
            self._last_reader = processor, processor.with_documents(self._words)
        return self._last_reader[1]

    @property
    def has_translations(self) -> bool:
        """Whether every query has a human translation."""
        return all(query.translation for query in self.dataset.queries.values())

    def search(
        self,
        model: OpticalModel,
        processor: OpticalProcessor,
        *,
        top_k: int | None = None,
        translated: bool = False,
        query_ids: Sequence[str] | None = None,
        queries: Mapping[str, str] | None = None,
        candidates: Mapping[str, Sequence[Hit]] | None = None,
        weights: str | None = None,
    ) -> dict[str, list[Hit]]:
        """
        Retrieve the best documents for every query.

        Args:
            model ([`OpticalModel`]), processor ([`OpticalProcessor`]): Encode the queries.
            top_k (`int`, *optional*): Length of the rankings. Defaults to `depth`.
            translated (`bool`, defaults to `False`): Whether to search with the human translations of the queries.
            query_ids (sequence of `str`, *optional*): The queries to search with. Defaults to all.
            queries (mapping of query id to `str`, *optional*):
                Texts that replace those of the dataset, such as machine translations or perturbed queries. Must have
                an entry for every query in `query_ids`.
            candidates (mapping of query id to sequence of [`Hit`], *optional*):
                Hits of a first stage to rerank, for every query in `query_ids`. By default all documents are scored.
            weights (`str`, *optional*):
                `"idf"` lets frequent words of the queries count less ([`~retrieval.frequency_weights`]).

        Returns:
            `dict[str, list[Hit]]`: query id -> hits, best first.

        Raises:
            ValueError: `translated` is set together with `queries` or a query has no translation; `query_ids`,
                `queries` or `candidates` has an unknown query; `queries` or `candidates` lacks a query; `weights` is
                unknown, or the processor does not know how often words occur.
            DataError: No query finds a document of the dataset in `index`.
        """
        query_ids = list(self.dataset.queries if query_ids is None else query_ids)
        self._check_known("query_ids", query_ids)
        texts = self._texts(query_ids, translated, queries)
        processor = self._reader(processor)
        vectors = encode_texts(model, processor, texts, "query", batch_size=self.batch_size)
        if weights is not None:
            check_choice("weights", weights, WEIGHTS)
            weighted = apply_weights(vectors.to_list(), frequency_weights(processor, texts))
            vectors = TokenVectors.from_list(weighted) if weighted else vectors
        options: dict[str, Any] = {"top_k": top_k or self.depth, "show_progress": self.show_progress}
        options["document_ids"] = list(self.dataset.corpus)
        if candidates is None and self.index is not None:
            hits = self.index.search(vectors, options["top_k"])
            self._check_found(hits)
        elif candidates is None:
            hits = search(vectors, self.document_vectors, **options)
        else:
            first_stage = self._select("candidates", candidates, query_ids)
            hits = rerank(vectors, self.document_vectors, first_stage, **options)
        return dict(zip(query_ids, hits, strict=True))

    def measure(self, hits: Mapping[str, Sequence[Hit]]) -> dict[str, float]:
        """
        Compute the mean of every measure over the queries.

        Queries that are missing from `hits` count as 0. Hits that `ignore_identical_ids` excludes are not counted.
        """
        return retrieval_metrics(self.dataset.qrels, self._run(hits), self.measures)

    def measure_each(self, hits: Mapping[str, Sequence[Hit]]) -> dict[str, dict[str, float]]:
        """As [`~RetrievalEvaluator.measure`], per query: measure -> query id -> value."""
        return per_query_metrics(self.dataset.qrels, self._run(hits), self.measures)

    def __call__(
        self,
        model: OpticalModel,
        processor: OpticalProcessor,
        *,
        translated: bool = False,
        queries: Mapping[str, str] | None = None,
        candidates: Mapping[str, Sequence[Hit]] | None = None,
        weights: str | None = None,
    ) -> dict[str, float]:
        """Search, and return the mean of every measure: `{"map": 0.42, ...}`. Arguments as in `search`."""
        return self.measure(
            self.search(
                model, processor, translated=translated, queries=queries, candidates=candidates, weights=weights
            )
        )

    def _check_found(self, rankings: Sequence[Sequence[Hit]]) -> None:
        """Raise `DataError` if an index holds other documents than the dataset: every measure would be 0."""
        if rankings and not any(hit.document in self.dataset.corpus for hits in rankings for hit in hits):
            first = next((short_repr(hit.document) for hits in rankings for hit in hits), "no hits")
            raise DataError(
                f"index must hold the documents of {self.dataset.name} under their ids, got {first}; build it from "
                "the corpus of the test set"
            )

    def _run(self, hits: Mapping[str, Sequence[Hit]]) -> dict[str, dict[str, float]]:
        return run_from_hits(self.dataset.drop_identical_ids(hits))

    def _texts(self, query_ids: list[str], translated: bool, queries: Mapping[str, str] | None) -> list[str]:
        if queries is not None:
            if translated:
                raise ValueError("translated and queries both replace the texts of the dataset; pass one of them")
            return self._select("queries", queries, query_ids)
        own = [self.dataset.queries[key] for key in query_ids]
        if not translated:
            return [query.text for query in own]
        translations = {key: query.translation for key, query in zip(query_ids, own, strict=True) if query.translation}
        return self._select("the translations of the dataset", translations, query_ids)

    def _select(self, name: str, values: Mapping[str, T], query_ids: list[str]) -> list[T]:
        """Values of the queries in `query_ids`. A missing one is an error: leaving it out would score it 0."""
        self._check_known(name, values)
        missing = [key for key in query_ids if key not in values]
        if missing:
            raise ValueError(f"{name} must cover every query, but lacks {missing[:3]}")
        return [values[key] for key in query_ids]

    def _check_known(self, name: str, query_ids: Iterable[str]) -> None:
        unknown = [key for key in query_ids if key not in self.dataset.queries]
        if unknown:
            raise ValueError(f"{name} must name queries of {self.dataset.name}, got others: {unknown[:3]}")
