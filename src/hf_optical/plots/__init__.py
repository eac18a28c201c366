"""Figures for notebooks and model cards: word alignments, word matches and training curves."""

from .alignment import WordAlignment, align_words, plot_alignment
from .matching import WordMatch, match_words
from .training import plot_training


__all__ = ["WordAlignment", "WordMatch", "align_words", "match_words", "plot_alignment", "plot_training"]
