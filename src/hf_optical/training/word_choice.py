"""Whether a base needs the new words of a language."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from datasets import Dataset

from ..bitext.loading import iter_sentences
from ..bitext.reading import ReadSentence, read_sentences
from ..languages.vocabulary import Vocabulary, extend_processor, language_embedding
from ..model import OpticalModel, OpticalProcessor
from ..retrieval import maxsim


logger = logging.getLogger(__name__)

# Name of the candidates in the model while they are compared.
_CANDIDATES = "word_choice"
# With fewer sentence pairs, words occur too rarely for a choice.
_FEWEST = 200
# By how much new words must raise the mean reciprocal rank of the translation, and the rank from which on the base
# reads a language by itself.
_GAIN, _READS = 0.01, 0.5


class WordChoice(NamedTuple):
    """New words, possibly none, and whether the base finds most translations without them."""

    vocabulary: Vocabulary
    base_reads: bool


def choose_words(
    model: OpticalModel,
    processor: OpticalProcessor,
    pairs: Dataset,
    learn: Callable[[Dataset], Vocabulary],
    teacher: OpticalModel,
    teacher_processor: OpticalProcessor,
    language: str,
    teacher_language: str = "en",
    *,
    max_pairs: int = 400,
    batch_size: int = 64,
    show_progress: bool = False,
) -> WordChoice:
    """
    Learn new words, or none if the base reads the language as well in pieces.

    Some pairs are held out, and words are learned from the others. The base reads the held-out sentences with the new
    words and in pieces. If it finds the translations as well in pieces, it knows the language. With fewer than 200
    pairs the words are learned without a comparison.

    Args:
        model ([`OpticalModel`]), processor ([`OpticalProcessor`]): the base. No language pack may be active.
        pairs (`datasets.Dataset`): sentence pairs from [`load_bitext`].
        learn (`Callable`): learns new words from sentence pairs, as [`learn_vocabulary`] does.
        teacher ([`OpticalModel`]), teacher_processor ([`OpticalProcessor`]): read the translations.
        language (`str`), teacher_language (`str`, defaults to `"en"`): keys of the `translation` feature.
        max_pairs (`int`, defaults to 400): maximum number of pairs to hold out; at most half of them are.
        batch_size (`int`, defaults to 64), show_progress (`bool`, defaults to `False`): for encoding.

    Returns:
        [`WordChoice`]: words that are learned from all pairs, and what the base can do without them.
    """
    if len(pairs) < _FEWEST:
        return WordChoice(learn(pairs), base_reads=False)
    held_out = np.linspace(0, len(pairs) - 1, min(max_pairs, len(pairs) // 2)).astype(int).tolist()
    vocabulary = learn(pairs.select(sorted({*range(len(pairs))} - {*held_out})))
    if not vocabulary.tokens:
        return WordChoice(learn(pairs), base_reads=False)
    sentences, english = ([*iter_sentences(pairs.select(held_out), code)] for code in (language, teacher_language))

    def read(model: OpticalModel, processor: OpticalProcessor, texts: list[str]) -> list[ReadSentence]:
        return read_sentences(model, processor, texts, batch_size=batch_size, show_progress=show_progress)

    translations = read(teacher, teacher_processor, english)
    ranks = [_reciprocal_rank(read(model, processor.as_written(), sentences), translations)]
    embedding = language_embedding(model)
    embedding.add(_CANDIDATES, vocabulary)
    embedding.activate(_CANDIDATES)
    try:
        with_words = extend_processor(processor, vocabulary.tokens, vocabulary.rules)
        ranks.append(_reciprocal_rank(read(model, with_words, sentences), translations))
    finally:
        embedding.activate(None)
        embedding.discard(_CANDIDATES)
    logger.info(
        "Mean reciprocal rank of held-out translations in %s: %.3f in pieces, %.3f with new words.", language, *ranks
    )
    if ranks[1] < ranks[0] + _GAIN:
        vocabulary = Vocabulary([], vocabulary.rows[:0], vocabulary.first_id, vocabulary.rules)
    else:
        vocabulary = learn(pairs)
    return WordChoice(vocabulary, base_reads=ranks[0] >= _READS)


def _reciprocal_rank(sentences: list[ReadSentence], translations: list[ReadSentence]) -> float:
    """Mean reciprocal rank of the translations of some sentences, by late interaction."""
    queries, documents = ([sentence.vectors.float() for sentence in side] for side in (sentences, translations))
    scores = maxsim(queries, documents)
    return float((1.0 / (scores >= scores.diagonal()[:, None]).sum(1)).mean())
