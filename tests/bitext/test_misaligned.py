from __future__ import annotations

import numpy as np
import pytest
from datasets import Dataset
from tiny import MINILM, demo_pairs

from hf_optical import OpticalModel, OpticalProcessor
from hf_optical.bitext import rank_by_cost
from hf_optical.bitext.misaligned import _probabilities, pair_costs
from hf_optical.bitext.reading import read_sentences


def test_parts_that_fit_into_memory_give_the_same_costs(tiny_model, tiny_processor, monkeypatch):
    rows = [{"translation": {"en": pair["en"], "xx": pair["sw"]}} for pair in demo_pairs()[:40]]
    readers = (tiny_model, tiny_processor, tiny_model, tiny_processor, "xx")
    # The center of the costs is that of the first sentences.
    monkeypatch.setattr("hf_optical.bitext.reading._SAMPLE", 15)
    whole = pair_costs(Dataset.from_list(rows), *readers)
    sizes = []

    def counted(model, processor, texts, *args, **kwargs):
        sizes.append(len(texts))
        return read_sentences(model, processor, texts, *args, **kwargs)

    monkeypatch.setattr("hf_optical.bitext.misaligned.read_sentences", counted)
    monkeypatch.setattr("hf_optical.bitext.misaligned._AT_A_TIME", 15)
    parts = pair_costs(Dataset.from_list(rows), *readers)
    assert sizes == [15, 15, 15, 15, 10, 10]
    np.testing.assert_allclose(parts.costs, whole.costs, atol=1e-3)


def test_shuffled_pairs_are_ranked_first():
    """English copies with some words replaced, which the base reads by itself; a third of them is shuffled."""
    english = [pair["en"] for pair in demo_pairs()][:150]
    copies = [" ".join(word for i, word in enumerate(text.split()) if i % 4 != 1) for text in english]
    shuffled = set(range(0, 150, 3))
    turned = sorted(shuffled)[1:] + [0]
    others = dict(zip(sorted(shuffled), turned, strict=True))
    rows = [{"translation": {"en": english[others.get(i, i)], "xx": copies[i]}, "index": i} for i in range(150)]
    model, processor = OpticalModel.from_pretrained(MINILM), OpticalProcessor.from_pretrained(MINILM)
    ranked = rank_by_cost(Dataset.from_list(rows), model, processor, model, processor, "xx")
    assert ranked["cost"] == sorted(ranked["cost"], reverse=True)
    found = {row["index"] for row in ranked if row["misaligned"] > 0.5}
    assert len(found & shuffled) > 0.9 * len(shuffled) and len(found - shuffled) < 0.05 * 100
    assert np.mean(ranked["misaligned"]) == pytest.approx(1 / 3, abs=0.05)


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_mixture_finds_the_share_of_unrelated_pairs(share):
    random = np.random.default_rng(0)
    unrelated = random.normal(0.85, 0.05, 2000)
    costs = np.where(random.random(2000) < share, random.normal(0.83, 0.05, 2000), random.normal(0.5, 0.12, 2000))
    probabilities, mostly = _probabilities(costs, unrelated)
    assert probabilities.mean() == pytest.approx(share, abs=0.02) and not mostly


def test_student_that_reads_nothing_refuses_nothing():
    random = np.random.default_rng(0)
    probabilities, mostly = _probabilities(random.normal(0.8, 0.05, 500), random.normal(0.85, 0.05, 500))
    assert not probabilities.any() and not mostly


@pytest.mark.parametrize("copies", [0.02, 0.2])
def test_copies_do_not_make_translations_look_misaligned(copies):
    random = np.random.default_rng(0)
    costs = random.normal(0.8, 0.05, 600)
    costs[: int(copies * 600)] = 0.001
    assert not _probabilities(costs, random.normal(0.85, 0.05, 600))[0].any()
    assert not _probabilities(np.zeros(600), random.normal(0.85, 0.05, 600))[0].any()


def test_mixture_with_few_translations_is_not_believed():
    random = np.random.default_rng(0)
    costs = np.concatenate([random.normal(0.4, 0.02, 30), random.normal(0.8, 0.05, 570)])
    probabilities, mostly = _probabilities(costs, random.normal(0.85, 0.05, 600))
    assert not probabilities.any() and mostly
