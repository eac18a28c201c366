import numpy as np
import pytest

from hf_optical.evaluation.language_gap import gap_closed, language_gap, spread


ZERO_SHOT = {"ha": 0.1, "yo": 0.2, "de": 0.5, "fr": 0.6}
TRAINED = {"ha": 0.4, "yo": 0.2, "de": 0.6, "fr": 0.7}
CEILING = {"ha": 0.7, "yo": 0.7, "de": 0.7, "fr": 0.6}
GROUPS = {"high": ["de", "fr"], "low": ["ha", "yo"]}


def test_gap_closed():
    assert gap_closed(0.2, 0.4, 0.7) == pytest.approx(0.4)
    assert gap_closed(0.2, 0.1, 0.7) == pytest.approx(-0.2)
    assert gap_closed(0.2, 0.2, 0.7) == 0.0 and gap_closed(0.2, 0.7, 0.7) == 1.0
    assert gap_closed(0.7, 0.8, 0.7) is None and gap_closed(0.7, 0.6, 0.5) is None
    assert gap_closed(0.2, 0.3, float("nan")) is None


def test_a_spread():
    found = spread(TRAINED, GROUPS)
    values = list(TRAINED.values())
    assert (found.mean, found.std) == pytest.approx((np.mean(values), np.std(values)))
    assert found.range == pytest.approx(0.5) and (found.worst, found.best) == ("yo", "fr")
    assert found.group_gap == pytest.approx(0.65 - 0.3)
    assert found.groups == {
        "high": spread({"de": 0.6, "fr": 0.7}),
        "low": spread({"yo": 0.2, "ha": 0.4}),
    }
    assert found.groups["low"].range == pytest.approx(0.2)


def test_the_gap_of_groups_has_a_sign():
    assert spread(TRAINED, {"low": ["ha", "yo"], "high": ["de", "fr"]}).group_gap == pytest.approx(0.3 - 0.65)
    assert spread(TRAINED).group_gap is None and spread(TRAINED, {"one": ["ha"]}).group_gap is None


def test_one_language_has_no_spread():
    found = spread({"ha": 0.3})
    assert (found.mean, found.range, found.std, found.worst, found.best) == (0.3, 0.0, 0.0, "ha", "ha")


def test_the_language_gap():
    found = language_gap(ZERO_SHOT, TRAINED, CEILING, GROUPS)
    assert found.gap_closed == pytest.approx({"ha": 0.5, "yo": 0.0, "de": 0.5, "fr": None})
    assert found.mean_gap_closed == pytest.approx(1 / 3)
    assert found.share_of_ceiling == pytest.approx({key: TRAINED[key] / CEILING[key] for key in TRAINED})
    assert found.zero_shot == spread(ZERO_SHOT, GROUPS) and found.zero_shot.worst == "ha"
    assert found.trained == spread(TRAINED, GROUPS) and found.trained.worst == "yo"
    assert found.ceiling == spread(CEILING, GROUPS)


def test_no_gap_and_no_ceiling():
    found = language_gap({"ha": 0.2}, {"ha": 0.3}, {"ha": 0.0})
    assert found.gap_closed == {"ha": None} and found.mean_gap_closed is None
    assert found.share_of_ceiling == {"ha": None}


def test_languages_that_do_not_fit():
    with pytest.raises(ValueError, match="values is empty"):
        spread({})
    with pytest.raises(ValueError, match="group 'low' names 'ig', which is not measured; the languages are ha, yo"):
        spread(TRAINED, {"low": ["ha", "ig"]})
    with pytest.raises(ValueError, match="group 'low' is empty"):
        spread(TRAINED, {"low": []})
    with pytest.raises(ValueError, match="ceiling has the languages ha and trained ha, yo, de, fr"):
        language_gap(ZERO_SHOT, TRAINED, {"ha": 0.7})
    with pytest.raises(ValueError, match="zero_shot has the languages none and trained ha"):
        language_gap({}, {"ha": 0.1}, {"ha": 0.7})
