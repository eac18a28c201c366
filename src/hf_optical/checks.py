"""Checks for public entry points. Each raises an error that says what was expected, what was got, and what to do."""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterable, Sequence, Sized
from types import ModuleType
from typing import Any

from torch import Tensor


def check_choice(name: str, value: Any, choices: Iterable[Any], reason: str = "") -> None:
    """Raise `ValueError` unless `value` is one of `choices`; `reason` ends the message."""
    choices = list(choices)
    if value not in choices:
        expected = ("one of " if len(choices) > 1 else "") + ", ".join(map(repr, choices))
        message = f"{name} must be {expected}, got {value!r}"
        raise ValueError(f"{message}; {reason}" if reason else message)


def check_not_empty(name: str, values: Sized) -> None:
    """Raise `ValueError` if `values` has no entries."""
    if len(values) == 0:
        raise ValueError(f"{name} must not be empty")


def check_number(
    name: str,
    value: float,
    *,
    above: float | None = None,
    at_least: float | None = None,
    at_most: float | None = None,
    finite: bool = False,
    cure: str = "",
) -> None:
    """Raise `ValueError` unless `value` is within the bounds, which `nan` never is; `cure` ends the message."""
    within = (
        (above is None or value > above)
        and (at_least is None or value >= at_least)
        and (at_most is None or value <= at_most)
        and (not finite or math.isfinite(value))
    )
    if not within:
        message = f"{name} must be {_range(above, at_least, at_most, finite)}, got {value}"
        raise ValueError(f"{message}; {cure}" if cure else message)


def check_length(name: str, entries: Sized, length: int, what: str) -> None:
    """Raise `ValueError` unless there is one entry for each of `length` things, such as `what="documents"`."""
    if len(entries) != length:
        raise ValueError(f"{name} must have one entry for each of the {length} {what}, got {len(entries)}")


def check_shape(name: str, value: Any, expected: Sequence[int | str], cure: str = "") -> None:
    """Raise `TypeError` unless `value` is a tensor, `ValueError` unless its sizes are `expected` (words: any size)."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(value).__name__}; use torch.as_tensor({name})")
    sizes = [size if isinstance(wanted, int) else wanted for size, wanted in zip(value.shape, expected, strict=False)]
    if value.dim() != len(expected) or sizes != list(expected):
        message = f"{name} must have shape ({', '.join(map(str, expected))}), got {tuple(value.shape)}"
        raise ValueError(f"{message}; {cure}" if cure else message)


def check_entries(wrong: Tensor, message: str) -> None:
    """Raise a `ValueError` that lists the first batch entries in which `wrong`, of shape `(batch,)`, is true."""
    if wrong.any():
        raise ValueError(f"{message} (batch entries {wrong.nonzero()[:5, 0].tolist()})")


def import_optional(name: str, extra: str) -> ModuleType:
    """Import an optional library, or raise `ImportError` with the extra of hf_optical that installs it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        installed = not isinstance(error, ModuleNotFoundError) or error.name != name.partition(".")[0]
        problem = f"cannot be imported ({error})" if installed else "is not installed"
        raise ImportError(f'the library {name} {problem}: pip install "hf_optical[{extra}]"') from error


def _range(above: float | None, at_least: float | None, at_most: float | None, finite: bool) -> str:
    """The bounds in words: `"positive and finite"`, `"between 0 and 1"`."""
    if at_least is not None and at_most is not None:
        return f"between {at_least} and {at_most}"
    parts = []
    if above is not None:
        parts.append("positive" if above == 0 else f"above {above}")
    if at_least is not None:
        parts.append(f"at least {at_least}")
    if at_most is not None:
        parts.append(f"at most {at_most}")
    if finite:
        parts.append("finite")
    return " and ".join(parts)
