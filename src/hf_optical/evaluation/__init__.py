from .datasets import Document, Query, RetrievalDataset, load_beir
from .evaluator import RetrievalEvaluator
from .metrics import DEFAULT_MEASURES, gap_closed, per_query_metrics, retrieval_metrics, run_from_hits


__all__ = [
    "DEFAULT_MEASURES",
    "Document",
    "Query",
    "RetrievalDataset",
    "RetrievalEvaluator",
    "gap_closed",
    "load_beir",
    "per_query_metrics",
    "retrieval_metrics",
    "run_from_hits",
]
