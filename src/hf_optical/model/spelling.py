"""Repair of mistyped words: a noisy channel over the words that are known, with their frequency."""

from __future__ import annotations

import math
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import regex
from rapidfuzz import process
from rapidfuzz.distance import OSA, Levenshtein

from ..checks import check_choice
from .words import LONGEST_WORD


# Version of the rule. Packs without known words are read without repair.
SPELLING_RULES = 1
# Where words may be known from, and their parts in the probability of a word.
SOURCES = {"language": 0.9, "translations": 0.1, "documents": 0.02}
# Prices of typing errors, as negative logarithms of their probability.
_NEAR_KEY, _OTHER_KEY, _MISSING, _EXTRA, _DOUBLED, _SWAPPED, _FIRST_LETTER = 4.2, 9.0, 3.0, 8.0, 5.0, 3.1, 0.6
# A word as it stands: what speaks for a known one, for an unknown one, and for a name.
_KNOWN, _UNKNOWN, _UNKNOWN_LETTERS, _NAME = 1.4, 1.4, 0.8, 5.5
# And for one that the base reads as one token or as two.
_TOKENS = {1: -12.5, 2: -14.5}
# A word of another language: prices of being one, and of each letter.
_FOREIGN, _FOREIGN_LETTER = 8.0, 3.0
_LETTERS_AT_A_TIME = 4
# Candidates whose errors are counted one by one, and length of the words that are looked at.
_CANDIDATES, _LONGEST = 30, 32

_ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
# Pairs of letters whose keys touch. Each row starts about half a key further right than the one above.
_TOUCHING = {
    (one, other)
    for row, keys in enumerate(_ROWS)
    for column, one in enumerate(keys)
    for down, shift in ((0, 1), (0, -1), (1, 0), (1, -1), (-1, 0), (-1, 1))
    if 0 <= row + down < len(_ROWS)
    for other in _ROWS[row + down][max(column + shift, 0) : column + shift + 1]
}
_ACCENTS = regex.compile("[\u0300-\u036f]")
_ONES = np.array([number.bit_count() for number in range(1 << 16)], dtype=np.uint8)

# Source -> word -> number of its occurrences.
KnownWords = Mapping[str, Mapping[str, int]]


