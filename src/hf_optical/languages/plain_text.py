"""Rows for words that the translations of a language never showed, from how its plain text uses them."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import regex
import torch
from transformers import PreTrainedTokenizerBase

from ..bitext.plain_text import FEWEST_WORDS
from ..checks import import_optional
from ..model import OpticalModel, OpticalProcessor
from ..model.added_words import composing_normalizer
from ..model.nearest_words import NearestWords, are_one_token
from ..model.words import find_words
from .vocabulary import Vocabulary, word_embedding


logger = logging.getLogger(__name__)

_SENTENCE_END = regex.compile(r"(?<=[.!?])\s+")
# Words with rows, below which the two spaces cannot be mapped; every fifth of them is held out.
_FEWEST_ANCHORS, _EVERY, _FEWEST_HELD_OUT = 500, 5, 10
_LONGEST = 32
# Skip-gram vectors with subwords (Bojanowski et al. 2017).
_VECTORS = {"vector_size": 100, "window": 5, "sg": 1, "epochs": 8, "min_n": 3, "max_n": 6, "bucket": 200_000}


def words_without_row(processor: OpticalProcessor, texts: Iterable[str]) -> list[str]:
    """
    List the words of texts that a processor reads in pieces or as another word, since it has no row for them.

    Args:
        processor ([`OpticalProcessor`]): with the new words of a language, from [`extend_processor`].
        texts (iterable of `str`): such as the questions of a test set.

    Returns:
        `list[str]`: each word once, as the tokenizer normalises it, in the order of the texts.
    """
    normalize = composing_normalizer(processor.tokenizer).normalize_str
    found = dict.fromkeys(word.text for text in texts for word in find_words(normalize(text)) if word.has_letter)
    whole = are_one_token([*found], processor.tokenizer)
    return [word for word, one in zip(found, whole, strict=True) if not one]


def learn_from_text(
    model: OpticalModel,
    processor: OpticalProcessor,
    vocabulary: Vocabulary,
    texts: Iterable[str],
    shown: Iterable[str] = (),
    *,
    max_words: int = 8000,
    min_count: int = 5,
    seed: int = 0,
) -> Vocabulary:
    """
    Add words of plain text to new words, with rows that follow from their neighbours in the text.

    Skip-gram vectors with subwords (fastText) are mapped onto the rows by orthogonal Procrustes over the words that
    have a row (Smith et al. 2017, arXiv 1702.03859). Words that are held out from the mapping decide which words get a
    row: those whose mapped vector is as close to a known row as it must be for held-out words to come closer to their
    own row than what is read in their place. That is a known word of similar spelling ([`NearestWords`]), or else the
    word's pieces; the two are decided on separately. Words that are mostly written with a capital get no row, as they
    are likely names.

    Args:
        model ([`OpticalModel`]), processor ([`OpticalProcessor`]): the base.
        vocabulary ([`Vocabulary`]): the new words that pairs and dictionaries taught, from [`learn_vocabulary`].
        texts (iterable of `str`): plain text of the language, from [`read_plain_text`].
        shown (iterable of `str`): Words that get no row, since the pairs show them without need for one.
        max_words (`int`, defaults to 8000): maximum number of words in all.
        min_count (`int`, defaults to 5): minimum number of occurrences of a word.
        seed (`int`, defaults to 0): of the skip-gram vectors.

    Returns:
        [`Vocabulary`]: with the same words first; the same if the text is too short, or its words are not understood.

    Raises:
        ImportError: gensim is not installed.
    """
    sentences, counts, names = _read(texts, processor)
    room = max_words - len(vocabulary.tokens)
    if counts.total() < FEWEST_WORDS or room <= 0:
        return vocabulary
    tokenizer = processor.tokenizer
    known = {*vocabulary.tokens, *shown, *tokenizer.get_vocab()}
    new = [
        word
        for word, count in counts.most_common()
        if count >= min_count and word not in known and names[word] < count / 2
    ]
    new = [word for word, one in zip(new, are_one_token(new, tokenizer), strict=True) if not one]
    places = [place for place, word in enumerate(vocabulary.tokens) if counts[word] >= min_count]
    if not new or len(places) < _FEWEST_ANCHORS:
        return vocabulary
    fast_text = import_optional("gensim.models", "plain-text").FastText
    vectors = fast_text(sentences, min_count=min_count, workers=1, seed=seed, **_VECTORS).wv
    anchors, rows = [vocabulary.tokens[place] for place in places], vocabulary.rows[places].float().numpy()
    thresholds = _thresholds(anchors, vectors[anchors], rows, model, tokenizer)
    mapped, closeness = _Map(vectors[anchors], rows)(vectors[new])
    by_spelling = NearestWords(vocabulary.tokens, tokenizer)
    similar = np.array([by_spelling.nearest(word) is not None for word in new])
    kept = np.flatnonzero(closeness >= np.where(similar, *reversed(thresholds)))[:room]
    logger.info(
        "Of %d frequent words of the plain text without a row, %d get one from their neighbours, such as %s.",
        len(new),
        len(kept),
        ", ".join(new[place] for place in kept[:5]) or "none",
    )
    added = torch.from_numpy(mapped[kept]).to(vocabulary.rows)
    tokens = [*vocabulary.tokens, *(new[place] for place in kept)]
    return replace(vocabulary, tokens=tokens, rows=torch.cat([vocabulary.rows, added]))


class _Map:
    """Orthogonal Procrustes from vectors `(words, size)` to rows `(words, hidden)`, centred and of unit length."""

    def __init__(self, vectors: np.ndarray, rows: np.ndarray):
        self._from, self._to = vectors.mean(0), rows.mean(0)
        self.rows = _unit(rows - self._to)
        self._length = float(np.median(np.linalg.norm(rows - self._to, axis=1)))
        left, _, right = np.linalg.svd(_unit(vectors - self._from).T @ self.rows, full_matrices=False)
        self._turn = left @ right

    def centred(self, rows: np.ndarray) -> np.ndarray:
        """Unit vectors of rows from their mean, `(words, hidden)`."""
        return _unit(rows - self._to)

    def directions(self, vectors: np.ndarray) -> np.ndarray:
        """Unit vectors `(words, hidden)` from the mean of the rows."""
        return _unit(_unit(vectors - self._from) @ self._turn)

    def __call__(self, vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Rows, `(words, hidden)`, and the cosine of each with the closest known row, `(words,)`."""
        directions = self.directions(vectors)
        return self._to + self._length * directions, (directions @ self.rows.T).max(1)


