"""Plain text of the languages of a run: check it, and log what it changes for the questions."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from itertools import islice

from datasets import Dataset

from ..bitext.entries import Entries
from ..bitext.frequency import count_known
from ..bitext.loading import iter_sentences
from ..bitext.plain_text import check_language
from ..evaluation import RetrievalEvaluator
from ..languages.plain_text import words_without_row
from ..model import OpticalProcessor
from ..model.texts import as_texts
from .config import OTDistillationConfig


logger = logging.getLogger(__name__)

# Sentence pairs whose words are compared with those of the text, and words that are listed in the log.
_COMPARED, _LISTED = 20_000, 10


def check_texts(
    args: OTDistillationConfig,
    texts: Mapping[str, Sequence[str]],
    pairs: Mapping[str, Dataset],
    entries: Mapping[str, Entries],
    processor: OpticalProcessor,
) -> dict[str, int]:
    """
    Check that the plain text of each language is in that language, by the words of its pairs and dictionaries.

    Returns:
        `dict[str, int]`: language -> number of running words.

    Raises:
        DataError: see [`check_language`].
        ValueError: no words are to be added, or nothing tells what words mean.
    """
    if texts and not args.new_words:
        raise ValueError("plain text in the language teaches words only, but new_words=0 adds none; leave it out")
    found = {}
    for language, given in texts.items():
        own = as_texts(given, "monolingual_texts")
        if language not in pairs and not entries.get(language):
            raise ValueError(
                f"monolingual_texts in {language!r} must come with sentence pairs or a dictionary, since plain text "
                "alone tells no word's meaning; pass a train_dataset or a dictionary"
            )
        known = []
        for side, code in enumerate((language, args.teacher_language)):
            words = count_known(processor, (entry[side] for entry in entries.get(language, ())))
            if language in pairs:
                words |= count_known(processor, islice(iter_sentences(pairs[language], code), _COMPARED))
            known.append(words)
        counts = count_known(processor, own)
        check_language(counts, known[0], known[1], language, args.teacher_language)
        found[language] = sum(counts.values())
    return found


def log_unknown_words(
    evaluator: RetrievalEvaluator, language: str, before: OpticalProcessor, after: OpticalProcessor
) -> None:
    """Log how many words of the questions have no row before the new words are added, and after."""
    questions = [query.text for query in evaluator.dataset.queries.values()]
    missing = [words_without_row(processor, questions) for processor in (before, after)]
    logger.info(
        "Words of the %s questions without a row: %d in the base, %d with the new words, such as %s.",
        language,
        *map(len, missing),
        ", ".join(missing[1][:_LISTED]) or "none",
    )
