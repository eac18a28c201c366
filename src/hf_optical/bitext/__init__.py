from .code_switching import CodeSwitcher
from .collator import DistillationCollator, MultilingualCollator, inverse_document_frequency
from .dictionaries import Dictionary, learn_dictionary, read_muse
from .loading import FilterCounts, filter_bitext, load_bitext
from .ranking import CodeSwitchedRanking, load_triples


__all__ = [
    "CodeSwitchedRanking",
    "CodeSwitcher",
    "Dictionary",
    "DistillationCollator",
    "FilterCounts",
    "MultilingualCollator",
    "filter_bitext",
    "inverse_document_frequency",
    "learn_dictionary",
    "load_bitext",
    "load_triples",
    "read_muse",
]
