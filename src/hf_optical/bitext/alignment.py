"""Word alignment from sentence pairs alone: what translates a word of the new language."""

from __future__ import annotations

import os
import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import sparse
from tokenizers import Tokenizer, models, trainers
from transformers import PreTrainedTokenizerBase

from ..model.nearest_words import LONGEST_WORD, SPLIT, UNSPACED
from ..storage.staging import write_text


# Pieces that a script without spaces is cut into.
_PIECES = 8000
# Words or tokens of a sentence that are aligned: the work grows with the product of a pair's two sides. Of all pairs
# together, each product is of some 70 bytes: what 50,000 pairs of 20 words by 30 tokens take is left as it is, and
# long texts by the thousand do not take all memory.
_LONGEST_SENTENCE, _MOST_CELLS = 512, 5 * 10**7
_RUNS = re.compile(f"({UNSPACED.pattern})")


@dataclass
class Lexicon:
    """
    Translations learned from sentence pairs: `p(target | word)`.

    Attributes:
        words (`list[str]`): words of one language, normalised, the most frequent first.
        counts (`list[int]`): how many sentences hold each word.
        targets (`list`): what the columns stand for: words of the other language, or token ids of a tokenizer.
        probabilities (`scipy.sparse.csr_array` of shape `(words, targets)`): rows that sum to one.
    """

    words: list[str]
    counts: list[int]
    targets: list[Hashable]
    probabilities: sparse.csr_array

    def __post_init__(self):
        self._rows = {word: row for row, word in enumerate(self.words)}

    def __len__(self) -> int:
        return len(self.words)

    def top(self, word: str, k: int = 5) -> list[tuple[Hashable, float]]:
        """The `k` likeliest targets of a word, with their probabilities; none for a word that is not there."""
        if word not in self._rows:
            return []
        table = self.probabilities
        start, stop = table.indptr[self._rows[word] : self._rows[word] + 2]
        order = np.argsort(-table.data[start:stop], kind="stable")[:k] + start
        return [(self.targets[table.indices[i]], float(table.data[i])) for i in order]

    def save_muse(self, file: str | os.PathLike, *, translations: int = 3, min_probability: float = 0.1) -> int:
        """
        Writes the lexicon in the two columns of MUSE (Conneau et al. 2018): a word and a translation a line, several
        lines for a word with several translations, the likeliest first.

        Args:
            file (`str` or `os.PathLike`): where to.
            translations (`int`, defaults to 3): at most so many for a word.
            min_probability (`float`, defaults to 0.1): less likely ones are left out.

        Returns:
            `int`: the number of lines.

        Raises:
            ValueError: the targets are no words.
        """
        if not all(isinstance(target, str) for target in self.targets):
            raise ValueError("the lexicon leads to token ids, and MUSE's format holds words; learn it from words")
        lines = [
            f"{word} {target}\n"
            for word in self.words
            for target, probability in self.top(word, translations)
            if probability >= min_probability
        ]
        write_text(file, "".join(lines))
        return len(lines)


