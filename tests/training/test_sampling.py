from __future__ import annotations

from collections import Counter

import pytest
import torch
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_optical.training.sampling import LanguageSampler, LengthSampler, join_languages


def blocks(sampler: LanguageSampler) -> list[list[int]]:
    rows = list(sampler)
    return [rows[start : start + sampler.block_size] for start in range(0, len(rows), sampler.block_size)]


def column(sizes: dict[str, int]) -> list[str]:
    return [language for language, size in sizes.items() for _ in range(size)]


@settings(max_examples=30)
@given(
    sizes=st.dictionaries(st.sampled_from(["ha", "ig", "lo", "yo"]), st.integers(1, 60), min_size=1),
    block_size=st.integers(1, 9),
    temperature=st.floats(0.5, 100),
    seed=st.integers(0, 5),
    by_length=st.booleans(),
)
def test_blocks_have_one_language_and_pairs_are_drawn_equally_often(sizes, block_size, temperature, seed, by_length):
    languages = column(sizes)
    lengths = [7 * row % 31 for row in range(len(languages))] if by_length else None
    sampler = LanguageSampler(languages, block_size, temperature=temperature, seed=seed, lengths=lengths)
    seen, order = Counter(), []
    for epoch in range(4):
        sampler.set_epoch(epoch)
        found = blocks(sampler)
        assert sum(map(len, found)) == len(sampler) == len(found) * block_size
        assert all(len({languages[row] for row in block}) == 1 for block in found)
        assert Counter(languages[block[0]] for block in found) == sampler.blocks
        seen.update(row for block in found for row in block)
        order.append(found)
    for language in sizes:
        counts = [seen[row] for row, other in enumerate(languages) if other == language]
        assert max(counts) - min(counts) <= 1
    # An epoch does not depend on the epochs before it, as after resuming.
    again = LanguageSampler(languages, block_size, temperature=temperature, seed=seed, lengths=lengths)
    for epoch in (2, 0):
        again.set_epoch(epoch)
        assert blocks(again) == order[epoch]


@pytest.mark.parametrize("temperature", [1.0, 5.0, float("inf")])
def test_temperature_sets_the_share_of_each_language(temperature):
    sizes = {"ha": 6400, "ig": 1600, "yo": 100}
    sampler = LanguageSampler(column(sizes), 10, temperature=temperature)
    powers = {language: size ** (1 / temperature) for language, size in sizes.items()}
    for language, power in powers.items():
        assert sampler.blocks[language] == pytest.approx(810 * power / sum(powers.values()), abs=0.5)
    assert len(sampler) == pytest.approx(8100, abs=20)
    if temperature == 1.0:
        assert sorted(sampler) == list(range(8100))


def test_small_language_gets_one_block_and_repeats():
    sampler = LanguageSampler(column({"ha": 1000, "lo": 3}), 8)
    assert sampler.blocks == {"ha": 126, "lo": 1}
    (block,) = [block for block in blocks(sampler) if block[0] >= 1000]
    assert max(Counter(block).values()) == 3 and set(block) == {1000, 1001, 1002}


def test_order_depends_on_seed_and_epoch_but_not_on_other_languages():
    def order(sizes, seed=0, epoch=0) -> list[int]:
        sampler = LanguageSampler(column(sizes), 4, seed=seed)
        sampler.set_epoch(epoch)
        return [row for row in sampler if row < 16]

    plain = order({"ha": 16})
    assert order({"ha": 16, "yo": 8, "lo": 32}) == plain
    assert plain not in (order({"ha": 16}, seed=1), order({"ha": 16}, epoch=1))


def test_blocks_hold_similar_lengths():
    languages, lengths = column({"ha": 60, "yo": 40}), [(37 * row) % 101 for row in range(100)]

    def spread(given) -> int:
        sampler = LanguageSampler(languages, 5, lengths=given)
        return sum(
            max(lengths[row] for row in block) - min(lengths[row] for row in block) for block in blocks(sampler)
        )

    assert spread(lengths) < 0.5 * spread(None)


def test_length_sampler_does_not_use_the_global_random_state():
    lengths = [(37 * row) % 101 for row in range(100)]

    def order(seed: int, epoch: int) -> list[int]:
        torch.rand(1)
        sampler = LengthSampler(lengths, 10, seed=seed)
        sampler.set_epoch(epoch)
        assert len(sampler) == 100
        return list(sampler)

    first = order(0, 0)
    assert sorted(first) == list(range(100)) and order(0, 0) == first
    assert first not in (order(0, 1), order(1, 0))


def test_joined_rows_have_their_language():
    one = Dataset.from_list([{"translation": {"en": "a", "ha": "b"}, "index": 4, "length": 2, "source": "x"}])
    other = Dataset.from_list([{"translation": {"en": "c", "lo": "d"}, "index": i, "length": 2} for i in (0, 2)])
    joined = join_languages({"ha": one, "lo": other.select([1])})
    assert joined.column_names == ["translation", "index", "length", "language"]
    assert joined["language"][:] == ["ha", "lo"] and joined["index"][:] == [4, 2]
    assert joined[0]["translation"]["ha"] == "b" and joined[1]["translation"]["lo"] == "d"
