"""What a folder of somebody else may not do: lead to other files, or to code."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import printable
from .json_files import read_optional_json
from .names import ENCODER_CONFIG, TOKENIZER_CONFIG


# By these transformers leaves what was looked at here: for weights of other names or kinds, or for another file.
_DETOURS = {"transformers_weights", "quantization_config", "configuration_files", "fast_tokenizer_files"}
# Files that a tokenizer was once made of; what old checkpoints say of them is read by nobody.
_FORMER_FILES = {"special_tokens_map_file", "added_tokens_file", "tokenizer_config_file"}


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
