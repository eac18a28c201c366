"""Sentence pairs, dictionaries and plain text: reading, filtering, word alignment, code switching."""

from .code_switching import CodeSwitcher
from .dictionaries import Dictionary, learn_dictionary, read_muse
from .entries import read_entries, switch_texts
from .frequency import inverse_document_frequency
from .loading import FilterCounts, filter_bitext, load_bitext
from .misaligned import rank_by_cost
from .noise import Mistyper
from .plain_text import read_plain_text
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
    "rank_by_cost",
    "read_entries",
    "read_muse",
    "read_plain_text",
    "switch_texts",
]
