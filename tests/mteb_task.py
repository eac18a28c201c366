"""A retrieval task of mteb for a `RetrievalDataset`, without access to the Hub."""

from __future__ import annotations

from typing import ClassVar

from datasets import Dataset
from mteb.abstasks import AbsTaskRetrieval
from mteb.abstasks.task_metadata import TaskMetadata

from hf_optical.evaluation import RetrievalDataset


class OfflineRetrieval(AbsTaskRetrieval):
    """Subclass it with a `source`."""

    metadata = TaskMetadata(
        name="OfflineRetrieval",
        description="Queries and documents at hand.",
        dataset={"path": "nowhere/offline", "revision": "1"},
        type="Retrieval",
        category="t2t",
        modalities=["text"],
        eval_splits=["test"],
        eval_langs=["eng-Latn"],
        main_score="ndcg_at_10",
    )
    source: ClassVar[RetrievalDataset]
    instruction: str | None = None
    top_ranked: dict | None = None

    def load_data(self, **kwargs):
        queries = [{"id": key, "text": query.text} for key, query in self.source.queries.items()]
        if self.instruction:
            queries = [{**query, "instruction": self.instruction} for query in queries]
        corpus = self.source.corpus
        documents = [{"id": key, "title": document.title, "text": document.text} for key, document in corpus.items()]
        split = {
            "queries": Dataset.from_list(queries),
            "corpus": Dataset.from_list(documents),
            "relevant_docs": {key: dict(judged) for key, judged in self.source.qrels.items()},
            "top_ranked": self.top_ranked,
        }
        self.dataset = {"default": {"test": split}}
        self.data_loaded = True
