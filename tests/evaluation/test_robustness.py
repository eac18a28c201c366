from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_optical.evaluation.robustness import (
    area_under_curve,
    robustness_curve,
    robustness_gap,
    robustness_gap_test,
)


VALUES = st.floats(0, 1)
CURVES = st.dictionaries(st.floats(0.01, 1), VALUES, min_size=1, max_size=6)


@settings(max_examples=30)
@given(CURVES, VALUES)
def test_area_agrees_with_a_loop(scores, clean):
    scores = {**scores, 0.0: clean}
    strengths = sorted(scores)
    points = [(strength, scores[strength]) for strength in strengths]
    expected = sum((x1 - x0) * (y0 + y1) / 2 for (x0, y0), (x1, y1) in pairwise(points)) / strengths[-1]
    assert area_under_curve(scores) == pytest.approx(expected)
    assert robustness_curve(scores).area == pytest.approx(expected)


@settings(max_examples=30)
@given(CURVES, st.floats(0.01, 1), st.floats(0.1, 10))
def test_relative_values_are_scale_invariant(scores, clean, factor):
    one = robustness_curve({0: clean, **scores})
    other = robustness_curve({0: clean * factor, **{strength: value * factor for strength, value in scores.items()}})
    assert one.relative_area == pytest.approx(other.relative_area)
    assert one.relative_drop == pytest.approx(other.relative_drop)


def test_robustness_curve():
    found = robustness_curve({0.4: 0.1, 0.0: 0.5, 0.2: 0.4})
    assert list(found.curve.items()) == [(0.0, 0.5), (0.2, 0.4), (0.4, 0.1)]
    assert found.relative_drop == pytest.approx({0.0: 0, 0.2: 0.2, 0.4: 0.8})
    # (0.2 * 0.45 + 0.2 * 0.25) / 0.4
    assert found.area == pytest.approx(0.35)
    assert found.relative_area == pytest.approx(0.7)


def test_relative_values_are_none_when_the_clean_score_is_zero():
    found = robustness_curve({0: 0.0, 0.5: 0.0})
    assert (found.area, found.relative_area, found.relative_drop) == (0, None, None)
    assert robustness_gap({"ha": {0: 0.0, 0.5: 0.0}, "de": {0: 0.5, 0.5: 0.1}}).relative_area is None


def test_robustness_gap():
    scores = {"de": {0: 0.8, 0.5: 0.8}, "fr": {0: 0.6, 0.5: 0.54}, "ha": {0: 0.4, 0.5: 0.2}, "yo": {0: 0.2, 0.5: 0.0}}
    found = robustness_gap(scores, {"high": ["de", "fr"], "low": ["ha", "yo"]})
    areas = {language: own.relative_area for language, own in found.languages.items()}
    assert areas == pytest.approx({"de": 1, "fr": 0.95, "ha": 0.75, "yo": 0.5})
    assert found.relative_area.range == pytest.approx(0.5)
    assert found.relative_area.group_gap == pytest.approx(0.975 - 0.625)
    assert (found.relative_area.worst, found.relative_area.best) == ("yo", "de")


def test_invalid_arguments_raise():
    with pytest.raises(ValueError, match=r"must include strength 0, got \[0.1, 0.5\]"):
        robustness_curve({0.5: 0.1, 0.1: 0.2})
    with pytest.raises(ValueError, match="the number of strengths in scores must be at least 2, got 1"):
        robustness_curve({0: 0.1})
    with pytest.raises(ValueError, match=r"same strengths .* got {'de': \[0, 0.4\], 'ha': \[0, 0.5\]}"):
        robustness_gap({"de": {0: 1, 0.4: 1}, "ha": {0: 1, 0.5: 1}})
    with pytest.raises(ValueError, match="scores must not be empty"):
        robustness_gap({})
    with pytest.raises(ValueError, match=r"group 'low' must name some of the languages \['de'\], got \['yo'\]"):
        robustness_gap({"de": {0: 1, 0.4: 1}}, {"low": ["yo"]})


GROUPS = {"high": ["de", "fr"], "low": ["ha", "yo"]}


def drawn(kept, queries=60, seed=0):
    """Values of each query at strengths 0, 0.1 and 0.3; a language keeps a share of them at the strongest."""
    curves = {}
    for language, share in kept.items():
        generator = np.random.default_rng([seed, *language.encode()])
        clean = generator.uniform(0.2, 1, queries)
        rows = {0.0: clean, 0.1: clean * (2 + share) / 3, 0.3: clean * share}
        noise = {at: generator.normal(0, 0.05, queries) for at in (0.1, 0.3)}
        curves[language] = {
            at: {f"q{i}": float(value) for i, value in enumerate(own + noise.get(at, 0))} for at, own in rows.items()
        }
    return curves


