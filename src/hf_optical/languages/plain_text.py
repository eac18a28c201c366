"""Rows for words that the translations of a language never showed, from how its plain text uses them."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from ..bitext.plain_text import FEWEST_WORDS
from ..checks import import_optional
from ..model import OpticalModel, OpticalProcessor
from ..model.added_words import composing_normalizer
from ..model.nearest_words import NearestWords, are_one_token
from ..model.texts import split_sentences
from ..model.words import find_words
from .vocabulary import Vocabulary, word_embedding


logger = logging.getLogger(__name__)

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
    have a row (Smith et al. 2017, arXiv 1702.03859). If a known word is spelled similarly ([`NearestWords`]), as other
    forms of the same stem are, the row is in the middle between the mapped vector and that word's.

    Words that are held out from the mapping decide which words get a row: those whose mapped vector is as close to a
    known row as it must be for held-out words to come closer to their own row than what is read in their place, the
    word of similar spelling or else pieces; the two are decided on separately. Words that are mostly written with a
    capital get no row, as they are likely names.

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
    mapping = _Map(vectors[anchors], rows)
    similar = _similar(new, vocabulary.tokens, vocabulary.rows.float().numpy(), tokenizer)
    mapped, closeness = mapping(vectors[new], similar)
    has_similar = np.array([row is not None for row in similar])
    kept = np.flatnonzero(closeness >= np.where(has_similar, *reversed(thresholds)))[:room]
    logger.info(
        "Of %d frequent words of the plain text without a row, %d get one from their neighbours, such as %s.",
        len(new),
        len(kept),
        ", ".join(new[place] for place in kept[:5]) or "none",
    )
    added = torch.from_numpy(mapping.rows_of(mapped[kept])).to(vocabulary.rows)
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

    def __call__(self, vectors: np.ndarray, similar: Sequence[np.ndarray | None]) -> tuple[np.ndarray, np.ndarray]:
        """
        Map vectors, `(words, size)`, each with the row of a word of similar spelling if there is one.

        Returns unit vectors from the mean of the rows, `(words, hidden)`, and how close to a known row the part from
        the text is, a cosine, `(words,)`.
        """
        mapped = _unit(_unit(vectors - self._from) @ self._turn)
        closeness = (mapped @ self.rows.T).max(1)
        places = [place for place, row in enumerate(similar) if row is not None]
        if places:
            mapped[places] += self.centred(np.stack([row for row in similar if row is not None]))
        return _unit(mapped), closeness

    def rows_of(self, directions: np.ndarray) -> np.ndarray:
        """Rows of a usual length in these directions from the mean, `(words, hidden)`."""
        return self._to + self._length * directions


def _similar(
    words: Iterable[str], known: Sequence[str], rows: np.ndarray, tokenizer: PreTrainedTokenizerBase
) -> list[np.ndarray | None]:
    """The row of the known word that is read in place of each word, if any is spelled similarly."""
    nearest, places = NearestWords(known, tokenizer), {word: place for place, word in enumerate(known)}
    found = map(nearest.nearest, words)
    return [None if word is None else rows[places[word]] for word in found]


def _thresholds(
    words: list[str], vectors: np.ndarray, rows: np.ndarray, model: OpticalModel, tokenizer: PreTrainedTokenizerBase
) -> tuple[float, float]:
    """The closeness from which on rows help words without a known word of similar spelling, and those with one."""
    held_out = np.arange(len(words)) % _EVERY == 0
    mapping = _Map(vectors[~held_out], rows[~held_out])
    out, others = (
        [word for word, is_out in zip(words, held_out, strict=True) if is_out == kind] for kind in (True, False)
    )
    similar = _similar(out, others, rows[~held_out], tokenizer)
    weight = word_embedding(model).weight.detach()
    pieces = [
        weight[tokenizer(word, add_special_tokens=False)["input_ids"]].float().mean(0).cpu().numpy() for word in out
    ]
    readings = [piece if row is None else row for row, piece in zip(similar, pieces, strict=True)]
    directions, closeness = mapping(vectors[held_out], similar)
    gains = ((directions - mapping.centred(np.stack(readings))) * mapping.centred(rows[held_out])).sum(1)
    has_similar = np.array([row is not None for row in similar])
    without, having = np.flatnonzero(~has_similar), np.flatnonzero(has_similar)
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
        for sentence in split_sentences(text):
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
