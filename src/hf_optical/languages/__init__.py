"""Language packs: add adapters and new words to a base, switch, merge and save them."""

from .adapters import (
    activate,
    active_language,
    add_adapter,
    default_lora_config,
    languages,
    make_trainable,
    remove,
    set_strength,
    strength_of,
)
from .merging import merge_language
from .pack import LanguagePack
from .plain_text import learn_from_text, words_without_row
from .vocabulary import Vocabulary, add_counts, count_words, extend_processor, learn_vocabulary


__all__ = [
    "LanguagePack",
    "Vocabulary",
    "activate",
    "active_language",
    "add_adapter",
    "add_counts",
    "count_words",
    "default_lora_config",
    "extend_processor",
    "languages",
    "learn_from_text",
    "learn_vocabulary",
    "make_trainable",
    "merge_language",
    "remove",
    "set_strength",
    "strength_of",
    "words_without_row",
]
