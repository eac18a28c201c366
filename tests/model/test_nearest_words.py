from __future__ import annotations

import copy
import math
import pickle
import re
from collections import Counter
from collections.abc import Callable
from functools import cache

import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import demo_pairs, tiny_tokenizer
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from hf_optical.model import nearest_words as module
from hf_optical.model.nearest_words import NearestWords, are_one_token


KINDS = ("wordpiece", "unigram", "bpe")
LIST = ["anakunywa", "nyumbani", "barabara", "tunaendesha", "wafanyabiashara", "kitabu", "ona", "watoto"]


def with_words(kind: str, words: list[str]) -> PreTrainedTokenizerFast:
    tokenizer = tiny_tokenizer(kind)
    tokenizer.add_tokens([AddedToken(word, single_word=True, normalized=True, lstrip=True) for word in words])
    return tokenizer


@pytest.fixture(scope="module", params=KINDS)
def nearest(request):
    """A list of words, with each kind of tokenizer that has them as tokens."""
    known = tiny_tokenizer(request.param).get_vocab()
    words = [word for word in LIST if word not in known]
    return NearestWords(words, with_words(request.param, words))


def replacing(nearest: NearestWords) -> NearestWords:
    """The same list, as packs of word rules 1 and 2 read it."""
    return NearestWords(nearest.words, nearest.tokenizer, instead=True)


def naive(words: list[str]) -> Callable[[str], dict[str, float]]:
    """Cosines of a word with each of a list, computed n-gram by n-gram."""

    def grams(text: str) -> dict[str, int]:
        text, found = f"<{text}>", {}
        for size in (3, 4, 5, 6):
            for start in range(len(text)):
                gram = text[start : start + size]
                if len(gram) == size:
                    found[gram] = found.get(gram, 0) + 1
        return found

    listed = [grams(other) for other in words]

    def vector(text: str) -> dict[str, float]:
        values = {}
        for gram, count in grams(text).items():
            holding = sum(gram in other for other in listed)
            if holding:
                values[gram] = (1 + math.log(count)) * (1 + math.log((1 + len(words)) / (1 + holding)))
        norm = math.sqrt(sum(value**2 for value in values.values()))
        return {gram: value / norm for gram, value in values.items()}

    vectors = {other: vector(other) for other in words}

    def cosines(word: str) -> dict[str, float]:
        own = vector(word)
        return {
            other: sum(own.get(gram, 0.0) * value for gram, value in values.items())
            for other, values in vectors.items()
        }

    return cosines


def swahili(number: int) -> list[str]:
    words = Counter(word for pair in demo_pairs() for word in re.findall(r"[a-z]{4,}", pair["sw"].lower()))
    return sorted(words)[:number]


def test_nearest_word_equals_that_of_a_naive_loop():
    tokenizer, words = tiny_tokenizer("wordpiece"), swahili(300)
    nearest, cosines, taken = NearestWords(words[::2], tokenizer), naive(words[::2]), 0
    # Repeated n-grams count more.
    for word in [*words[1::2], "barabarabara", "mamamama", "xxxxxxxx"]:
        if are_one_token([word], tokenizer)[0]:
            assert nearest.nearest(word) is None
            continue
        similarity = cosines(word)
        best = max(similarity.values())
        found = nearest.nearest(word)
        assert abs(best - 0.4) > 1e-9 and (found is not None) == (best >= 0.4), word
        if found is not None:
            assert similarity[found] == pytest.approx(best, abs=1e-12), word
            taken += 1
    assert 20 < taken < 120


def test_min_similarity_is_a_threshold():
    tokenizer = tiny_tokenizer("wordpiece")
    similarity = naive(LIST)("tunakunywa")["anakunywa"]
    assert 0.4 < similarity < 0.9
    assert NearestWords(LIST, tokenizer, min_similarity=similarity - 1e-6).nearest("tunakunywa") == "anakunywa"
    assert NearestWords(LIST, tokenizer, min_similarity=similarity + 1e-6).nearest("tunakunywa") is None


