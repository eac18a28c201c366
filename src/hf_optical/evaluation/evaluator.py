from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

from ..model import OpticalModel, OpticalProcessor
from ..retrieval import TokenVectors, encode_texts
from ..retrieval.reranking import rerank
from ..retrieval.search import Hit, search
from .datasets import RetrievalDataset
from .metrics import DEFAULT_MEASURES, per_query_metrics, retrieval_metrics, run_from_hits


T = TypeVar("T")


class RetrievalEvaluator:
    """
    Searches one set of document vectors with the queries of any model, and measures what is found.

    The documents are encoded once, when they are first needed, by the model whose index is to be kept; students only
    ever encode queries.

    Args:
        dataset ([`RetrievalDataset`]):
            Queries, documents and judgements.
        teacher ([`OpticalModel`]), processor ([`OpticalProcessor`]):
            What encodes the documents. Not the very object that is being trained: its index would change under it.
        document_vectors ([`TokenVectors`], *optional*):
            The documents encoded already, in the order of `dataset.corpus`.
        measures (sequence of `str`, *optional*):
            As in [`retrieval_metrics`].
        depth (`int`, defaults to 1000):
            Length of the rankings measured (TREC's custom).
        batch_size (`int`, defaults to 32):
            Texts encoded at a time.
        show_progress (`bool`, defaults to `False`):
            Whether to show progress bars while documents are encoded and searched.

    Raises:
        ValueError: the number of document vectors is not that of the documents.
    """

    def __init__(
        self,
        dataset: RetrievalDataset,
        teacher: OpticalModel,
        processor: OpticalProcessor,
        *,
        document_vectors: TokenVectors | None = None,
        measures: Sequence[str] = DEFAULT_MEASURES,
        depth: int = 1000,
        batch_size: int = 32,
        show_progress: bool = False,
    ):
        if document_vectors is not None and len(document_vectors) != len(dataset.corpus):
            raise ValueError(
                f"document_vectors has {len(document_vectors)} entries for {len(dataset.corpus)} documents; encode "
                "`dataset.document_texts()`"
            )
        self.dataset = dataset
        self.teacher = teacher
        self.processor = processor
        self._document_vectors = document_vectors
        self.measures = tuple(measures)
        self.depth = depth
        self.batch_size = batch_size
        self.show_progress = show_progress

    @property
    def document_vectors(self) -> TokenVectors:
        """One entry a document, in the order of `dataset.corpus`."""
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

    @property
    def has_translations(self) -> bool:
        """Whether every query carries a human translation."""
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
    ) -> dict[str, list[Hit]]:
        """
        The best documents for every query: query id -> hits, best first.

        Args:
            model ([`OpticalModel`]), processor ([`OpticalProcessor`]):
                What encodes the queries.
            top_k (`int`, *optional*):
                Length of the rankings. Defaults to `depth`.
            translated (`bool`, defaults to `False`):
                Whether to ask the human translations of the queries in their place.
            query_ids (sequence of `str`, *optional*):
                The queries to ask. All by default.
            queries (mapping of query id to `str`, *optional*):
                Other texts to ask in place of those of the dataset: translated by a machine, or perturbed. One for
                every query that is asked.
            candidates (mapping of query id to sequence of [`Hit`], *optional*):
                What a first stage found for every query that is asked. Only these are scored (reranking); by default
                all documents are.

        Raises:
            ValueError: `translated`, and a query has no translation, or there are `queries` beside it; a query of
                `query_ids`, `queries` or `candidates` is unknown; a query has no text in `queries` or no entry in
                `candidates`.
        """
        asked = list(self.dataset.queries if query_ids is None else query_ids)
        self._require_known("query_ids", asked)
        texts = self._texts(asked, translated, queries)
        vectors = encode_texts(model, processor, texts, "query", batch_size=self.batch_size)
        top_k, document_ids = top_k or self.depth, list(self.dataset.corpus)
        if candidates is None:
            hits = search(
                vectors,
                self.document_vectors,
                top_k=top_k,
                document_ids=document_ids,
                show_progress=self.show_progress,
            )
        else:
            first_stage = self._of_each("candidates", candidates, asked)
            hits = rerank(
                vectors,
                self.document_vectors,
                first_stage,
                document_ids=document_ids,
                top_k=top_k,
                show_progress=self.show_progress,
            )
        return dict(zip(asked, hits, strict=True))

    def measure(self, hits: Mapping[str, Sequence[Hit]]) -> dict[str, float]:
        """
        Mean of every measure over the queries, for what a search found; a query that `hits` lacks counts as 0, and
        what the dataset's `ignore_identical_ids` passes over is not looked at.
        """
        return retrieval_metrics(self.dataset.qrels, self._run(hits), self.measures)

    def measure_each(self, hits: Mapping[str, Sequence[Hit]]) -> dict[str, dict[str, float]]:
        """As [`~RetrievalEvaluator.measure`], before the mean: measure -> query id -> value."""
        return per_query_metrics(self.dataset.qrels, self._run(hits), self.measures)

    def __call__(
        self,
        model: OpticalModel,
        processor: OpticalProcessor,
        *,
        translated: bool = False,
        queries: Mapping[str, str] | None = None,
        candidates: Mapping[str, Sequence[Hit]] | None = None,
    ) -> dict[str, float]:
        """Mean of every measure over the queries: `{"map": 0.42, ...}`. Arguments as in `search`."""
        return self.measure(
            self.search(model, processor, translated=translated, queries=queries, candidates=candidates)
        )

    def _run(self, hits: Mapping[str, Sequence[Hit]]) -> dict[str, dict[str, float]]:
        return run_from_hits(self.dataset.counted(hits))

    def _texts(self, asked: list[str], translated: bool, queries: Mapping[str, str] | None) -> list[str]:
        if translated and queries is not None:
            raise ValueError("translated and queries both replace the texts of the dataset; pass one of them")
        if queries is not None:
            return self._of_each("queries", queries, asked)
        own = [self.dataset.queries[key] for key in asked]
        if not translated:
            return [query.text for query in own]
        for key, query in zip(asked, own, strict=True):
            if not query.translation:
                raise ValueError(f"query {key!r} of {self.dataset.name} has no translation; leave translated at False")
        return [query.translation for query in own]

    def _of_each(self, name: str, given: Mapping[str, T], asked: list[str]) -> list[T]:
        """What a mapping holds for each query that is asked."""
        self._require_known(name, given)
        for key in asked:
            # To ask the others only would score this one 0 without a word.
            if key not in given:
                raise ValueError(f"{name} has no entry for query {key!r}; pass one for each, or narrow query_ids")
        return [given[key] for key in asked]

    def _require_known(self, name: str, keys: Iterable[str]) -> None:
        unknown = [key for key in keys if key not in self.dataset.queries]
        if unknown:
            raise ValueError(
                f"{name} names {len(unknown)} queries that {self.dataset.name} does not have, such as {unknown[0]!r}"
            )
