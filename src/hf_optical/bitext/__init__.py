from .collator import DistillationCollator, MultilingualCollator, inverse_document_frequency
from .loading import FilterCounts, filter_bitext, load_bitext


__all__ = [
    "DistillationCollator",
    "FilterCounts",
    "MultilingualCollator",
    "filter_bitext",
    "inverse_document_frequency",
    "load_bitext",
]