def test_surrounding_text_is_unchanged(nearest):
    text = ' \t"tunakunywa",(tunakunywa)!  tunakunywa…\n😀𝔘 tunakunywa;tunakunywa—tunakunywa '
    assert nearest(text) == text.replace("tunakunywa", "tunakunywa anakunywa")
    assert replacing(nearest)(text) == text.replace("tunakunywa", "anakunywa")


def test_tokens_are_the_pieces_of_the_unknown_word_and_the_nearest_word(nearest):
    tokenizer = nearest.tokenizer
    ids = tokenizer(nearest("tunakunywa"), add_special_tokens=False)["input_ids"]
    pieces = tokenizer("tunakunywa", add_special_tokens=False)["input_ids"]
    one = tokenizer.convert_tokens_to_ids("anakunywa")
    assert ids == [*pieces, one] and one not in pieces


def test_replacement_is_one_token(nearest):
    tokenizer = nearest.tokenizer
    ids = [tokenizer.convert_tokens_to_ids("anakunywa")] * 2
    assert tokenizer(replacing(nearest)("tunakunywa wanakunywa"), add_special_tokens=False)["input_ids"] == ids


def test_names_short_words_digits_and_dissimilar_words_are_kept(nearest):
    for word in ("Tunakunywa", "TUNAKUNYWA", "kun", "on", "tunakunywa7", "7tunakunywa", "qzxvqzxv", *nearest.words):
        assert nearest(f"a {word}, b") == f"a {word}, b"


@pytest.mark.parametrize("kind", KINDS)
def test_single_token_words_are_kept(kind):
    """Also if only the word after a space is a single token."""
    tokenizer = with_words(kind, ["waters", "childrens"])
    nearest = NearestWords(["waters", "childrens"], tokenizer)
    assert len(tokenizer.tokenize(" water")) == len(tokenizer.tokenize(" children")) == 1
    assert nearest("the water, children") == "the water, children"
    assert nearest("the xwaters") == "the xwaters waters"


@pytest.mark.parametrize("kind", KINDS)
def test_are_one_token_finds_known_words(kind):
    tokenizer = tiny_tokenizer(kind)
    tokenizer.add_tokens([AddedToken("mzuqo", single_word=True)])
    # WordPiece and Unigram turn words of unknown characters into one unknown token.
    assert are_one_token(["water", "mzuqo", "mzuqoni", "ውሃ"], tokenizer) == [True, True, False, False]
    assert are_one_token([], tokenizer) == []


ANY_TEXT = st.lists(st.text(max_size=10) | st.sampled_from(["tunakunywa", "barabarani", "mtoto kitabuni", *LIST]))


@settings(max_examples=30, deadline=None)
@given(ANY_TEXT.map("".join))
def test_only_listed_words_are_added(text):
    found = _shared()(text)
    rest = iter(found)
    assert all(character in rest for character in text), "a character of the text is missing"
    added = {word: found.count(f" {word}") - text.count(f" {word}") for word in LIST}
    assert len(found) - len(text) == sum(count * len(f" {word}") for word, count in added.items())
    if not regex.search(r"\S{4}", text):
        assert found == text


@settings(max_examples=30, deadline=None)
@given(ANY_TEXT.map("".join))
def test_only_words_are_replaced(text):
    nearest = _shared(instead=True)
    found = nearest(text)
    assert nearest(found) == found, "what has been read once is known"
    if not regex.search(r"\S{4}", text):
        assert found == text
    assert regex.findall(r"\s", found) == regex.findall(r"\s", text)


@cache
def _shared(instead: bool = False) -> NearestWords:
    return NearestWords(LIST, with_words("wordpiece", LIST), instead=instead)


def test_texts_without_unknown_words_are_unchanged(nearest):
    for text in ("", " ", "...", "the water of the town", "12 345", "👍🏽", "\u0301", "a\u0301\u0301"):
        assert nearest(text) == text


