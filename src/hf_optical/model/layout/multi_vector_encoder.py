"""
The layout of the `MultiVectorEncoder` of sentence-transformers (from version 6), which PyLate cannot open.

Markers and prompts are text in `config_sentence_transformers.json`, lengths and query expansion are in
`sentence_bert_config.json`, and the skip list is in a separate module. Settings that an [`OpticalModel`] does not
support raise an error that names them.
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


# Supported settings of the Transformer module besides the lengths: text in, hidden states out.
_TRANSFORMER = {
    "transformer_task": "feature-extraction",
    "modality_config": {"text": {"method": "forward", "method_output_name": "last_hidden_state"}},
    "module_output_name": "token_embeddings",
}
_LENGTHS = {"query_length", "document_length", "query_expansion", "max_seq_length", "do_lower_case", "unpad_inputs"}
_MASK = "MultiVectorMask"
_SETTING_KINDS = {
    **{"max_seq_length": LENGTH, "query_length": QUERY_LENGTH, "document_length": LENGTH},
    "query_expansion": {"strategy": str, "length": QUERY_LENGTH, "token": str, "attend": bool},
}
_MODULE_KINDS = {"module_input_name": str, "module_output_name": str}
_MASK_KINDS = {"skiplist_tasks": [str], "skiplist_words": [str]}


def read_multi_vector_encoder(folder: Path) -> Layout | None:
    """Read a folder written by `MultiVectorEncoder`; return `None` for any other."""
    stored = read_optional_json(folder / ROLES_CONFIG, ROLES_KINDS)
    if stored.get("model_type") != "MultiVectorEncoder":
        return None
    modules = read_modules(folder)
    settings = read_optional_json(folder / ENCODER_MODULE_CONFIG, _SETTING_KINDS)
    masks = [
        read_json(folder / module["path"] / "config.json", _MASK_KINDS)
        for module in modules
        if module_kind(module) == _MASK
    ]
    unsupported = [*_unsupported_modules(folder, modules), *_unsupported_settings(settings, masks)]
    if stored.get("similarity_fn_name") not in (None, "maxsim"):
        unsupported.append(f"similarity_fn_name={stored['similarity_fn_name']!r}")
    if unsupported:
        names = " and ".join(unsupported)[:1000]
        raise ValueError(f"{folder} has {names}, not supported by this library; open it with sentence-transformers")
    tasks = masks[0].get("skiplist_tasks") if masks else []
    skips = tasks is None or "document" in tasks
    expansion = settings.get("query_expansion") or {}

    def roles(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
        if expansion.get("token") not in (None, tokenizer.mask_token):
            raise ValueError(f"queries must be expanded with the mask token, got {expansion['token'][:200]!r}")
        # 10^30 for tokenizers without a limit.
        longest = settings.get("max_seq_length") or tokenizer.model_max_length
        found = {
            "query_length": expansion.get("length") or settings.get("query_length") or min(longest, QUERY_LENGTH[-1]),
            "document_length": settings.get("document_length") or min(longest, LENGTH[-1]),
            "query_expansion": bool(expansion),
            "attend_to_expansion": bool(expansion.get("attend")),
            "skip_tokens": stored_skip_list(masks[0].get("skiplist_words") or [], tokenizer) if skips else [],
        }
        for role, prompt in stored_prompts(stored).items():
            found[f"{role}_marker"], found[f"{role}_prompt"] = split_prompt(prompt, tokenizer)
        return found

    return Layout(folder, roles, dense_layers(folder, modules))


def _unsupported_modules(folder: Path, modules: list[dict[str, Any]]) -> list[str]:
    """Describe modules other than linear projections of tokens to unit vectors."""
    kinds = [module_kind(module) for module in modules if module_kind(module) != _MASK]
    if kinds != ["Transformer", *["Dense"] * (len(kinds) - 2), "Normalize"]:
        return [f"the modules {', '.join(kinds)} (supported: Transformer, any Dense, Normalize)"]
    unsupported = []
    for module in modules:
        if module_kind(module) in ("Dense", "Normalize"):
            stored = read_json(folder / module["path"] / "config.json", _MODULE_KINDS)
            # By default a Dense module maps tokens, and a Normalize module sentence vectors.
            source = stored.get("module_input_name") or ("token_embeddings" if "in_features" in stored else "")
            if {source, stored.get("module_output_name") or source} != {"token_embeddings"}:
                unsupported.append(f"a {module['path']} that does not map tokens")
    return unsupported


def _unsupported_settings(settings: dict[str, Any], masks: list[dict[str, Any]]) -> list[str]:
    """Describe settings other than lengths, expansion of queries to a fixed length, and skip lists for documents."""
    unsupported = [
        f"{name}={value!r}"
        for name, value in settings.items()
        if name not in _LENGTHS and value and value != _TRANSFORMER.get(name)
    ]
    expansion = settings.get("query_expansion")
    if expansion and expansion.get("strategy") != "fixed":
        unsupported.append(f"query expansion with strategy {expansion.get('strategy')!r}")
    if expansion and not masks:
        unsupported.append("query expansion without a MultiVectorMask")
    if len(masks) > 1:
        unsupported.append("several MultiVectorMask")
    for mask in masks:
        if "query" in (mask.get("skiplist_tasks") or []) and mask.get("skiplist_words"):
            unsupported.append("skiplist_tasks for queries")
        if mask.get("keep_only_token_ids"):
            unsupported.append("keep_only_token_ids")
    return unsupported
