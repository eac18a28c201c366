"""Numbers, names and tables in Markdown, as filters of the template of reports."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

from jinja2 import Environment
from tabulate import tabulate

from .public import public
from .tables import positions


MISSING = "–"


def render(template: str, **content: Any) -> str:
    """Fill a template of this package, without the blank lines of empty parts."""
    environment = Environment(trim_blocks=True, lstrip_blocks=True)
    filters = (cell, counts, listed, number, p_value, positions, public, row, share, table)
    environment.filters |= {function.__name__: function for function in filters}
    environment.globals |= {"number": number, "share": share}
    source = files(__package__).joinpath(template).read_text(encoding="utf-8")
    return re.sub(r"\n{3,}", "\n\n", environment.from_string(source).render(content)).strip() + "\n"


def table(text: str) -> str:
    """Align the first column of a table to the left and the others to the right."""
    header, *rows = ([cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in text.splitlines())
    aligned = ["left", *["right"] * (len(header) - 1)]
    return tabulate(rows, header, tablefmt="pipe", colalign=aligned, disable_numparse=True) + "\n"


def cell(text: str) -> str:
    """A text within a table."""
    return text.replace("|", "\\|").replace("\n", " ")


def row(cells: Sequence[Any]) -> str:
    return f"| {' | '.join(cell(str(value)) for value in cells)} |"


def number(value: float | None) -> str:
    return MISSING if value is None else f"{value:.3f}"


def share(value: float | None) -> str:
    return MISSING if value is None else f"{100 * value:.0f} %"


def p_value(p: float | None, equal: str = "") -> str:
    return MISSING if p is None else "< 0.001" if p < 0.001 else f"{equal}{p:.3f}"


def counts(numbers: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {number:,.0f}" for name, number in numbers.items())


def listed(names: Sequence[str]) -> str:
    """`"a, b and c"`."""
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))
