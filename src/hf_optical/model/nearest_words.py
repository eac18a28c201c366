"""Words outside a vocabulary: the one that was meant instead, or one of similar spelling beside them."""

from __future__ import annotations

import copy
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress

import numpy as np
from scipy import sparse
from transformers import PreTrainedTokenizerBase

from .spelling import KnownWords, Spelling
from .texts import half_character
from .words import ADJOINING, LONGEST_WORD, UNSPACED, find_words


# Limit for entries of word lists: the n-grams of a megabyte would take seconds.
LONGEST_LISTED = 10 * LONGEST_WORD
_GRAMS = range(3, 7)
_SHORTEST = 4
_CACHE_SIZE = 100_000


class NearestWords:
    """
    Put the most similar of `words`, which are in normalised form, beside words that a tokenizer would split.

    An unseen inflection is then read as its pieces and as another form of the same stem. With `instead`, the other
    form replaces it. Similarity is the cosine of character n-gram vectors (3 to 6 letters), weighted by inverse
    document frequency. These words always stay alone: capitalised ones, which are likely names; words shorter than
    four letters or longer than a hundred; words with a digit; words that are a single token; words in scripts without
    spaces; and words without any of `min_similarity`.

    Where `known_words` are given, typing errors are repaired before that, see [`Spelling`]: the word that was meant
    replaces the mistyped one. Capitals, short words and tokens of the base may be errors too.
    """

    def __init__(
        self,
        words: Sequence[str],
        tokenizer: PreTrainedTokenizerBase,
        min_similarity: float = 0.4,
        known_words: KnownWords | None = None,
        instead: bool = False,
    ):
        if problem := invalid_word(words):
            raise ValueError(f"the list of words is invalid: {problem}; remove that entry")
        self.words, self.tokenizer = list(words), tokenizer
        self.min_similarity, self.instead = min_similarity, instead
        grams = [_grams(word) for word in self.words]
        self._grams, frequency = np.unique([gram for found in grams for gram in found], return_counts=True)
        self._weights = np.log((1 + len(self.words)) / (1 + frequency)) + 1
        self._table = self._vectors(grams)
        self._repair_by(known_words)

    def with_known_words(self, known_words: KnownWords) -> NearestWords:
        """Create a copy that repairs typing errors by other words; both share the table of n-grams."""
        other = copy.copy(self)
        other._repair_by(known_words)
        return other

    def _repair_by(self, known_words: KnownWords | None) -> None:
        self.spelling, tokenizer = None, self.tokenizer
        if known_words:
            # A base that needs no words knows the language.
            self.spelling = Spelling(known_words, lambda word: count_tokens([word], tokenizer)[0], not self.words)
        self._cache: dict[tuple[str, bool, bool], str | None] = {}

    @property
    def known_words(self) -> KnownWords:
        """The words that typing errors are repaired by; none without repair."""
        return self.spelling.known if self.spelling else {}

    def __call__(self, text: str, repair: bool = True) -> str:
        """Return the text as it is read; without `repair`, typing errors stay."""
        parts, end = [], 0
        for start, stop, nearest in self.replacements(text, repair):
            parts += [text[end:start], nearest]
            end = stop
        return "".join([*parts, text[end:]])

    def replacements(self, text: str, repair: bool = True) -> Iterator[tuple[int, int, str]]:
        """Yield the start and stop of each word of a text that is read as something else, and what it is read as."""
        repair = repair and self.spelling is not None
        for place, (word, start, stop, spaced) in enumerate(find_words(text, joined_by=ADJOINING)):
            if not spaced or len(word) > LONGEST_WORD or not word[0].isalpha() or (word[0].isupper() and not repair):
                continue
            if any(character.isdigit() for character in word):
                continue
            # The first word of a text has a capital whether or not it is a name.
            if (found := self._cached(word, repair, place > 0 and word[0].isupper())) is not None:
                yield start, stop, found

    def _cached(self, word: str, repair: bool, name: bool) -> str | None:
        # Other threads may fill or clear the cache at any moment.
        key = word, repair, name
        with suppress(KeyError):
            return self._cache[key]
        found = self._replacement(word, repair, name)
        if len(self._cache) >= _CACHE_SIZE:
            self._cache.clear()
        self._cache[key] = found
        return found

    def _replacement(self, word: str, repair: bool, name: bool) -> str | None:
        meant = self.spelling.correct(self._normal(word), name) if repair and self.spelling else None
        if word[0].isupper():
            return meant
        read = word if meant is None else meant
        if (nearest := self.nearest(read)) is None:
            return meant
        # A word of the list that the tokenizer splits is not read twice.
        return nearest if self.instead or nearest == self._normal(read) else f"{read} {nearest}"

    def _normal(self, word: str) -> str:
        normalizer = self.tokenizer.backend_tokenizer.normalizer
        return word if normalizer is None else normalizer.normalize_str(word).strip("▁ ")

    def nearest(self, word: str) -> str | None:
        """Return the most similar word of the list; `None` if `word` is known or not similar to any."""
        normal = self._normal(word)
        if len(normal) < _SHORTEST or not len(self._grams) or UNSPACED.search(normal):
            return None
        if are_one_token([normal], self.tokenizer)[0]:
            return None
        similarity = (self._table @ self._vectors([_grams(normal)]).T).toarray().ravel()
        best = int(similarity.argmax())
        return self.words[best] if similarity[best] >= self.min_similarity else None

    def _vectors(self, words: Sequence[Counter[int]]) -> sparse.csr_array:
        """Unit vectors of words over the n-grams of the list, `(words, n-grams)`."""
        rows = np.repeat(np.arange(len(words)), [len(grams) for grams in words])
        grams = np.array([gram for found in words for gram in found], dtype=self._grams.dtype)
        values = 1 + np.log([count for found in words for count in found.values()])
        columns = np.searchsorted(self._grams, grams).clip(max=len(self._grams) - 1)
        known = self._grams[columns] == grams
        rows, columns, values = rows[known], columns[known], (values * self._weights[columns])[known]
        norms = np.sqrt(np.bincount(rows, values**2, len(words)))
        return sparse.csr_array((values / norms[rows], (rows, columns)), shape=(len(words), len(self._grams)))


