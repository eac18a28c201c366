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
from .vocabulary import Vocabulary, count_words, extend_processor, learn_vocabulary


__all__ = [
    "LanguagePack",
    "Vocabulary",
    "activate",
    "active_language",
    "add_adapter",
    "count_words",
    "default_lora_config",
    "extend_processor",
    "languages",
    "learn_vocabulary",
    "make_trainable",
    "merge_language",
    "remove",
    "set_strength",
    "strength_of",
]
