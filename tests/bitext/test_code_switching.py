from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import demo_pairs

from hf_optical.bitext import CodeSwitcher, Dictionary


DICTIONARY = Dictionary({"water": [("maji", 3), ("Maji-maji", 1)], "the": [("le", 1)], "children": [("watoto", 1)]})
ENGLISH = [pair["en"] for pair in demo_pairs()]
TEXTS = st.lists(st.sampled_from(["the", "Water", "children", "go", ", ", " ", "!", "é"])).map(" ".join)


@settings(max_examples=30)
@given(TEXTS)
def test_probability_zero_and_one(text):
    assert CodeSwitcher(DICTIONARY, 0)(text) == text
    always = CodeSwitcher(DICTIONARY, 1)(text)
    assert not {"the", "water", "children"} & set(always.lower().split())
    # Replacing the translations by their words restores the text.
    for english, words in {"the": ["le"], "Water": ["Maji-maji", "maji"], "children": ["watoto"]}.items():
        for word in words:
            always = always.replace(word, english)
    assert always == text


@settings(max_examples=30)
@given(TEXTS, st.floats(0, 1), st.floats(0, 1), st.integers())
def test_higher_probability_keeps_the_replacements_of_a_lower_one(text, one, other, seed):
    low, high = (CodeSwitcher(DICTIONARY, p, seed)(text).split() for p in sorted((one, other)))
    full = CodeSwitcher(DICTIONARY, 1.0, seed)(text).split()
    for word, less, more, most in zip(text.split(), low, high, full, strict=True):
        assert more in (word, most) and less in (word, more)


def test_share_of_replaced_words_and_of_each_translation():
    switcher = CodeSwitcher(DICTIONARY, 0.25, seed=3)
    switched = [word for i in range(200) for word in switcher(f"{i} " + "water " * 20).split()[1:]]
    replaced = [word for word in switched if word != "water"]
    # Four standard deviations.
    assert len(replaced) / 4000 == pytest.approx(0.25, abs=0.035)
    assert replaced.count("maji") / len(replaced) == pytest.approx(0.75, abs=0.055)


def test_draw_depends_on_text_and_seed_only():
    switcher = CodeSwitcher(DICTIONARY, 0.5, seed=1)
    together = [switcher(text) for text in ENGLISH]
    assert [switcher(text) for text in reversed(ENGLISH)] == together[::-1]
    assert [CodeSwitcher(DICTIONARY, 0.5, seed=1)(text) for text in ENGLISH] == together
    assert [CodeSwitcher(DICTIONARY, 0.5, seed=2)(text) for text in ENGLISH] != together != ENGLISH


def test_draw_is_the_same_on_every_machine():
    # Recorded output, under any hash seed: a change of the draw would change every run that is resumed or repeated.
    text = "The children want water, the water. The children!"
    assert [CodeSwitcher(DICTIONARY, 0.5, seed)(text) for seed in range(3)] == [
        "le watoto want Maji-maji, le maji. The children!",
        "le watoto want maji, the water. The watoto!",
        "The watoto want maji, the water. The watoto!",
    ]


def test_invalid_probability():
    for probability in (-0.1, float("nan")):
        with pytest.raises(ValueError, match="probability must be between 0 and 1, got"):
            CodeSwitcher(DICTIONARY, probability)
