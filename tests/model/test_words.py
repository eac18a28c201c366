from __future__ import annotations

import re
import time
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import demo_pairs, tiny_tokenizer
from tokenizers import pre_tokenizers

from hf_optical.bitext import Dictionary
from hf_optical.bitext.alignment import word_splitter
from hf_optical.evaluation.perturbations import perturb
from hf_optical.model.words import ADJOINING, APOSTROPHE_OR_HYPHEN, NO_SPACE, clusters, compose, find_words
from hf_optical.retrieval import BM25


def words(text: str, joined_by=None) -> list[str]:
    return [word.text for word in find_words(text, joined_by)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ɗan ƙwallo ma'aikata ma’aikata maʼaikata", ["ɗan", "ƙwallo", "ma", "aikata", "ma", "aikata", "maʼaikata"]),
        ("ẹ̀kọ́ wà ní ilé-ìwé", ["ẹ̀kọ́", "wà", "ní", "ilé", "ìwé"]),
        ("यह विद्यार्थियों। ኢትዮጵያ፣ ሰላም።", ["यह", "विद्यार्थियों", "ኢትዮጵያ", "ሰላም"]),
        ("3.5 km, a_b <c>", ["3", "5", "km", "a", "b", "c"]),
        ("maji😀👍🏽 😀 ... \u0301", ["maji"]),
        ("▁maji\u200b\u200btu", ["maji", "tu"]),
        ("₦10bn 16°C", ["₦10bn", "16°C"]),
    ],
)
@pytest.mark.promise(
    "Text", "Every part of the library cuts text into the same words, in composed and decomposed text."
)
def test_words_are_letters_digits_and_marks_between_spaces_and_punctuation(text, expected):
    assert words(text) == expected
    for form in ("NFC", "NFD"):
        normalize = lambda each: unicodedata.normalize(form, each)  # noqa: B023, E731
        assert words(normalize(text)) == [normalize(word) for word in expected]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("น้ำอยู่ในตลาด แม่ไป", ["น้ำอยู่ในตลาด", "แม่ไป"]),
        ("これはカレーです。東京へ", ["これはカレーです", "東京へ"]),
        ("2023年のiPhone発売", ["2023", "年の", "iPhone", "発売"]),
        ("ភាសា ພາສາ မြန်မာ", ["ភាសា", "ພາສາ", "မြန်မာ"]),
    ],
)
def test_scripts_without_spaces_give_runs_of_their_letters(text, expected):
    assert words(text) == expected
    assert [word.text for word in find_words(text) if word.spaced] == [each for each in expected if each.isascii()]
    # Accents and the glottal stop, which Thai uses too, belong to other scripts.
    assert all(word.spaced for word in find_words("maʼa e\u0301\u0303\u0331"))


def test_joined_words():
    text = "l'élève ma’aikata well-known Je,nani A/B ไทยabc, sí."
    assert words(text, APOSTROPHE_OR_HYPHEN)[:5] == ["l'élève", "ma’aikata", "well-known", "Je", "nani"]
    assert words(text, NO_SPACE) == ["l'élève", "ma’aikata", "well-known", "Je,nani", "A/B", "ไทยabc", "sí"]
    assert words(text, ADJOINING)[-2:] == ["ไทยabc", "sí"]
    assert [word.spaced for word in find_words(text, ADJOINING)][-2:] == [False, True]


# `regex` may know letters of a newer Unicode than Python does.
@given(
    st.text(st.characters(exclude_categories=["Cn", "Cs"])),
    st.sampled_from([None, ADJOINING, APOSTROPHE_OR_HYPHEN, NO_SPACE]),
)
def test_any_text_gives_words_in_order(text, joined_by):
    end = 0
    for word in find_words(text, joined_by):
        assert end <= word.start < word.stop and text[word.start : word.stop] == word.text
        assert any(character.isalnum() for character in word.text)
        end = word.stop
    assert "".join(clusters(text)) == text


def test_latin_words_are_those_of_the_tokenizers_library():
    """Vocabularies learned from ordinary text stay the same, bit for bit."""
    split = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()])
    texts = [text for pair in demo_pairs() for text in pair.values()]
    texts += ["Ma'aikatan ƙasar Najeriya, 'yan ƙwallo!", "Ẹ̀kọ́ wà ní ilé-ìwé?", "Nnukwu ụlọ; ọ dị n'Ọwẹrị", "Größe"]
    for text in texts:
        expected = [word for word, _ in split.pre_tokenize_str(text) if any(map(str.isalpha, word))]
        assert [word.text for word in find_words(text) if word.has_letter] == expected


@pytest.mark.parametrize("text", ["a." * 30_000, "e" + "\u0301" * 30_000, "ไ" * 30_000, "aไ" * 20_000, "'" * 30_000])
def test_time_is_linear_in_the_length(text):
    start = time.process_time()
    for joined_by in (None, NO_SPACE, APOSTROPHE_OR_HYPHEN):
        list(find_words(text, joined_by))
    compose(text)
    assert time.process_time() - start < 2


def test_everybody_cuts_the_same_words():
    text = unicodedata.normalize("NFD", "Ẹ̀kọ́ wà ní ilé-ìwé")
    expected = [unicodedata.normalize("NFC", word) for word in ("Ẹ̀kọ́", "wà", "ní", "ilé", "ìwé")]
    assert word_splitter(tiny_tokenizer("bpe"))(text) == expected
    assert Dictionary({word: [("x", 1)] for word in expected}).replace(text, lambda found: found[0][0]) == "x x x x-x"
    assert Dictionary({"wà": [("x", 1)]}).coverage([text]) == 1 / 5
    for word in expected:
        assert BM25([text, "another"]).search([word])[0][0].document == 0
    assert not BM25([text, "another"]).search([unicodedata.normalize("NFC", "kọ́")])[0]
    assert re.split(r"\s", perturb(text, "case", 1.0))[0] == text.split()[0].swapcase()


def test_bm25_indexes_pairs_of_characters_of_scripts_without_spaces():
    documents = ["東京都に住む", "京都に行く", "น้ำอยู่ในตลาด", "แม่ไปโรงเรียน"]
    index = BM25(documents)
    assert [hit.document for hit in index.search(["京都"])[0]] == [1, 0]
    assert [hit.document for hit in index.search(["ตลาด"])[0]] == [2]
    assert [hit.document for hit in BM25(["水", "火"]).search(["水"])[0]] == [0]
