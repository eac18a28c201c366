from __future__ import annotations

import sys

import matplotlib
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib import font_manager
from matplotlib.figure import Figure

from hf_optical.plots import plot_training
from hf_optical.plots.style import FONT, STYLE, fonts_for, styled


LOGS = [{"loss": 1.0, "step": 1}]
SYLLABLE = "ሀ"  # Ethiopic, which DejaVu Sans lacks


@pytest.fixture
def ethiopic(tmp_path, monkeypatch):
    """An installed font with a single syllable."""
    pen = TTGlyphPen(None)
    for step, point in enumerate([(0, 0), (500, 0), (500, 700)]):
        pen.lineTo(point) if step else pen.moveTo(point)
    pen.closePath()
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder([".notdef", "ha"])
    builder.setupCharacterMap({ord(SYLLABLE): "ha"})
    builder.setupGlyf({".notdef": pen.glyph(), "ha": pen.glyph()})
    builder.setupHorizontalMetrics({".notdef": (600, 0), "ha": (600, 0)})
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": "Tiny Sans Ethiopic", "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    file = tmp_path / "tiny.ttf"
    builder.save(file)
    monkeypatch.setattr(font_manager.fontManager, "ttflist", list(font_manager.fontManager.ttflist))
    font_manager.fontManager.addfont(file)
    return "Tiny Sans Ethiopic"


def test_font_is_added_for_characters_missing_from_default(ethiopic):
    assert fonts_for(["maji", "ɓàrná ẹ̀kọ́"]) == [FONT]
    assert fonts_for(["maji", SYLLABLE]) == [FONT, ethiopic]
    assert fonts_for(["maji \U0010fffd"]) == [FONT], "no font has this character"


def test_callers_style_is_neither_used_nor_changed():
    seen = {}

    @styled
    def draw():
        seen.update({name: matplotlib.rcParams[name] for name in STYLE})
        return Figure()

    with matplotlib.rc_context({"font.size": 33, "axes.grid": False}):
        draw()
        assert matplotlib.rcParams["font.size"] == 33
    assert seen["font.size"] == STYLE["font.size"] and seen["axes.grid"]


def test_missing_matplotlib_raises_import_error(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"pip install \"hf_optical\[plots\]\""):
        plot_training(LOGS)