class Spelling:
    """
    Find the word that was meant by a mistyped one.

    A noisy channel (Kernighan, Church and Gale 1990): each known word has a probability, its frequency, and each
    typing error a price. Letters are missing, doubled or swapped, or the key next to the right one was hit. A word
    stays as it is unless another explains it better: one that is known, or a token of the base, is likely to be meant,
    and so is an unknown one that looks like a word of its language, by an n-gram model of letters. If the base knows
    the language, a word of two of its tokens is likely too. Unknown words are as frequent as words that occur once
    (Good 1953), so the fewer sentences there are, the more words stay. A capital inside a sentence suggests a name,
    but does not decide. Accents and case do not count as errors: a word that is known in one spelling only is read in
    that one.

    Args:
        known (mapping of `str` to mapping of `str` to `int`):
            Source -> word, in the form of the tokenizer's normalizer -> count. The sources are `"language"` (sentences
            of the language), `"translations"` (their translations) and `"documents"` (an index).
        count_tokens (callable, *optional*): returns the number of tokens of a word in the base.
        base_knows (`bool`, defaults to `False`): whether the base knows the language.

    Raises:
        ValueError: a source has another name.
    """

    def __init__(
        self,
        known: KnownWords,
        count_tokens: Callable[[str], int] = lambda word: len(word) + 1,
        base_knows: bool = False,
    ):
        for source in known:
            check_choice("the sources of known words", source, SOURCES)
        self.known = {source: dict(words) for source, words in known.items()}
        self.count_tokens, self.base_knows = count_tokens, base_knows

    def correct(self, word: str, name: bool = False) -> str | None:
        """Return the word that was meant by `word`, a normalised one; `None` if it stays. `name`: looks like one."""
        if not 2 <= len(word) <= _LONGEST or any(character.isdigit() for character in word):
            return None
        if word in self._surfaces:
            return self._better(word, name)
        folded = _fold(word)
        if folded in self._table.places and self.count_tokens(word) != 1:
            return self._table.surfaces[self._table.places[folded]]
        return self._better(word, name)

    def candidates(self, word: str, errors: int | None = None) -> list[tuple[str, float]]:
        """
        Return known words that may be meant by another one, the likeliest first.

        With each comes the logarithm of the probability that it is meant and typed so. `errors` is the number of
        typing errors to look for, by default 1 to 4 by the length of the word.
        """
        table, folded = self._table, _fold(word)
        errors = _most_errors(len(folded)) if errors is None else errors
        first, last = np.searchsorted(table.lengths, (len(folded) - errors, len(folded) + errors + 1))
        own, others = np.uint32(_letters(folded)), table.letters[first:last]
        near = np.flatnonzero((_ones(own & ~others) <= errors) & (_ones(others & ~own) <= errors)) + first
        words = table.texts[near].tolist()
        if not words:
            return []
        scorer: Any = OSA.distance
        distances = process.cdist([folded], words, scorer=scorer, score_cutoff=errors, dtype=np.uint8)[0]
        kept = np.flatnonzero((distances > 0) & (distances <= errors))
        near, distances = near[kept], distances[kept]
        hopes = table.log_probabilities[near] - _SWAPPED * distances
        best = np.argsort(-hopes, kind="stable")[:_CANDIDATES]
        found = [
            (table.surfaces[place], float(table.log_probabilities[place]) - _price(folded, table.words[place], count))
            for place, count in zip(near[best].tolist(), distances[best].tolist(), strict=True)
        ]
        return sorted(found, key=lambda each: -each[1])

    def as_it_stands(self, word: str) -> float:
        """Return how well a word explains itself, on the scale of [`~Spelling.candidates`]."""
        folded = _fold(word)
        unknown = self._unknown + _UNKNOWN_LETTERS * self._letter_model(folded)
        chances = [unknown, -_FOREIGN - _FOREIGN_LETTER * len(folded)]
        if (place := self._table.places.get(folded)) is not None:
            chances.append(float(self._table.log_probabilities[place]) + _KNOWN)
        tokens = self.count_tokens(word)
        if tokens == 1 or self.base_knows:
            chances.append(_TOKENS.get(tokens, -math.inf))
        return max(chances)

    def _better(self, word: str, name: bool) -> str | None:
        most, needed = _most_errors(len(_fold(word))), self.as_it_stands(word)
        # Few words are within two errors, so they are looked at first.
        for errors in sorted({min(2, most), most}):
            found = self.candidates(word, errors)
            if name:
                found = [(known, chance - _NAME * (known not in self._names)) for known, chance in found]
            known, chance = max(found, key=lambda each: each[1], default=("", -math.inf))
            if chance > needed:
                return known
        return None

    @cached_property
    def _names(self) -> set[str]:
        """Words that both languages spell alike: names, and loan words."""
        return {*self.known.get("language", ())} & {*self.known.get("translations", ())}

    @cached_property
    def _unknown(self) -> float:
        """What speaks for a word that is not known."""
        sources = [self.known["language"]] if self.known.get("language") else self.known.values()
        counts = [count for words in sources for count in words.values()]
        return math.log(max(counts.count(1), 1) / max(sum(counts), 1)) + _UNKNOWN

    @cached_property
    def _surfaces(self) -> set[str]:
        return {word for words in self.known.values() for word in words}

    @cached_property
    def _table(self) -> _Table:
        return _Table(self.known)

    @cached_property
    def _letter_model(self) -> _LetterModel:
        own = self.known.get("language")
        return _LetterModel([_fold(word) for word in own] if own else self._table.words)


class _Table:
    """The known words without accents and case, by length, with their letters and probabilities."""

    def __init__(self, known: KnownWords):
        shares = {source: SOURCES[source] for source, words in known.items() if words}
        chances: Counter[str] = Counter()
        surfaces: dict[str, tuple[float, str]] = {}
        for source, share in shares.items():
            part = share / sum(shares.values()) / sum(known[source].values())
            for word, count in known[source].items():
                if len(word) <= _LONGEST and (folded := _fold(word)):
                    chances[folded] += part * count  # type: ignore[assignment]
                    surfaces[folded] = max(surfaces.get(folded, (0.0, "")), (part * count, word))
        self.words = sorted(chances, key=lambda word: (len(word), word))
        self.texts = np.array(self.words, dtype=object)
        self.places = {word: place for place, word in enumerate(self.words)}
        self.surfaces = [surfaces[word][1] for word in self.words]
        self.lengths = np.array([len(word) for word in self.words])
        self.letters = np.array([_letters(word) for word in self.words], dtype=np.uint32)
        self.log_probabilities = np.log([chances[word] for word in self.words])


