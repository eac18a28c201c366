"""
Training methods. Each is one file: its settings, the blocks of text it reads, its losses, its words on a card.

To add one, subclass [`Method`] with a `name`; the command line, logs, cards and studies then know it.
"""

from .alignment import Alignment, AlignmentSettings, Greedy, OptimalTransport, Sentence
from .anchor import Anchor, AnchorSettings
from .base import Blocks, LanguageData, Method, PairSettings, Reading, Run
from .cards import card_text
from .code_switch import CodeSwitch, CodeSwitchedRanking, CodeSwitchSettings
from .collator import DistillationCollator
from .pair_ranking import PairRanking
from .registry import make_methods, method_classes, method_names, name_of, turns


__all__ = [
    "Alignment",
    "AlignmentSettings",
    "Anchor",
    "AnchorSettings",
    "Blocks",
    "CodeSwitch",
    "CodeSwitchSettings",
    "CodeSwitchedRanking",
    "DistillationCollator",
    "Greedy",
    "LanguageData",
    "Method",
    "OptimalTransport",
    "PairRanking",
    "PairSettings",
    "Reading",
    "Run",
    "Sentence",
    "card_text",
    "make_methods",
    "method_classes",
    "method_names",
    "name_of",
    "turns",
]
