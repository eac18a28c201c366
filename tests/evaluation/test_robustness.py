from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_optical.evaluation.robustness import area_under_curve, robustness_curve, robustness_gap


VALUES = st.floats(0, 1)
CURVES = st.dictionaries(st.floats(0.01, 1), VALUES, min_size=1, max_size=6)


@given(CURVES, VALUES)
def test_area_agrees_with_a_loop(scores, clean):
    scores = {**scores, 0.0: clean}
    strengths = sorted(scores)
    points = [(strength, scores[strength]) for strength in strengths]
    expected = sum((x1 - x0) * (y0 + y1) / 2 for (x0, y0), (x1, y1) in pairwise(points)) / strengths[-1]
    assert area_under_curve(scores) == pytest.approx(expected)
    assert robustness_curve(scores).area == pytest.approx(expected)


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
