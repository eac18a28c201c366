"""Reading and writing JSON that may be damaged or hostile."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


# Far more than two million new words need; parsed, whatever it says takes less than 2 GB.
_MAX_JSON = 2**26


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


def write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
