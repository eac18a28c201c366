from __future__ import annotations

import random
import re
import shutil
import statistics
import time
from collections import Counter

import pytest
from rapidfuzz.distance import OSA
from tiny import demo_pairs, tiny_tokenizer

from hf_optical import OpticalProcessor
from hf_optical.model.nearest_words import NearestWords, are_one_token
from hf_optical.model.spelling import Spelling


def counts(language: str) -> dict[str, int]:
    return dict(Counter(word for pair in demo_pairs() for word in re.findall(r"[a-z]+", pair[language].lower())))


@pytest.fixture(scope="module")
def spelling():
    return Spelling({"language": counts("sw"), "translations": counts("en")})


def mistyped(word: str, draw: random.Random) -> str:
    """A word with one error of a kind that people make."""
    place = draw.randrange(len(word) - 1)
    return draw.choice(
        [
            word[:place] + word[place + 1 :],
            word[:place] + word[place] + word[place:],
            word[:place] + word[place + 1] + word[place] + word[place + 2 :],
            word[:place]
            + {"a": "s", "e": "r", "i": "o", "o": "p", "n": "m"}.get(word[place], "x")
            + word[place + 1 :],
        ]
    )


def test_most_long_words_with_an_error_are_repaired_and_known_ones_stay(spelling):
    words = sorted(word for word in spelling.known["language"] if len(word) > 5)[::3]
    draw = random.Random(0)
    typed = [(word, mistyped(word, draw)) for word in words]
    typed = [(word, wrong) for word, wrong in typed if wrong not in spelling.known["language"]]
    found = [spelling.correct(wrong) for _, wrong in typed]
    right = sum(one == word for one, (word, _) in zip(found, typed, strict=True)) / len(typed)
    other = sum(one not in (word, None) for one, (word, _) in zip(found, typed, strict=True)) / len(typed)
    assert right > 0.6 and other < 0.15, (right, other)
    kept = [word for word in (*words, *list(counts("en"))[::3]) if spelling.correct(word) is not None]
    assert len(kept) < 0.02 * len(words), kept


def test_candidates_are_all_words_within_the_number_of_errors(spelling):
    """Words are left out early by their length and letters; a plain loop over all of them finds the same."""
    everything = {*spelling.known["language"], *spelling.known["translations"]}
    for typed in ("habri", "shuel", "watto", "nyumbanni", "maji", "zq"):
        for errors in (1, 2):
            expected = {word for word in everything if 0 < OSA.distance(typed, word) <= errors}
            found = [word for word, _ in spelling.candidates(typed, errors)]
            assert set(found) == expected if len(expected) < 30 else len(found) == 30


def test_errors_of_every_kind():
    spelling = Spelling({"language": {**counts("sw"), "shule": 50}})
    for typed, meant in (
        ("zhule", "shule"),  # a touching key
        ("shle", "shule"),
        ("shuule", "shule"),
        ("hsule", "shule"),
        ("SHULE", "shule"),
        ("shulé", "shule"),
        ("shule", None),
        ("shule9", None),
        ("berlin", None),  # nothing is near
        ("s", None),
        ("x" * 40, None),
    ):
        assert spelling.correct(typed) == meant, typed


def test_the_more_frequent_word_and_the_touching_key_come_first():
    def best(typed, **known):
        return Spelling({"language": known}).candidates(typed)[0][0]

    assert best("kafa", kata=90, kaga=10) == "kata" and best("kafa", kata=10, kaga=90) == "kaga"
    assert best("kara", kata=10, kapa=10) == "kata"  # r touches t, not p
    assert Spelling({"language": {**counts("sw"), "kata": 900, "kaba": 10}}).correct("kaba") is None


def test_names_and_tokens_of_the_base_need_better_reasons(spelling):
    draw = random.Random(1)
    typed = [mistyped(word, draw) for word in sorted(spelling.known["language"])[::6] if len(word) > 3]
    one, two = (Spelling(spelling.known, lambda word, count=count: count, base_knows=True) for count in (1, 2))
    foreign = Spelling(spelling.known, lambda word: 2)

    def repaired(spelling: Spelling, name: bool = False) -> int:
        return sum(spelling.correct(word, name) is not None for word in typed)

    everything = repaired(spelling)
    assert 0.1 * everything < repaired(spelling, name=True) < 0.9 * everything
    assert repaired(one) < repaired(two) < 0.9 * everything
    assert repaired(foreign) == everything


