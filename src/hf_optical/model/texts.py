"""Checks of input texts."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

from ..errors import DataError


# Control and formatting characters, such as zero-width ones, and all kinds of spaces.
_INVISIBLE = {"Cc", "Cf", "Zl", "Zp", "Zs"}
_SURROGATE = re.compile("[\ud800-\udfff]")
# A sentence ends after these signs; after the Latin ones only if a space follows.
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|(?<=[。！？।])\s*|\n+")
_REPAIR = 'text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")'
# Nested dictionaries and lists: deeper than any description of a model.
_MAX_DEPTH = 50


def as_texts(texts: Iterable[str], name: str = "texts") -> list[str]:
    """Return texts as a list, after checking that a tokenizer can read each of them; `name` is for messages."""
    # Iterating over a data frame or a mapping would give its column names or its keys.
    if isinstance(texts, (str, Mapping)) or not isinstance(texts, Iterable) or getattr(texts, "ndim", 1) != 1:
        got = "one string" if isinstance(texts, str) else type(texts).__name__
        raise TypeError(f"{name} must be a list of strings, got {got}")
    texts = list(texts)
    for position, text in enumerate(texts):
        require_text(text, f"{name}[{position}]")
    return texts


def require_text(text: str, name: str = "text") -> None:
    """Raise an error unless `text` is a string without unpaired surrogates, which UTF-8 could not encode."""
    if not isinstance(text, str):
        raise TypeError(f"{name} must be a string, got {text!r:.50}")
    if half := half_character(text):
        raise DataError(f"{name} contains {half} in {text!r:.80}; complete or remove it, such as by {_REPAIR}")


def half_character(text: str) -> str | None:
    """Describe the first unpaired surrogate of a text in printable words; `None` if there is none."""
    found = _SURROGATE.search(text)
    return f"half a character (the surrogate U+{ord(found[0]):04X})" if found else None


def unwritable(value: Any, place: str = "") -> list[str]:
    """Find up to five places in a JSON value that cannot be saved: unpaired surrogates and too deep nesting."""
    return list(islice(_unwritable(value, place, 0), 5))


def _unwritable(value: Any, place: str, depth: int) -> Iterator[str]:
    if isinstance(value, str):
        if half_character(value):
            yield place
    elif isinstance(value, (dict, list, tuple)):
        if depth == _MAX_DEPTH or isinstance(value, dict) and half_character("".join(map(str, value))):
            yield place
            return
        for name, child in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _unwritable(child, f"{place}.{name}".lstrip("."), depth + 1)


def split_sentences(text: str) -> list[str]:
    """Cut a text into sentences, by their last signs and by lines."""
    return [part for part in map(str.strip, _SENTENCE_END.split(text)) if part]


def is_blank(text: str) -> bool:
    """Return whether a text is empty, or only spaces, control and zero-width characters."""
    return all(unicodedata.category(character) in _INVISIBLE for character in text)
