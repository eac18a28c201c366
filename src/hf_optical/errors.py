"""The error of bad input, and how messages show text of others."""

from __future__ import annotations

from typing import Any


class DataError(ValueError):
    """
    The input is not what it should be: a file that is missing, broken or empty, or rows that contradict each other.

    The message names the file, with the line where there is one, or the argument, and says what to do about it.
    """


def printable(text: Any) -> str:
    """Text as a message may show it: what is not seen, the end of a line too, by its escape."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in str(text))
