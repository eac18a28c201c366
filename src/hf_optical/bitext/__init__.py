from .collator import DistillationCollator
from .loading import FilterCounts, filter_bitext, load_bitext


__all__ = ["DistillationCollator", "FilterCounts", "filter_bitext", "load_bitext"]
