"""The files of a language pack; what is missing, cut short or changed is an `OSError` that names it."""

from __future__ import annotations

import copy
import hashlib
import json
from pathlib import Path
from typing import Any

from peft import LoraConfig
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from ..errors import printable
from ..hub.details import unfit_details
from ..model.layout import unfit_roles
from ..model.nearest_words import no_words
from ..model.texts import unwritable
from ..storage.json_files import misfits, read_json, write_json
from .adapters import adapter_name
from .lora_settings import unfit_settings, unheard_ranks


FORMAT = 1
# Characters of a language code, and of the name or path of a base.
_NAME = 4096
_KINDS: dict[str, Any] = {
    "language": str,
    "base_model": str,
    "base_revision": str,
    "base_fingerprint": str,
    "new_words": [str],
    "first_new_id": range(2**31),
    "roles": dict,
    "details": dict,
    "sha256": dict,
}
_MAY_BE_NULL = ("base_revision", "first_new_id")


def read_pack_config(path: Path) -> dict[str, Any]:
    """The entries of `language_pack.json`, all of them there and of the right kind."""
    stored = read_json(path)
    if not isinstance(stored.get("format"), int):
        raise OSError(f"{path} does not describe a language pack; fetch or save the pack again")
    if stored.pop("format") > FORMAT:
        raise OSError(f"{path} was written by a newer hf_optical; update the library to open it")
    if fault := _fault(stored):
        raise OSError(f"{path} is damaged ({fault}); fetch or save the pack again")
    return {name: stored[name] for name in _KINDS}


def write_pack_config(path: Path, entries: dict[str, Any]) -> None:
    """
    Writes `language_pack.json`.

    Raises:
        ValueError: it could not be opened again.
    """
    # As it will be read, where a tuple is a list.
    if fault := _fault(json.loads(json.dumps(entries))):
        raise ValueError(
            f"the pack would be saved in a way that cannot be opened ({fault}); change that. What the entries of "
            "details are is told by write_card"
        )
    write_json(path, {"format": FORMAT, **entries})


def _fault(stored: dict[str, Any]) -> str | None:
    """What is wrong with the entries of a pack, on one line."""
    wrong = [name for name in _KINDS if name not in stored or (stored[name] is None and name not in _MAY_BE_NULL)]
    wrong += misfits(stored, _KINDS)
    wrong += [name for name, kind in _KINDS.items() if kind is str and len(str(stored.get(name))) > _NAME]
    if not wrong:
        # The words, which may be many, are looked at below.
        wrong = unwritable({name: stored[name] for name in _KINDS if name != "new_words"})
    wrong = wrong or unfit_roles(stored["roles"], "roles") or unfit_details(stored["details"])
    if wrong:
        return f"{printable(', '.join(wrong[:5])):.1000} missing or of the wrong kind"
    if fault := no_words(stored["new_words"]):
        return f"of new_words, {fault}"
    try:
        for language in (stored["language"], *(stored["details"].get("languages") or ())):
            adapter_name(language)
    except ValueError as error:
        return str(error)[:1000]
    return None


def sha256(content: bytes) -> str:
    """SHA-256 in hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def read_checked(path: Path, digests: dict[str, str]) -> bytes:
    """A file's content, the same that was written (`digests`: name -> SHA-256)."""
    content = path.read_bytes() if path.is_file() else b""
    if sha256(content) != digests.get(path.name):
        raise OSError(f"{path} is missing, cut short or changed; fetch or save the pack again")
    return content


def read_weights(path: Path, digests: dict[str, str]) -> dict[str, Tensor]:
    """The weights in a safetensors file, finite numbers all of them."""
    try:
        weights = load(read_checked(path, digests))
    except SafetensorError as error:
        raise OSError(f"{path} holds no weights ({error}); fetch or save the pack again") from error
    for name, weight in weights.items():
        # In the widest type: numbers of eight bits cannot be asked in their own.
        if not weight.is_floating_point() or not weight.double().isfinite().all():
            raise OSError(f"{path} holds {printable(name):.255}, which is not all finite numbers; train the pack anew")
    return weights


def read_rows(path: Path, digests: dict[str, str], words: int) -> Tensor:
    """The rows of so many new words, `(words, hidden)`."""
    weights = read_weights(path, digests)
    if weights.keys() != {"rows"} or weights["rows"].dim() != 2 or len(weights["rows"]) != words:
        raise OSError(f"{path} holds other weights than the rows of new words; fetch or save the pack again")
    return weights["rows"]


def read_lora_config(path: Path, digests: dict[str, str], weights: dict[str, Tensor]) -> LoraConfig:
    """The adapter's shape in `adapter_config.json`, which is that of its weights and of nothing more."""
    read_checked(path, digests)
    if read_json(path).get("peft_type") != "LORA":
        raise OSError(f"{path} describes no LoRA adapter; fetch or save the pack again")
    try:
        config = LoraConfig.from_pretrained(str(path.parent))
    # PEFT compares settings before it looks at what they are.
    except Exception as error:
        raise OSError(f"{path} is damaged ({str(error)[:1000]}); fetch or save the pack again") from error
    unfit = unfit_settings(config) or [f"rank {rank}" for rank in unheard_ranks(config, weights)]
    if unfit:
        raise OSError(
            f"{path} is damaged, or of no language pack: {', '.join(unfit[:5])} would reach beyond its weights; fetch "
            "or save the pack again"
        )
    return config


def write_lora_config(path: Path, config: LoraConfig, base_model: str, base_revision: str | None) -> None:
    """Writes `adapter_config.json` for PEFT, the same bytes every time."""
    config = copy.deepcopy(config)
    config.base_model_name_or_path, config.revision = base_model, base_revision
    config.inference_mode = True
    config.save_pretrained(str(path.parent))
    # PEFT writes sets in an order that changes from run to run.
    settings = read_json(path)
    write_json(path, {key: sorted(v) if isinstance(v, list) else v for key, v in sorted(settings.items())})
