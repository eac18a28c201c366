"""Checks for public entry points. Each raises an error that says what was expected, what was got, and what to do."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sized
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


def check_tensor(
    name: str, value: Any, *, shape: tuple[int, ...] | None = None, dimensions: int | None = None, cure: str = ""
) -> None:
    """Raise `TypeError` unless `value` is a tensor, `ValueError` unless it has this shape or these dimensions."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(value).__name__}; use torch.as_tensor({name})")
    if shape is not None and value.shape != shape or dimensions is not None and value.dim() != dimensions:
        expected = f"shape {shape}" if shape is not None else f"{dimensions} dimensions"
        raise ValueError(
            f"{name} must have {expected}, got shape {tuple(value.shape)}" + (f"; {cure}" if cure else "")
        )
