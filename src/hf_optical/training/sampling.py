"""Samplers of sentence pairs, by language and by length. Their order depends only on the seed and the epoch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import islice
from random import Random

import torch
from datasets import Dataset
from torch.utils.data import Sampler
from transformers.trainer_pt_utils import get_length_grouped_indices

from ..bitext.entries import mark_switched


def join_languages(pairs: dict[str, Dataset]) -> Dataset:
    """
    Concatenate the sentence pairs of all languages, in the columns that all have and a column `language`.

    Where some have a column `switched`, the others hold no switched sentence.
    """
    if any("switched" in own.column_names for own in pairs.values()):
        pairs = {language: mark_switched(own) for language, own in pairs.items()}
    first, *others = pairs.values()
    columns = [name for name in first.column_names if all(name in other.column_names for other in others)]
    joined = {name: [value for dataset in pairs.values() for value in dataset[name]] for name in columns}
    joined["language"] = [language for language, dataset in pairs.items() for _ in range(len(dataset))]
    return Dataset.from_dict(joined)


class _EpochSampler(Sampler[int]):
    """Row numbers in an order that depends only on the seed and the epoch."""

    def __init__(self, block_size: int, seed: int):
        self.block_size = block_size
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def _by_length(self, lengths: Sequence[int]) -> list[int]:
        """Shuffle positions in `lengths` so that each block holds similar lengths."""
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        return get_length_grouped_indices(lengths, self.block_size, generator=generator)


class LengthSampler(_EpochSampler):
    """
    Row numbers of a dataset in blocks of similar length.

    Unlike `LengthGroupedSampler` of transformers, it does not draw from the global random state, which differs between
    processes and in a resumed run.
    """

    def __init__(self, lengths: Sequence[int], block_size: int, *, seed: int = 0):
        super().__init__(block_size, seed)
        self.lengths = lengths

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        return iter(self._by_length(self.lengths))


class LanguageSampler(_EpochSampler):
    """
    Row numbers of a dataset of several languages, in blocks of one language each.

    A language with `n` pairs gets a share of the blocks in proportion to `n ** (1 / temperature)` (arXiv 1907.05019;
    mT5, arXiv 2010.11934, and XLM-R, arXiv 1911.02116, write the exponent as alpha), rounded and at least one block.
    An epoch has about as many pairs as the dataset. A language passes through its pairs repeatedly, each time in a new
    order, and an epoch starts where the last one stopped: no pair is repeated before all others were seen.

    The order depends only on the seed and the epoch, and within a language not on the other languages.
    """

    def __init__(
        self,
        languages: Sequence[str],
        block_size: int,
        *,
        temperature: float = 1.0,
        lengths: Sequence[int] | None = None,
        seed: int = 0,
    ):
        super().__init__(block_size, seed)
        self.rows: dict[str, list[int]] = {}
        for row, language in enumerate(languages):
            self.rows.setdefault(language, []).append(row)
        sizes = {language: len(rows) ** (1 / temperature) for language, rows in self.rows.items()}
        total = math.ceil(len(languages) / block_size)
        self.blocks = {language: max(1, round(total * size / sum(sizes.values()))) for language, size in sizes.items()}
        self.lengths = lengths

    def __len__(self) -> int:
        return sum(self.blocks.values()) * self.block_size

    def __iter__(self) -> Iterator[int]:
        turns = [language for language, count in self.blocks.items() for _ in range(count)]
        Random(f"{self.seed} {self.epoch}").shuffle(turns)
        rows = {language: iter(self._epoch_rows(language)) for language in self.rows}
        for language in turns:
            yield from islice(rows[language], self.block_size)

    def _epoch_rows(self, language: str) -> list[int]:
        """Return this epoch's rows of a language, a slice of its endless sequence of shuffled passes."""
        rows = self.rows[language]
        count = self.blocks[language] * self.block_size
        first_pass, start = divmod(self.epoch * count, len(rows))
        passes = math.ceil((start + count) / len(rows))
        drawn: list[int] = []
        for number in range(first_pass, first_pass + passes):
            drawn += Random(f"{self.seed} {language} {number}").sample(rows, len(rows))
        drawn = drawn[start : start + count]
        if self.lengths is None:
            return drawn
        return [drawn[i] for i in self._by_length([self.lengths[row] for row in drawn])]
