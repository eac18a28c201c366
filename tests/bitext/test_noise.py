from __future__ import annotations

import statistics

import pytest
from rapidfuzz.distance import OSA
from tiny import demo_pairs

from hf_optical.bitext import Mistyper
from hf_optical.evaluation import perturb


TEXTS = [pair["sw"] for pair in demo_pairs()][:150]


def test_share_of_errors_is_random_and_at_most_the_strength():
    mistype = Mistyper(0.3, seed=1)
    shares = [OSA.distance(text, mistype(text)) / sum(map(str.isalpha, text)) for text in TEXTS]
    assert 0.11 < statistics.mean(shares) < 0.19 and min(shares) == 0
    # All errors of a text are drawn with its own share.
    assert max(shares) > 2 * statistics.mean(shares)
    assert [mistype(text) for text in TEXTS] == [Mistyper(0.3, seed=1)(text) for text in TEXTS]
    assert [mistype(text) for text in TEXTS] != [Mistyper(0.3, seed=2)(text) for text in TEXTS]
    assert [Mistyper(0.0)(text) for text in TEXTS] == TEXTS


def test_noise_is_not_that_of_the_test():
    kinds = ("typos", "drop_letters", "swap_letters")
    same = [Mistyper(0.2)(text) in {perturb(text, kind, 0.1) for kind in kinds} - {text} for text in TEXTS]
    assert not any(same)


def test_any_text_is_read_and_something_stays():
    for text in ("", "?", "a", "ዓለም አቀፍ", "ẹ̀kọ́", "2024!"):
        for seed in range(20):
            typed = Mistyper(1.0, seed)(text)
            assert bool(typed.strip()) == bool(text.strip())


def test_strength_is_checked():
    with pytest.raises(ValueError, match="strength must be between 0 and 1, got 2"):
        Mistyper(2)
