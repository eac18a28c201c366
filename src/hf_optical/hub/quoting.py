"""Text of others on a page: in code it stays a string, in prose one line of plain text."""

from __future__ import annotations

import json
import re
from typing import Any

from ..errors import printable


# What Markdown or HTML could take for more than a letter; an underscore between letters is none of it.
_MARKS = re.compile(r"[\\`*\[\]>#|~]")
# Characters that are obeyed and not shown: control characters, and those that turn the direction of writing.
_COMMANDS = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def code(text: Any) -> str:
    """Text as Python writes it between double quotes, on one line; also inside Markdown's backquotes."""
    return printable(json.dumps(str(text), ensure_ascii=False))[1:-1].replace("`", "\\x60")


def prose(text: Any) -> str:
    """Text on one line, as it is and without meaning for Markdown or HTML; in a cell of a table too."""
    return _MARKS.sub(r"\\\g<0>", _one_line(text)).replace("<", "&lt;")


def span(text: Any) -> str:
    """Text between Markdown's backquotes."""
    return f"`{_one_line(text).replace('`', chr(39)) or ' '}`"


def _one_line(text: Any) -> str:
    return " ".join(_COMMANDS.sub("", str(text)).split())
