from __future__ import annotations

import pickle
import unicodedata

import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import THAI, demo_pairs, tiny_tokenizer

from hf_optical.bitext import Dictionary, learn_dictionary, read_muse
from hf_optical.bitext.alignment import learn_lexicon
from hf_optical.errors import DataError


WORDS = st.text("aBç' é-", min_size=1, max_size=4)
PAIRS = Dataset.from_list([{"translation": pair} for pair in demo_pairs()])


@pytest.mark.timeout(20)
def test_very_long_words_take_little_time(tmp_path):
    marks = "a" + "\u0301\u0316" * 200_000
    (tmp_path / "d.txt").write_text(f"{marks}\tx\nwater\tmaji\n", encoding="utf-8")
    assert list(read_muse(tmp_path / "d.txt")) == [marks, "water"]
    dictionary = Dictionary({"water": [("maji", 1)]})
    assert dictionary.replace(f"{marks} water", likeliest) == f"{marks} maji"


def likeliest(entries):
    return entries[0][0]


def test_lookup_ignores_case_and_orders_translations():
    dictionary = Dictionary({"Water": [("ruwa", 1)], "water": [("Ruwa", 2), ("ruwa", 1)], "café": [("kahawa", 5)]})
    assert dictionary["WATER"] == [("ruwa", 0.5), ("Ruwa", 0.5)]
    assert dictionary[unicodedata.normalize("NFD", "Café")] == [("kahawa", 1.0)]
    assert "wate" not in dictionary and "wAter" in dictionary
    assert list(dictionary) == ["water", "café"] and len(dictionary) == 2
    exact = Dictionary({"Water": [("Ruwa", 1)]}, normalize=str)
    assert "water" not in exact and "Water" in exact


def test_invalid_weights_and_empty_dictionaries():
    for entries in ([("b", 0)], [("b", float("nan"))], [("b", 1e308), ("c", 1e308)]):
        with pytest.raises(DataError, match="the weights of 'a' must be positive with a finite sum"):
            Dictionary({"a": entries})
    for entries in ({}, {"a": []}):
        with pytest.raises(DataError, match="no translations"):
            Dictionary(entries)


@settings(max_examples=30)
@given(st.lists(st.one_of(WORDS, st.sampled_from(["the", "The", "cat", ", ", "  ", "\n", "😀", "3", "ß"]))))
def test_unknown_text_is_kept(parts):
    text = "".join(parts)
    assert Dictionary({"zzz": [("x", 1)]}).replace(text, likeliest) == text
    dictionary = Dictionary({"the": [("la", 1)], "cat": [("chat", 1)], "a": [("un", 1)]})
    assert dictionary.replace(text, lambda entries: None) == text


def test_replace_in_running_text():
    dictionary = Dictionary({"the": [("la", 1)], "don": [("x", 1)], "ça": [("that", 1)], "3": [("three", 1)]})
    assert dictionary.replace("The\t(the)  😀the, don't ÇA! 3", likeliest) == "la\t(la)  😀la, x't that! 3"
    assert dictionary.replace("😀 c\u0327a-the\n", likeliest) == "😀 that-la\n"
    assert dictionary.replace("", likeliest) == ""


def test_scripts_without_spaces_match_the_longest_word():
    dictionary = Dictionary({"น้ำ": [("water", 1)], "น": [("n", 1)], "ตลาด": [("market", 1)], "ruwa": [("water", 1)]})
    assert dictionary.replace("น้ำอยู่ในตลาด, ตลาด", likeliest) == "water อยู่ใ n market, market"
    assert dictionary.replace("ruwaน้ำ!", likeliest) == "water water!"
    assert dictionary.replace("อยู่", likeliest) == "อยู่"
    chinese = Dictionary({"water": [("水", 1)], "market": [("市场", 1)]})
    assert chinese.replace("Water-market", likeliest) == "水-市场"


def test_muse_files(tmp_path):
    file = tmp_path / "en-ha.txt"
    file.write_bytes("\ufeffthe  la\r\nThe le\nwater\truwa mai kyau\n\nthe la\ncaf\u00e9\tx\u2028y\n".encode())
    assert dict(read_muse(file)) == {
        "the": [("la", 0.5), ("le", 0.5)],
        "water": [("ruwa mai kyau", 1.0)],
        "café": [("x\u2028y", 1.0)],
    }
    assert list(read_muse(file, normalize=str)) == ["the", "The", "water", "café"]


