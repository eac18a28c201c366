"""Escape text for a card: in code it stays a string, in prose one line of plain text."""

from __future__ import annotations

import json
import re
from typing import Any

from ..errors import printable


# Characters with a meaning in Markdown or HTML. An underscore between letters has none.
_MARKS = re.compile(r"[\\`*\[\]>#|~]")
# Control characters, and those that change the direction of writing.
_COMMANDS = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def code(text: Any) -> str:
    """Escape text for a Python string in double quotes, on one line of a Markdown code block."""
    return printable(json.dumps(str(text), ensure_ascii=False))[1:-1].replace("`", "\\x60")


def prose(text: Any) -> str:
    """Escape text for a line of Markdown or a table cell."""
    return _MARKS.sub(r"\\\g<0>", _one_line(text)).replace("<", "&lt;")


def span(text: Any) -> str:
    """Format text as inline code in Markdown."""
    return f"`{_one_line(text).replace('`', chr(39)) or ' '}`"


def _one_line(text: Any) -> str:
    return " ".join(_COMMANDS.sub("", str(text)).split())
