"""Word alignment: translations of words, learned from sentence pairs."""

from __future__ import annotations

import os
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse
from tokenizers import Tokenizer, models, trainers
from transformers import PreTrainedTokenizerBase

from ..errors import DataError
from ..model.added_words import composing_normalizer
from ..model.words import LONGEST_WORD, Word, find_words
from ..storage.staging import write_text


# Vocabulary size of the unigram model for scripts without spaces.
_PIECES = 8000
# Words or tokens of a sentence that are aligned, and (word, token) cells of all pairs together. A cell takes about 70
# bytes. 50,000 pairs of 20 words and 30 tokens stay below the limit, and thousands of long texts fit into memory.
_LONGEST_SENTENCE, _MOST_CELLS = 512, 5 * 10**7


@dataclass
class Lexicon:
    """
    Translations learned from sentence pairs: `p(target | word)`.

    Attributes:
        words (`list[str]`): normalised words of one language, the most frequent first.
        counts (`list[int]`): number of sentences with each word.
        targets (`list`): words of the other language, or token ids of a tokenizer, one a column.
        probabilities (`scipy.sparse.csr_array` of shape `(words, targets)`): rows that sum to one.
    """

    words: list[str]
    counts: list[int]
    targets: list[Any]
    probabilities: sparse.csr_array

    def __post_init__(self):
        self._rows = {word: row for row, word in enumerate(self.words)}

    def __len__(self) -> int:
        return len(self.words)

    def top(self, word: str, k: int = 5) -> list[tuple[Any, float]]:
        """Return the `k` likeliest targets of a word with their probabilities; none for an unknown word."""
        if word not in self._rows:
            return []
        table = self.probabilities
        start, stop = table.indptr[self._rows[word] : self._rows[word] + 2]
        order = np.argsort(-table.data[start:stop], kind="stable")[:k] + start
        return [(self.targets[table.indices[i]], float(table.data[i])) for i in order]

    def translations(self, k: int = 3, min_probability: float = 0.1) -> dict[str, list[tuple[str, float]]]:
        """Return up to `k` translations of every word, the likeliest first, without those below `min_probability`."""
        if not all(isinstance(target, str) for target in self.targets):
            raise DataError("the lexicon must be learned from words on both sides, not from token ids")
        return {word: [entry for entry in self.top(word, k) if entry[1] >= min_probability] for word in self.words}

    def save_muse(self, file: str | os.PathLike, *, translations: int = 3, min_probability: float = 0.1) -> int:
        """
        Save the lexicon in the format of MUSE (Conneau et al. 2018), and return the number of lines.

        Each line has a word and one of its [`~Lexicon.translations`], the likeliest first.
        """
        entries = self.translations(translations, min_probability)
        lines = [f"{word} {target}\n" for word, targets in entries.items() for target, _ in targets]
        write_text(file, "".join(lines))
        return len(lines)


def word_splitter(tokenizer: PreTrainedTokenizerBase, texts: Iterable[str] = ()) -> Callable[[str], list[str]]:
    """
    Make a function that splits text into words as the tokenizer sees them: normalised, then cut by [`find_words`].

    Scripts without spaces between words are split into the pieces of a unigram model (Kudo 2018) learned from `texts`;
    without texts such a run is one word. Words without a letter, or of more than a hundred characters, are left out.
    """
    normalize = composing_normalizer(tokenizer).normalize_str

    def found(text: str) -> Iterator[Word]:
        words = (word for word in find_words(normalize(text)) if word.has_letter)
        return (word for word in words if not word.spaced or len(word.text) <= LONGEST_WORD)

    runs = [word.text for text in texts for word in found(text) if not word.spaced]
    if not runs:
        return lambda text: [word.text for word in found(text)]
    pieces = Tokenizer(models.Unigram())
    trainer = trainers.UnigramTrainer(vocab_size=_PIECES, show_progress=False, unk_token="<unk>")
    pieces.train_from_iterator(runs, trainer)

    def split_runs(text: str) -> list[str]:
        parts = ([word.text] if word.spaced else pieces.encode(word.text).tokens for word in found(text))
        return [word for part in parts for word in part]

    return split_runs


def learn_lexicon(
    words: Sequence[Sequence[str]],
    targets: Sequence[Sequence[Hashable]],
    *,
    iterations: int = 8,
    min_probability: float = 1e-3,
) -> Lexicon:
    """
    Learn a lexicon by IBM model 1 (Brown et al. 1993) in both directions, which must agree (Liang et al. 2006).

    In one direction every target translates one word of the sentence, or none; in the other, every word one target.
    A word and a target count together with the product of both probabilities. Otherwise a rare word would explain a
    frequent target merely because the two occurred together once. `p(t | w)` of the lexicon is proportional to the
    geometric mean of both directions.

    Time grows with the product of the lengths of both sides. Sentences are cut to 512 items, or to fewer where these
    products would exceed fifty million in total. Entries below `min_probability` are dropped at the end.
    """
    longest = _longest(words, targets)
    vocabulary, counts, word_ids = _index([sentence[:longest] for sentence in words])
    target_vocabulary, _, target_ids = _index([sentence[:longest] for sentence in targets])
    if not vocabulary or not target_vocabulary:
        raise DataError("the sentence pairs have no words to align; check the pairs")
    table = _model_1(word_ids, target_ids, (len(vocabulary), len(target_vocabulary)), iterations)
    table = _unit_rows(table)
    table.data[table.data < min_probability] = 0
    table.eliminate_zeros()
    return Lexicon(vocabulary, counts, target_vocabulary, _unit_rows(table))


