"""File names for what a study writes."""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection


def file_name(*parts: str | None) -> str:
    """A file name of names of test sets, corpora and the like, without its ending."""
    return re.sub(r"[^\w.-]+", "-", "-".join(part for part in parts if part)).lower()


def free_name(name: str, taken: Collection[str]) -> str:
    """
    `name`, or the first of `name-2`, `name-3` and so on that is not taken.

    `taken` is in lower case, since many file systems cannot hold two names that differ in case alone.
    """
    numbered = itertools.chain([name], (f"{name}-{number}" for number in itertools.count(2)))
    return next(each for each in numbered if each.lower() not in taken)
