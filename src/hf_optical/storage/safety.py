"""Keep checkpoints of other people from leading to files outside of their folder, or to code."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import printable
from .json_files import read_optional_json
from .names import ENCODER_CONFIG, TOKENIZER_CONFIG


# Settings that make transformers read other weights or files than those that were checked.
_REDIRECTS = {"transformers_weights", "quantization_config", "configuration_files", "fast_tokenizer_files"}
# Files that old tokenizers were made of; no library reads these settings any more.
_FORMER_FILES = {"special_tokens_map_file", "added_tokens_file", "tokenizer_config_file"}


def inside(folder: Path, name: str, source: Path) -> Path:
    """
    Join `folder` and a relative path that `source`, a file of the checkpoint, names.

    Links are followed within the folder, and within the repository's part of the Hub's cache. Raises `OSError` if the
    path leads out: it is absolute, contains `..`, or is a link to somewhere else.
    """
    path = Path(name)
    bad = path.is_absolute() or ".." in path.parts or "\\" in name or not name.isprintable() or len(name) > 255
    if not bad:
        root = folder.parent.parent if folder.parent.name == "snapshots" else folder
        bad = not (folder / path).resolve().is_relative_to(root.resolve())
    if bad:
        raise OSError(f"{source} names {name[:255]!r}, which is not inside its folder; do not trust this checkpoint")
    return folder / path


def check_redirects(folder: Path) -> None:
    """Check that the settings of a checkpoint do not send transformers, which reads them again, to other places."""
    for path in (folder / ENCODER_CONFIG, folder / TOKENIZER_CONFIG):
        settings = _settings(read_optional_json(path))
        found = sorted({name for name, value in settings if _redirects(name, value, folder)})
        if found:
            raise OSError(
                f"{path} sets {printable(', '.join(found)):.255}. Other weights, files outside of the folder and code "
                "on the Hub are not read; open another checkpoint, or remove the settings if you trust the author"
            )


def _settings(content: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """All entries, including those of nested settings."""
    pending = [content]
    while pending:
        entries = pending.pop().items()
        yield from entries
        pending += [value for _, value in entries if isinstance(value, dict)]


def _redirects(name: str, value: Any, folder: Path) -> bool:
    if name in _REDIRECTS:
        return value is not None
    if not isinstance(value, str):
        return False
    # An attention implementation with a slash is a kernel on the Hub, which is code.
    if name.endswith("_implementation"):
        return "/" in value
    # Old tokenizers name paths on their author's machine, which only matter if such a file exists here.
    if not name.endswith("_file") or name in _FORMER_FILES or not os.path.exists(value):
        return False
    return not Path(value).resolve().is_relative_to(folder.resolve())
