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
from .datasets import Document, RetrievalDataset


if TYPE_CHECKING:
    from mteb.abstasks.task_metadata import TaskMetadata
    from mteb.models import ModelMeta


class OpticalMtebModel:
    """
    A retriever as a model of `mteb`: `mteb.evaluate(OpticalMtebModel(retriever, language="ha"), tasks)`.

    It fits mteb's `SearchProtocol`: encoding and exact search are ours, data and measures are mteb's. Where a task
    gives candidates to rank again, those alone are scored.

    Args:
        retriever ([`OpticalRetriever`]):
            What reads the queries, and the documents too unless `document_retriever` is given. For a bare model and
            processor: `OpticalRetriever(model, processor)`.
        document_retriever ([`OpticalRetriever`], *optional*):
            What reads the documents, for a student whose teacher made the index.
        language (`str`, *optional*):
            Language pack that reads the queries. Defaults to the one set in `retriever`.
        name (`str`, defaults to `"hf_optical/retriever"`):
            What results are filed under, as `organization/name`. The revision beside it is a hash of weights,
            vocabulary and settings, so that mteb never answers with the stored results of another model. Change
            weights in place or by `load_state_dict`, as optimizers do; what is written to `.data` goes unseen.
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
        self.document_retriever = document_retriever or retriever
        self.language = language
        self.name = name
        self._documents: TokenVectors | None = None
        self._document_ids: list[str] = []
        self._hashed: tuple[list[Any], str] | None = None

    @property
    def mteb_model_meta(self) -> ModelMeta:
        """What mteb writes beside the results."""
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
        Encodes the corpus of a task.

        Args:
            corpus (`datasets.Dataset`): rows with `id`, `text` and perhaps `title`.
            encode_kwargs (mapping): of these, `batch_size` is heeded.
            kwargs: what else mteb passes: the task, split and subset.
        """
        rows = {row["id"]: Document(row.get("title") or "", row["text"]) for row in corpus}
        self._document_ids = list(rows)
        self._documents = as_token_vectors(
            self.document_retriever.encode_documents(
                RetrievalDataset("", rows, {}, {}).document_texts(), batch_size=encode_kwargs.get("batch_size", 32)
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
        Searches the corpus that was indexed last.

        Args:
            queries (`datasets.Dataset`): rows with `id` and `text`.
            task_metadata (`TaskMetadata`): the task, for messages.
            top_k (`int`): length of the rankings.
            encode_kwargs (mapping): of these, `batch_size` is heeded.
            top_ranked (mapping of query id to sequence of document ids, *optional*): the candidates to rank;
                for a query without any, nothing is found.
            kwargs: what else mteb passes: split and subset.

        Returns:
            `dict[str, dict[str, float]]`: query id -> document id -> MaxSim score; equal scores are told apart by
            float32's smallest step.

        Raises:
            RuntimeError: no corpus was indexed.
            DataError: the task asks with conversations.
        """
        if self._documents is None:
            raise RuntimeError("there is no corpus to search; call `index` first")
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
        # mteb asks many times. A tensor's version counts the changes made to it.
        state = [language]
        for model, processor in parts:
            state += [repr(processor), [(name, w.data_ptr(), w._version) for name, w in model.state_dict().items()]]
        if self._hashed is None or self._hashed[0] != state:
            digest = hashlib.sha256(repr(language).encode())
            for model, processor in parts:
                _hash_into(digest, model, processor)
            self._hashed = state, digest.hexdigest()[:40]
        return self._hashed[1]


def _hash_into(digest: Any, model: OpticalModel, processor: OpticalProcessor) -> None:
    words = list(processor.nearest_words.words) if processor.nearest_words else []
    vocabulary = sorted(processor.tokenizer.get_vocab().items())
    digest.update(repr((processor, sorted(processor.skip_tokens), words, vocabulary)).encode())
    for name, weight in sorted(model.state_dict().items()):
        digest.update(f"{name}{tuple(weight.shape)}{weight.dtype}".encode())
        digest.update(weight.cpu().contiguous().reshape(-1).view(torch.uint8).numpy())


def _strictly_ranked(hits: Sequence[Hit]) -> dict[str, float]:
    """Scores that fall from hit to hit: mteb's measures would put equal ones in an order of their own."""
    scores: dict[str, float] = {}
    last = np.float32(np.inf)
    for hit in hits:
        last = min(np.float32(hit.score), np.nextafter(last, np.float32(-np.inf)))
        scores[hit.document] = float(last)
    return scores
