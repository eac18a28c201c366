from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from .projection import LinearLayer


Roles = Callable[[PreTrainedTokenizerBase], dict[str, Any]]


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
