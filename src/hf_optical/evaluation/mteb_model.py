from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..model import OpticalModel, OpticalProcessor
from ..retrieval import Hit, OpticalRetriever, TokenVectors, search
from ..retrieval.reranking import rerank
from ..retrieval.vectors import as_token_vectors
from .benchmarks.libraries import import_library, mteb_texts
from .datasets import Document


if TYPE_CHECKING:
    from mteb.abstasks.task_metadata import TaskMetadata
    from mteb.models import ModelMeta


class OpticalMtebModel:
    """
    Adapter that evaluates a retriever with `mteb`.

    It implements mteb's `SearchProtocol`: the retriever encodes and searches exactly, mteb supplies data and measures.
    If a task has candidates to rerank, only those are scored.

    Args:
        retriever ([`OpticalRetriever`]):
            Encodes the queries. Wrap a bare model and processor with `OpticalRetriever(model, processor)`.
        document_retriever ([`OpticalRetriever`], *optional*):
            Encodes the documents. Defaults to the [`~OpticalRetriever.indexer`] of `retriever`.
        language (`str`, *optional*): Language pack for the queries. Defaults to the active one of `retriever`.
        name (`str`, defaults to `"hf_optical/retriever"`):
            Name of the results, as `organization/name`. The revision is a hash of weights, vocabulary and settings,
            so that mteb never returns cached results of another model. Change weights in place or with
            `load_state_dict`, as optimizers do; changes through `.data` are not detected.

    Example:

        >>> mteb.evaluate(OpticalMtebModel(retriever, language="ha"), tasks)
    """

    def __init__(
        self,
        retriever: OpticalRetriever,
        *,
        document_retriever: OpticalRetriever | None = None,
        language: str | None = None,
        name: str = "hf_optical/retriever",
    ):
        self.retriever = retriever
        self.document_retriever = document_retriever or retriever.indexer
        self.language = language
        self.name = name
        self._documents: TokenVectors | None = None
        self._document_ids: list[str] = []
        self._hashed: tuple[list[Any], str] | None = None

    @property
    def mteb_model_meta(self) -> ModelMeta:
        """Model metadata that mteb stores with the results."""
        library = import_library("mteb.models.model_meta")
        return library.ModelMeta.create_empty(
            {
                "name": self.name,
                "revision": self._revision(),
                "model_type": ["late-interaction"],
                "framework": ["PyTorch", "Transformers"],
                "similarity_fn_name": library.ScoringFunction.MAX_SIM,
                "embed_dim": self.retriever.model.embedding_dim,
                "n_parameters": sum(weight.numel() for weight in self.retriever.model.parameters()),
            }
        )

    def index(self, corpus: Any, *, encode_kwargs: Mapping[str, Any], **kwargs: Any) -> None:
        """
        Encode the corpus of a task.

        Args:
            corpus (`datasets.Dataset`): rows with `id`, `text` and optionally `title`.
            encode_kwargs (mapping): only `batch_size` is used. Further arguments of mteb are ignored.
        """
        texts = {row["id"]: Document(row.get("title") or "", row["text"]).full_text for row in corpus}
        self._document_ids = list(texts)
        self._documents = as_token_vectors(
            self.document_retriever.encode_documents(
                list(texts.values()), batch_size=encode_kwargs.get("batch_size", 32)
            )
        )

    def search(
        self,
        queries: Any,
        *,
        task_metadata: TaskMetadata,
        top_k: int,
        encode_kwargs: Mapping[str, Any],
        top_ranked: Mapping[str, Sequence[str]] | None = None,
        **kwargs: Any,
    ) -> dict[str, dict[str, float]]:
        """
        Search the corpus that was indexed last.

        Args:
            queries (`datasets.Dataset`): rows with `id` and `text`.
            task_metadata (`TaskMetadata`): metadata of the task, for error messages.
            top_k (`int`): length of the rankings.
            encode_kwargs, kwargs: as in [`~OpticalMtebModel.index`].
            top_ranked (mapping of query id to sequence of document ids, *optional*): candidates to rerank;
                a query without candidates gets no results.

        Returns:
            `dict[str, dict[str, float]]`: query id -> document id -> MaxSim score. Ties are broken by the
            smallest float32 step.

        Raises:
            RuntimeError: no corpus has been indexed.
            DataError: the queries of the task are conversations.
        """
        if self._documents is None:
            raise RuntimeError("no corpus has been indexed; call `index` first")
        vectors = self.retriever.encode_queries(
            mteb_texts(queries, task_metadata.name),
            language=self.language,
            batch_size=encode_kwargs.get("batch_size", 32),
        )
        keys = list(queries["id"])
        if top_ranked is None:
            hits = search(vectors, self._documents, top_k, document_ids=self._document_ids)
        else:
            candidates = [[Hit(document, 0.0) for document in top_ranked.get(key, ())] for key in keys]
            hits = rerank(vectors, self._documents, candidates, document_ids=self._document_ids, top_k=top_k)
        return {key: _strictly_ranked(own) for key, own in zip(keys, hits, strict=True)}

    def _revision(self) -> str:
        language = self.language or self.retriever.language
        parts = (
            (self.retriever.model, self.retriever.processor_of(language)),
            (self.document_retriever.model, self.document_retriever.processor),
        )
        # mteb reads the revision many times. The version of a tensor counts in-place changes.
        state: list[Any] = [language]
        for model, processor in parts:
            state += [repr(processor), [(name, w.data_ptr(), w._version) for name, w in model.state_dict().items()]]
        if self._hashed is None or self._hashed[0] != state:
            digest = hashlib.sha256(repr(language).encode())
            for model, processor in parts:
                _hash_into(digest, model, processor)
            self._hashed = state, digest.hexdigest()[:40]
        return self._hashed[1]


def _hash_into(digest: Any, model: OpticalModel, processor: OpticalProcessor) -> None:
    words = (processor.nearest_words.words if processor.nearest_words else [], processor.known_words)
    vocabulary = sorted(processor.tokenizer.get_vocab().items())
    digest.update(repr((processor, sorted(processor.skip_tokens), words, vocabulary)).encode())
    for name, weight in sorted(model.state_dict().items()):
        digest.update(f"{name}{tuple(weight.shape)}{weight.dtype}".encode())
        digest.update(weight.cpu().contiguous().reshape(-1).view(torch.uint8).numpy())


def _strictly_ranked(hits: Sequence[Hit]) -> dict[str, float]:
    """Strictly decreasing scores, because mteb's measures reorder ties."""
    scores: dict[Any, float] = {}
    last = np.float32(np.inf)
    for hit in hits:
        last = min(np.float32(hit.score), np.nextafter(last, np.float32(-np.inf)))
        scores[hit.document] = float(last)
    return scores
