"""Words that a vocabulary lacks, read as the words in it that are spelled most alike."""

from __future__ import annotations

import re
import zlib
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress

import numpy as np
from scipy import sparse
from tokenizers import pre_tokenizers
from transformers import PreTrainedTokenizerBase

from .texts import half_character


# Words are what stands between spaces and punctuation.
SPLIT = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()])
# Scripts that put no spaces between words: Thai, Lao, Tibetan, Burmese, Khmer, Chinese and Japanese.
UNSPACED = re.compile("[\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]+")
# What has more characters is no word, but an address, a picture in letters or a line without its spaces.
LONGEST_WORD = 100
# And more than this nobody puts into a list of words: a megabyte would take seconds to cut into its n-grams.
LONGEST_LISTED = 10 * LONGEST_WORD
_GRAMS = range(3, 7)
_SHORTEST = 4
_REMEMBERED = 100_000


class NearestWords:
    """
    Replaces words that a tokenizer would cut up by the nearest of a list, so that an inflection never seen is read as
    its stem's other forms.

    Near is what shares rare runs of three to six letters: the cosine of vectors of character n-grams weighted by
    inverse document frequency. A word that begins with a capital letter is taken for a name and left as it is, like
    what is shorter than four letters or longer than a hundred, holds a digit, is one token, or is of a script without
    spaces between words.

    Args:
        words (sequence of `str`): the list, in the form that the tokenizer's normaliser gives words.
        tokenizer (`PreTrainedTokenizerBase`): what reads the texts; it has the words as tokens.
        min_similarity (`float`, defaults to 0.4): a word less alike is not taken.

    Raises:
        ValueError: a word of the list is none, see [`no_words`].
    """

    def __init__(self, words: Sequence[str], tokenizer: PreTrainedTokenizerBase, min_similarity: float = 0.4):
        if wrong := no_words(words):
            raise ValueError(f"the list of words is not made of words: {wrong}; leave that out")
        self.words, self.tokenizer = list(words), tokenizer
        self.min_similarity = min_similarity
        grams = [_grams(word) for word in self.words]
        self._grams, frequency = np.unique([gram for found in grams for gram in found], return_counts=True)
        self._weights = np.log((1 + len(self.words)) / (1 + frequency)) + 1
        self._table = self._vectors(grams)
        self._found: dict[str, str | None] = {}

    def __call__(self, text: str) -> str:
        """The text with its unknown words replaced."""
        parts, end = [], 0
        for piece, (start, stop) in SPLIT.pre_tokenize_str(text):
            if len(piece) > LONGEST_WORD or piece[0].isupper() or not piece[0].isalpha():
                continue
            if any(character.isdigit() for character in piece):
                continue
            nearest = self._nearest(piece)
            if nearest is not None:
                parts += [text[end:start], nearest]
                end = stop
        return "".join([*parts, text[end:]])

    def _nearest(self, word: str) -> str | None:
        """As `nearest`, remembered. Other threads may forget, or remember, at any moment."""
        with suppress(KeyError):
            return self._found[word]
        found = self.nearest(word)
        if len(self._found) >= _REMEMBERED:
            self._found.clear()
        self._found[word] = found
        return found

    def nearest(self, word: str) -> str | None:
        """The word that takes the place of `word`; none for one that is known, or like none."""
        normalizer = self.tokenizer.backend_tokenizer.normalizer
        normal = word if normalizer is None else normalizer.normalize_str(word).strip("▁ ")
        if len(normal) < _SHORTEST or not len(self._grams) or UNSPACED.search(normal):
            return None
        if are_one_token([normal], self.tokenizer)[0]:
            return None
        similarity = (self._table @ self._vectors([_grams(normal)]).T).toarray().ravel()
        best = int(similarity.argmax())
        return self.words[best] if similarity[best] >= self.min_similarity else None

    def _vectors(self, words: Sequence[Counter[int]]) -> sparse.csr_array:
        """A row of unit length for each word, over the n-grams that the list holds."""
        rows = np.repeat(np.arange(len(words)), [len(grams) for grams in words])
        grams = np.array([gram for found in words for gram in found], dtype=self._grams.dtype)
        values = 1 + np.log([count for found in words for count in found.values()])
        columns = np.searchsorted(self._grams, grams).clip(max=len(self._grams) - 1)
        known = self._grams[columns] == grams
        rows, columns, values = rows[known], columns[known], (values * self._weights[columns])[known]
        norms = np.sqrt(np.bincount(rows, values**2, len(words)))
        return sparse.csr_array((values / norms[rows], (rows, columns)), shape=(len(words), len(self._grams)))


def no_words(words: Sequence[str]) -> str | None:
    """What is wrong with a list of words: one that is too long to be one, or holds half a character."""
    for position, word in enumerate(words):
        if len(word) > LONGEST_LISTED:
            return f"number {position} has {len(word)} characters, more than {LONGEST_LISTED}"
        if half := half_character(word):
            return f"number {position} holds {half}"
    return None


def are_one_token(words: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> list[bool]:
    """Of each word, whether it is one known token, at the beginning of a text or behind a space."""
    # Some tokenizers have one entry for a word and another for a space with the word behind it, or the latter alone.
    spaced = [f" {word}" for word in words]
    pieces = tokenizer([*words, *spaced], add_special_tokens=False)["input_ids"] if words else []
    known = [len(ids) == 1 and ids != [tokenizer.unk_token_id] for ids in pieces]
    return [one or other for one, other in zip(known[: len(words)], known[len(words) :], strict=True)]


def _grams(word: str) -> Counter[int]:
    """The n-grams of a word as hashes, which take a tenth of the memory, and how often each stands in it."""
    word = f"<{word}>"
    return Counter(
        zlib.crc32(word[start : start + size].encode("utf-8", "surrogatepass"))
        for size in _GRAMS
        for start in range(len(word) - size + 1)
    )
