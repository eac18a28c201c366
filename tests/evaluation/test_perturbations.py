from __future__ import annotations

import sys
import time
import unicodedata
from collections import Counter

import pytest
import regex
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from hf_optical.bitext import Dictionary
from hf_optical.errors import DataError
from hf_optical.evaluation.perturbations import PERTURBATIONS, perturb, perturb_queries


TEXTS = {
    "en": "Who wrote the Hound of the Baskervilles?",
    "ha": "Wanene shugaban ƙasar Najeriya, ɗan ƙwallo?",
    "yo": "Ta ni ààrẹ ilẹ̀ Nàìjíríà lọ́wọ́lọ́wọ́?",
    "ig": "Kedụ ọnụ ọgụgụ ndị bi n'obodo?",
    "mr": "महाराष्ट्राची राजधानी कोणती क्षेत्र आहे?",
    "ar": "مَنْ كَتَبَ الرواية أحمد؟",
    "de": "Größter Fluß in Österreich-Ungarn",
    "fr": "Où est né l'élève à Paris ?",
    "zh": "北京在哪里？",
}
WORDS = {"shugaban": [("president", 1.0)], "ƙasar": [("country", 0.6), ("land", 0.4)], "北京": [("Beijing", 1.0)]}
DICTIONARY = Dictionary(WORDS)
# Expected results with seed 1 on every machine, in every process.
FROZEN = [
    ("typos", "en", 0.5, "Qhi wdogs fhw Blumx if thd Gzwoetguklwe?"),
    ("typos", "yo", 0.5, "Ta mu q̀àrẹ opẉ̀ Mẁìjíríz̀ lṕ̣wọ́lọ́wọ́?"),
    ("typos", "de", 0.5, "Geößter Ckjß ij L̈egetrekch-Hntwdb"),
    ("drop_letters", "en", 0.5, "Who roe h Hu   aei?"),
    ("drop_letters", "mr", 0.5, "हाची राजनी को क्षे आहे?"),
    ("drop_letters", "ar", 0.5, "نْ كَتَ لري أحمد؟"),
    ("swap_letters", "ha", 0.5, "Wanene shugbana ƙsara aNjeiray, ɗan ƙwalol?"),
    ("swap_letters", "yo", 0.5, "Ta in ààẹr ilẹ̀ Nìàíjírà lwọ́lọ́ọ́wọ́?"),
    ("swap_letters", "mr", 0.5, "महाराष्ट्राची जराधानी कोतीण त्रक्षे हेआ?"),
    ("drop_diacritics", "ha", 0.5, "Wanene shugaban ƙasar Najeriya, dan kwallo?"),
    ("drop_diacritics", "yo", 0.5, "Ta ni àare ile Nàijiría lowọ́lowo?"),
    ("drop_diacritics", "ig", 0.5, "Kedụ ọnụ ọgugu ndi bi n'obodo?"),
    ("drop_diacritics", "ar", 0.5, "من كتبَ الرواية احمد؟"),
    ("drop_diacritics", "fr", 0.5, "Ou est ne l'élève a Paris ?"),
    ("case", "de", 0.5, "Größter Fluß IN öSTERREICH-uNGARN"),
    ("case", "ig", 0.5, "kEDỤ ọnụ ọgụgụ ndị bi n'obodo?"),
    ("drop_words", "en", 0.5, "Who the the"),
    ("drop_words", "fr", 0.5, "est l'élève ?"),
    ("swap_words", "ha", 0.5, "Wanene ƙasar shugaban Najeriya, ɗan ƙwallo?"),
    ("swap_words", "fr", 0.5, "Où est l'élève né à Paris ?"),
    ("punctuation", "fr", 0.5, "Où est! né? l'élève à Paris"),
    ("punctuation", "de", 0.5, "Größter; Fluß in Österreich-Ungarn"),
    ("code_mixing", "ha", 0.5, "Wanene president country Najeriya, ɗan ƙwallo?"),
    ("code_mixing", "zh", 1.0, "Beijing 在哪里？"),
    ("transliteration", "mr", 0.5, "महाराष्ट्राची rajdhani कोणती क्षेत्र आहे?"),
    ("transliteration", "ar", 1.0, "man kataba lrwyh 'hmd؟"),
]
try:
    import anyascii  # noqa: F401
except ImportError:
    KINDS = [kind for kind in PERTURBATIONS if kind != "transliteration"]
else:
    KINDS = list(PERTURBATIONS)

STRENGTHS = st.floats(0, 1)
SEEDS = st.integers(0, 2**64)
# Letters with marks of every kind: composed, decomposed, stacked, vowel signs, conjuncts.
SENTENCES = st.lists(st.sampled_from(" ".join(TEXTS.values()).split()), min_size=1, max_size=6).map(" ".join)
SENTENCES = st.one_of(SENTENCES, SENTENCES.map(lambda text: unicodedata.normalize("NFD", text)))


