"""Options of a command line, as fields of dataclasses for `transformers.HfArgumentParser`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import field
from typing import Any


def option(default: Any, help: str, choices: Iterable[str] = ()) -> Any:
    """Make a field with its help and, if only some values are allowed, these."""
    return field(default=default, metadata={"help": help, **({"choices": list(choices)} if choices else {})})
