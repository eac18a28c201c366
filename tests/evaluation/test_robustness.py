from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import trapezoid

from hf_optical.evaluation.robustness import area_under_curve, robustness_curve, robustness_gap


VALUES = st.floats(0, 1)
CURVES = st.dictionaries(st.floats(0.01, 1), VALUES, min_size=1, max_size=6)


@given(CURVES, VALUES)
def test_the_area_is_that_of_scipy(scores, clean):
    scores = {**scores, 0.0: clean}
    strengths = sorted(scores)
    expected = trapezoid([scores[strength] for strength in strengths], strengths) / strengths[-1]
    assert area_under_curve(scores) == pytest.approx(expected)
    assert robustness_curve(scores).area == pytest.approx(expected)


@given(CURVES, st.floats(0.01, 1), st.floats(0.1, 10))
def test_relative_numbers_do_not_mind_the_scale(scores, clean, factor):
    one = robustness_curve({0: clean, **scores})
    other = robustness_curve({0: clean * factor, **{strength: value * factor for strength, value in scores.items()}})
    assert one.relative_area == pytest.approx(other.relative_area)
    assert one.relative_drop == pytest.approx(other.relative_drop)


def test_a_curve_by_hand():
    found = robustness_curve({0.4: 0.1, 0.0: 0.5, 0.2: 0.4})
    assert list(found.curve.items()) == [(0.0, 0.5), (0.2, 0.4), (0.4, 0.1)]
    assert found.relative_drop == pytest.approx({0.0: 0, 0.2: 0.2, 0.4: 0.8})
    # (0.2 * 0.45 + 0.2 * 0.25) / 0.4
    assert found.area == pytest.approx(0.35)
    assert found.relative_area == pytest.approx(0.7)


def test_nothing_found_leaves_nothing_to_lose():
    found = robustness_curve({0: 0.0, 0.5: 0.0})
    assert (found.area, found.relative_area, found.relative_drop) == (0, None, None)
    assert robustness_gap({"ha": {0: 0.0, 0.5: 0.0}, "de": {0: 0.5, 0.5: 0.1}}).relative_area is None


def test_the_gap_between_languages():
    scores = {"de": {0: 0.8, 0.5: 0.8}, "fr": {0: 0.6, 0.5: 0.54}, "ha": {0: 0.4, 0.5: 0.2}, "yo": {0: 0.2, 0.5: 0.0}}
    found = robustness_gap(scores, {"high": ["de", "fr"], "low": ["ha", "yo"]})
    areas = {language: own.relative_area for language, own in found.languages.items()}
    assert areas == pytest.approx({"de": 1, "fr": 0.95, "ha": 0.75, "yo": 0.5})
    assert found.relative_area.range == pytest.approx(0.5)
    assert found.relative_area.group_gap == pytest.approx(0.975 - 0.625)
    assert (found.relative_area.worst, found.relative_area.best) == ("yo", "de")


def test_bad_arguments():
    with pytest.raises(ValueError, match=r"no strength 0 \(it has 0.1, 0.5\); measure the unperturbed queries too"):
        robustness_curve({0.5: 0.1, 0.1: 0.2})
    with pytest.raises(ValueError, match="scores has 1 strengths; an area needs two or more"):
        robustness_curve({0: 0.1})
    with pytest.raises(ValueError, match=r"ha is measured at strengths \[0, 0.5\] and de at \[0, 0.4\]; measure both"):
        robustness_gap({"de": {0: 1, 0.4: 1}, "ha": {0: 1, 0.5: 1}})
    with pytest.raises(ValueError, match="scores is empty"):
        robustness_gap({})
    with pytest.raises(ValueError, match="names 'yo', which is not measured"):
        robustness_gap({"de": {0: 1, 0.4: 1}}, {"low": ["yo"]})
