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
    symmetric: bool = True,
    min_probability: float = 1e-3,
) -> Lexicon:
    """
    Learn a lexicon by IBM model 1 (Brown et al. 1993): every target translates one word of the sentence, or none.

    If `symmetric`, the model is learned in both directions, and `p(t | w)` is proportional to the geometric mean of
    the two. Otherwise a rare word would explain a frequent target merely because the two occurred together once. Time
    grows with the product of the lengths of both sides. Sentences are cut to 512 items, or to fewer where these
    products would exceed fifty million in total. Entries below `min_probability` are dropped at the end.
    """
    longest = _longest(words, targets)
    vocabulary, counts, word_ids = _index([sentence[:longest] for sentence in words])
    target_vocabulary, _, target_ids = _index([sentence[:longest] for sentence in targets])
    if not vocabulary or not target_vocabulary:
        raise DataError("the sentence pairs have no words to align; check the pairs")
    sizes = len(vocabulary), len(target_vocabulary)
    table = _model_1(word_ids, target_ids, sizes, iterations)
    if symmetric:
        table = table.multiply(_model_1(target_ids, word_ids, sizes[::-1], iterations).T).sqrt()
    table = _unit_rows(sparse.csr_array(table))
    table.data[table.data < min_probability] = 0
    table.eliminate_zeros()
    return Lexicon(vocabulary, counts, target_vocabulary, _unit_rows(table))


def _longest(words: Sequence[Sequence[str]], targets: Sequence[Sequence[Hashable]]) -> int:
    """Find the length to cut sentences to, at least 1, so that all pairs stay within `_MOST_CELLS`."""
    pairs = [(len(sentence), len(other)) for sentence, other in zip(words, targets, strict=True)]
    lengths = np.array(pairs, dtype=np.int64).reshape(-1, 2).T

    def cells(longest: int) -> int:
        # Each side is aligned with the items of the other side and the empty item, in both directions.
        one, other = np.minimum(lengths, longest)
        return int(max(((one + 1) * other).sum(), (one * (other + 1)).sum()))

    allowed = range(2, _LONGEST_SENTENCE + 1)
    return 1 + bisect_right(allowed, _MOST_CELLS, key=cells)


def _index(sentences: Sequence[Sequence[Hashable]]) -> tuple[list[Any], list[int], list[np.ndarray]]:
    """Return the items by falling frequency, their sentence counts, and the sentences as item positions."""
    counts = Counter(item for sentence in sentences for item in set(sentence))
    items = sorted(counts, key=lambda item: (-counts[item], item))
    positions = {item: position for position, item in enumerate(items)}
    ids = [np.array([positions[item] for item in sentence], dtype=np.int32) for sentence in sentences]
    return items, [counts[item] for item in items], ids


def _model_1(
    sources: Sequence[np.ndarray], targets: Sequence[np.ndarray], sizes: tuple[int, int], iterations: int
) -> sparse.csr_array:
    """Estimate `p(target | source)`, of shape `sizes`, without the row of the empty source."""
    # One entry for every (target occurrence, source or empty source) of a pair; the last source id is the empty one.
    none, columns = sizes
    entry_source, entry_target, entry_occurrence, occurrences = [], [], [], 0
    for source, target in zip(sources, targets, strict=True):
        rows = np.append(source, np.int32(none))
        entry_source.append(np.tile(rows, len(target)))
        entry_target.append(np.repeat(target, len(rows)))
        entry_occurrence.append(
            np.repeat(np.arange(occurrences, occurrences + len(target), dtype=np.int32), len(rows))
        )
        occurrences += len(target)
    keys = np.concatenate(entry_source).astype(np.int64) * columns + np.concatenate(entry_target)
    occurrence = np.concatenate(entry_occurrence)
    del entry_source, entry_target, entry_occurrence
    cells, entry_cell = np.unique(keys, return_inverse=True)
    del keys
    entry_cell = entry_cell.astype(np.int32)
    cell_source = cells // columns
    probability: Any = np.ones(len(cells))
    for _ in range(iterations):
        share = probability[entry_cell]
        share /= np.bincount(occurrence, share, occurrences)[occurrence]
        probability = np.bincount(entry_cell, share, len(cells))
        probability /= np.bincount(cell_source, probability, none + 1)[cell_source]
    kept = cell_source < none
    return sparse.csr_array((probability[kept], (cell_source[kept], cells[kept] % columns)), shape=sizes)


def _unit_rows(table: sparse.csr_array) -> sparse.csr_array:
    sums = np.asarray(table.sum(axis=1)).ravel()
    return sparse.csr_array(sparse.diags_array(1 / np.where(sums > 0, sums, 1.0)) @ table)
