"""Bilingual dictionaries: read from a file or learned from sentence pairs, and looked up in running text."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from math import inf
from pathlib import Path

from datasets import Dataset
from tokenizers.normalizers import Normalizer
from transformers import PreTrainedTokenizerBase

from ..errors import DataError, short_repr
from ..model.texts import require_text
from ..model.words import LONGEST_WORD, compose, find_words
from ..storage.data_files import read_lines
from .alignment import Lexicon, learn_lexicon, word_splitter
from .loading import check_languages, iter_sentences, sample_evenly


# Longest word, in characters, that is looked for in a script without spaces, and longest phrase, in words.
_LONGEST, _LONGEST_PHRASE = 24, 8


def fold_case(word: str) -> str:
    """Fold the case of a word and compose its accents (NFC): how a dictionary compares words by default."""
    return compose(word.casefold())


class Dictionary(Mapping[str, list[tuple[str, float]]]):
    """
    Words and their translations: `dictionary[word]` is a list of `(translation, probability)`, the likeliest first.

    The probabilities of the translations of a word sum to one. Words are compared after `normalize`. An entry may be a
    phrase of several words (`"new york"`).

    Args:
        entries (mapping of `str` to iterables of `(str, float)`):
            Translations of each word with their weights. Words that are equal after `normalize` are merged.
        normalize (function from `str` to `str`, defaults to [`fold_case`]):
            Applied to the words of `entries` and to each word that is looked up.

    Raises:
        DataError: there is no word, or the weights of a word are not positive with a finite sum.
    """

    def __init__(
        self, entries: Mapping[str, Iterable[tuple[str, float]]], normalize: Callable[[str], str] = fold_case
    ):
        self.normalize = normalize
        weights: dict[str, dict[str, float]] = {}
        for word, translations in entries.items():
            found = weights.setdefault(normalize(word), {})
            weighted = list(translations)
            for translation, weight in weighted:
                found[translation] = found.get(translation, 0.0) + weight
            if not all(weight > 0 for _, weight in weighted) or not sum(found.values()) < inf:
                raise DataError(f"the weights of {word!r} must be positive with a finite sum, got {short_repr(found)}")
        self._entries = {word: _unit_sum(found) for word, found in weights.items() if found}
        if not self._entries:
            raise DataError("the dictionary has no translations; check its source, or lower min_probability")
        sizes = (1 if word.isalpha() else sum(1 for _ in self._split(word)) for word in self._entries)
        self._longest_phrase = min(max(sizes), _LONGEST_PHRASE)

    @classmethod
    def from_lexicon(
        cls,
        lexicon: Lexicon,
        translations: int = 3,
        min_probability: float = 0.1,
        normalize: Callable[[str], str] = fold_case,
    ) -> Dictionary:
        """
        Make a dictionary of the likeliest translations of a lexicon, each with at least `min_probability`.

        Raises:
            DataError: the targets are token ids, or no translation is likely enough.
        """
        return cls(lexicon.translations(translations, min_probability), normalize)

    def __getitem__(self, word: str) -> list[tuple[str, float]]:
        return self._entries[self.normalize(word)]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def replace(self, text: str, choose: Callable[[list[tuple[str, float]]], str | None]) -> str:
        """
        Replace words in running text; spacing, punctuation and unknown words stay as they are.

        Where phrases match, the longest is replaced. Scripts without spaces between words are matched with the longest
        word of the dictionary, from left to right, and spaces are put around the translation. `choose` gets the
        translations of a word and returns its replacement, or `None` to keep it.

        Raises:
            DataError: the text holds an unpaired surrogate.
        """
        parts, end, replaced = [], 0, False
        for start, stop, adjoins in self._words(text):
            entries = self.get(text[start:stop])
            chosen = None if entries is None else choose(entries)
            if adjoins and (replaced or chosen is not None):
                parts += [text[end:start], " "]
                end = start
            replaced = chosen is not None
            if chosen is not None:
                parts += [text[end:start], chosen]
                end = stop
        return "".join([*parts, text[end:]])

    def coverage(self, texts: Iterable[str]) -> float:
        """Return the share of the words of the texts that are in the dictionary, from 0 to 1; 0 without words."""
        held = [text[start:stop] in self for text in texts for start, stop, _ in self._words(text)]
        return sum(held) / max(1, len(held))

    def _words(self, text: str) -> Iterator[tuple[int, int, bool]]:
        """Yield the start and stop of each word or known phrase, and whether it directly follows the word before."""
        require_text(text)
        words = list(self._split(text))
        first = 0
        while first < len(words):
            start, stop, adjoins = words[first]
            for last in range(min(len(words), first + self._longest_phrase) - 1, first, -1):
                if text[start : words[last][1]] in self:
                    first, stop = last, words[last][1]
                    break
            yield start, stop, adjoins
            first += 1

    def _split(self, text: str) -> Iterator[tuple[int, int, bool]]:
        """Yield the start and stop of each word, and whether it directly follows the word before."""
        end = -1
        for word in find_words(text):
            begin, adjoins, end = word.start, word.start == end, word.stop
            if not word.has_letter or word.spaced and len(word.text) > LONGEST_WORD:
                continue
            for size in [len(word.text)] if word.spaced else self._cut(word.text):
                yield begin, begin + size, adjoins
                begin, adjoins = begin + size, True

    def _cut(self, run: str) -> Iterator[int]:
        """Yield the lengths of the words of a run without spaces; unknown text is taken character by character."""
        start = 0
        while start < len(run):
            sizes = range(min(len(run) - start, _LONGEST), 0, -1)
            size = next((size for size in sizes if run[start : start + size] in self), 1)
            yield size
            start += size


def read_muse(file: str | os.PathLike, normalize: Callable[[str], str] = fold_case) -> Dictionary:
    """
    Read a dictionary in the format of MUSE (Conneau et al. 2018): a word and a translation a line.

    The two are separated by a tab or spaces. A word with several lines has several translations, equally likely.

    Args:
        file (`str` or `os.PathLike`):
            UTF-8 text, compressed or not. Columns separated by a tab may contain spaces, as in `new york\tnyuyoki`.
        normalize (function from `str` to `str`, defaults to [`fold_case`]): as in [`Dictionary`].

    Raises:
        DataError: the file is missing, empty or not UTF-8, or a line does not have two columns. The message names the
            line.
    """
    entries: dict[str, dict[str, float]] = {}
    for word, translation in read_columns(file):
        entries.setdefault(word, {})[translation] = 1.0
    if not entries:
        raise DataError(f"{file} is empty; write a word and a translation on each line")
    return Dictionary({word: translations.items() for word, translations in entries.items()}, normalize)


def read_columns(file: str | os.PathLike) -> Iterator[tuple[str, str]]:
    """Read the words and translations of a file in MUSE's format, see [`read_muse`]."""
    for place, line in read_lines(Path(file)):
        line = line.strip()
        columns = [column.strip() for column in (re.split("\t+", line) if "\t" in line else line.split())]
        if len(columns) != 2:
            raise DataError(f"{place}: expected a word and a translation separated by a tab, got {short_repr(line)}")
        yield columns[0], columns[1]


