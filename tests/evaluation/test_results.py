from __future__ import annotations

import pytest

from hf_optical.evaluation.results import of_language, over_languages


HAUSA, LAO = {"map": 0.4, "mrr@10": 0.5}, {"map": 0.2, "mrr@10": 0.1}


def test_one_language_has_plain_names():
    plain = {"eval_map": 0.4, "eval_mrr@10": 0.5}
    assert over_languages({"ha": HAUSA}, "eval_", several=False) == plain
    # Of a run of several languages, it has its own names too.
    assert over_languages({"ha": HAUSA}, "eval_", several=True) == {**plain, "eval_ha_map": 0.4, "eval_ha_mrr@10": 0.5}


def test_several_languages_have_means_and_prefixed_names():
    found = over_languages({"ha": HAUSA, "lo": LAO}, "zero_shot_", several=True)
    assert found.pop("zero_shot_map") == pytest.approx(0.3)
    assert found.pop("zero_shot_mrr@10") == pytest.approx(0.3)
    assert found == {
        **{f"zero_shot_ha_{name}": value for name, value in HAUSA.items()},
        **{f"zero_shot_lo_{name}": value for name, value in LAO.items()},
    }


def test_mean_ignores_missing_values():
    each = {"ha": {"gap_closed": None, "loss": 1.0}, "lo": {"gap_closed": 0.5}, "yo": {"p": None}}
    found = over_languages(each, several=True)
    assert (found["gap_closed"], found["loss"], found["p"]) == (0.5, 1.0, None)
    assert found["ha_gap_closed"] is None and found["lo_gap_closed"] == 0.5


def test_of_language_inverts_over_languages():
    together = {"eval_runtime": 3.0}
    for prefix in ("eval_", "zero_shot_", "ceiling_", ""):
        together |= over_languages({"ha": HAUSA, "lo": LAO}, prefix, several=True)
    assert of_language(together, "lo") == {
        prefix + name: value for prefix in ("", "eval_", "zero_shot_", "ceiling_") for name, value in LAO.items()
    }
    assert of_language(together, "yo") == {}
