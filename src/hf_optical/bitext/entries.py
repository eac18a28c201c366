"""Entries of bilingual dictionaries: pairs of a word or phrase in the new language and one in the teacher's."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable, Sequence
from itertools import chain, islice
from typing import Any

from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from ..errors import DataError
from ..model.nearest_words import are_one_token
from ..model.texts import is_blank
from ..model.words import find_words
from .alignment import word_splitter
from .code_switching import CodeSwitcher
from .dictionaries import Dictionary, fold_case, read_columns
from .loading import iter_sentences


logger = logging.getLogger(__name__)

# (word or phrase of the new language, translation).
Entries = list[tuple[str, str]]

# Entries and sentence pairs by which the direction of a file is judged.
_JUDGED = 5000
# By how much more of its words a tokenizer must keep whole to be that of a column.
_CLEARLY = 0.02
# A dictionary with fewer entries is probably the wrong file.
_FEW = 100
_REMARK = re.compile(r"\([^()]*\)|\[[^][]*\]")
# What dictionaries put before English headwords: "to go", "a house".
_BEFORE_HEADWORD = re.compile(r"^(?:to|an?|the)\s+(?=\w)", re.IGNORECASE)


def read_entries(
    files: str | os.PathLike | Iterable[str | os.PathLike],
    tokenizer: PreTrainedTokenizerBase,
    pairs: Dataset | None = None,
    language: str = "",
    teacher_language: str = "en",
) -> Entries:
    """
    Read dictionaries between a new language and the teacher's, in either direction.

    Which column is the teacher's language is found out for each file: by the sentence pairs, if there are any and they
    contain its words, or else by the teacher's tokenizer, which splits more words of a language it was not made for.
    The first column should be the new language; a file in the other direction is turned, with a line in the log.

    Remarks in brackets and the `to`, `a` or `the` before an English headword are dropped. A translation with
    semicolons is several translations.

    Args:
        files (`str`, `os.PathLike` or an iterable of these): as in [`read_muse`].
        tokenizer (`PreTrainedTokenizerBase`): the tokenizer of the teacher.
        pairs (`datasets.Dataset`, *optional*): sentence pairs from [`load_bitext`].
        language (`str`), teacher_language (`str`, defaults to `"en"`): language codes.

    Returns:
        `list[tuple[str, str]]`: words or phrases of the new language with one translation each, without repetitions.

    Raises:
        DataError: a file is missing, not UTF-8 or empty, a line does not have two columns, or both columns are equal.
    """
    entries: dict[tuple[str, str], None] = {}
    for file in [files] if isinstance(files, (str, os.PathLike)) else files:
        columns = list(read_columns(file))
        if not columns:
            raise DataError(f"{file} is empty; write a word and its translation on each line")
        if sum(word == translation for word, translation in columns) > len(columns) / 2:
            raise DataError(
                f"most lines of {file} have the same word twice; the first column must be {language or 'new'!r} "
                f"words, the second their translations in {teacher_language!r}"
            )
        if _is_reversed(columns, tokenizer, pairs, language, teacher_language):
            logger.warning("%s begins with the %s words; its columns are exchanged.", file, teacher_language)
            columns = [(word, translation) for translation, word in columns]
        if len(columns) < _FEW:
            logger.warning("%s has only %d entries; expect little from it.", file, len(columns))
        for word, translation in columns:
            senses = _senses(translation, teacher_language)
            entries |= dict.fromkeys((plain, sense) for plain in [_without_remarks(word)] for sense in senses if plain)
    if not entries:
        raise DataError("the dictionary has no entry with a word on both sides; check its columns")
    return list(entries)


def switching_dictionary(entries: Entries) -> Dictionary:
    """Make the [`Dictionary`] from the teacher's language to the new one, for a [`CodeSwitcher`]."""
    translations: dict[str, list[tuple[str, float]]] = {}
    for word, translation in entries:
        translations.setdefault(translation, []).append((word, 1.0))
    return Dictionary(translations)