def learn_dictionary(
    pairs: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    language: str,
    teacher_language: str = "en",
    *,
    reverse: bool = False,
    max_pairs: int = 50_000,
    translations: int = 3,
    min_probability: float = 0.1,
) -> Dictionary:
    """
    Learn a dictionary from sentence pairs with [`learn_lexicon`].

    Words are normalised as by the tokenizer, and compared without their case.

    Args:
        pairs (`datasets.Dataset`): from [`load_bitext`], with the column `translation`.
        tokenizer (`PreTrainedTokenizerBase`): the tokenizer of the model that will read the words.
        language (`str`), teacher_language (`str`, defaults to `"en"`): language codes.
        reverse (`bool`, defaults to `False`):
            `False`: from words of `teacher_language` to words of `language`, as for code switching. `True`: the other
            way round, as for translating queries.
        max_pairs (`int`, defaults to 50,000): maximum number of sentence pairs, taken at even distances.
        translations (`int`, defaults to 3): maximum number of translations of a word.
        min_probability (`float`, defaults to 0.1): less likely translations are left out.

    Raises:
        DataError: a language is not in the pairs, or nothing could be learned from them.
    """
    check_languages(pairs, (language, teacher_language))
    pairs = sample_evenly(pairs, max_pairs)
    source, target = (language, teacher_language) if reverse else (teacher_language, language)
    sides = []
    for code in (source, target):
        split = word_splitter(tokenizer, iter_sentences(pairs, code))
        sides.append([split(text) for text in iter_sentences(pairs, code)])
    normalize = partial(_normalize, tokenizer.backend_tokenizer.normalizer)
    # Sentences begin with capitals, so words are compared without case and translations keep their most frequent form.
    words = [[fold_case(word) for word in sentence] for sentence in sides[0]]
    forms: dict[str, str] = {}
    for form, _ in Counter(form for sentence in sides[1] for form in sentence).most_common():
        forms.setdefault(fold_case(form), form)
    lexicon = learn_lexicon(words, [[forms[fold_case(form)] for form in sentence] for sentence in sides[1]])
    return Dictionary.from_lexicon(lexicon, translations, min_probability, normalize)


def _normalize(normalizer: Normalizer | None, word: str) -> str:
    normal = word if normalizer is None else normalizer.normalize_str(word)
    return fold_case(normal.replace("▁", " ").strip())


def _unit_sum(weights: Mapping[str, float]) -> list[tuple[str, float]]:
    total = sum(weights.values())
    likeliest = sorted(weights.items(), key=lambda entry: -entry[1])
    return [(translation, weight / total) for translation, weight in likeliest]
