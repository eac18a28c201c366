"""Encoding, MaxSim, exact search, reranking, and the retriever with its packs; BM25 and query translation."""

from .bm25 import BM25, english_stemmer
from .encoding import encode_texts
from .maxsim import maxsim
from .opening import DEFAULT_BASE, open_retriever
from .projection import center_vectors, fit_projection, reduce_dimension
from .reader import BASE
from .reranking import rerank
from .retriever import OpticalRetriever
from .search import Hit, SearchIndex, search
from .translation import LexiconTranslator, Seq2SeqTranslator
from .tuning import strength_scores
from .vectors import TokenVectors
from .weights import apply_weights, frequency_weights


__all__ = [
    "BASE",
    "BM25",
    "DEFAULT_BASE",
    "Hit",
    "LexiconTranslator",
    "OpticalRetriever",
    "SearchIndex",
    "Seq2SeqTranslator",
    "TokenVectors",
    "apply_weights",
    "center_vectors",
    "encode_texts",
    "english_stemmer",
    "fit_projection",
    "frequency_weights",
    "maxsim",
    "open_retriever",
    "reduce_dimension",
    "rerank",
    "search",
    "strength_scores",
]
