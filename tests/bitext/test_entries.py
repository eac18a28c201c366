from __future__ import annotations

import pytest
from datasets import Dataset
from tiny import MINILM, demo_pairs

from hf_optical import OpticalProcessor
from hf_optical.bitext import read_entries, switch_texts
from hf_optical.errors import DataError


LINES = (
    *("maji\twater", "nyumba\thouse", "mtoto\tchild", "kula\tto eat"),
    *("shule\tschool; college (old)", "pole\tsorry!", "binadamu\thuman being"),
)
ENTRIES = [
    *(("maji", "water"), ("nyumba", "house"), ("mtoto", "child"), ("kula", "eat")),
    *(("shule", "school"), ("shule", "college"), ("pole", "sorry"), ("binadamu", "human being")),
]


@pytest.fixture(scope="module")
def tokenizer():
    return OpticalProcessor.from_pretrained(MINILM).tokenizer


def write(path, lines):
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def test_either_direction_gives_the_same_entries(tokenizer, tmp_path, caplog):
    assert read_entries(write(tmp_path / "sw-en.txt", LINES), tokenizer, None, "sw") == ENTRIES
    assert "exchanged" not in caplog.text
    turned = ["\t".join(reversed(entry)) for entry in ENTRIES]
    assert read_entries(write(tmp_path / "en-sw.txt", turned), tokenizer, None, "sw") == ENTRIES
    assert "en-sw.txt begins with the en words; its columns are exchanged" in caplog.text
    assert "has only 8 entries" in caplog.text


def test_sentence_pairs_decide_where_the_tokenizer_cannot(tokenizer, tmp_path):
    pairs = Dataset.from_list([{"translation": pair} for pair in demo_pairs()])
    # These Swahili words are tokens of the base, these English ones are not.
    lines = ["pole\tlate-comer", "bus\tpassengers", "mali\tgoods"]
    straight = read_entries(write(tmp_path / "a.txt", lines), tokenizer, pairs, "sw")
    turned = [("\t".join(reversed(line.split("\t")))) for line in lines]
    assert read_entries(write(tmp_path / "b.txt", turned), tokenizer, pairs, "sw") == straight


def test_several_files_join_and_repetitions_are_dropped(tokenizer, tmp_path):
    files = [write(tmp_path / "a.txt", LINES[:4]), write(tmp_path / "b.txt", LINES[2:])]
    assert read_entries(files, tokenizer, None, "sw") == ENTRIES


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty; write a word and its translation"),
        ("water\twater\nhouse\thouse\n", "have the same word twice"),
        ("!\t?\n", "no entry with a word on both sides"),
    ],
)
def test_invalid_files_raise(tokenizer, tmp_path, text, message):
    (tmp_path / "d.txt").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        read_entries(tmp_path / "d.txt", tokenizer)


def test_switched_texts_are_pairs_with_their_originals():
    texts = ["The child drinks water.", "Nothing here.", "Water in the house"]
    pairs = switch_texts(texts, ENTRIES, "sw", probability=1.0)
    assert [row["translation"] for row in pairs] == [
        {"en": texts[0], "sw": "The mtoto drinks maji."},
        {"en": texts[2], "sw": "maji in the nyumba"},
    ]
    assert pairs["index"] == [0, 1] and pairs["switched"] == [True, True]
    assert {*pairs.column_names} == {"translation", "index", "length", "switched"}
    with pytest.raises(DataError, match="no word of the dictionary"):
        switch_texts(["Nothing here."], ENTRIES, "sw")
