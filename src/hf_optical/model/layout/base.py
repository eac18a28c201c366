from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from ...storage.json_files import misfits
from ..texts import unwritable
from .projection import LinearLayer


Roles = Callable[[PreTrainedTokenizerBase], dict[str, Any]]

# Tokens of a text, more than any encoder reads; and of a query, which may be filled up to it.
LENGTH = range(2**24 + 1)
QUERY_LENGTH = range(2**16 + 1)

# What each setting of `OpticalProcessor` may be, whoever stored it and under whatever name, see `misfits`.
ROLE_KINDS: dict[str, Any] = {
    **dict.fromkeys(("query_marker", "document_marker", "query_prompt", "document_prompt"), str),
    **{"query_length": QUERY_LENGTH, "document_length": LENGTH},
    **{"query_expansion": bool, "attend_to_expansion": bool, "skip_tokens": [str]},
}
_MAY_BE_NULL = ("query_marker", "document_marker")


def unfit_roles(roles: dict[str, Any], place: str = "") -> list[str]:
    """
    The settings of [`OpticalProcessor`] that are not what they may be.

    Args:
        roles (`dict`): some of them, by name. Other names are passed over.
        place (`str`): where they are.
    """
    # "punctuation" stands for a list.
    kinds = ROLE_KINDS | ({"skip_tokens": str} if isinstance(roles.get("skip_tokens"), str) else {})
    given = {name: roles[name] for name in kinds if name in roles}
    null = [name for name, value in given.items() if value is None and name not in _MAY_BE_NULL]
    return [f"{place}.{name}".lstrip(".") for name in null] or misfits(given, kinds, place) or unwritable(given, place)


@dataclass
class Layout:
    """
    What was found in a checkpoint folder, whoever wrote it.

    Attributes:
        folder (`Path`): the folder on this machine; the encoder and the tokenizer lie at its root.
        roles (callable): how texts are read. Given the tokenizer, it returns keyword arguments of
            [`OpticalProcessor`].
        projection (list of [`LinearLayer`]): what the encoder's token vectors go through, in this order.
        lower_case (`bool`): whether texts are put into lower case, whatever the tokenizer does.
        revision (`str`, *optional*): the commit, if it was asked of the Hub.
    """

    folder: Path
    roles: Roles
    projection: list[LinearLayer] = field(default_factory=list)
    lower_case: bool = False
    revision: str | None = None