def invalid_word(words: Sequence[str]) -> str | None:
    """Describe the first entry of a word list that is too long or contains an unpaired surrogate, if any."""
    for position, word in enumerate(words):
        if len(word) > LONGEST_LISTED:
            return f"number {position} has {len(word)} characters, more than {LONGEST_LISTED}"
        if half := half_character(word):
            return f"number {position} contains {half}"
    return None


def count_tokens(words: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the number of tokens of each word, at the start of a text or after a space: the smaller one."""
    # Some tokenizers have separate tokens for the two, or only the latter.
    spaced = [f" {word}" for word in words]
    pieces = tokenizer([*words, *spaced], add_special_tokens=False)["input_ids"] if words else []
    unknown = LONGEST_LISTED + 1  # more than a word that is known can have
    counts = [unknown if tokenizer.unk_token_id in ids else len(ids) for ids in pieces]
    return [min(start, inside) for start, inside in zip(counts[: len(words)], counts[len(words) :], strict=True)]


def are_one_token(words: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> list[bool]:
    """Return for each word whether it is a single known token, at the start of a text or after a space."""
    return [count == 1 for count in count_tokens(words, tokenizer)]


def _grams(word: str) -> Counter[int]:
    """Count the n-grams of a word, as hashes that need a tenth of the memory."""
    word = f"<{word}>"
    return Counter(
        zlib.crc32(word[start : start + size].encode("utf-8", "surrogatepass"))
        for size in _GRAMS
        for start in range(len(word) - size + 1)
    )
