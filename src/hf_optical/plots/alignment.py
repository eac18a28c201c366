"""Word alignment by optimal transport between a sentence and its translation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ..losses import OTAlignmentLoss
from ..retrieval import BASE, OpticalRetriever
from .style import COLOURS, fonts_for, styled
from .words import read_words


if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# In inches: distance between words, width of the band between the columns, of a word's bar, and of a letter.
_PITCH, _BAND, _BAR, _LETTER = 0.3, 1.7, 0.05, 0.105
_FONT_SIZE = 10.5
# Streams with a smaller share of the smaller of their two words are not drawn.
_FAINT = 0.04


@dataclass(frozen=True, eq=False)
class WordAlignment:
    """
    Transport plan between words.

    Attributes:
        words (`list[str]`): Words of the sentence.
        translation_words (`list[str]`): Words of its translation.
        plan (`Tensor` of shape `(words, translation_words)`): Mass moved from word to word. Sums to 1.
    """

    words: list[str]
    translation_words: list[str]
    plan: Tensor


def align_words(
    retriever: OpticalRetriever,
    text: str,
    translation: str,
    language: str | None = None,
    *,
    solver: str = "sinkhorn",
    epsilon: float = 0.01,
    weights: Tensor | None = None,
    translation_weights: Tensor | None = None,
) -> WordAlignment:
    """
    Align the words of a sentence and its translation with the transport plan used in training.

    The sentence is encoded with the pack of its language and the translation by the bare base, both as queries and
    without special tokens.

    Args:
        retriever ([`OpticalRetriever`]): The base with the pack.
        text (`str`): A sentence in the language of the pack.
        translation (`str`): Its translation into the language of the base.
        language (`str`, *optional*): Language of `text`. Defaults to the active language.
        solver (`str`, defaults to `"sinkhorn"`), epsilon (`float`, defaults to 0.01):
            As in [`~transport.transport_plan`], with the defaults of [`OTDistillationConfig`].
        weights (`Tensor` of shape `(vocabulary,)`, *optional*), translation_weights (as `weights`):
            Weight of each token id on either side, such as [`~bitext.inverse_document_frequency`]. Uniform by
            default.

    Returns:
        [`WordAlignment`]: The alignment. Words beyond the processor's `query_length` are left out.

    Raises:
        KeyError: If no pack for `language` is open.
        ValueError: If a text holds no words, or an option is out of range.
    """
    language = retriever.language if language is None else language
    student = read_words(retriever, text, "query", language)
    teacher = read_words(retriever, translation, "query", BASE)
    plan = OTAlignmentLoss(solver=solver, epsilon=epsilon).plan(
        student.vectors[None],
        teacher.vectors[None],
        student_weights=None if weights is None else weights[student.ids][None],
        teacher_weights=None if translation_weights is None else translation_weights[teacher.ids][None],
    )
    return WordAlignment(
        [text[start:stop] for start, stop in student.spans],
        [translation[start:stop] for start, stop in teacher.spans],
        student.words @ plan[0] @ teacher.words.T,
    )


@styled
def plot_alignment(alignment: WordAlignment) -> Figure:
    """
    Plot an alignment as streams from the words of the sentence, on the left, to those of its translation.

    The width of a stream shows the mass that it moves, and its opacity the share of the two words that it connects.
    The faintest streams are left out.

    Words are drawn in DejaVu Sans, or in the first installed font that has the characters. If no font has a character,
    matplotlib warns and draws a box: install a font for the script, such as one of Noto. Scripts that are written from
    right to left, or whose letters change shape, need matplotlib 3.11.

    Args:
        alignment ([`WordAlignment`]): An alignment from [`align_words`].

    Returns:
        `matplotlib.figure.Figure`: The figure. Its height grows with the number of words.

    Raises:
        ImportError: If matplotlib is not installed.

    Example:

    ```python
    from hf_optical import OpticalRetriever
    from hf_optical.plots import align_words, plot_alignment

    retriever = OpticalRetriever.from_pretrained("outputs/sw")
    plot_alignment(align_words(retriever, "Mtoto anakunywa maji.", "The child drinks water."))
    ```
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    sides = [alignment.words, alignment.translation_words]
    left, right = (_LETTER * max(map(len, words)) + 0.15 for words in sides)
    height = _PITCH * max(map(len, sides))
    figure = Figure(figsize=(left + _BAND + right, height + 0.1), layout="none")  # type: ignore[arg-type]
    axis = figure.add_axes((0, 0, 1, 1))
    axis.set_xlim(-left, _BAND + right)
    axis.set_ylim(height + 0.05, -0.05)
    axis.axis("off")
    plan = alignment.plan.double()
    masses = [plan.sum(1).tolist(), plan.sum(0).tolist()]
    middles = [[height * (place + 0.5) / len(words) for place in range(len(words))] for words in sides]
    # The words with the most mass fill the space available to a word.
    scale = 0.8 * min(height / len(words) / max(mass) for words, mass in zip(sides, masses, strict=True))
    fonts = fonts_for([*sides[0], *sides[1]])
    colours = _colours(masses[0], plan)
    for side, (x, indent, anchor) in enumerate(((0.0, -0.1, "right"), (_BAND, 0.1, "left"))):
        for word, mass, middle, colour in zip(sides[side], masses[side], middles[side], colours[side], strict=True):
            corner = (x - _BAR / 2, middle - scale * mass / 2)
            axis.add_patch(Rectangle(corner, _BAR, scale * mass, facecolor=colour, linewidth=0, zorder=3))
            look: dict[str, Any] = {"fontsize": _FONT_SIZE, "family": fonts, "color": "#222222", "parse_math": False}
            axis.text(x + indent, middle, word, ha=anchor, va="center", **look)
    _streams(axis, plan.tolist(), masses, middles, scale, colours[0])
    return figure


def _colours(masses: list[float], plan: Tensor) -> list[list[str]]:
    """A colour per word of the sentence. A word of the translation takes that of the word it gets most mass from."""
    own = [COLOURS[place % (len(COLOURS) - 1)] for place in range(len(masses))]  # the last is black, like text
    return [own, [own[place] for place in plan.argmax(0).tolist()]]


def _streams(
    axis: Axes,
    plan: list[list[float]],
    masses: list[list[float]],
    middles: list[list[float]],
    scale: float,
    colours: list[str],
) -> None:
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path

    tops = [
        [middle - scale * mass / 2 for middle, mass in zip(*side, strict=True)]
        for side in zip(middles, masses, strict=True)
    ]
    codes = [Path.MOVETO, Path.CURVE4, Path.CURVE4, Path.CURVE4, Path.LINETO, Path.CURVE4, Path.CURVE4, Path.CURVE4]
    start, half, end = _BAR / 2, _BAND / 2, _BAND - _BAR / 2
    for row, masses_of_row in enumerate(plan):
        for column, mass in enumerate(masses_of_row):
            left, right, width = tops[0][row], tops[1][column], scale * mass
            tops[0][row] += width
            tops[1][column] += width
            share = mass / min(masses[0][row], masses[1][column])
            if share < _FAINT:
                continue
            upper = [(start, left), (half, left), (half, right), (end, right)]
            lower = [(x, y + width) for x, y in reversed(upper)]
            look = {"facecolor": colours[row], "alpha": 0.12 + 0.6 * share, "linewidth": 0, "zorder": 1 + share}
            axis.add_patch(PathPatch(Path([*upper, *lower], codes), **look))
