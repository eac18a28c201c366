"""The error for bad input, and how values and errors are shown in messages and by commands."""

from __future__ import annotations

import re
import reprlib
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
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


@contextmanager
def exit_on_error(*kinds: type[Exception], flags: Mapping[str, str] | None = None) -> Iterator[None]:
    """End a command with the line `error: MESSAGE` on errors of `kinds`; `flags` are the options of arguments."""
    try:
        yield
    except kinds as error:
        message = error.args[0] if isinstance(error, KeyError) and error.args else error
        sys.exit(f"error: {name_flags(' '.join(str(message).split()), flags or {})}")


def name_flags(message: str, flags: Mapping[str, str]) -> str:
    """Replace names of Python arguments by flags: in backquotes, with an underscore, or at the start of a message."""
    for argument in (r"`(\w+)`", r"(?<![\w./\\'\"`-])([a-z]+_[a-z_]+)(?!\w|\.\w|[/\\'\"`(])", r"\A(\w+)(?= must )"):
        message = re.sub(argument, lambda match: flags.get(match[1], match[0]), message)
    return message
