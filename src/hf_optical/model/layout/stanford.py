"""
The layout of Stanford's ColBERT: encoder and projection in one weight file, settings in `artifact.metadata`.

Any setting may be missing. The defaults are those of `colbert.infra.config.settings`.
"""

from __future__ import annotations

import string
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from ...storage.json_files import read_json, read_optional_json
from ...storage.names import ENCODER_CONFIG, STANFORD_METADATA, WEIGHTS
from .base import LENGTH, QUERY_LENGTH, Layout
from .projection import LinearLayer
from .tokens import reads_spaces, stored_marker


_DEFAULTS = {
    "query_token_id": "[unused0]",
    "doc_token_id": "[unused1]",
    "query_maxlen": 32,
    "doc_maxlen": 220,
    "attend_to_mask_tokens": False,
    "mask_punctuation": True,
    "interaction": "colbert",
}
_KINDS = {name: type(default) for name, default in _DEFAULTS.items()} | {
    "query_maxlen": QUERY_LENGTH,
    "doc_maxlen": LENGTH,
}


def read_stanford(folder: Path) -> Layout | None:
    """Read a folder written by Stanford's ColBERT; return `None` for any other."""
    if "HF_ColBERT" not in (read_json(folder / ENCODER_CONFIG, {"architectures": [str]}).get("architectures") or []):
        return None
    stored = read_optional_json(folder / STANFORD_METADATA, _KINDS)
    stored = _DEFAULTS | {name: value for name, value in stored.items() if value is not None}
    if stored["interaction"] != "colbert":
        raise ValueError(f"the interaction of {folder} must be 'colbert', got {stored['interaction'][:200]!r}")

    def roles(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
        # ColBERT puts ". " before the text and then replaces the dot by the marker. The space stays.
        prompt = " " if reads_spaces(tokenizer) else ""
        return {
            "query_marker": stored_marker(stored["query_token_id"], tokenizer),
            "document_marker": stored_marker(stored["doc_token_id"], tokenizer),
            "query_prompt": prompt,
            "document_prompt": prompt,
            "query_length": stored["query_maxlen"],
            "document_length": stored["doc_maxlen"],
            "query_expansion": True,
            "attend_to_expansion": stored["attend_to_mask_tokens"],
            # The first token of each symbol, as in ColBERT.
            "skip_tokens": [
                tokenizer.tokenize(symbol)[0] for symbol in (string.punctuation if stored["mask_punctuation"] else "")
            ],
        }

    return Layout(folder, roles, [LinearLayer(folder / WEIGHTS)])