def clusters(text: str) -> list[str]:
    return regex.findall(r"\X", text)


def is_subsequence(short: list, long: list) -> bool:
    rest = iter(long)
    return all(entry in rest for entry in short)


def test_results_are_the_same_on_every_machine():
    assert {kind for kind, *_ in FROZEN} == set(PERTURBATIONS)
    found = [
        (kind, language, strength, perturb(TEXTS[language], kind, strength, seed=1, dictionary=DICTIONARY))
        for kind, language, strength, _ in FROZEN
        if kind in KINDS
    ]
    assert found == [each for each in FROZEN if each[0] in KINDS]


@settings(max_examples=30)
@given(st.text(), st.sampled_from(KINDS), SEEDS)
def test_strength_zero_changes_nothing(text, kind, seed):
    assert perturb(text, kind, 0, seed=seed, dictionary=DICTIONARY) == text


@settings(max_examples=30)
@given(st.text(), st.sampled_from(KINDS), STRENGTHS, SEEDS)
def test_any_text_is_perturbed_or_raises(text, kind, strength, seed):
    try:
        found = perturb(text, kind, strength, seed=seed, dictionary=DICTIONARY)
    except DataError:
        assert strength > 0
        return
    assert found == perturb(text, kind, strength, seed=seed, dictionary=DICTIONARY)
    assert found == text or found.strip()


def test_results_depend_on_the_seed():
    for kind in ("typos", "drop_letters", "swap_letters", "case", "drop_words", "swap_words"):
        assert len({perturb(TEXTS["en"], kind, 0.5, seed=seed) for seed in range(20)}) > 5, kind


def test_strength_is_the_share_of_changed_places():
    text = " ".join(["abcdef"] * 2000)
    found = {kind: perturb(text, kind, 0.3) for kind in ("typos", "drop_letters", "drop_words", "case", "punctuation")}
    share = {kind: sum(word != "abcdef" for word in found[kind].split()) / 2000 for kind in ("case", "punctuation")}
    share["drop_letters"] = 1 - len(found["drop_letters"].replace(" ", "")) / 12000
    share["drop_words"] = 1 - len(found["drop_words"].split()) / 2000
    share["typos"] = sum(a != b for a, b in zip(text, found["typos"], strict=True)) / 12000
    assert share == pytest.approx(dict.fromkeys(found, 0.3), abs=0.03)


@settings(max_examples=30)
@given(SENTENCES, STRENGTHS, STRENGTHS, SEEDS)
def test_a_greater_strength_only_adds_changes(text, one, other, seed):
    weak, strong = sorted((one, other))
    assume(strong < 1)
    for kind, parts in (("drop_letters", clusters), ("drop_words", str.split)):
        less, more = (parts(perturb(text, kind, strength, seed=seed)) for strength in (weak, strong))
        assert is_subsequence([part for part in more if part != " "], less)
    for kind in ("case", "typos"):
        # Letter by letter where a text keeps their number.
        less, more = (clusters(perturb(text, kind, strength, seed=seed)) for strength in (weak, strong))
        if kind == "typos" or "ß" not in text:
            changed = [(a, b) for old, a, b in zip(clusters(text), less, more, strict=True) if nfc(a) != nfc(old)]
            assert all(a == b for a, b in changed)


def nfc(text: str) -> str:
    return unicodedata.normalize("NFC", text)


@settings(max_examples=30)
@given(SENTENCES, STRENGTHS, SEEDS)
def test_combining_marks_stay_on_their_letters(text, strength, seed):
    swapped = perturb(text, "swap_letters", strength, seed=seed)
    assert Counter(clusters(swapped)) == Counter(clusters(text))
    assume(strength < 1)
    dropped = perturb(text, "drop_letters", strength, seed=seed)
    assert Counter(clusters(dropped)) <= Counter(clusters(text))


@settings(max_examples=30)
@given(st.text(), STRENGTHS, SEEDS, st.sampled_from(["swap_letters", "swap_words"]))
def test_swaps_keep_all_characters(text, strength, seed, kind):
    try:
        found = perturb(text, kind, strength, seed=seed)
    except DataError:
        raise AssertionError("a swap empties nothing") from None
    assert Counter("".join(found.split())) == Counter("".join(text.split()))


@settings(max_examples=30)
@given(st.text(), STRENGTHS, SEEDS, st.sampled_from(["drop_letters", "drop_words"]))
def test_drops_leave_something_below_strength_one(text, strength, seed, kind):
    assume(strength < 1)
    found = perturb(text, kind, strength, seed=seed)
    assert is_subsequence(list(found), list(text))


@settings(max_examples=30)
@given(SENTENCES, SEEDS)
def test_typos_are_neighbouring_keys(text, seed):
    for old, new in zip(clusters(text), clusters(perturb(text, "typos", 1, seed=seed)), strict=True):
        old, new = (unicodedata.normalize("NFD", letter) for letter in (old, new))
        if not regex.match("[a-zA-Z]", old):
            assert nfc(new) == nfc(old)
            continue
        assert new[0] != old[0] and new[1:] == old[1:]
        assert new[0].isupper() == old[0].isupper()
        assert distance(old[0].lower(), new[0].lower()) < 1.3


