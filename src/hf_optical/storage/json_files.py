"""Read and write JSON files, which may be damaged or hostile."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


# Far more than two million new words need; parsed, it takes less than 2 GB.
_MAX_BYTES = 2**26


def read_json(path: Path, kind: Any = dict) -> Any:
    """
    Read a JSON file of at most 64 MiB, or raise an `OSError` that names it and the entries that are not of `kind`.
    """
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise OSError(f"{path} has more than {_MAX_BYTES} bytes, which no checkpoint needs; do not trust it")
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise OSError(f"{path} is not valid JSON ({error}); the checkpoint is damaged, fetch it again") from error
    wrong = mismatches(content, kind)
    if wrong == [""]:
        raise OSError(f"{path} must hold a JSON {_type_of(kind).__name__}; the checkpoint is damaged, fetch it again")
    if wrong:
        raise OSError(f"{path} is damaged (wrong type of {', '.join(wrong[:5])}); fetch the checkpoint again")
    return content


def read_optional_json(path: Path, kind: Any = dict) -> Any:
    """Read a JSON file like [`read_json`], or give an empty value if there is no such file."""
    return read_json(path, kind) if path.is_file() else _type_of(kind)()


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file, and the folder that it is in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def mismatches(value: Any, kind: Any, place: str = "") -> list[str]:
    """
    Find the places in a JSON value, such as `"results.0.name"`, that are not of the expected kind.

    A kind is a type or a tuple of types; a `range` for a whole number in it; a list with the kind of its elements; or
    a dictionary, name -> kind, of entries that may also be null or missing. Other entries are ignored.
    """
    if isinstance(kind, range):
        return [] if isinstance(value, int) and value in kind else [place]
    if not isinstance(value, _type_of(kind)):
        return [place]
    children = []
    if isinstance(kind, dict):
        children = [(name, value[name], expected) for name, expected in kind.items() if value.get(name) is not None]
    elif isinstance(kind, list):
        children = [(index, element, kind[0]) for index, element in enumerate(value)]
    places = (mismatches(child, expected, f"{place}.{name}".lstrip(".")) for name, child, expected in children)
    return [wrong for each in places for wrong in each]


def _type_of(kind: Any) -> Any:
    return kind if isinstance(kind, (type, tuple)) else type(kind)
