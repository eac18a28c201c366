from __future__ import annotations

from collections.abc import Sequence

from ..model import OpticalModel, OpticalProcessor
from ..retrieval import TokenVectors, encode_texts
from ..retrieval.search import Hit, search
from .datasets import RetrievalDataset
from .metrics import DEFAULT_MEASURES, retrieval_metrics, run_from_hits


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

        Raises:
            ValueError: `translated`, and a query has no translation.
        """
        queries = self.dataset.queries
        if query_ids is not None:
            queries = {query_id: queries[query_id] for query_id in query_ids}
        if translated and not self.has_translations:
            missing = next(key for key, query in queries.items() if not query.translation)
            raise ValueError(f"query {missing!r} of {self.dataset.name} has no translation; leave translated at False")
        texts = [query.translation if translated else query.text for query in queries.values()]
        vectors = encode_texts(model, processor, texts, "query", batch_size=self.batch_size)
        hits = search(
            vectors,
            self.document_vectors,
            top_k=top_k or self.depth,
            document_ids=list(self.dataset.corpus),
            show_progress=self.show_progress,
        )
        return dict(zip(queries, hits, strict=True))

    def measure(self, hits: dict[str, list[Hit]]) -> dict[str, float]:
        """Mean of every measure over the queries, for what [`~RetrievalEvaluator.search`] found."""
        return retrieval_metrics(self.dataset.qrels, run_from_hits(hits), self.measures)

    def __call__(
        self, model: OpticalModel, processor: OpticalProcessor, *, translated: bool = False
    ) -> dict[str, float]:
        """Mean of every measure over the queries: `{"map": 0.42, ...}`."""
        return self.measure(self.search(model, processor, translated=translated))
