from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import demo_pairs

from hf_optical.bitext import CodeSwitcher, Dictionary


DICTIONARY = Dictionary({"water": [("maji", 3), ("Maji-maji", 1)], "the": [("le", 1)], "children": [("watoto", 1)]})
ENGLISH = [pair["en"] for pair in demo_pairs()]
TEXTS = st.lists(st.sampled_from(["the", "Water", "children", "go", ", ", " ", "!", "é"])).map(" ".join)


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


@given(TEXTS, st.floats(0, 1), st.floats(0, 1), st.integers())
def test_higher_probability_keeps_the_replacements_of_a_lower_one(text, one, other, seed):
    low, high = (CodeSwitcher(DICTIONARY, p, seed)(text).split() for p in sorted((one, other)))
    full = CodeSwitcher(DICTIONARY, 1.0, seed)(text).split()
    for word, less, more, most in zip(text.split(), low, high, full, strict=True):
        assert more in (word, most) and less in (word, more)


@pytest.mark.parametrize("probability", [0.25, 0.5, 0.75])
def test_share_of_replaced_words_and_of_each_translation(probability):
    switcher = CodeSwitcher(DICTIONARY, probability, seed=3)
    switched = [word for i in range(200) for word in switcher(f"{i} " + "water " * 20).split()[1:]]
    replaced = [word for word in switched if word != "water"]
    # Four standard deviations.
    assert len(replaced) / 4000 == pytest.approx(probability, abs=0.035)
    assert replaced.count("maji") / len(replaced) == pytest.approx(0.75, abs=0.055)


def test_draw_depends_on_text_and_seed_only():
    switcher = CodeSwitcher(DICTIONARY, 0.5, seed=1)
    together = [switcher(text) for text in ENGLISH]
    assert [switcher(text) for text in reversed(ENGLISH)] == together[::-1]
    assert [CodeSwitcher(DICTIONARY, 0.5, seed=1)(text) for text in ENGLISH] == together
    assert [CodeSwitcher(DICTIONARY, 0.5, seed=2)(text) for text in ENGLISH] != together != ENGLISH


SCRIPT = """
import json, sys
from hf_optical.bitext import CodeSwitcher, Dictionary
entries, texts = json.load(sys.stdin)
switcher = CodeSwitcher(Dictionary(entries), 0.5, seed=7)
print(json.dumps([switcher(text) for text in texts]))
"""


def test_draw_is_the_same_in_another_process():
    texts = ENGLISH[:50]
    here = [CodeSwitcher(DICTIONARY, 0.5, seed=7)(text) for text in texts]
    output = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        input=json.dumps([dict(DICTIONARY), texts]),
        # Use another hash seed than this process.
        env={**os.environ, "PYTHONHASHSEED": "1" if os.environ.get("PYTHONHASHSEED") != "1" else "2"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert json.loads(output) == here


def test_draw_is_the_same_on_every_machine():
    # Recorded output: a change of the draw would change every run that is resumed or repeated.
    text = "The children want water, the water. The children!"
    assert [CodeSwitcher(DICTIONARY, 0.5, seed)(text) for seed in range(3)] == [
        "le watoto want Maji-maji, le maji. The children!",
        "le watoto want maji, the water. The watoto!",
        "The watoto want maji, the water. The watoto!",
    ]


@pytest.mark.parametrize("probability", [-0.1, 1.1, float("nan")])
def test_invalid_probability(probability):
    with pytest.raises(ValueError, match="probability must be between 0 and 1, got"):
        CodeSwitcher(DICTIONARY, probability)