def test_words_of_documents_and_accents():
    known = {"language": {"ilé": 5, "ọjà": 7, "ẹ̀kọ́": 9}, "documents": {"olusegun": 4}}
    spelling = Spelling(known)
    assert [spelling.correct(word) for word in ("ile", "oja", "olusgeun", "ilé")] == ["ilé", "ọjà", "olusegun", None]


def test_repair_comes_before_similar_words_and_for_queries_only():
    tokenizer = tiny_tokenizer("wordpiece")
    known = {"language": {**counts("sw"), "mzuqo": 9, "kitxbu": 5}}
    processor = OpticalProcessor(tokenizer, known_words=known)
    assert processor.nearest_words("Mzqou ni kitxbu, KITXB.") == "mzuqo ni kitxbu, KITXB."
    plain = OpticalProcessor(tokenizer)
    assert processor.queries(["mzqou"])["input_ids"].equal(plain.queries(["mzuqo"])["input_ids"])
    assert processor.documents(["mzqou"])["input_ids"].equal(plain.documents(["mzqou"])["input_ids"])
    # The word that was meant replaces the error. If it is new to the base, the similar new word follows it.
    words = {"language": {**counts("sw"), "mzuqonia": 9, "water": 9}}
    both = NearestWords(["mzuqoni", "waters"], tokenizer, known_words=words)
    assert are_one_token(["mzuqonia", "water"], tokenizer) == [False, True]
    assert both("mzuqnia, watre") == "mzuqonia mzuqoni, water"
    assert both("mzuqnia", repair=False) in ("mzuqnia", "mzuqnia mzuqoni")
    instead = NearestWords(both.words, tokenizer, known_words=words, instead=True)
    assert instead("mzuqnia, watre") == "mzuqoni, water"


def test_other_known_words_read_as_if_given_from_the_start():
    tokenizer, text = tiny_tokenizer("wordpiece"), "mzuqnia, watre, olusgeun mzuqonix"
    known = {"language": {"mzuqonia": 9, "water": 9}, "documents": {"olusegun": 4}}
    for words in (["mzuqoni", "waters"], []):
        before = NearestWords(words, tokenizer, known_words={"language": known["language"]})
        earlier = before(text)
        after = before.with_known_words(known)
        assert after(text) == NearestWords(words, tokenizer, known_words=known)(text) != earlier
        assert before(text) == earlier and before.known_words == {"language": known["language"]}
        assert after.with_known_words({})(text) == NearestWords(words, tokenizer)(text)


def test_known_words_survive_saving_and_damage_is_named(tiny, tmp_path):
    known = {"language": {**counts("sw"), "mzuqo": 9}, "documents": {"kitxbu": 1}}
    shutil.copytree(tiny, tmp_path, dirs_exist_ok=True)
    OpticalProcessor.from_pretrained(tiny, known_words=known).save_pretrained(tmp_path)
    opened = OpticalProcessor.from_pretrained(tmp_path)
    assert opened.known_words == known and opened.nearest_words("mzqou") == "mzuqo"
    opened.add_known_words({"documents": {"habari": 2}})
    assert opened.known_words == {**known, "documents": {"habari": 2}}
    for damage in ('{"pairs": {}}', '{"language": []}', '{"language": {"a": 0}}', '{"language": {"a": "1"}}', "[]"):
        (tmp_path / "nearest_words.json").write_text(f'{{"words": [], "known_words": {damage}}}')
        with pytest.raises(OSError, match=r"nearest_words\.json.* damaged"):
            OpticalProcessor.from_pretrained(tmp_path)


def test_unknown_source_raises():
    with pytest.raises(ValueError, match="the sources of known words must be one of 'language', .*, got 'pairs'"):
        Spelling({"pairs": {"a": 1}})


def test_unknown_words_take_about_a_millisecond():
    draw = random.Random(0)
    syllables = [first + vowel for first in "bdfghjklmnprstwyz" for vowel in "aeiou"]
    words = {"".join(draw.choices(syllables, k=draw.randint(1, 5))): draw.randint(1, 50) for _ in range(28_000)}
    spelling = Spelling({"language": dict(list(words.items())[:20_000])})
    spelling.correct("mwalim")
    typed = [mistyped(word, draw) for word in words if len(word) > 3][:100]
    seconds = []
    for word in typed:
        start = time.thread_time()
        spelling.correct(word)
        seconds.append(time.thread_time() - start)
    assert statistics.median(seconds) < 0.005, statistics.median(seconds)
