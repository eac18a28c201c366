"""The files of a language pack; what is missing, cut short or changed is an `OSError` that names it."""

from __future__ import annotations

import copy
import hashlib
from pathlib import Path
from typing import Any

from peft import LoraConfig
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from ..model.layout import read_json, write_json
from .adapters import adapter_name


FORMAT = 1


def read_pack_config(path: Path) -> dict[str, Any]:
    """The entries of `language_pack.json`, all of them there and of the right kind."""
    stored = read_json(path)
    if not isinstance(stored.get("format"), int):
        raise OSError(f"{path} does not describe a language pack; fetch or save the pack again")
    if stored.pop("format") > FORMAT:
        raise OSError(f"{path} was written by a newer hf_optical; update the library to open it")
    kinds = {
        "language": str,
        "base_model": str,
        "base_revision": (str, type(None)),
        "base_fingerprint": str,
        "new_words": list,
        "first_new_id": (int, type(None)),
        "roles": dict,
        "details": dict,
        "sha256": dict,
    }
    wrong = [name for name, kind in kinds.items() if name not in stored or not isinstance(stored[name], kind)]
    if not wrong and not all(isinstance(word, str) for word in stored["new_words"]):
        wrong = ["new_words"]
    if wrong:
        raise OSError(
            f"{path} is damaged ({', '.join(wrong)} missing or of the wrong kind); fetch or save the pack again"
        )
    try:
        adapter_name(stored["language"])
    except ValueError as error:
        raise OSError(f"{path} is damaged: {error}") from error
    return {name: stored[name] for name in kinds}


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
    """The weights in a safetensors file."""
    try:
        return load(read_checked(path, digests))
    except SafetensorError as error:
        raise OSError(f"{path} holds no weights ({error}); fetch or save the pack again") from error


def read_rows(path: Path, digests: dict[str, str]) -> Tensor:
    """The rows of new words, `(words, hidden)`."""
    weights = read_weights(path, digests)
    if weights.keys() != {"rows"}:
        raise OSError(f"{path} holds other weights than the rows of new words; fetch or save the pack again")
    return weights["rows"]


def read_lora_config(path: Path, digests: dict[str, str]) -> LoraConfig:
    """The adapter's shape in `adapter_config.json`."""
    read_checked(path, digests)
    if read_json(path).get("peft_type") != "LORA":
        raise OSError(f"{path} describes no LoRA adapter; fetch or save the pack again")
    try:
        return LoraConfig.from_pretrained(str(path.parent))
    except (ValueError, TypeError) as error:
        raise OSError(f"{path} is damaged ({error}); fetch or save the pack again") from error


def write_lora_config(path: Path, config: LoraConfig, base_model: str, base_revision: str | None) -> None:
    """Writes `adapter_config.json` for PEFT, the same bytes every time."""
    config = copy.deepcopy(config)
    config.base_model_name_or_path, config.revision = base_model, base_revision
    config.inference_mode = True
    config.save_pretrained(str(path.parent))
    # PEFT writes sets in an order that changes from run to run.
    settings = read_json(path)
    write_json(path, {key: sorted(v) if isinstance(v, list) else v for key, v in sorted(settings.items())})
