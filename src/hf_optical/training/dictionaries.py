"""Dictionaries of a run: read those of every language, and switch words of the teacher's texts by them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import pyarrow.compute as pc
from datasets import Dataset, Features, concatenate_datasets
from transformers import PreTrainedTokenizerBase

from ..bitext.dictionaries import Dictionary, learn_dictionary
from ..bitext.entries import Entries, mark_switched, read_entries, switch_texts, switching_dictionary, without_switched
from ..errors import DataError
from ..model import OpticalProcessor
from ..model.texts import as_texts, split_sentences
from .config import OTDistillationConfig
from .data import hold_out
from .distributed import from_main_process


logger = logging.getLogger(__name__)

# Lengths of sentences that are switched, in characters.
_LENGTHS = range(30, 400)
# Of more texts than these for each sentence, a part is looked at.
_TEXTS_A_SENTENCE = 10


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


def english_sentences(texts: Sequence[str] | None, most: int) -> list[str]:
    """Cut English texts into sentences of 30 to 399 characters, and take some at even distances if there are more."""
    if not (texts and most):
        return []
    texts = as_texts(texts, "english_texts")
    # Cutting all documents of a large index would take minutes.
    texts = texts[:: max(1, len(texts) // (_TEXTS_A_SENTENCE * most))]
    parts = (part for text in texts for part in split_sentences(text))
    found = [*dict.fromkeys(part for part in parts if len(part) in _LENGTHS)]
    if not found:
        logger.warning(
            "None of the %d English texts has a sentence of %d to %d characters; pass others, such as --english_file.",
            *(len(texts), _LENGTHS[0], _LENGTHS[-1]),
        )
    if len(found) > most:
        found = [found[i] for i in np.linspace(0, len(found) - 1, most).astype(np.int64)]
    return found


def add_switched(
    args: OTDistillationConfig,
    pairs: dict[str, Dataset],
    entries: dict[str, Entries],
    sentences: list[str],
    tokenizer: PreTrainedTokenizerBase,
) -> dict[str, Dataset]:
    """
    Add sentences of the teacher's language with words switched to the sentence pairs.

    The words are those that word alignment learns from the pairs, and for others the entries of dictionaries.
    """
    joined = {}
    for language, own in pairs.items():
        joined[language] = own = mark_switched(own)
        # One process decides how many sentences there are, for all.
        known = entries.get(language, [])
        rows = from_main_process(partial(_switch, args, language, own, known, sentences, tokenizer))
        if rows:
            joined[language] = concatenate_datasets([own, Dataset.from_list(rows).cast(_features(own, rows))])
            logger.info("%d English sentences with words of %s switched in join the pairs.", len(rows), language)
    return joined


def _switch(
    args: OTDistillationConfig,
    language: str,
    pairs: Dataset,
    entries: Entries,
    sentences: list[str],
    tokenizer: PreTrainedTokenizerBase,
) -> list[dict[str, Any]]:
    codes = language, args.teacher_language
    first = pc.max(pairs.data["index"]).as_py() + 1
    try:
        dictionary = _learn(pairs, entries, tokenizer, *codes)
        made = switch_texts(sentences, dictionary, *codes, probability=args.switch_probability, seed=args.seed)
    except DataError as error:
        logger.warning("No English sentence joins the pairs of %s: %s.", language, error)
        return []
    return [{**row, "index": first + row["index"]} for row in made.to_list()]


def _learn(pairs: Dataset, entries: Entries, tokenizer: PreTrainedTokenizerBase, *codes: str) -> Dictionary:
    """The translations learned from sentence pairs, and for other words those of the entries."""
    try:
        learned = learn_dictionary(without_switched(pairs), tokenizer, *codes)
    except DataError:
        if not entries:
            raise
        return switching_dictionary(entries)  # too few pairs to learn a word from
    others = [(word, english) for word, english in entries if english not in learned]
    return Dictionary({**(switching_dictionary(others) if others else {}), **learned}, learned.normalize)


def _features(pairs: Dataset, rows: list[dict[str, Any]]) -> Features:
    """The types of the pairs, for rows that lack columns of the caller."""
    return Features({name: pairs.features[name] for name in rows[0]})


def make_pairs(
    args: OTDistillationConfig, entries: dict[str, Entries], sentences: list[str]
) -> tuple[dict[str, Dataset], dict[str, Dataset]]:
    """
    Make the sentence pairs of a run without any: sentences with words switched, to train and to hold out.

    Without sentences, the pairs are the entries themselves, which are not trained on: a word alone says nothing about
    its context, and training on words made retrieval worse.
    """
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
