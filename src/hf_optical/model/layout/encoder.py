"""Plain text encoders, of transformers or inside a sentence encoder of sentence-transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from ...storage.json_files import read_optional_json
from ...storage.names import ENCODER_MODULE_CONFIG, ROLES_CONFIG
from .base import LENGTH, Layout
from .projection import dense_layers, module_kind, read_modules
from .pylate import ROLES_KINDS, stored_prompts


# Default even for encoders that can read more, since attention grows with the square of the length.
DOCUMENT_LENGTH = 256


def read_encoder(folder: Path) -> Layout:
    """Read any encoder folder. Dense layers project the tokens, unless they come after a pooling layer."""
    modules = read_modules(folder)
    pooled = any(module_kind(module) == "Pooling" for module in modules)
    prompts = stored_prompts(read_optional_json(folder / ROLES_CONFIG, ROLES_KINDS))
    settings = read_optional_json(folder / ENCODER_MODULE_CONFIG, {"max_seq_length": LENGTH})
    longest = settings.get("max_seq_length") or DOCUMENT_LENGTH

    def roles(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
        return {
            "document_length": min(longest, tokenizer.model_max_length, DOCUMENT_LENGTH),
            **{f"{role}_prompt": prompt for role, prompt in prompts.items()},
        }

    return Layout(folder, roles, [] if pooled else dense_layers(folder, modules))
