"""Numbers, lists, tables and sections in Markdown."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from tabulate import tabulate


MISSING = "–"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Lines of a table and a blank line. The first column is aligned to the left, the others to the right."""
    cells = [[cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in (header, *rows)]
    aligned = ["left", *["right"] * (len(header) - 1)]
    text = tabulate(cells[1:], cells[0], tablefmt="pipe", colalign=aligned, disable_numparse=True)
    return [*text.split("\n"), ""]


def curve_table(
    curves: Mapping[str, Sequence[tuple[float, float]]], x_format: str, y_format: Callable[[float | None], str]
) -> list[str]:
    """A table with a row per curve (name -> points (x, y)) and a column per x."""
    positions = sorted({x for points in curves.values() for x, _ in points})
    rows = [[name, *(y_format(dict(points).get(x)) for x in positions)] for name, points in curves.items()]
    return table(["Method", *(x_format.format(x) for x in positions)], rows)


def section(title: str, lines: list[str], text: str = "") -> list[str]:
    """A section with an introductory text; nothing without lines."""
    return [f"## {title}", "", *([text, ""] if text else []), *lines] if lines else []


def number(value: float | None) -> str:
    return MISSING if value is None else f"{value:.3f}"


def share(value: float | None) -> str:
    return MISSING if value is None else f"{100 * value:.0f} %"


def p_value(p: float, equal: str = "") -> str:
    return "< 0.001" if p < 0.001 else f"{equal}{p:.3f}"


def listed(names: Sequence[str]) -> str:
    """`"a, b and c"`."""
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


def public(value: Any) -> str:
    """Settings in words. Paths are shortened to their last part, to hide folders of this machine."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {public(own)}" for key, own in value.items())
    if isinstance(value, (list, tuple)):
        return "+".join(map(public, value))
    text = str(value)
    return os.path.basename(text) if os.path.isabs(text) or text.startswith(".") else text