def test_empty_list_adds_nothing():
    nearest = NearestWords([], tiny_tokenizer("wordpiece"))
    assert nearest("tunakunywa maji") == "tunakunywa maji" and nearest("") == ""
    assert nearest.nearest("tunakunywa") is None


@pytest.mark.parametrize("words", [["a", "bb"], ["anakunywa"]])
def test_lists_of_one_word_and_of_short_words(words):
    nearest = NearestWords(words, tiny_tokenizer("wordpiece"))
    assert nearest.nearest("qzxvqzxv") is None
    assert nearest("wanakunywa") == ("wanakunywa anakunywa" if "anakunywa" in words else "wanakunywa")


def test_scripts_without_case_have_nearest_words():
    words = ["ኢትዮጵያውያን", "विद्यार्थियों", "သင်ယူသူများ"]
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]")), unk_token="[UNK]"
    )
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    nearest = NearestWords(words, tokenizer)
    assert nearest("ለኢትዮጵያውያን፣ ሰላም።") == "ለኢትዮጵያውያን ኢትዮጵያውያን፣ ሰላም።"
    assert nearest("यह विद्यार्थियोंने। पढ़ा") == "यह विद्यार्थियोंने विद्यार्थियों। पढ़ा"
    for word in words:
        assert nearest(word) == word


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_combining_marks_are_normalized(form):
    """Decomposed letters are compared in the tokenizer's normal form. The word stays as it is typed."""
    word = normalizers.NFC().normalize_str("onílùúgbá")
    tokenizer = tiny_tokenizer("unigram")
    tokenizer.backend_tokenizer.normalizer = normalizers.NFC()
    tokenizer.add_tokens([AddedToken(word, single_word=True, normalized=True, lstrip=True)])
    nearest = NearestWords([word], tokenizer)
    write = getattr(normalizers, form)().normalize_str
    assert nearest(write(f"àwọn {word}s, tó")) == write(f"àwọn {word}s ") + word + write(", tó")
    assert replacing(nearest)(write(f"àwọn {word}s, tó")) == write("àwọn ") + word + write(", tó")


def test_normalizer_that_strips_marks():
    nearest = NearestWords(["onilugba"], with_words("wordpiece", ["onilugba"]))
    assert nearest("àwọn onílùgbás.") == "àwọn onílùgbás onilugba."


def test_tokenizer_without_normalizer():
    tokenizer = tiny_tokenizer("unigram")
    assert tokenizer.backend_tokenizer.normalizer is None
    nearest = NearestWords(["anaKunywa", "anakunywa"], tokenizer)
    assert nearest("wanaKunywa wanakunywa") == "wanaKunywa anaKunywa wanakunywa anakunywa"


def test_result_does_not_depend_on_the_cache_or_pickling(nearest):
    text = "tunakunywa nyumbanini barabarani wafanyabiasharani, kitabuni"
    expected = nearest(text)
    assert expected != text
    fresh = NearestWords(nearest.words, nearest.tokenizer)
    for word in reversed(text.split()):
        fresh(word)
    for other in (fresh, pickle.loads(pickle.dumps(nearest)), copy.deepcopy(nearest)):
        assert other(text) == expected == other(text)
        assert other.words == nearest.words


def test_cache_is_bounded(monkeypatch):
    monkeypatch.setattr(module, "_CACHE_SIZE", 50)
    nearest = NearestWords(LIST, tiny_tokenizer("wordpiece"))
    letters = "abcdefghij"
    words = [f"tunakunywa{a}{b}{c}" for a in letters for b in letters for c in "kl"]
    for word in words:
        assert nearest(word) == f"{word} anakunywa"
        assert len(nearest._cache) <= 50
    assert nearest(" ".join(words)) == " ".join(f"{word} anakunywa" for word in words)
    assert len(nearest._cache) <= 50