def distance(one: str, other: str) -> float:
    """Distance between the centres of two keys on a standard staggered keyboard, in key widths."""
    where = {
        key: complex(column + shift, row)
        for row, (keys, shift) in enumerate((("qwertyuiop", 0), ("asdfghjkl", 0.25), ("zxcvbnm", 0.75)))
        for column, key in enumerate(keys)
    }
    return abs(where[one] - where[other])


def test_drop_diacritics_keeps_vowel_signs():
    found = {language: perturb(text, "drop_diacritics", 1) for language, text in TEXTS.items()}
    assert found["ha"] == "Wanene shugaban kasar Najeriya, dan kwallo?"
    assert found["yo"] == "Ta ni aare ile Naijiria lowolowo?"
    assert found["ar"] == "من كتب الرواية احمد؟"
    assert found["de"] == "Großter Fluß in Osterreich-Ungarn"
    assert (found["mr"], found["zh"], found["en"]) == (TEXTS["mr"], TEXTS["zh"], TEXTS["en"])
    assert perturb(unicodedata.normalize("NFD", TEXTS["yo"]), "drop_diacritics", 1) == found["yo"]


def test_case_inverts_case():
    assert perturb(TEXTS["de"], "case", 1) == "gRÖSSTER fLUSS IN öSTERREICH-uNGARN"


def test_punctuation_is_removed_or_added():
    found = perturb("Qui est né, à Paris ?", "punctuation", 1).split()
    assert [word.rstrip(",.;:!?") for word in found] == ["Qui", "est", "né", "à", "Paris"]
    assert [len(word) for word in found] == [4, 4, 2, 2, 6]
    assert perturb("l'homme 'yan!", "punctuation", 1).split()[1] == "yan"


def test_emoji_are_never_split():
    family = "👩‍👩‍👧 👍🏽 🇳🇬"
    for kind in ("typos", "drop_letters", "swap_letters", "drop_diacritics", "case", "transliteration"):
        if kind in KINDS:
            assert perturb(family, kind, 1) == family
    assert Counter(perturb(family + " ab", "drop_words", 0.5, seed=3).split()) <= Counter((family + " ab").split())


def test_unpaired_surrogates_are_kept():
    assert perturb("abc \ud800", "drop_letters", 0.99).endswith("\ud800")


@pytest.mark.parametrize(("text", "kind"), [("word", "drop_letters"), ("two words", "drop_words")])
def test_emptied_queries_raise(text, kind):
    with pytest.raises(DataError, match=f"{kind} at strength 1 leaves nothing .* lower the strength or remove"):
        perturb(text, kind, 1)
    with pytest.raises(DataError, match=f"leaves nothing of the query '{text}'"):
        perturb_queries({"q1": "12", "q2": text} if kind == "drop_letters" else {"q2": text}, kind, 1)


def test_punctuation_only_queries_are_unchanged():
    for text in ("??", "?! …", " -- ", ""):
        for kind in KINDS:
            assert perturb(text, kind, 1, dictionary=DICTIONARY) == text


def test_one_word_queries_survive_below_strength_one():
    for kind in ("drop_letters", "drop_words"):
        assert all(perturb("a", kind, 0.99, seed=seed) == "a" for seed in range(50))


@pytest.mark.promise("Text", "The time to perturb a query is linear in its length.")
def test_time_is_linear_in_the_length():
    for kind in KINDS:
        for text in ("a" + "!" * 30_000 + "a", "a" + "\u0301" * 30_000, "a! " * 10_000, "a!" * 15_000):
            start = time.process_time()
            perturb(text, kind, 0.5, dictionary=DICTIONARY)
            assert time.process_time() - start < 1.5, kind


def test_perturb_queries_keeps_ids_and_order():
    queries = {f"q{i}": text for i, text in enumerate(TEXTS.values())}
    found = perturb_queries(queries, "typos", 0.3, seed=5)
    assert list(found) == list(queries)
    assert all(found[id] == perturb(text, "typos", 0.3, seed=5) for id, text in queries.items())


def test_invalid_arguments_raise():
    with pytest.raises(ValueError, match="kind must be one of 'typos', 'drop_letters'"):
        perturb("a", "typo", 0.5)
    for strength in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="strength must be between 0 and 1, got"):
            perturb("a", "typos", strength)
    with pytest.raises(ValueError, match="code_mixing needs a dictionary to English; use read_muse"):
        perturb("a", "code_mixing", 0.5)


def test_missing_library_raises(monkeypatch):
    monkeypatch.setitem(sys.modules, "anyascii", None)
    with pytest.raises(ImportError, match=r'pip install "hf_optical\[rivals\]"'):
        perturb(TEXTS["mr"], "transliteration", 0.5)
