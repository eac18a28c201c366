"""What of PEFT's many settings a language pack may have."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import Any

from peft import LoraConfig
from torch import Tensor

from ..storage.json_files import misfits


# A rank that no weight of the pack has takes memory when the pack is opened, and is for nothing.
_RANKS = 512
_MAX_ALPHA = 2**31
_NAMES = {"r", "lora_alpha", "lora_dropout", "fan_in_fan_out", "use_rslora", "use_dora", "lora_bias"}
_NAMES |= {"target_modules", "exclude_modules", "layers_to_transform", "layers_pattern"}
_NAMES |= {"rank_pattern", "alpha_pattern", "init_lora_weights"}
# What says where the adapter comes from, and is not acted upon here.
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


def unfit_settings(config: LoraConfig) -> list[str]:
    """
    The settings by which an adapter is more than the weights that a pack carries, or is none.

    A pack changes nothing of its base, imports nothing, and takes no time or memory that its size does not tell. So
    beside the usual settings all are to have PEFT's default; weights may be started by no method that reads or changes
    the base's (PiSSA, OLoRA, LoftQ, EVA, CorDA, ...); and patterns of module names may repeat no group, and have no
    more ways to match than four `.*`.

    Returns:
        `list[str]`: their names; empty for a config that is all right.
    """
    found, usual = config.to_dict(), LoraConfig().to_dict()
    unfit = [name for name, value in found.items() if name not in _NAMES | _NOTES and value != usual.get(name)]
    unfit += misfits({name: found.get(name) for name in _NAMES}, _KINDS)
    unfit += [name for name in ("r", "lora_alpha", "lora_dropout", "init_lora_weights") if found.get(name) is None]
    if unfit:
        return unfit
    if config.init_lora_weights not in (True, False, "gaussian", "orthogonal"):
        unfit.append("init_lora_weights")
    for name, kind in {"rank_pattern": range(1, 2**31), "alpha_pattern": _NUMBER}.items():
        pattern = getattr(config, name) or {}
        unfit += misfits(pattern, dict.fromkeys(pattern, kind), name) + [name] * any(map(_is_slow, pattern))
    alphas = [config.lora_alpha, *(config.alpha_pattern or {}).values()]
    # Compared, which is false of NaN, and known of whole numbers that no float holds.
    if not all(isinstance(alpha, _NUMBER) and abs(alpha) <= _MAX_ALPHA for alpha in alphas):
        unfit.append("lora_alpha or alpha_pattern")
    if not 0 <= config.lora_dropout < 1:
        unfit.append("lora_dropout")
    for name in ("target_modules", "exclude_modules", "layers_pattern", "layers_to_transform"):
        value = getattr(config, name)
        entries = value if isinstance(value, Iterable) and not isinstance(value, str) else [value]
        known = int if name == "layers_to_transform" else str
        if not all(entry is None or isinstance(entry, known) for entry in entries) or any(map(_is_slow, entries)):
            unfit.append(name)
    return unfit


def unheard_ranks(config: LoraConfig, weights: dict[str, Tensor]) -> list[int]:
    """Ranks above 512 in a config that are larger than that of every weight: memory that nothing would fill."""
    largest = max([_RANKS, *(max(weight.shape, default=0) for name, weight in weights.items() if ".lora_" in name)])
    return [rank for rank in [config.r, *(config.rank_pattern or {}).values()] if rank > largest]


def _is_slow(pattern: Any) -> bool:
    """Whether a regular expression may take forever on a name of a hundred characters; names of modules never do."""
    if not isinstance(pattern, str):
        return False
    repeats, groups = len(re.findall(r"[*+{]", pattern)), pattern.count("(")
    # Neither that of `(?:` nor that of a lazy repeat.
    optional = len(re.findall(r"(?<![(*+?}])\?", pattern))
    # As powers of two; groups have the most ways to match if they share the alternatives evenly.
    ways = 5 * repeats + optional + (groups * math.log2(1 + pattern.count("|") / groups) if groups else 0)
    return len(pattern) > 2000 or bool(re.search(r"\)[*+{]", pattern)) or ways > 20
