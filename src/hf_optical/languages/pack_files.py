"""Files of a language pack. A file that is missing, damaged or changed raises an `OSError` that names it."""

from __future__ import annotations

import copy
import hashlib
import json
from pathlib import Path
from typing import Any

from peft import LoraConfig
from torch import Tensor

from ..errors import printable
from ..hub.details import invalid_details
from ..model.added_words import WORD_RULES
from ..model.layout import invalid_roles
from ..model.nearest_words import invalid_word
from ..model.spelling import SPELLING_RULES, KnownWords, invalid_known_words
from ..model.texts import unwritable
from ..storage import safetensors_files
from ..storage.json_files import mismatches, read_json, write_json
from .adapters import is_language_code
from .lora_settings import oversized_ranks, unsupported_settings
from .strength import check_strength


FORMAT = 1
# Maximum characters of a language code, and of the name or path of a base.
_MAX_NAME = 4096
_KINDS: dict[str, Any] = {
    "format": int,
    "language": str,
    "base_model": str,
    "base_revision": str,
    "base_fingerprint": str,
    "new_words": [str],
    "first_new_id": range(2**31),
    "word_rules": range(1, WORD_RULES + 1),
    "strength": (int, float, list),
    "roles": dict,
    "details": dict,
    "sha256": dict,
}
_OPTIONAL = ("base_revision", "first_new_id")
_CURE = "fetch or save the pack again"


def read_pack_config(path: Path) -> dict[str, Any]:
    """Read the entries of `language_pack.json`, all of which are there and of the right type."""
    # Older packs have neither of these.
    stored = {"word_rules": 1, "strength": 1.0, **read_json(path)}
    if problem := _problem(stored):
        raise OSError(f"cannot open {path}: {problem}; update hf_optical if the pack is newer, or {_CURE}")
    return {name: stored[name] for name in _KINDS if name != "format"} | {
        "strength": check_strength(stored["strength"])
    }


def write_pack_config(path: Path, entries: dict[str, Any]) -> None:
    """Write `language_pack.json`."""
    entries = {"format": FORMAT, **entries}
    # JSON turns tuples into lists.
    if problem := _problem(json.loads(json.dumps(entries))):
        raise ValueError(f"the pack could not be opened again ({problem}); see write_card for the types of details")
    write_json(path, entries)


def _problem(stored: dict[str, Any]) -> str | None:
    """Describe on one line what is wrong with the entries of a pack; `None` if nothing is."""
    if isinstance(stored.get("format"), int) and stored["format"] > FORMAT:
        return f"its format {stored['format']} is that of a newer hf_optical"
    wrong = [name for name in _KINDS if stored.get(name) is None and not (name in stored and name in _OPTIONAL)]
    wrong += mismatches(stored, _KINDS)
    wrong += [name for name, kind in _KINDS.items() if kind is str and len(str(stored.get(name))) > _MAX_NAME]
    # The words may be many, and are checked below.
    wrong = wrong or unwritable({name: stored[name] for name in _KINDS if name != "new_words"})
    wrong = wrong or invalid_roles(stored["roles"], "roles") or invalid_details(stored["details"])
    if wrong:
        return f"missing or invalid: {printable(', '.join(wrong[:5])):.1000}"
    for code in (stored["language"], *(stored["details"].get("languages") or ())):
        if not is_language_code(code):
            return f"{code!r:.1000} is not a language code"
    try:
        check_strength(stored["strength"])
    except ValueError as error:
        return str(error)
    word = invalid_word(stored["new_words"])
    return word and f"new_words, {word}"


def sha256(content: bytes) -> str:
    """Return the SHA-256 in hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def _check_digest(path: Path, digests: dict[str, str]) -> None:
    """Raise `OSError` unless a file has the content that was written (`digests`: name -> SHA-256)."""
    content = path.read_bytes() if path.is_file() else b""
    if sha256(content) != digests.get(path.name):
        raise OSError(f"{path} is missing, cut short or changed; {_CURE}")


def read_weights(path: Path, digests: dict[str, str], names: list[str] | None = None) -> dict[str, Tensor]:
    """Read the weights with these names from a safetensors file, by default all. They must be finite numbers."""
    _check_digest(path, digests)
    weights = safetensors_files.read_weights(path, names)
    # Compared in the widest type, since types of eight bits have no `isfinite`.
    bad = [name for name, each in weights.items() if not (each.is_floating_point() and each.double().isfinite().all())]
    if bad:
        raise OSError(f"{path} must contain finite numbers only, but {printable(bad[0]):.255} has others; {_CURE}")
    return weights


def read_projection(path: Path, digests: dict[str, str]) -> dict[str, Tensor]:
    """Read a linear projection: `weight` of shape `(out, in)`, and perhaps `bias` of shape `(out,)`."""
    weights = read_weights(path, digests)
    weight, bias = weights.get("weight"), weights.get("bias")
    known = weight is not None and weight.dim() == 2 and not weights.keys() - {"weight", "bias"}
    if weight is None or not known or (bias is not None and bias.shape != weight.shape[:1]):
        raise OSError(f"{path} must hold the weight and perhaps the bias of a linear projection; {_CURE}")
    return weights


def read_lora_config(path: Path, digests: dict[str, str], weights: dict[str, Tensor]) -> LoraConfig:
    """Read the adapter's configuration, which asks for nothing beyond the adapter's weights."""
    _check_digest(path, digests)
    kind = read_json(path).get("peft_type")
    try:
        config = LoraConfig.from_pretrained(str(path.parent))
    # PEFT uses settings before it checks their types.
    except Exception as error:
        raise OSError(f"{path} is damaged ({str(error)[:1000]}); {_CURE}") from error
    unsupported = ["peft_type"] if kind != "LORA" else unsupported_settings(config)
    unsupported = unsupported or [f"rank {rank}" for rank in oversized_ranks(config, weights)]
    if unsupported:
        raise OSError(f"{path} is not that of a language pack (unsupported: {', '.join(unsupported[:5])}); {_CURE}")
    return config


def read_known_words(path: Path, digests: dict[str, str]) -> KnownWords:
    """Read the words by which typing errors are repaired."""
    _check_digest(path, digests)
    stored = read_json(path)
    if stored.get("rules") != SPELLING_RULES:
        raise OSError(f"cannot open {path}: it is of a newer hf_optical; update it, or {_CURE}")
    known = {source: words for source, words in stored.items() if source != "rules"}
    if problem := invalid_known_words(known):
        raise OSError(f"cannot open {path}: {printable(problem)}; {_CURE}")
    return known


def write_known_words(path: Path, known: KnownWords) -> None:
    """Write the words by which typing errors are repaired."""
    write_json(path, {"rules": SPELLING_RULES, **known})


def write_lora_config(path: Path, config: LoraConfig, base_model: str, base_revision: str | None) -> None:
    """Write `adapter_config.json` for PEFT, with the same bytes every time."""
    config = copy.deepcopy(config)
    config.base_model_name_or_path, config.revision = base_model, base_revision
    config.inference_mode = True
    config.save_pretrained(str(path.parent))
    # PEFT writes sets in an order that differs between runs.
    settings = read_json(path)
    write_json(path, {key: sorted(v) if isinstance(v, list) else v for key, v in sorted(settings.items())})
