"""Settings and texts of a study without the folders of this machine."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from .study_file import read_yaml


# An absolute path, or one from the home folder, of two parts or more; not the rest of a URL or of a relative path.
_LOCAL_PATH = re.compile(r"(?<![\w/.~-])(?:file://|~)?(?:/[^\s/\"'`,;:|()<>\[\]{}]+){2,}/?")


def public(value: Any) -> str:
    """Settings in words. Paths are shortened to their last part, to hide folders of this machine."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {public(own)}" for key, own in value.items())
    if isinstance(value, (list, tuple)):
        return "+".join(map(public, value))
    text = str(value)
    return os.path.basename(text) if os.path.isabs(text) or text.startswith(".") else text


def without_local_paths(text: str) -> str:
    """Shorten absolute paths in a text to their last part."""
    return _LOCAL_PATH.sub(lambda path: path[0].rstrip("/").rpartition("/")[2], text)


def public_yaml(file: Path) -> str:
    """The study's settings without `data_dir`."""
    content = {name: value for name, value in read_yaml(file).items() if name != "data_dir"}
    content = map_texts(content, lambda text: without_local_paths(public(os.path.expanduser(text))))
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=119)


def map_texts(value: Any, shorten: Callable[[str], str]) -> Any:
    """Apply a function to all texts in a JSON or YAML value."""
    if isinstance(value, Mapping):
        return {name: map_texts(own, shorten) for name, own in value.items()}
    if isinstance(value, list):
        return [map_texts(own, shorten) for own in value]
    return shorten(value) if isinstance(value, str) else value
