"""Numbers, lists and tables as Markdown."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any


NOTHING_THERE = "–"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """The lines of a table; its first column is aligned to the left, the others to the right."""
    lines = [header, ["---", *["--:"] * (len(header) - 1)], *rows]
    return ["| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in line) + " |" for line in lines]


def curve_table(
    curves: Mapping[str, Sequence[tuple[float, float]]], x_format: str, y_format: Callable[[float | None], str]
) -> list[str]:
    """The lines of a table of curves: name -> points (x, y), one column an x."""
    positions = sorted({x for points in curves.values() for x, _ in points})
    rows = [[name, *(y_format(dict(points).get(x)) for x in positions)] for name, points in curves.items()]
    return table(["Method", *(x_format.format(x) for x in positions)], rows)


def number(value: float | None) -> str:
    return NOTHING_THERE if value is None else f"{value:.3f}"


def share(value: float | None) -> str:
    return NOTHING_THERE if value is None else f"{100 * value:.0f} %"


def p_value(p: float, equal: str = "") -> str:
    return "< 0.001" if p < 0.001 else f"{equal}{p:.3f}"


def listed(names: Sequence[str]) -> str:
    """`"a, b and c"`."""
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


def settings(entries: Mapping[str, Any]) -> str:
    """Settings in one line, without the folders of the machine they come from."""
    return ", ".join(f"{name} {public(value)}" for name, value in entries.items())


def public(value: Any) -> str:
    """A value in words; of a path its last part."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {public(own)}" for key, own in value.items())
    if isinstance(value, (list, tuple)):
        return "+".join(map(public, value))
    text = str(value)
    return os.path.basename(text) if os.path.isabs(text) or text.startswith(".") else text