def means_of(scores):
    return {code: {at: np.mean([*own.values()]) for at, own in curve.items()} for code, curve in scores.items()}


def test_gap_of_groups_is_that_of_the_means_and_is_found_where_there_is_one():
    same = drawn({"de": 0.6, "fr": 0.5, "ha": 0.5, "yo": 0.6})
    other = drawn({"de": 0.9, "fr": 0.8, "ha": 0.4, "yo": 0.3})
    for scores, differs in ((same, False), (other, True)):
        found = robustness_gap_test(scores, GROUPS)
        assert found.gap == pytest.approx(robustness_gap(means_of(scores), GROUPS).relative_area.group_gap)
        assert found.interval[0] < found.gap < found.interval[1]
        assert (found.p_bootstrap < 0.05) == (found.p_t < 0.05) == differs
    # The order of queries and the scale of a language's values do not count.
    mixed = {
        code: {at: dict(sorted(((q, 7 * v) for q, v in own.items()), reverse=True)) for at, own in curve.items()}
        for code, curve in other.items()
    }
    again = robustness_gap_test(mixed, GROUPS)
    assert again.gap == pytest.approx(found.gap) and again.interval == pytest.approx(found.interval)


def test_two_systems_with_the_same_gap_do_not_differ():
    one = drawn({"de": 0.9, "fr": 0.8, "ha": 0.4, "yo": 0.3})
    lower = {
        code: {at: {q: v / 2 for q, v in own.items()} for at, own in curve.items()} for code, curve in one.items()
    }
    found = robustness_gap_test(one, GROUPS, baseline=lower)
    assert found.gap == pytest.approx(0) and (found.p_bootstrap, found.p_t) == (1, 1)
    narrow = drawn({"de": 0.9, "fr": 0.8, "ha": 0.8, "yo": 0.9})
    found = robustness_gap_test(narrow, GROUPS, baseline=one)
    assert found.gap < -0.1 and max(found.p_bootstrap, found.p_t) < 0.01
    other = robustness_gap_test(one, GROUPS, baseline=narrow)
    assert other.gap == pytest.approx(-found.gap) and other.p_t == pytest.approx(found.p_t)


def test_gap_tests_are_right_about_five_percent_of_the_time_without_a_gap():
    """False positives of both tests, over draws of queries that lose alike. 11 of 100 are beyond 99 % for p = .05."""
    found = [
        robustness_gap_test(drawn(dict.fromkeys(["de", "fr", "ha", "yo"], 0.5), 40, seed), GROUPS, resamples=400)
        for seed in range(100)
    ]
    assert 0 < sum(each.p_t < 0.05 for each in found) <= 11 and sum(each.p_bootstrap < 0.05 for each in found) <= 11


def test_invalid_gap_tests_raise():
    scores = drawn({"de": 0.6, "ha": 0.5})
    groups = {"high": ["de"], "low": ["ha"]}
    zero = {"de": scores["de"], "ha": {at: dict.fromkeys(own, 0.0) for at, own in scores["ha"].items()}}
    fewer = {"de": scores["de"], "ha": {**scores["ha"], 0.3: {"q0": 1.0}}}
    for message, arguments, options in (
        ("number of groups must be at least 2, got 1", (scores, {"low": ["ha"]}), {}),
        ("must not share languages, got ..ha", (scores, {"high": ["de", "ha"], "low": ["ha"]}), {}),
        ("group 'low' must name some of the languages", (scores, {"high": ["de"], "low": ["yo"]}), {}),
        ("ha: some unperturbed value must be above 0", (zero, groups), {}),
        ("ha: all strengths must be measured on the same queries", (fewer, groups), {}),
        (
            "number of strengths of 'ha' must be at least 2, got 0",
            (scores, groups),
            {"baseline": {"de": scores["de"]}},
        ),
        (
            "de: scores and baseline must have the same strengths and queries",
            (scores, groups),
            {"baseline": {**scores, "de": {at: own for at, own in scores["de"].items() if at != 0.1}}},
        ),
        ("de: scores must include strength 0", ({**scores, "de": {1: {"q": 1.0}, 2: {"q": 1.0}}}, groups), {}),
    ):
        with pytest.raises(ValueError, match=message):
            robustness_gap_test(*arguments, **options)
