"""Settings of PEFT that language packs support."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import Any

from peft import LoraConfig
from torch import Tensor

from ..storage.json_files import mismatches


# Larger ranks need weights of that size, or opening the pack would allocate memory that nothing fills.
_RANKS = 512
_MAX_ALPHA = 2**31
_NAMES = {"r", "lora_alpha", "lora_dropout", "fan_in_fan_out", "use_rslora", "use_dora", "lora_bias"}
_NAMES |= {"target_modules", "exclude_modules", "layers_to_transform", "layers_pattern"}
_NAMES |= {"rank_pattern", "alpha_pattern", "init_lora_weights"}
# Notes on the origin of an adapter, which have no effect here.
_NOTES = {"peft_type", "task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision"}
_NOTES |= {"inference_mode", "runtime_config"}
_NUMBER = (int, float)
_LISTED = (str, list, set)
_KINDS = {
    **{"r": range(1, 2**31), "lora_alpha": _NUMBER, "lora_dropout": _NUMBER},
    **dict.fromkeys(("fan_in_fan_out", "use_rslora", "use_dora", "lora_bias"), bool),
    **dict.fromkeys(("target_modules", "exclude_modules", "layers_pattern"), _LISTED),
    **{"layers_to_transform": (int, list), "init_lora_weights": (bool, str)},
    **{"rank_pattern": dict, "alpha_pattern": dict},
}


def unsupported_settings(config: LoraConfig) -> list[str]:
    """
    Find the settings of a LoRA configuration that a language pack may not have.

    Opening a pack must not change the base, import code, or take more time or memory than its size suggests. So all
    but the usual settings must have PEFT's default, initialisations may not read the base's weights (PiSSA, OLoRA,
    LoftQ, EVA, CorDA, ...), and regular expressions for module names may not repeat groups, nor have more ways to
    match than four `.*`.
    """
    settings, defaults = config.to_dict(), LoraConfig().to_dict()
    wrong = [name for name, value in settings.items() if name not in _NAMES | _NOTES and value != defaults.get(name)]
    wrong += mismatches({name: settings.get(name) for name in _NAMES}, _KINDS)
    wrong += [name for name in ("r", "lora_alpha", "lora_dropout", "init_lora_weights") if settings.get(name) is None]
    if wrong:
        return wrong
    if config.init_lora_weights not in (True, False, "gaussian", "orthogonal"):
        wrong.append("init_lora_weights")
    for name, kind in {"rank_pattern": range(1, 2**31), "alpha_pattern": _NUMBER}.items():
        pattern = getattr(config, name) or {}
        wrong += mismatches(pattern, dict.fromkeys(pattern, kind), name) + [name] * any(map(_is_slow, pattern))
    alphas = [config.lora_alpha, *(config.alpha_pattern or {}).values()]
    # The comparison is false for NaN, and works for integers that are too large for a float.
    if not all(isinstance(alpha, _NUMBER) and abs(alpha) <= _MAX_ALPHA for alpha in alphas):
        wrong.append("lora_alpha or alpha_pattern")
    if not 0 <= config.lora_dropout < 1:
        wrong.append("lora_dropout")
    for name in ("target_modules", "exclude_modules", "layers_pattern", "layers_to_transform"):
        value = getattr(config, name)
        entries = value if isinstance(value, Iterable) and not isinstance(value, str) else [value]
        expected = int if name == "layers_to_transform" else str
        if not all(entry is None or isinstance(entry, expected) for entry in entries) or any(map(_is_slow, entries)):
            wrong.append(name)
    return wrong


def oversized_ranks(config: LoraConfig, weights: dict[str, Tensor]) -> list[int]:
    """Find ranks above 512 that are larger than every weight, so that nothing would fill their memory."""
    largest = max([_RANKS, *(max(weight.shape, default=0) for name, weight in weights.items() if ".lora_" in name)])
    return [rank for rank in [config.r, *(config.rank_pattern or {}).values()] if rank > largest]


def _is_slow(pattern: Any) -> bool:
    """Return whether a regular expression may take very long on a name of a hundred characters."""
    if not isinstance(pattern, str):
        return False
    repeats, groups = len(re.findall(r"[*+{]", pattern)), pattern.count("(")
    # Neither the `?` of `(?:` nor that of a lazy repeat.
    optional = len(re.findall(r"(?<![(*+?}])\?", pattern))
    # In powers of two. Groups have the most ways to match if the alternatives are spread evenly over them.
    ways = 5 * repeats + optional + (groups * math.log2(1 + pattern.count("|") / groups) if groups else 0)
    return len(pattern) > 2000 or bool(re.search(r"\)[*+{]", pattern)) or ways > 20
