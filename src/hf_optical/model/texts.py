"""Which strings are text, and which texts say nothing."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

from ..errors import DataError


# Control and formatting characters, such as zero-width ones, and spaces of every kind.
_INVISIBLE = {"Cc", "Cf", "Zl", "Zp", "Zs"}
_SURROGATE = re.compile("[\ud800-\udfff]")
# Dictionaries and lists in one another, more than anything says that is told of a model.
_DEEPEST = 50


def text_list(texts: Iterable[str], name: str = "texts") -> list[str]:
    """
    Texts in the order in which they come, whatever holds them: a data frame's column is indexed by its labels and not
    by position, and a generator can be read once. What they are is looked at by [`require_texts`].

    Raises:
        TypeError: it is one string, a table, a mapping, or nothing that can be gone through.
    """
    if isinstance(texts, str):
        raise TypeError(f"{name} is one string; pass a list of strings")
    # Of a data frame and of a mapping the names would be read.
    if not isinstance(texts, Iterable) or isinstance(texts, Mapping) or getattr(texts, "ndim", 1) != 1:
        raise TypeError(f"{name} is of type {type(texts).__name__}; pass a list of strings")
    return list(texts)


def require_texts(texts: Iterable[str], name: str = "texts") -> None:
    """As [`require_text`], for each entry; the message names it, as `name[position]`."""
    for position, text in enumerate(texts):
        require_text(text, f"{name}[{position}]")


def require_text(text: str, name: str = "text") -> None:
    """
    Refuses what no tokenizer can read: other things than strings, and halves of a character.

    A character beyond the first 65,536, such as an emoji, is two surrogates in UTF-16. A Python string may hold one of
    them alone, which stands for nothing and which UTF-8 cannot write.

    Raises:
        TypeError: it is no string.
        DataError: it holds a surrogate.
    """
    if not isinstance(text, str):
        raise TypeError(f"{name} is {text!r:.50}; it must be a string")
    if half := half_character(text):
        raise DataError(
            f"{name} holds {half} in {text!r:.80}; put the whole character there, or take it out: "
            'text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")'
        )


def half_character(text: str) -> str | None:
    """The first surrogate of a text, in words that can be printed; `None` where there is none."""
    found = _SURROGATE.search(text)
    return f"half a character (the surrogate U+{ord(found[0]):04X})" if found else None


def unwritable(value: Any, place: str = "") -> list[str]:
    """
    The places, five at most, in a JSON value that no file could hold again: half a character, or more dictionaries and
    lists in one another than can be followed.
    """
    return list(islice(_unwritable(value, place, 0), 5))


def _unwritable(value: Any, place: str, depth: int) -> Iterator[str]:
    if isinstance(value, str):
        if half_character(value):
            yield place
    elif isinstance(value, (dict, list, tuple)):
        if depth == _DEEPEST or isinstance(value, dict) and half_character("".join(map(str, value))):
            yield place
            return
        for name, own in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _unwritable(own, f"{place}.{name}".lstrip("."), depth + 1)


def is_blank(text: str) -> bool:
    """Whether nothing of a text is seen: it is empty, or spaces, control and zero-width characters alone."""
    return all(unicodedata.category(character) in _INVISIBLE for character in text)
