from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from ...storage.json_files import mismatches
from ..texts import unwritable
from .projection import LinearLayer


Roles = Callable[[PreTrainedTokenizerBase], dict[str, Any]]

# Possible numbers of tokens: more than any encoder can read. A query may be filled up to its length.
LENGTH = range(2**24 + 1)
QUERY_LENGTH = range(2**16 + 1)

# Types of the settings of `OpticalProcessor`, for `mismatches`, whatever name they are stored under.
ROLE_KINDS: dict[str, Any] = {
    **dict.fromkeys(("query_marker", "document_marker", "query_prompt", "document_prompt"), str),
    **{"query_length": QUERY_LENGTH, "document_length": LENGTH},
    **{"query_expansion": bool, "attend_to_expansion": bool, "skip_tokens": [str]},
}
_OPTIONAL = ("query_marker", "document_marker")


def invalid_roles(roles: dict[str, Any], place: str = "") -> list[str]:
    """Find up to five settings of [`OpticalProcessor`] with a wrong type or value; the results begin with `place`."""
    given = {name: roles[name] for name in ROLE_KINDS if name in roles}
    if given.get("skip_tokens") == "punctuation":  # stands for a list
        del given["skip_tokens"]
    null = [name for name, value in given.items() if value is None and name not in _OPTIONAL]
    invalid = [f"{place}.{name}".lstrip(".") for name in null]
    return (invalid or mismatches(given, ROLE_KINDS, place) or unwritable(given, place))[:5]


@dataclass
class Layout:
    """What a checkpoint folder contains: `roles`, from a tokenizer to settings, and the layers after the encoder."""

    folder: Path
    roles: Roles
    projection: list[LinearLayer] = field(default_factory=list)
    lower_case: bool = False  # in addition to what the tokenizer does
    revision: str | None = None  # the commit, if it came from the Hub
