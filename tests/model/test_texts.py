from __future__ import annotations

import sys
import unicodedata

import pytest

from hf_optical.errors import DataError
from hf_optical.model.texts import as_texts, half_character, is_blank, require_text


def test_blank_texts_consist_of_invisible_characters():
    hidden = {"Cc", "Cf", "Zl", "Zp", "Zs"}
    for number, character in enumerate(map(chr, range(sys.maxunicode + 1))):
        blank = unicodedata.category(character) in hidden
        if blank or number % 37 == 0:
            assert is_blank(character) == blank
    assert is_blank("") and is_blank(" \n\u200b\x00") and not is_blank("\u200b\u0301 ")


def test_half_character_finds_unpaired_surrogates_only():
    assert half_character("😀 \ufffd \uffff") is None
    assert half_character("a\udbff\U0001f600") == "half a character (the surrogate U+DBFF)"


def test_invalid_texts_raise_with_a_cure_that_works():
    with pytest.raises(
        DataError, match=r"words\[1\] contains half a character \(the surrogate U\+D83D\) in 'b\\ud83d'"
    ):
        as_texts(["a", "b\ud83d"], "words")
    for text, cured in (("b\ud83d", "b\ufffd"), ("\ud83d\ude00", "😀")):
        with pytest.raises(DataError, match="such as by ") as caught:
            require_text(text)
        assert eval(str(caught.value).partition("such as by ")[2], {"text": text}) == cured
    with pytest.raises(TypeError, match="text must be a string, got None"):
        require_text(None)
