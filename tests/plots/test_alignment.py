from __future__ import annotations

import io

import numpy as np
import ot
import pytest
import torch
from matplotlib.text import Text
from packs import WORDS

from hf_optical.bitext import inverse_document_frequency
from hf_optical.plots import WordAlignment, align_words, plot_alignment
from hf_optical.plots.alignment import _BAND, _FAINT


TEXT, TRANSLATION = f"Mtoto {WORDS[0]} maji, hunywa", "The child drinks cold water."


def tokens(retriever, text, language):
    """Vectors, ids and word numbers of the tokens, without special tokens."""
    tokenizer = retriever.processor_of(language).tokenizer
    encoding = tokenizer([text], add_special_tokens=False)
    (vectors,) = retriever.encode_queries([text], language=[language])
    return vectors[1:-1], encoding["input_ids"][0], encoding.word_ids(0)


@pytest.mark.parametrize("weighted", [False, True])
def test_plan_is_the_token_plan_summed_over_words(retriever, weighted):
    texts = ["maji baridi", "mtoto hunywa maji"]
    weights = [inverse_document_frequency(retriever.processor_of(code), texts) for code in ("sw", "base")]
    options = {"weights": weights[0], "translation_weights": weights[1]} if weighted else {}

    alignment = align_words(retriever, TEXT, TRANSLATION, "sw", solver="exact", **options)

    sides = [tokens(retriever, TEXT, "sw"), tokens(retriever, TRANSLATION, "base")]
    masses = [
        np.array([float(weight[token]) if weighted else 1.0 for token in ids])
        for weight, (_, ids, _) in zip(weights, sides, strict=True)
    ]
    cost = 1 - (sides[0][0] @ sides[1][0].T).double().numpy()
    plan = ot.emd(*(mass / mass.sum() for mass in masses), cost)
    expected = np.zeros(tuple(max(words) + 1 for _, _, words in sides))
    for row, column in np.ndindex(plan.shape):
        expected[sides[0][2][row], sides[1][2][column]] += plan[row, column]
    assert alignment.plan.numpy() == pytest.approx(expected, abs=1e-6)
    assert alignment.words == ["Mtoto", WORDS[0], "maji", ",", "hunywa"]
    assert alignment.translation_words == ["The", "child", "drinks", "cold", "water", "."]


def test_language_defaults_to_the_active_one(retriever):
    retriever.set_language("sw")
    active = align_words(retriever, TEXT, TRANSLATION)
    retriever.set_language("base")
    bare = align_words(retriever, TEXT, TRANSLATION)
    named = align_words(retriever, TEXT, TRANSLATION, "sw")

    assert torch.equal(active.plan, named.plan) and not torch.equal(bare.plan, named.plan)
    assert retriever.language == "base"


def test_blank_sentences_and_unknown_languages_are_refused(retriever):
    with pytest.raises(ValueError, match="no word"):
        align_words(retriever, TEXT, "  ", "sw")
    with pytest.raises(KeyError):
        align_words(retriever, TEXT, TRANSLATION, "ha")


def test_figure_shows_all_words_and_streams():
    plan = torch.tensor([[0.5, 0.0, 0.0], [0.125, 0.25, 0.125]])
    figure = plot_alignment(WordAlignment(["maji", "$baridi$"], ["cold", "water", "."], plan))

    (axis,) = figure.axes
    assert [text.get_text() for text in axis.texts] == ["maji", "$baridi$", "cold", "water", "."]
    streams = [patch for patch in axis.patches if patch.get_window_extent().width > 50]
    heights = [patch.get_path().vertices[[0, -1], 1] for patch in streams]
    assert len(streams) == 4  # nothing is drawn for what is not moved
    widths = [float(bottom - top) for top, bottom in heights]
    assert np.array(widths) / widths[0] == pytest.approx([1.0, 0.25, 0.5, 0.25])
    first, thin, second, third = (patch.get_alpha() for patch in streams)
    assert first == second == third > thin  # all of one of their words, and a quarter of both
    assert axis.get_xlim()[0] < 0 < _BAND < axis.get_xlim()[1]


def test_faint_streams_are_left_out():
    faint = _FAINT / 4
    plan = torch.tensor([[0.5 - faint, faint], [faint, 0.5 - faint]])
    (axis,) = plot_alignment(WordAlignment(["a", "b"], ["c", "d"], plan)).axes
    assert len(axis.patches) == 2 + 2 + 2  # bars on both sides, and two streams


def test_words_lie_within_figure_and_do_not_overlap(retriever):
    words = ["mwanamke", "wakati", "hutengenezwa", "asiyejulikana"]
    figure = plot_alignment(WordAlignment(words, words * 3, torch.full((4, 12), 1 / 48)))
    figure.savefig(io.BytesIO(), format="png")

    width, height = figure.get_size_inches() * figure.dpi
    boxes = [text.get_window_extent() for text in figure.findobj(Text) if text.get_text()]
    assert all(0 <= box.x0 and box.x1 <= width and 0 <= box.y0 and box.y1 <= height for box in boxes)
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
