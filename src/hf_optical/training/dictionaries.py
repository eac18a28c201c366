"""Dictionaries of a run: read those of every language, and switch words of the teacher's texts by them."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence

import numpy as np
from datasets import Dataset

from ..bitext.entries import Entries, read_entries, switch_texts
from ..model import OpticalProcessor
from ..model.texts import as_texts
from .config import OTDistillationConfig
from .data import hold_out


logger = logging.getLogger(__name__)

# Sentences of the teacher's language that are switched, and the lengths of those, in characters.
_MOST, _LENGTHS = 4000, range(30, 400)
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|(?<=[。！？।])\s*|\n+")


def read_dictionaries(
    args: OTDistillationConfig, pairs: dict[str, Dataset], teacher: OpticalProcessor
) -> dict[str, Entries]:
    """Language -> the entries of its dictionaries; empty if none are given."""
    if args.dictionary is None:
        return {}
    found = {}
    for language, files in args.dictionary_files.items():
        own = found[language] = read_entries(
            files, teacher.tokenizer, pairs.get(language), language, args.teacher_language
        )
        logger.info("The dictionary for %s has %d entries of %d words.", language, len(own), len(dict(own)))
    return found


def english_sentences(texts: Sequence[str] | None) -> list[str]:
    """
    Cut English texts into sentences of 30 to 399 characters, and take at most four thousand at even distances.
    """
    if not texts:
        return []
    parts = (part.strip() for text in as_texts(texts, "english_texts") for part in _SENTENCE_END.split(text))
    found = [*dict.fromkeys(part for part in parts if len(part) in _LENGTHS)]
    if not found:
        logger.warning(
            "None of the %d English texts has a sentence of %d to %d characters; pass others, such as --english_file.",
            *(len(texts), _LENGTHS[0], _LENGTHS[-1]),
        )
    if len(found) > _MOST:
        found = [found[i] for i in np.linspace(0, len(found) - 1, _MOST).astype(np.int64)]
    return found


def make_pairs(
    args: OTDistillationConfig, entries: dict[str, Entries], sentences: list[str]
) -> tuple[dict[str, Dataset], dict[str, Dataset]]:
    """
    Make the sentence pairs of a run without any: sentences with words switched, to train and to hold out.

    Without sentences, the pairs are the entries themselves, which are not trained on: a word alone says nothing about
    its context, and training on words made retrieval worse.
    """
    if not sentences:
        logger.warning(
            "There is no text to train on, so the new words are not trained; pass --english_file, or --eval_dir with "
            "the documents of an index."
        )
    train, held_out = {}, {}
    for language, own in entries.items():
        codes = language, args.teacher_language
        if sentences:
            pairs = switch_texts(sentences, own, *codes, probability=args.switch_probability, seed=args.seed)
            logger.info("%d sentences with words of %s switched in.", len(pairs), language)
        else:
            rows = [{args.teacher_language: english, language: word} for word, english in own]
            lengths = [sum(map(len, row.values())) for row in rows]
            pairs = Dataset.from_dict({"translation": rows, "index": range(len(rows)), "length": lengths})
        train[language], rest = hold_out(pairs, args.sampling_seed)
        if len(rest):
            held_out[language] = rest
    return train, held_out


def without_nearest_words(processor: OpticalProcessor) -> OpticalProcessor:
    """Make a processor that leaves unknown words as they are."""
    return OpticalProcessor(processor.tokenizer, word_rules=processor.word_rules, **processor.roles)