def _longest(words: Sequence[Sequence[str]], targets: Sequence[Sequence[Hashable]]) -> int:
    """Find the length to cut sentences to, at least 1, so that all pairs stay within `_MOST_CELLS`."""
    pairs = [(len(sentence), len(other)) for sentence, other in zip(words, targets, strict=True)]
    lengths = np.array(pairs, dtype=np.int64).reshape(-1, 2).T

    def cells(longest: int) -> int:
        return int(np.minimum(lengths, longest).prod(axis=0).sum())

    allowed = range(2, _LONGEST_SENTENCE + 1)
    return 1 + bisect_right(allowed, _MOST_CELLS, key=cells)


def _index(sentences: Sequence[Sequence[Hashable]]) -> tuple[list[Any], list[int], list[np.ndarray]]:
    """Return the items by falling frequency, their sentence counts, and the sentences as item positions."""
    counts = Counter(item for sentence in sentences for item in set(sentence))
    items = sorted(counts, key=lambda item: (-counts[item], item))
    positions = {item: position for position, item in enumerate(items)}
    ids = [np.array([positions[item] for item in sentence], dtype=np.int32) for sentence in sentences]
    return items, [counts[item] for item in items], ids


@dataclass
class _Direction:
    """
    Model 1 from one side to the other.

    Attributes:
        cell_source (`np.ndarray`): source of each cell; a cell is a source and a target that occur together.
        occurrence (`np.ndarray`): occurrence of the target, for every (source, target) of a pair.
        targets (`np.ndarray`): target of each occurrence.
        probability (`np.ndarray`): `p(target | source)` of each cell.
        empty (`np.ndarray`): `p(target | empty source)` of each target.
    """

    cell_source: np.ndarray
    occurrence: np.ndarray
    targets: np.ndarray
    probability: np.ndarray
    empty: np.ndarray

    def posterior(self, cell: np.ndarray) -> np.ndarray:
        """How likely the target translates the source, for every (source, target) of a pair; learns `empty`."""
        share = self.probability[cell]
        empty = self.empty[self.targets]
        total = np.bincount(self.occurrence, share, len(self.targets)) + empty
        share /= total[self.occurrence]
        counts = np.bincount(self.targets, empty / total, len(self.empty))
        self.empty = counts / max(counts.sum(), np.finfo(float).tiny)
        return share

    def maximize(self, counts: np.ndarray) -> None:
        """Set the probabilities to the counts of the cells, with sum one for each source."""
        totals = np.bincount(self.cell_source, counts)[self.cell_source]
        # Both directions may give all the occurrences of a word to the empty one.
        self.probability = counts / np.where(totals > 0, totals, 1.0)


def _model_1(
    words: Sequence[np.ndarray], targets: Sequence[np.ndarray], sizes: tuple[int, int], iterations: int
) -> sparse.csr_array:
    """Estimate the geometric mean of `p(target | word)` and `p(word | target)`, of shape `sizes`."""
    pairs = [(one, other) for one, other in zip(words, targets, strict=True) if len(one) and len(other)]
    if not pairs:
        return sparse.csr_array(sizes)
    # An entry for every (target, word) of a pair.
    starts = np.cumsum([[0, 0]] + [[len(one), len(other)] for one, other in pairs], axis=0, dtype=np.int32)
    keys = [(one.astype(np.int64) * sizes[1] + other[:, None]).ravel() for one, other in pairs]
    cells, cell = np.unique(np.concatenate(keys), return_inverse=True)
    del keys
    cell = cell.astype(np.int32)
    shapes = [(len(other), len(one)) for one, other in pairs]
    occurrences = [
        np.concatenate(
            [
                np.broadcast_to(start[side] + np.arange(shape[1 - side], dtype=np.int32)[index], shape).ravel()
                for start, shape in zip(starts, shapes, strict=False)
            ]
        )
        for side, index in ((0, np.s_[None]), (1, np.s_[:, None]))
    ]
    forth, back = (
        _Direction(cell_source, occurrence, np.concatenate(side), np.ones(len(cells)), np.ones(size))
        for cell_source, occurrence, side, size in (
            (cells // sizes[1], occurrences[1], [other for _, other in pairs], sizes[1]),
            (cells % sizes[1], occurrences[0], [one for one, _ in pairs], sizes[0]),
        )
    )
    for _ in range(iterations):
        agreed = forth.posterior(cell)
        agreed *= back.posterior(cell)
        counts = np.bincount(cell, agreed, len(cells))
        forth.maximize(counts)
        back.maximize(counts)
    mean = np.sqrt(forth.probability * back.probability)
    return sparse.csr_array((mean, (forth.cell_source, back.cell_source)), shape=sizes)


def _unit_rows(table: sparse.csr_array) -> sparse.csr_array:
    sums = np.asarray(table.sum(axis=1)).ravel()
    return sparse.csr_array(sparse.diags_array(1 / np.where(sums > 0, sums, 1.0)) @ table)
