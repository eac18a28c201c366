"""Bilingual dictionaries: read from a file, or learned from sentence pairs; looked up in running text."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from math import inf
from pathlib import Path

from datasets import Dataset
from tokenizers.normalizers import Normalizer
from transformers import PreTrainedTokenizerBase

from ..errors import DataError
from ..model.nearest_words import LONGEST_WORD, SPLIT, UNSPACED
from ..model.texts import require_text
from .alignment import Lexicon, learn_lexicon, word_splitter
from .loading import require_languages, sentences, spread
from .reading import read_lines, shown


# A word of a script without spaces is looked for in so many characters.
_LONGEST = 24
_RUNS = re.compile(f"({UNSPACED.pattern})")


def fold_case(word: str) -> str:
    """A word without its case, its letters and accents composed: how a dictionary compares words by default."""
    folded = word.casefold()
    # On what is no word composing may take minutes: it puts marks in order in quadratic time.
    return unicodedata.normalize("NFC", folded) if len(folded) <= 10 * LONGEST_WORD else folded


class Dictionary(Mapping[str, list[tuple[str, float]]]):
    """
    Words and their translations: `dictionary[word]` is a list of `(translation, probability)`, the likeliest first.

    A word is found in whatever form `normalize` takes for the same. The probabilities of a word's translations sum to
    one.

    Args:
        entries (mapping of `str` to iterables of `(str, float)`):
            Word to translations with their weights. Words that `normalize` makes one have the translations of both.
        normalize (function from `str` to `str`, defaults to [`fold_case`]):
            Applied to the words of `entries` and to each word that is looked up.

    Raises:
        DataError: there is no word, or a weight is not above 0, or beyond all bounds.
    """

    def __init__(
        self, entries: Mapping[str, Iterable[tuple[str, float]]], normalize: Callable[[str], str] = fold_case
    ):
        self.normalize = normalize
        weights: dict[str, dict[str, float]] = {}
        for word, translations in entries.items():
            found = weights.setdefault(normalize(word), {})
            for translation, weight in translations:
                if not 0 < weight < inf:
                    raise DataError(f"{word!r} has {translation!r} with weight {weight}; leave it out or weigh it > 0")
                found[translation] = found.get(translation, 0.0) + weight
            if sum(found.values()) == inf:
                raise DataError(f"the weights of {word!r} are too large to be added; make them smaller")
        self._entries = {word: _unit_sum(found) for word, found in weights.items() if found}
        if not self._entries:
            raise DataError("the dictionary holds no word with a translation; look at what it was made of")

    @classmethod
    def from_lexicon(
        cls,
        lexicon: Lexicon,
        translations: int = 3,
        min_probability: float = 0.1,
        normalize: Callable[[str], str] = fold_case,
    ) -> Dictionary:
        """
        The likeliest translations of a learned lexicon.

        Args:
            lexicon ([`Lexicon`]): its targets are words.
            translations (`int`, defaults to 3): at most so many for a word.
            min_probability (`float`, defaults to 0.1): less likely ones are left out.
            normalize (function from `str` to `str`, defaults to [`fold_case`]): as for the class.

        Raises:
            DataError: the targets are no words, or no translation is likely enough.
        """
        if not all(isinstance(target, str) for target in lexicon.targets):
            raise DataError("the lexicon leads to token ids, and a dictionary to words; learn it from words")
        top = {word: lexicon.top(word, translations) for word in lexicon.words}
        likely = {word: [entry for entry in found if entry[1] >= min_probability] for word, found in top.items()}
        if not any(likely.values()):
            raise DataError(f"no translation has a probability of {min_probability} or more; lower min_probability")
        return cls(likely, normalize)

    def __getitem__(self, word: str) -> list[tuple[str, float]]:
        return self._entries[self.normalize(word)]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def replace(self, text: str, choose: Callable[[list[tuple[str, float]]], str | None]) -> str:
        """
        Replaces words in running text; spacing, punctuation and unknown words stay as they are.

        Scripts without spaces between words are cut by the longest word that the dictionary holds, from left to
        right, and a translation is set off by spaces there.

        Args:
            text (`str`): the text.
            choose (function): is given the translations of a word of the text; returns what to put in its place, or
                `None` to leave it.

        Returns:
            `str`: the text with its words replaced.

        Raises:
            DataError: the text holds half a character (an unpaired surrogate).
        """
        parts, end, replaced = [], 0, False
        for start, stop, adjoins in self._words(text):
            entries = self.get(text[start:stop])
            chosen = None if entries is None else choose(entries)
            if adjoins and (replaced or chosen is not None):
                parts += [text[end:start], " "]
                end = start
            replaced = chosen is not None
            if replaced:
                parts += [text[end:start], chosen]
                end = stop
        return "".join([*parts, text[end:]])

    def coverage(self, texts: Iterable[str]) -> float:
        """The share, from 0 to 1, of the words of texts that the dictionary holds; 0 where there are no words."""
        held = [text[start:stop] in self for text in texts for start, stop, _ in self._words(text)]
        return sum(held) / max(1, len(held))

    def _words(self, text: str) -> Iterator[tuple[int, int, bool]]:
        """Where each word begins and ends, and whether nothing, not even punctuation, parts it from the last."""
        try:
            pieces = SPLIT.pre_tokenize_str(text)
        except (TypeError, UnicodeEncodeError):
            require_text(text)
            raise
        for piece, (start, _) in pieces:
            if not any(character.isalpha() for character in piece):
                continue
            begin = start
            for part in filter(None, _RUNS.split(piece)):
                for size in self._cut(part) if UNSPACED.match(part) else [len(part)]:
                    if size <= LONGEST_WORD:
                        yield begin, begin + size, begin > start
                    begin += size

    def _cut(self, run: str) -> Iterator[int]:
        """Lengths of the words of a run without spaces; what is not known goes by single characters."""
        start = 0
        while start < len(run):
            sizes = range(min(len(run) - start, _LONGEST), 0, -1)
            size = next((size for size in sizes if run[start : start + size] in self), 1)
            yield size
            start += size


def read_muse(file: str | os.PathLike, normalize: Callable[[str], str] = fold_case) -> Dictionary:
    """
    Reads a dictionary in the format of MUSE (Conneau et al. 2018): a word and a translation a line, between them a tab
    or a space. Several lines of one word are several translations, equally likely.

    Args:
        file (`str` or `os.PathLike`): text in UTF-8, compressed or not. Where a tab parts the columns, they may hold
            spaces.
        normalize (function from `str` to `str`, defaults to [`fold_case`]): as in [`Dictionary`].

    Returns:
        [`Dictionary`]

    Raises:
        DataError: the file is missing, empty or not UTF-8, or a line has not two columns. Names the line.
    """
    entries: dict[str, dict[str, float]] = {}
    for where, line in read_lines(Path(file)):
        line = line.strip(" \t")
        columns = [column.strip(" ") for column in re.split("\t+" if "\t" in line else " +", line)]
        if len(columns) != 2:
            raise DataError(
                f"{where}: {len(columns)} columns in {shown(line)}; write a word and a translation, a tab between them"
            )
        entries.setdefault(columns[0], {})[columns[1]] = 1.0
    if not entries:
        raise DataError(f"{file} is empty; write a word and a translation a line")
    return Dictionary({word: translations.items() for word, translations in entries.items()}, normalize)


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
    Learns a dictionary from sentence pairs alone, by [`learn_lexicon`].

    Words are in the form that the tokenizer's normaliser gives them, and the dictionary takes for the same what the
    normaliser makes one, whatever its case.

    Args:
        pairs (`datasets.Dataset`): from [`load_bitext`], with the column `translation`.
        tokenizer (`PreTrainedTokenizerBase`): what will read the words.
        language (`str`), teacher_language (`str`, defaults to `"en"`): language codes.
        reverse (`bool`, defaults to `False`):
            `False`: words of `teacher_language` lead to words of `language`, as code switching needs it. `True`: the
            other way, as the translation of queries needs it.
        max_pairs (`int`, defaults to 50,000): sentence pairs to learn from, at even distances.
        translations (`int`, defaults to 3): at most so many for a word.
        min_probability (`float`, defaults to 0.1): less likely ones are left out.

    Returns:
        [`Dictionary`]

    Raises:
        DataError: a language is not in the pairs, or nothing could be learned from them.
    """
    require_languages(pairs, (language, teacher_language))
    pairs = spread(pairs, max_pairs)
    source, target = (language, teacher_language) if reverse else (teacher_language, language)
    sides = []
    for code in (source, target):
        split = word_splitter(tokenizer, sentences(pairs, code))
        sides.append([split(text) for text in sentences(pairs, code)])
    normalize = partial(_normalize, tokenizer.backend_tokenizer.normalizer)
    # A word at the beginning of a sentence is the same word: words are looked up without their case, and each
    # translation is written as it mostly is.
    words = [[fold_case(word) for word in sentence] for sentence in sides[0]]
    forms: dict[str, str] = {}
    for form, _ in Counter(form for sentence in sides[1] for form in sentence).most_common():
        forms.setdefault(fold_case(form), form)
    try:
        lexicon = learn_lexicon(words, [[forms[fold_case(form)] for form in sentence] for sentence in sides[1]])
    except ValueError as error:
        raise DataError(f"no dictionary from {source!r} to {target!r}: {error}") from error
    return Dictionary.from_lexicon(lexicon, translations, min_probability, normalize)


def _normalize(normalizer: Normalizer | None, word: str) -> str:
    normal = word if normalizer is None else normalizer.normalize_str(word)
    return fold_case(normal.replace("▁", " ").strip())


def _unit_sum(weights: Mapping[str, float]) -> list[tuple[str, float]]:
    total = sum(weights.values())
    likeliest = sorted(weights.items(), key=lambda entry: -entry[1])
    return [(translation, weight / total) for translation, weight in likeliest]