class _LetterModel:
    """Log-probability of a word by its letters: n-grams with Witten-Bell smoothing, learned from a list of words."""

    def __init__(self, words: Sequence[str]):
        self.seen: Counter[str] = Counter()
        self.before: Counter[str] = Counter()
        for word in words:
            padded = self._pad(word)
            for stop in range(_LETTERS_AT_A_TIME, len(padded) + 1):
                for start in range(stop - _LETTERS_AT_A_TIME, stop):
                    self.seen[padded[start:stop]] += 1
                    self.before[padded[start : stop - 1]] += 1
        self.kinds = Counter(gram[:-1] for gram in self.seen)

    def __call__(self, word: str) -> float:
        padded = self._pad(word)
        return sum(
            math.log(self._probability(padded[stop - _LETTERS_AT_A_TIME : stop]))
            for stop in range(_LETTERS_AT_A_TIME, len(padded) + 1)
        )

    def _probability(self, gram: str) -> float:
        probability = 1 / 64
        for start in range(len(gram) - 1, -1, -1):
            before = gram[start:-1]
            if not (total := self.before.get(before, 0)):
                break
            kinds = self.kinds[before]
            probability = (self.seen.get(gram[start:], 0) + kinds * probability) / (total + kinds)
        return probability

    @staticmethod
    def _pad(word: str) -> str:
        return "\x02" * (_LETTERS_AT_A_TIME - 1) + word + "\x03"


def invalid_known_words(known: Mapping[str, Mapping[str, int]]) -> str | None:
    """Describe what is wrong with known words that were read from a file, if anything."""
    for source, words in known.items():
        if source not in SOURCES or not isinstance(words, dict):
            return f"unknown source {source!r:.50} of known words"
        for word, count in words.items():
            if len(word) > LONGEST_WORD or type(count) is not int or count < 1:
                return f"entry {word!r:.50} of {source!r} must have at most {LONGEST_WORD} letters and a count from 1"
    return None


def _fold(word: str) -> str:
    """Leave out accents and case."""
    if word.isascii():
        return word.lower()
    return unicodedata.normalize("NFC", _ACCENTS.sub("", unicodedata.normalize("NFD", word.lower())))


def _most_errors(length: int) -> int:
    """Number of errors that are looked for in a word of `length` letters."""
    return 1 if length < 4 else 2 if length < 6 else 3 if length < 9 else 4


def _letters(word: str) -> int:
    """The letters of a word as a set of bits. Every error changes one at most."""
    bits = 0
    for letter in word:
        bits |= 1 << (ord(letter) & 31)
    return bits


def _ones(bits: np.ndarray) -> np.ndarray:
    return _ONES[bits & 0xFFFF] + _ONES[bits >> 16]


def _price(typed: str, meant: str, distance: int) -> float:
    """Price of the errors that lead from one word to another, `distance` with swaps of neighbours."""
    counts = {"near": 0, "other": 0, "missing": 0, "doubled": 0, "extra": 0}
    edits = Levenshtein.editops(typed, meant)
    for edit in edits:
        kind, place, target = edit.tag, edit.src_pos, edit.dest_pos
        if kind == "replace":
            counts["near" if (typed[place], meant[target]) in _TOUCHING else "other"] += 1
        elif kind == "insert":
            counts["missing"] += 1
        else:
            beside = typed[max(place - 1, 0) : place] + typed[place + 1 : place + 2]
            counts["doubled" if typed[place] in beside else "extra"] += 1
    # A swap counts as two errors without it: letters left out and put in again, or two that are replaced.
    swaps = len(edits) - distance
    for _ in range(swaps):
        extra = "extra" if counts["extra"] else "doubled"
        pair = ("missing", extra) if counts["missing"] and counts[extra] else ("near", "near")
        for kind in pair:
            counts["other" if kind == "near" and counts["other"] else kind] -= 1
    prices = {
        "near": _NEAR_KEY,
        "other": _OTHER_KEY,
        "missing": _MISSING,
        "doubled": _DOUBLED,
        "extra": _EXTRA,
    }
    price = sum(prices[kind] * count for kind, count in counts.items())
    return price + _SWAPPED * swaps + _FIRST_LETTER * (typed[0] != meant[0])
