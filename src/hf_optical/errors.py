"""The error for bad input, and how values and errors are shown in messages."""

from __future__ import annotations

import reprlib
from collections.abc import Iterable
from itertools import islice
from typing import Any


class DataError(ValueError):
    """
    Bad input: a file that is missing, damaged or empty, or rows that contradict each other.

    The message names the file and line, or the argument, and says what to do.
    """


_repr = reprlib.Repr()
_repr.maxstring = _repr.maxother = _repr.maxlong = 60
_repr.maxdict = _repr.maxlist = 3
_repr.maxlevel = 2


def printable(text: Any) -> str:
    """Replace invisible characters and line ends by their escapes."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in str(text))


def short_repr(value: Any) -> str:
    """Format any value on one short, printable line."""
    return f"{_repr.repr(value):.200}"


def format_names(names: Iterable[Any]) -> str:
    """Join the names of columns or languages with commas, shortened and printable."""
    return f"{', '.join(short_repr(str(name))[1:-1] for name in islice(names, 100)):.300}"


def error_summary(error: BaseException) -> str:
    """Format the message of another library's error on one short, printable line."""
    text = " ".join(str(error).split()) or type(error).__name__
    return f"{printable(text):.500}"
