"""
Shared style of all figures.

The colours are those of Okabe and Ito (2008), which remain distinct for people with colour blindness.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from ..checks import import_optional


if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "h", "d", "*", "8")
GREY = "#666666"
FONT = "DejaVu Sans"  # comes with matplotlib
STYLE = {
    "axes.axisbelow": True,
    "axes.edgecolor": "#999999",
    "axes.grid": True,
    "axes.labelcolor": "#333333",
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.labelsize": 9,
    "figure.constrained_layout.use": True,
    "figure.dpi": 100,
    "font.family": FONT,
    "font.size": 9,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.7,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "lines.markersize": 5,
    "savefig.dpi": 200,
    "xtick.color": "#555555",
    "xtick.labelsize": 8,
    "ytick.color": "#333333",
    "ytick.labelsize": 8.5,
}


def styled(draw: Callable[..., Figure]) -> Callable[..., Figure]:
    """Decorate a function to draw in this style, without changing the style of the caller."""

    @functools.wraps(draw)
    def drawn(*args: Any, **options: Any) -> Figure:
        with import_optional("matplotlib", "plots").rc_context(STYLE):
            return draw(*args, **options)

    return drawn


def fonts_for(texts: Iterable[str]) -> list[str]:
    """Font families that cover `texts`: DejaVu Sans and, for what it lacks, installed ones, preferably sans serif."""
    missing = {ord(character) for text in texts for character in text if not character.isspace()}
    families = []
    for family, file in _installed().items():
        if missing & _characters(file) or family == FONT:
            families.append(family)
            missing -= _characters(file)
        if not missing:
            break
    return families


def _installed() -> dict[str, str]:
    """One file per font family, in the order of preference."""
    from matplotlib.font_manager import fontManager

    # The font "Last Resort" has a box for every character. matplotlib falls back to it anyway.
    entries = [entry for entry in fontManager.ttflist if not entry.name.startswith("Last Resort")]
    entries.sort(key=lambda entry: (entry.name != FONT, "Sans" not in entry.name, entry.name, entry.style != "normal"))
    files: dict[str, str] = {}
    for entry in entries:
        files.setdefault(entry.name, entry.fname)
    return files


@functools.cache
def _characters(file: str) -> frozenset[int]:
    from matplotlib.font_manager import get_font

    return frozenset(get_font(file).get_charmap())
