from .code_switching import CodeSwitcher
from .dictionaries import Dictionary, learn_dictionary, read_muse
from .frequency import inverse_document_frequency
from .loading import FilterCounts, filter_bitext, load_bitext
from .noise import Mistyper
from .triples import load_triples


__all__ = [
    "CodeSwitcher",
    "Dictionary",
    "FilterCounts",
    "Mistyper",
    "filter_bitext",
    "inverse_document_frequency",
    "learn_dictionary",
    "load_bitext",
    "load_triples",
    "read_muse",
]
