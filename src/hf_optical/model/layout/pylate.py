"""
The layout of PyLate, which this library writes too.

The encoder's files are at the root, the linear projection in `1_Dense`, and the settings of tokenization in
`config_sentence_transformers.json`. sentence-transformers opens it as a `MultiVectorEncoder`.
"""

from __future__ import annotations

import string
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ...storage.json_files import read_optional_json, write_json
from ...storage.names import DENSE_FOLDER, ENCODER_MODULE_CONFIG, MODULES, ROLES_CONFIG, WEIGHTS
from .base import ROLE_KINDS, Layout
from .projection import IDENTITY, dense_layers, read_modules
from .tokens import stored_marker, stored_skip_list


_MARKERS = {"query_marker": "query_prefix", "document_marker": "document_prefix"}
# Setting of `OpticalProcessor` -> its name in the file, and the default of PyLate.
_SETTINGS = {
    "query_length": ("query_length", 32),
    "document_length": ("document_length", 180),
    "query_expansion": ("do_query_expansion", True),
    "attend_to_expansion": ("attend_to_expansion_tokens", False),
    "skip_tokens": ("skiplist_words", list(string.punctuation)),
}
_OWN = {*_MARKERS.values(), *(name for name, _ in _SETTINGS.values())}
# Types of the entries of `config_sentence_transformers.json`, whichever library wrote it.
ROLES_KINDS = {
    **{"model_type": str, "similarity_fn_name": str, "prompts": {"query": str, "document": str}},
    **{key: ROLE_KINDS[name] for name, key in _MARKERS.items()},
    **{key: ROLE_KINDS[name] for name, (key, _) in _SETTINGS.items()},
}


def read_pylate(folder: Path) -> Layout | None:
    """Read a folder written by PyLate or this library; return `None` for any other."""
    stored = read_optional_json(folder / ROLES_CONFIG, ROLES_KINDS)
    # Older versions of PyLate do not write `model_type`.
    if stored.get("model_type") != "ColBERT" and not (_OWN & stored.keys()):
        return None

    def roles(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
        settings: dict[str, Any] = {name: stored_marker(stored.get(key), tokenizer) for name, key in _MARKERS.items()}
        for name, (key, default) in _SETTINGS.items():
            settings[name] = default if stored.get(key) is None else stored[key]
        settings["skip_tokens"] = stored_skip_list(settings["skip_tokens"], tokenizer)
        for role, prompt in stored_prompts(stored).items():
            # sentence-transformers prepends the marker to the prompt, unless the prompt starts with it.
            settings[f"{role}_prompt"] = prompt.removeprefix(stored.get(f"{role}_prefix") or "")
        return settings

    return Layout(folder, roles, dense_layers(folder, read_modules(folder)))


def stored_prompts(stored: dict[str, Any]) -> dict[str, str]:
    """Return the prompts of queries and documents in the content of `config_sentence_transformers.json`."""
    prompts = stored.get("prompts") or {}
    return {role: prompts.get(role) or "" for role in ("query", "document")}


def write_roles(folder: Path, roles: dict[str, Any]) -> None:
    """Write the settings of tokenization, given as keyword arguments of [`OpticalProcessor`]."""
    prompts = {role: roles[f"{role}_prompt"] for role in ("query", "document")}
    content = {
        "model_type": "ColBERT",
        "similarity_fn_name": "MaxSim",
        "prompts": prompts if any(prompts.values()) else {},
        "default_prompt_name": None,
        **{key: roles[name] or "" for name, key in _MARKERS.items()},
        **{key: roles[name] for name, (key, _) in _SETTINGS.items()},
    }
    write_json(folder / ROLES_CONFIG, content)
    write_json(folder / ENCODER_MODULE_CONFIG, {"max_seq_length": roles["document_length"], "do_lower_case": False})


def write_modules(folder: Path, projection: dict[str, Any]) -> None:
    """Write `modules.json` and the shape of the projection: `in_features`, `out_features` and `bias`."""
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate([("", "Transformer"), (DENSE_FOLDER, "Dense")])
    ]
    write_json(folder / MODULES, modules)
    write_json(folder / DENSE_FOLDER / "config.json", {**projection, "activation_function": IDENTITY})


def write_projection(folder: Path, weights: dict[str, Tensor]) -> None:
    """
    Write the weights of the projection: `weight`, and `bias` if there is one.

    Models without a projection write the identity, since PyLate would add a random projection if there were none.
    """
    named = {f"linear.{name}": weight for name, weight in weights.items()}
    save_file(named, folder / DENSE_FOLDER / WEIGHTS, metadata={"format": "pt"})