def test_phrases_are_replaced_before_their_words(tmp_path):
    (tmp_path / "d.txt").write_text("new york\tnyuyoki\nnew\tmpya\nbread\u00a0 mkate\nl'eau\tmaji\n", encoding="utf-8")
    dictionary = read_muse(tmp_path / "d.txt")
    assert dictionary["bread"] == [("mkate", 1.0)]
    for text, replaced in {
        "New York: new bread, York, new-york": "nyuyoki: mpya mkate, York, mpya-york",
        "L'eau new york": "maji nyuyoki",
        "new": "mpya",
    }.items():
        assert dictionary.replace(text, likeliest) == replaced
    assert dictionary.coverage(["new york is"]) == 0.5


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"the la\nwater\n", "line 2: expected a word and a translation separated by a tab, got 'water'"),
        (b"the la\n" * 9 + b"caf\xe9 x\n", "line 10 cannot be read .*; it must be UTF-8 text"),
        (b" \n\r\n", "is empty"),
        (None, r"cannot be read \(No such file"),
    ],
)
def test_invalid_muse_files(tmp_path, content, message):
    if content is not None:
        (tmp_path / "d.txt").write_bytes(content)
    with pytest.raises(DataError, match=f"d.txt.*{message}"):
        read_muse(tmp_path / "d.txt")


def test_saved_lexicon_is_read_back(tmp_path):
    words = [["house", "big"], ["house"], ["big", "water", "l'eau"], ["water"]] * 3
    targets = [["gida", "babba"], ["gida"], ["babba", "ruwa", "\u00e9\u2581"], ["ruwa"]] * 3
    lexicon = learn_lexicon(words, targets)
    lexicon.save_muse(tmp_path / "d.txt", translations=2, min_probability=0.05)
    read, made = read_muse(tmp_path / "d.txt"), Dictionary(lexicon.translations(2, 0.05))
    assert set(read) == set(made) == set(lexicon.words)
    assert all({target for target, _ in read[word]} == {target for target, _ in made[word]} for word in read)
    for word in made:
        assert [target for target, _ in made[word]] == [t for t, p in lexicon.top(word, 2) if p >= 0.05]
        assert sum(probability for _, probability in made[word]) == pytest.approx(1)


def test_lexicons_without_translations():
    with pytest.raises(DataError, match="token ids"):
        Dictionary(learn_lexicon([["a"]], [[7]]).translations())
    with pytest.raises(DataError, match="lower min_probability"):
        Dictionary(learn_lexicon([["a"]], [["b"]]).translations(min_probability=1.1))


def test_learn_dictionary_in_both_directions():
    tokenizer = tiny_tokenizer("wordpiece")
    forth = learn_dictionary(PAIRS, tokenizer, "sw")
    back = learn_dictionary(PAIRS, tokenizer, "sw", reverse=True)
    # Lookup ignores case, and translations have their most frequent form.
    for english, swahili in {"Water": "maji", "children": "watoto", "three": "tatu"}.items():
        assert forth[english][0][0] == swahili and back[swahili.upper()][0][0] == english.lower()
    assert all(len(forth[word]) <= 3 for word in forth)
    assert max(len(entries) for entries in learn_dictionary(PAIRS, tokenizer, "sw", translations=1).values()) == 1
    copy = pickle.loads(pickle.dumps(forth))
    assert copy == forth and copy.replace("The water", likeliest) == forth.replace("The water", likeliest)


def test_words_are_compared_as_the_tokenizer_normalizes_them():
    pairs = Dataset.from_list([{"translation": {"en": "Café", "fr": "thé"}}] * 2)
    folded = learn_dictionary(pairs, tokenizer := tiny_tokenizer("wordpiece"), "fr")
    assert tokenizer.backend_tokenizer.normalizer.normalize_str("Café") == "cafe"
    assert folded["cafe"] == folded["CAFÉ"] == [("the", 1.0)]
    kept = learn_dictionary(pairs, tiny_tokenizer("unigram"), "fr")
    assert kept["CAFÉ"] == [("thé", 1.0)] and "cafe" not in kept


def test_learned_thai_words_are_found_in_thai_text():
    pairs = Dataset.from_list([{"translation": {"th": thai, "en": english}} for thai, english in THAI.items()])
    for kind in ("unigram", "bpe"):
        dictionary = learn_dictionary(pairs, tiny_tokenizer(kind), "th", reverse=True)
        for thai in THAI:
            english = dictionary.replace(thai, likeliest)
            assert " " in english and all(
                word in " ".join(THAI.values()) for word in english.split() if word.isascii()
            )


def test_coverage():
    dictionary = Dictionary({"water": [("maji", 1)], "the": [("le", 1)]})
    assert dictionary.coverage(["The water, the WATER!", "runs far away 3 -"]) == pytest.approx(4 / 7)
    assert dictionary.coverage([]) == dictionary.coverage(["3, 4"]) == dictionary.coverage(["maji le"]) == 0


def test_learn_dictionary_from_unsuitable_pairs():
    with pytest.raises(DataError, match="no language 'ha', only en, sw"):
        learn_dictionary(PAIRS, tiny_tokenizer("wordpiece"), "ha")
    with pytest.raises(DataError, match="no language 'sw', only empty rows"):
        learn_dictionary(PAIRS.select([]), tiny_tokenizer("wordpiece"), "sw")
    silent = Dataset.from_list([{"translation": {"en": "!", "sw": "?"}}])
    with pytest.raises(DataError, match="no words to align"):
        learn_dictionary(silent, tiny_tokenizer("wordpiece"), "sw")