def word_splitter(tokenizer: PreTrainedTokenizerBase, texts: Iterable[str] = ()) -> Callable[[str], list[str]]:
    """
    How a tokenizer would cut a text into words before it looks them up: its normaliser, then spaces and punctuation.

    A tokenizer without a normaliser keeps the text as it is. Scripts without spaces between words are cut into the
    pieces of a unigram model (Kudo 2018) that is learned from `texts`.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): the tokenizer.
        texts (iterable of `str`, *optional*): texts of the language; without them such scripts stay uncut.

    Returns:
        A function: text -> its words, those without any letter or with over a hundred characters left out.
    """
    normalizer = tokenizer.backend_tokenizer.normalizer

    def may_be_word(part: str) -> bool:
        return 0 < len(part) <= LONGEST_WORD or UNSPACED.search(part) is not None

    def split(text: str) -> list[str]:
        normal = text if normalizer is None else normalizer.normalize_str(text)
        found = (word for word, _ in SPLIT.pre_tokenize_str(normal.replace("▁", " ")))
        return [word for word in found if may_be_word(word) and any(character.isalpha() for character in word)]

    runs = [run for text in texts for word in split(text) for run in UNSPACED.findall(word)]
    if not runs:
        return split
    pieces = Tokenizer(models.Unigram())
    trainer = trainers.UnigramTrainer(vocab_size=_PIECES, show_progress=False, unk_token="<unk>")
    pieces.train_from_iterator(runs, trainer)

    def split_runs(text: str) -> list[str]:
        parts = (part for word in split(text) for part in _RUNS.split(word) if may_be_word(part))
        return [piece for part in parts for piece in (pieces.encode(part).tokens if _RUNS.match(part) else [part])]

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
    IBM model 1 (Brown et al. 1993): every target is the translation of one word of the sentence, or of none.

    Learned in both directions and joined, `p(t | w)` in proportion to the geometric mean of the two: a rare word must
    not explain a frequent target merely because it stood beside it once. Linear in sentence pairs: a pass sums over
    the products of the two sides' lengths. Of a sentence the first 512 items are read; fewer, the same number of each,
    where these products would add up to over fifty million.

    Args:
        words (sequence of sequences of `str`): the words of each sentence.
        targets (sequence of sequences): the words, or token ids, of its translation.
        iterations (`int`, defaults to 8): passes of expectation maximisation.
        symmetric (`bool`, defaults to `True`): whether both directions are joined; `False` is plain model 1.
        min_probability (`float`, defaults to 1e-3): entries below it are dropped at the end.

    Returns:
        [`Lexicon`]

    Raises:
        ValueError: the two sides differ in number, or hold no pair of a word and a target.
    """
    if len(words) != len(targets):
        raise ValueError(f"words has {len(words)} sentences and targets {len(targets)}; pass pairs")
    longest = _longest(words, targets)
    words, targets = ([sentence[:longest] for sentence in side] for side in (words, targets))
    vocabulary, counts, word_ids = _index(words)
    target_vocabulary, _, target_ids = _index(targets)
    if not vocabulary or not target_vocabulary:
        raise ValueError("no pair of a word and a token is there to learn from; look at the sentence pairs")
    sizes = len(vocabulary), len(target_vocabulary)
    table = _model_1(word_ids, target_ids, sizes, iterations)
    if symmetric:
        table = table.multiply(_model_1(target_ids, word_ids, sizes[::-1], iterations).T).sqrt()
    table = _unit_rows(sparse.csr_array(table))
    table.data[table.data < min_probability] = 0
    table.eliminate_zeros()
    return Lexicon(vocabulary, counts, target_vocabulary, _unit_rows(table))


def _longest(words: Sequence[Sequence[str]], targets: Sequence[Sequence[Hashable]]) -> int:
    """How many items of a sentence may be read if all pairs are to stay within `_MOST_CELLS`; one at least."""
    lengths = np.array([[len(sentence) for sentence in side] for side in (words, targets)], dtype=np.int64)

    def cells(longest: int) -> int:
        # Either side is aligned with the other and with none.
        one, other = np.minimum(lengths, longest)
        return int(max(((one + 1) * other).sum(), (one * (other + 1)).sum()))

    allowed = range(2, _LONGEST_SENTENCE + 1)
    return 1 + bisect_right(allowed, _MOST_CELLS, key=cells)


def _index(sentences: Sequence[Sequence[Hashable]]) -> tuple[list[Hashable], list[int], list[np.ndarray]]:
    """The items, the most frequent first; in how many sentences each stands; the sentences in positions of items."""
    counts = Counter(item for sentence in sentences for item in set(sentence))
    items = sorted(counts, key=lambda item: (-counts[item], item))
    positions = {item: position for position, item in enumerate(items)}
    ids = [np.array([positions[item] for item in sentence], dtype=np.int32) for sentence in sentences]
    return items, [counts[item] for item in items], ids


def _model_1(
    sources: Sequence[np.ndarray], targets: Sequence[np.ndarray], sizes: tuple[int, int], iterations: int
) -> sparse.csr_array:
    """`p(target | source)` of shape `sizes`; what the empty source takes is left out."""
    # One entry for every (target occurrence, source or none) of a pair; the last source id stands for none.
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
    del entry_source, entry_target
    cells, entry_cell = np.unique(keys, return_inverse=True)
    del keys
    entry_cell = entry_cell.astype(np.int32)
    entry_occurrence = np.concatenate(entry_occurrence)
    cell_source = cells // columns
    probability = np.ones(len(cells))
    for _ in range(iterations):
        share = probability[entry_cell]
        share /= np.bincount(entry_occurrence, share, occurrences)[entry_occurrence]
        probability = np.bincount(entry_cell, share, len(cells))
        probability /= np.bincount(cell_source, probability, none + 1)[cell_source]
    kept = cell_source < none
    return sparse.csr_array((probability[kept], (cell_source[kept], cells[kept] % columns)), shape=sizes)


def _unit_rows(table: sparse.csr_array) -> sparse.csr_array:
    sums = np.asarray(table.sum(axis=1)).ravel()
    return sparse.csr_array(sparse.diags_array(1 / np.where(sums > 0, sums, 1.0)) @ table)
