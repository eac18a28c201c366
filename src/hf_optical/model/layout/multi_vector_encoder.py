"""
The layout of sentence-transformers' `MultiVectorEncoder` (from version 6), which PyLate does not open.

Markers and prompts are text in `config_sentence_transformers.json`; lengths and query expansion are in the
Transformer's `sentence_bert_config.json`, the skip list is in a module of its own. What an [`OpticalModel`] cannot do
is refused by name.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from ...storage.json_files import read_json, read_optional_json
from ...storage.names import ENCODER_MODULE_CONFIG, ROLES_CONFIG
from .base import LENGTH, QUERY_LENGTH, Layout
from .projection import dense_layers, module_kind, read_modules
from .pylate import ROLES_KINDS, stored_prompts
from .tokens import split_prompt, stored_skip_list


# What the Transformer may say beside the lengths: text in, hidden states out.
_TRANSFORMER = {
    "transformer_task": "feature-extraction",
    "modality_config": {"text": {"method": "forward", "method_output_name": "last_hidden_state"}},
    "module_output_name": "token_embeddings",
}
_LENGTHS = {"query_length", "document_length", "query_expansion", "max_seq_length", "do_lower_case", "unpad_inputs"}
_MASK = "MultiVectorMask"
_READING_KINDS = {
    **{"max_seq_length": LENGTH, "query_length": QUERY_LENGTH, "document_length": LENGTH},
    "query_expansion": {"strategy": str, "length": QUERY_LENGTH, "token": str, "attend": bool},
}
_MODULE_KINDS = {"module_input_name": str, "module_output_name": str}
_MASK_KINDS = {"skiplist_tasks": [str], "skiplist_words": [str]}


def read_multi_vector_encoder(folder: Path) -> Layout | None:
    """`None` for a folder that no `MultiVectorEncoder` wrote."""
    stored = read_optional_json(folder / ROLES_CONFIG, ROLES_KINDS)
    if stored.get("model_type") != "MultiVectorEncoder":
        return None
    modules = read_modules(folder)
    reading = read_optional_json(folder / ENCODER_MODULE_CONFIG, _READING_KINDS)
    masks = [
        read_json(folder / module["path"] / "config.json", _MASK_KINDS)
        for module in modules
        if module_kind(module) == _MASK
    ]
    unknown = [*_unknown_modules(folder, modules), *_unknown_reading(reading, masks)]
    if stored.get("similarity_fn_name") not in (None, "maxsim"):
        unknown.append(f"similarity_fn_name={stored['similarity_fn_name']!r}")
    if unknown:
        raise ValueError(
            f"{folder} was saved by sentence-transformers with {' and '.join(unknown)[:1000]}, which this library "
            "does not have; use it there"
        )
    tasks = masks[0].get("skiplist_tasks") if masks else []
    skips = tasks is None or "document" in tasks
    expansion = reading.get("query_expansion") or {}

    def roles(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
        if expansion.get("token") not in (None, tokenizer.mask_token):
            raise ValueError(
                f"{folder} expands queries with {expansion['token'][:200]!r}; only the mask token is read"
            )
        longest = reading.get("max_seq_length") or tokenizer.model_max_length
        found = {
            # A tokenizer that knows no longest text says 10^30.
            "query_length": expansion.get("length") or reading.get("query_length") or min(longest, QUERY_LENGTH[-1]),
            "document_length": reading.get("document_length") or min(longest, LENGTH[-1]),
            "query_expansion": bool(expansion),
            "attend_to_expansion": bool(expansion.get("attend")),
            "skip_tokens": stored_skip_list(masks[0].get("skiplist_words") or [], tokenizer) if skips else [],
        }
        for role, prompt in stored_prompts(stored).items():
            found[f"{role}_marker"], found[f"{role}_prompt"] = split_prompt(prompt, tokenizer)
        return found

    return Layout(folder, roles, dense_layers(folder, modules))


def _unknown_modules(folder: Path, modules: list[dict[str, Any]]) -> list[str]:
    """What modules do that is no linear projection and unit vectors."""
    kinds = [module_kind(module) for module in modules if module_kind(module) != _MASK]
    if kinds != ["Transformer", *["Dense"] * (len(kinds) - 2), "Normalize"]:
        return [f"the modules {', '.join(kinds)} (known are Transformer, any Dense, Normalize)"]
    unknown = []
    for module in modules:
        if module_kind(module) in ("Dense", "Normalize"):
            stored = read_json(folder / module["path"] / "config.json", _MODULE_KINDS)
            # Without a name a Dense works on tokens there, and a Normalize on a sentence vector.
            source = stored.get("module_input_name") or ("token_embeddings" if "in_features" in stored else "")
            if {source, stored.get("module_output_name") or source} != {"token_embeddings"}:
                unknown.append(f"a {module['path']} that is not for tokens")
    return unknown


def _unknown_reading(reading: dict[str, Any], masks: list[dict[str, Any]]) -> list[str]:
    """What the settings ask for that is no plain reading of texts, expansion to one length, skipping in documents."""
    unknown = [
        f"{name}={value!r}"
        for name, value in reading.items()
        if name not in _LENGTHS and value and value != _TRANSFORMER.get(name)
    ]
    expansion = reading.get("query_expansion")
    if expansion and expansion.get("strategy") != "fixed":
        unknown.append(f"query expansion by strategy {expansion.get('strategy')!r}")
    if expansion and not masks:
        unknown.append("query expansion that no MultiVectorMask lets match")
    if len(masks) > 1:
        unknown.append("several MultiVectorMask")
    for mask in masks:
        if "query" in (mask.get("skiplist_tasks") or []) and mask.get("skiplist_words"):
            unknown.append("skiplist_tasks that name queries")
        if mask.get("keep_only_token_ids"):
            unknown.append("keep_only_token_ids")
    return unknown
