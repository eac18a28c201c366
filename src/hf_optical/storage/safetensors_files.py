"""Read safetensors files, which may be damaged or hostile."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..errors import printable
from .json_files import read_json
from .names import WEIGHTS


_INDEX = "model.safetensors.index.json"


def weight_names(folder: Path) -> set[str]:
    """Names of the weights in the safetensors files of a folder. Only the headers of the files are read."""
    return set(weight_sizes(folder))


def weight_sizes(folder: Path) -> dict[str, int]:
    """Number of values of each weight in a folder, by name; see [`weight_names`]."""
    files = sorted(folder.glob("model*.safetensors"))
    if not files:
        found = ", ".join(sorted(path.name for path in folder.glob("*.bin"))) or "none"
        raise OSError(
            f"{folder} has no safetensors weights. Pickled weights can run code and are not read (found: {found}); "
            "if you trust their author, convert them once: "
            'safetensors.torch.save_file(torch.load("pytorch_model.bin", weights_only=True), "model.safetensors")'
        )
    if not (folder / WEIGHTS).is_file():
        _check_index(folder / _INDEX, {path.name for path in files})
    sizes: dict[str, int] = {}
    for path in files:
        weights = _open(path)
        sizes |= {name: math.prod(weights.get_slice(name).get_shape()) for name in weights.keys()}
    return sizes


def _check_index(path: Path, files: set[str]) -> None:
    """Check the index of several files: transformers would open any file that it names, even a pickle elsewhere."""
    index = read_json(path, {"weight_map": dict, "metadata": dict})
    named = {str(name) for name in index.get("weight_map", {"": "nothing"}).values()}
    if not named <= files or "metadata" not in index:
        wrong = ", ".join(sorted(named - files)[:3]) or "no metadata"
        raise OSError(f"{path} must name safetensors files in its folder, got {printable(wrong):.255}; fetch it again")


def read_weights(path: Path, names: Iterable[str] | None = None) -> dict[str, Tensor]:
    """Read the weights with these names from a safetensors file, by default all."""
    weights = _open(path)
    names = weights.keys() if names is None else names
    missing = sorted(set(names) - set(weights.keys()))
    if missing:
        raise OSError(f"{path} has no weights {', '.join(missing)}; fetch or save the checkpoint again")
    return {name: weights.get_tensor(name) for name in names}


def _open(path: Path) -> safe_open:
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise OSError(f"{path} is cut short or damaged ({error}); fetch or save the checkpoint again") from error
