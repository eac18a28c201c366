"""Word alignment from sentence pairs alone: which teacher tokens translate a word of the new language."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import sparse
from tokenizers import pre_tokenizers
from transformers import PreTrainedTokenizerBase


@dataclass
class Lexicon:
    """
    Translations learned from sentence pairs: `p(teacher token | word)`.

    Attributes:
        words (`list[str]`): words of the new language, normalised, the most frequent first.
        counts (`list[int]`): how many sentences hold each word.
        token_ids (`np.ndarray` of shape `(tokens,)`): the teacher tokens that the columns stand for.
        probabilities (`scipy.sparse.csr_array` of shape `(words, tokens)`): rows that sum to one.
    """

    words: list[str]
    counts: list[int]
    token_ids: np.ndarray
    probabilities: sparse.csr_array

    def top(self, word: str, k: int = 5) -> list[tuple[int, float]]:
        """The `k` likeliest teacher token ids of a word, with their probabilities."""
        row = self.probabilities[[self.words.index(word)]]
        order = np.argsort(-row.data, kind="stable")[:k]
        return [(int(self.token_ids[row.indices[i]]), float(row.data[i])) for i in order]


def word_splitter(tokenizer: PreTrainedTokenizerBase) -> Callable[[str], list[str]]:
    """
    How a tokenizer would cut a text into words before it looks them up: its normaliser, then spaces and punctuation.

    A tokenizer without a normaliser keeps the text as it is.
    """
    normalizer = tokenizer.backend_tokenizer.normalizer
    words = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()])

    def split(text: str) -> list[str]:
        normal = text if normalizer is None else normalizer.normalize_str(text)
        found = words.pre_tokenize_str(normal.replace("▁", " "))
        return [word for word, _ in found if any(character.isalpha() for character in word)]

    return split


def learn_lexicon(
    words: Sequence[Sequence[str]],
    tokens: Sequence[Sequence[int]],
    *,
    iterations: int = 8,
    min_probability: float = 1e-3,
) -> Lexicon:
    """
    IBM model 1 (Brown et al. 1993): every teacher token is the translation of one word of the sentence, or of none.

    Linear in sentence pairs: a pass sums over the products of the two sides' lengths.

    Args:
        words (sequence of sequences of `str`): the words of each sentence in the new language.
        tokens (sequence of sequences of `int`): the teacher tokens of its translation.
        iterations (`int`, defaults to 8): passes of expectation maximisation.
        min_probability (`float`, defaults to 1e-3): entries below it are dropped at the end.

    Returns:
        [`Lexicon`]

    Raises:
        ValueError: the two sides differ in number, or hold no pair of a word and a token.
    """
    if len(words) != len(tokens):
        raise ValueError(f"words has {len(words)} sentences and tokens {len(tokens)}; pass pairs")
    counts = Counter(word for sentence in words for word in set(sentence))
    vocabulary = sorted(counts, key=lambda word: (-counts[word], word))
    word_ids = {word: i for i, word in enumerate(vocabulary)}
    token_ids = np.unique(np.concatenate([np.asarray(sentence, dtype=np.int64) for sentence in tokens] or [[]]))
    if not vocabulary or not len(token_ids):
        raise ValueError("no pair of a word and a token is there to learn from; look at the sentence pairs")

    # One entry for every (token occurrence, word or none) of a pair; the last word id stands for none.
    none = len(vocabulary)
    entry_word, entry_token, entry_occurrence, occurrences = [], [], [], 0
    for sentence, translation in zip(words, tokens, strict=True):
        rows = np.array([*(word_ids[word] for word in sentence), none])
        columns = np.searchsorted(token_ids, np.asarray(translation, dtype=np.int64))
        entry_word.append(np.tile(rows, len(columns)))
        entry_token.append(np.repeat(columns, len(rows)))
        entry_occurrence.append(np.repeat(np.arange(occurrences, occurrences + len(columns)), len(rows)))
        occurrences += len(columns)
    entry_word, entry_token = np.concatenate(entry_word), np.concatenate(entry_token)
    entry_occurrence = np.concatenate(entry_occurrence)

    cells, entry_cell = np.unique(entry_word * len(token_ids) + entry_token, return_inverse=True)
    cell_word = cells // len(token_ids)
    probability = np.ones(len(cells))
    for _ in range(iterations):
        share = probability[entry_cell]
        share /= np.bincount(entry_occurrence, share, occurrences)[entry_occurrence]
        probability = np.bincount(entry_cell, share, len(cells))
        probability /= np.bincount(cell_word, probability, none + 1)[cell_word]

    kept = (probability >= min_probability) & (cell_word < none)
    table = sparse.csr_array(
        (probability[kept], (cell_word[kept], cells[kept] % len(token_ids))), shape=(none, len(token_ids))
    )
    table = sparse.csr_array(table.multiply(1 / np.maximum(table.sum(axis=1), 1e-12)[:, None]))
    return Lexicon(vocabulary, [counts[word] for word in vocabulary], token_ids, table)