def words_of_entries(entries: Entries, tokenizer: PreTrainedTokenizerBase) -> list[list[str]]:
    """
    Split the new language's side of each entry into words, as [`word_splitter`] does.

    Without spaces between words, as in Thai, the whole side is one word.
    """
    split = word_splitter(tokenizer)
    return [split(word) for word, _ in entries]


def switch_texts(
    texts: Iterable[str],
    entries: Entries | Dictionary,
    language: str,
    teacher_language: str = "en",
    *,
    probability: float = 0.5,
    seed: int | str = 0,
) -> Dataset:
    """
    Make sentence pairs of texts of the teacher's language: each with a copy, words of which are switched by `entries`.

    Texts without a word to switch are left out. The column `switched` tells a method that most words of such a
    sentence are those of the teacher's language, so that none is read as a similar word of the new one.

    Args:
        texts (iterable of `str`): texts of the teacher's language, a few sentences at most.
        entries (`list[tuple[str, str]]` or [`Dictionary`]):
            From [`read_entries`], or a dictionary from the teacher's language to the new one.
        language (`str`), teacher_language (`str`, defaults to `"en"`): language codes.
        probability (`float`, defaults to 0.5), seed (`int` or `str`, defaults to 0): as in [`CodeSwitcher`].

    Returns:
        `datasets.Dataset` with the columns of [`load_bitext`] and `switched`.

    Raises:
        DataError: no text contains a word of the dictionary.
    """
    dictionary = entries if isinstance(entries, Dictionary) else switching_dictionary(entries)
    switch = CodeSwitcher(dictionary, probability, seed)
    rows: list[dict[str, Any]] = []
    for text in texts:
        if (switched := switch(text)) != text:
            pair = {teacher_language: text, language: switched}
            row = {"translation": pair, "index": len(rows), "length": len(text) + len(switched)}
            rows.append({**row, "switched": True})
    if not rows:
        raise DataError(f"the {teacher_language!r} texts contain no word of the dictionary; check both")
    return Dataset.from_list(rows)


def mark_switched(pairs: Dataset) -> Dataset:
    """Add the column `switched`, unless it is there: [`switch_texts`] made none of the sentence pairs."""
    return pairs if "switched" in pairs.column_names else pairs.add_column("switched", [False] * len(pairs))


def without_switched(pairs: Dataset) -> Dataset:
    """Leave out the sentence pairs that [`switch_texts`] made."""
    if "switched" not in pairs.column_names:
        return pairs
    return pairs.select([row for row, switched in enumerate(pairs["switched"]) if not switched])


def _without_remarks(text: str) -> str:
    plain = " ".join(_REMARK.sub(" ", text).split()).strip(" .,!?")
    return "" if is_blank(plain) else plain


def _senses(translation: str, teacher_language: str) -> list[str]:
    senses = [_without_remarks(sense) for sense in translation.split(";")]
    if teacher_language == "en":
        senses = [_BEFORE_HEADWORD.sub("", sense, count=1) if " " in sense else sense for sense in senses]
    return [sense for sense in senses if sense]


def _is_reversed(
    columns: Sequence[tuple[str, str]],
    tokenizer: PreTrainedTokenizerBase,
    pairs: Dataset | None,
    language: str,
    teacher_language: str,
) -> bool:
    """Whether the first column is in the teacher's language, and the second in the new one."""
    step = -(-len(columns) // _JUDGED)
    words = [list(_words(side)) for side in zip(*columns[::step], strict=True)]
    if pairs is not None:
        known = [set(_words(islice(iter_sentences(pairs, code), _JUDGED))) for code in (language, teacher_language)]
        (first_new, first_english), (second_new, second_english) = (
            [len(own & side) / max(1, len(own)) for side in known] for own in map(set, words)
        )
        straight, turned = first_new + second_english, second_new + first_english
        if max(straight, turned) > 0.1 and straight != turned:
            return turned > straight
    whole = [sum(are_one_token(own, tokenizer)) / max(1, len(own)) for own in words]
    return whole[0] > whole[1] + _CLEARLY


def _words(texts: Iterable[str]) -> dict[str, None]:
    """The words of texts, in their order."""
    found = chain.from_iterable(map(find_words, texts))
    return dict.fromkeys(fold_case(word.text) for word in found if word.has_letter)
