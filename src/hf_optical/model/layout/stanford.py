"""
The layout of Stanford's ColBERT: encoder and projection in one file of weights, settings in `artifact.metadata`.

Every setting may be missing; the defaults are those of `colbert.infra.config.settings`.
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
    """`None` for a folder that Stanford's library did not write."""
    if "HF_ColBERT" not in (read_json(folder / ENCODER_CONFIG, {"architectures": [str]}).get("architectures") or []):
        return None
    told = read_optional_json(folder / STANFORD_METADATA, _KINDS)
    stored = {name: default if told.get(name) is None else told[name] for name, default in _DEFAULTS.items()}
    if stored["interaction"] != "colbert":
        raise ValueError(f"{folder} matches by interaction={stored['interaction'][:200]!r}; only 'colbert' is read")

    def roles(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
        # The marker takes the place of the dot in ". " before the text; the space stays.
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
            # Of each symbol the first token, as that library has it.
            "skip_tokens": [
                tokenizer.tokenize(symbol)[0] for symbol in (string.punctuation if stored["mask_punctuation"] else "")
            ],
        }

    return Layout(folder, roles, [LinearLayer(folder / WEIGHTS)])