def _thresholds(
    words: list[str], vectors: np.ndarray, rows: np.ndarray, model: OpticalModel, tokenizer: PreTrainedTokenizerBase
) -> tuple[float, float]:
    """The closeness from which on rows help words without a known word of similar spelling, and those with one."""
    held_out = np.arange(len(words)) % _EVERY == 0
    mapping = _Map(vectors[~held_out], rows[~held_out])
    directions, (_, closeness) = mapping.directions(vectors[held_out]), mapping(vectors[held_out])
    others = {word: row for word, row, out in zip(words, rows, held_out, strict=True) if not out}
    by_spelling, weight = NearestWords([*others], tokenizer), word_embedding(model).weight.detach()
    similar, readings = [], []
    for word in (word for word, out in zip(words, held_out, strict=True) if out):
        nearest = by_spelling.nearest(word)
        similar.append(nearest is not None)
        pieces = tokenizer(word, add_special_tokens=False)["input_ids"]
        readings.append(weight[pieces].float().mean(0).cpu().numpy() if nearest is None else others[nearest])
    own, read = mapping.centred(rows[held_out]), mapping.centred(np.stack(readings))
    gains = ((directions - read) * own).sum(1)
    without, having = (np.flatnonzero(np.array(similar) == kind) for kind in (False, True))
    return _threshold(closeness[without], gains[without]), _threshold(closeness[having], gains[having])


def _threshold(closeness: np.ndarray, gains: np.ndarray) -> float:
    """The closeness from which on the sum of gains is largest; infinite if that may be chance."""
    if len(gains) < _FEWEST_HELD_OUT:
        return np.inf
    order = np.argsort(-closeness)
    last = int(np.cumsum(gains[order]).argmax())
    taken = gains[order[: last + 1]]
    # The largest of many sums, so three standard errors rather than two.
    sure = len(taken) >= _FEWEST_HELD_OUT and taken.mean() > 3 * taken.std() / len(taken) ** 0.5
    return float(closeness[order[last]]) if sure else np.inf


def _read(texts: Iterable[str], processor: OpticalProcessor) -> tuple[list[list[str]], Counter[str], Counter[str]]:
    """Sentences of normalised words, the number of occurrences of each, and in how many it has a capital."""
    normalize = composing_normalizer(processor.tokenizer).normalize_str
    normal: dict[str, str] = {}
    counts: Counter[str] = Counter()
    names: Counter[str] = Counter()
    sentences = []
    for text in texts:
        for sentence in _SENTENCE_END.split(text):
            words = []
            for word in find_words(sentence):
                if word.has_letter and word.spaced and len(word.text) <= _LONGEST:
                    if word.text not in normal:
                        normal[word.text] = normalize(word.text).strip("▁ ")
                    words.append(normal[word.text])
                    names[normal[word.text]] += word.text[0].isupper()
            counts.update(words)
            sentences.append(words)
    return sentences, counts, names


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-9)
