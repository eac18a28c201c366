"""Whether a language needs new words, and which of them the base reads better in pieces."""

from __future__ import annotations

import copy
import logging
from collections import Counter, defaultdict
from collections.abc import Callable

import numpy as np
from datasets import Dataset
from torch import Tensor

from ..bitext.frequency import count_known
from ..bitext.loading import iter_sentences
from ..bitext.reading import ReadSentence, fitted_loss, other_rows, read_sentences, token_costs_of
from ..languages.vocabulary import Vocabulary, extend_processor, language_embedding
from ..model import OpticalModel, OpticalProcessor
from ..model.mapping import token_spans
from ..retrieval import maxsim


logger = logging.getLogger(__name__)

# Name of the candidates in the model while they are compared.
_CANDIDATES = "word_choice"
# With fewer sentence pairs, words occur too rarely for a choice.
_FEWEST = 200
# By how much new words must raise the mean reciprocal rank of the translation.
_GAIN = 0.01


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
) -> Vocabulary:
    """
    Learn new words, and leave out those that the base reads better in pieces.

    Some pairs are held out, and the words are learned from the others. The base reads the held-out sentences with the
    new words and in pieces. If it finds the translations as well in pieces, it knows the language, and no word is
    chosen. Otherwise a word is chosen if its row tells the translation from an unrelated sentence better than its
    pieces do: by the difference of the two transported costs, on average over its occurrences. Words that the
    held-out sentences lack are decided as most words of their frequency are. With fewer than 200 pairs all words are
    chosen.

    Args:
        model ([`OpticalModel`]), processor ([`OpticalProcessor`]): the base. No language pack may be active.
        pairs (`datasets.Dataset`): sentence pairs from [`load_bitext`].
        learn (`Callable`): learns new words from sentence pairs, as [`learn_vocabulary`] does.
        teacher ([`OpticalModel`]), teacher_processor ([`OpticalProcessor`]): read the translations.
        language (`str`), teacher_language (`str`, defaults to `"en"`): keys of the `translation` feature.
        max_pairs (`int`, defaults to 400): maximum number of pairs to hold out; at most half of them are.
        batch_size (`int`, defaults to 64), show_progress (`bool`, defaults to `False`): for encoding.

    Returns:
        [`Vocabulary`]: the chosen words, with rows that are learned from all pairs; possibly none.
    """
    vocabulary = learn(pairs)
    held_out = np.linspace(0, len(pairs) - 1, min(max_pairs, len(pairs) // 2)).astype(int).tolist()
    if not vocabulary.tokens or len(pairs) < _FEWEST:
        return vocabulary
    others = pairs.select(sorted({*range(len(pairs))} - {*held_out}))
    candidates = learn(others)
    better: dict[str, list[float]] | None = {}
    if candidates.tokens:
        readers = (model, processor, teacher, teacher_processor)
        texts = (pairs.select(held_out), language, teacher_language)
        better = _compare(*readers, candidates, *texts, batch_size, show_progress)
    if better is None:
        return Vocabulary([], vocabulary.rows[:0], vocabulary.first_id, vocabulary.rules)
    counts = [count_known(processor, iter_sentences(each, language)) for each in (others, pairs)]
    chosen = _better(vocabulary.tokens, better, *counts)
    tokens = [vocabulary.tokens[word] for word in chosen]
    return Vocabulary(tokens, vocabulary.rows[chosen], vocabulary.first_id, vocabulary.rules)


def _compare(
    model: OpticalModel,
    processor: OpticalProcessor,
    teacher: OpticalModel,
    teacher_processor: OpticalProcessor,
    vocabulary: Vocabulary,
    pairs: Dataset,
    language: str,
    teacher_language: str,
    batch_size: int,
    show_progress: bool,
) -> dict[str, list[float]] | None:
    """
    Word -> by how much its row tells the translation from another sentence better, at each occurrence.

    `None` if the words do not help to find the translations.
    """
    new, english = ([*iter_sentences(pairs, code)] for code in (language, teacher_language))
    # Similar words would shift the characters.
    pieces, words = copy.copy(processor), extend_processor(processor, vocabulary.tokens, vocabulary.rules)
    pieces.nearest_words = words.nearest_words = None

    def read(model: OpticalModel, processor: OpticalProcessor, texts: list[str]) -> list[ReadSentence]:
        return read_sentences(model, processor, texts, batch_size=batch_size, show_progress=show_progress)

    translations = read(teacher, teacher_processor, english)
    in_pieces = read(model, pieces, new)
    embedding = language_embedding(model)
    embedding.add(_CANDIDATES, vocabulary)
    embedding.activate(_CANDIDATES)
    try:
        in_words = read(model, words, new)
    finally:
        embedding.activate(None)
        embedding.discard(_CANDIDATES)

    ranks = [_reciprocal_rank(side, translations) for side in (in_pieces, in_words)]
    logger.info(
        "Mean reciprocal rank of held-out translations in %s: %.3f in pieces, %.3f with new words.", language, *ranks
    )
    if ranks[1] < ranks[0] + _GAIN:
        return None
    loss = fitted_loss(translations)
    unrelated = [translations[row] for row in other_rows(translations)]
    contrasts = []
    for side in (in_pieces, in_words):
        apart, close = (token_costs_of(loss, side, others) for others in (unrelated, translations))
        contrasts.append([far - near for far, near in zip(apart, close, strict=True)])
    spans = [token_spans(each, new, "query") for each in (pieces, words)]
    first = embedding.num_embeddings if vocabulary.first_id is None else vocabulary.first_id
    better: dict[str, list[float]] = defaultdict(list)
    for row, (old, now) in enumerate(zip(in_pieces, in_words, strict=True)):
        old_spans, now_spans = _spans(old, spans[0][row]), _spans(now, spans[1][row])
        for token in (now.ids >= first).nonzero()[:, 0].tolist():
            start, stop = now_spans[token].tolist()
            inside = (old_spans[:, 0] < stop) & (old_spans[:, 1] > start)
            if inside.any():
                weights = old.weights[inside] / old.weights[inside].sum()
                in_pieces_there = float((contrasts[0][row][inside] * weights).sum())
                word = vocabulary.tokens[int(now.ids[token]) - first]
                better[word].append(float(contrasts[1][row][token]) - in_pieces_there)
    return better


def _reciprocal_rank(sentences: list[ReadSentence], translations: list[ReadSentence]) -> float:
    """Mean reciprocal rank of the translations of some sentences, by late interaction."""
    queries, documents = ([sentence.vectors.float() for sentence in side] for side in (sentences, translations))
    scores = maxsim(queries, documents)
    return float((1.0 / (scores >= scores.diagonal()[:, None]).sum(1)).mean())


def _spans(sentence: ReadSentence, spans: Tensor) -> Tensor:
    """Start and stop of the characters of a sentence's tokens, shape `(tokens, 2)`."""
    return spans[sentence.positions.clamp_max(len(spans) - 1)]


def _better(
    words: list[str], better: dict[str, list[float]], held_in: dict[str, int], counts: dict[str, int]
) -> list[int]:
    """The positions of the words whose row is better on average, or is for most words of their frequency."""
    means = {word: sum(own) / len(own) for word, own in better.items()}
    votes: Counter[int] = Counter()
    for word, mean in means.items():
        votes[_frequency(held_in, word)] += 1 if mean > 0 else -1
    return [
        position
        for position, word in enumerate(words)
        if (means[word] > 0 if word in means else votes[_frequency(counts, word)] >= 0)
    ]


def _frequency(counts: dict[str, int], word: str) -> int:
    """The class of a word's frequency: 2 and 3 are in one, 4 to 7 in the next, and so on; 64 and more in the last."""
    return min(counts.get(word, 0).bit_length(), 7)
