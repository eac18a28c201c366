"""Plain text of a language, without translations: read it, and see whether it is what it should be."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Collection, Mapping
from pathlib import Path

from ..errors import DataError
from ..storage.data_files import read_lines


logger = logging.getLogger(__name__)

# Tags of HTML and XML, templates and links of wikis, objects of JSON.
_MARKUP = re.compile(r"</?[A-Za-z][^<>]{0,500}>|<!--|\{\{|\[\[|&(?:[a-z]{2,6}|#\d{2,6});|^\s*\{\s*\"")
# Running words of a text, below which its words are too rare to learn from.
FEWEST_WORDS = 20_000
# Share of the running words that the pairs or the dictionary contain: measured between .52 and .86 in texts of the
# same language, between .09 and .40 in those of others.
_ANOTHER, _DOUBTFUL = 0.15, 0.45


def read_plain_text(file: str | os.PathLike) -> list[str]:
    """
    Read a text file of one language, with a sentence, paragraph or article a line. It may be compressed.

    Lines with markup (HTML, wiki markup, JSON) are left out, with a line in the log.

    Raises:
        DataError: the file is missing, not UTF-8 or empty, or has markup in more than half of its lines.
    """
    texts, marked = [], ""
    total = 0
    for place, line in read_lines(Path(file)):
        total += 1
        if found := _MARKUP.search(line):
            marked = marked or f"{place}: {found[0][:50]!r}"
        else:
            texts.append(line.strip())
    if not total:
        raise DataError(f"{file} is empty; write a sentence or paragraph of the language on each line")
    if len(texts) < total / 2:
        raise DataError(
            f"{file} must be plain text, but {total - len(texts)} of {total} lines have markup ({marked}); remove it"
        )
    if marked:
        logger.warning(
            "%d of %d lines of %s are left out, as they have markup (%s).", total - len(texts), total, file, marked
        )
    return texts


def check_language(
    counts: Mapping[str, int], own: Collection[str], english: Collection[str], language: str, teacher_language: str
) -> None:
    """
    Compare the words of a text with those that the sentence pairs or the dictionary have in both languages.

    Args:
        counts (mapping of `str` to `int`): word of the text -> number of its occurrences.
        own (collection of `str`), english (collection of `str`): words of the language, and of the teacher's.
        language (`str`), teacher_language (`str`): language codes, for messages.

    Raises:
        DataError: the text is in the teacher's language, or almost none of its words is known.
    """
    total = sum(counts.values())
    if not total:
        raise DataError(f"the plain text for {language!r} has no words; write sentences of the language, one a line")
    share, theirs = (sum(n for word, n in counts.items() if word in words) / total for words in (own, english))
    if theirs > max(share, _ANOTHER):
        raise DataError(
            f"the plain text for {language!r} must be in that language, but {theirs:.0%} of its words are words of "
            f"{teacher_language!r}, and {share:.0%} words of {language!r}; pass another file"
        )
    if share < _ANOTHER:
        raise DataError(
            f"the plain text for {language!r} must be in that language, but the sentence pairs and dictionaries know "
            f"only {share:.0%} of its words; pass another file"
        )
    if share < _DOUBTFUL:
        logger.warning(
            "Sentence pairs and dictionaries know only %.0f %% of the words in the plain text for %s; check that it "
            "is in that language.",
            100 * share,
            language,
        )
    if total < FEWEST_WORDS:
        logger.warning(
            "The plain text for %s has only %d words, from which no new word can be learned (%d are needed); expect "
            "little from it.",
            language,
            total,
            FEWEST_WORDS,
        )
