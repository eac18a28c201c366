import numpy as np
import pytest

from hf_optical.evaluation.language_gap import gap_closed, language_dispersion, language_gap


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


def test_a_language_dispersion():
    found = language_dispersion(TRAINED, GROUPS)
    values = list(TRAINED.values())
    assert (found.mean, found.std) == pytest.approx((np.mean(values), np.std(values)))
    assert found.range == pytest.approx(0.5) and (found.worst, found.best) == ("yo", "fr")
    assert found.group_gap == pytest.approx(0.65 - 0.3)
    assert found.groups == {
        "high": language_dispersion({"de": 0.6, "fr": 0.7}),
        "low": language_dispersion({"yo": 0.2, "ha": 0.4}),
    }
    assert found.groups["low"].range == pytest.approx(0.2)


def test_group_gap_is_signed():
    reverse = {"low": ["ha", "yo"], "high": ["de", "fr"]}
    assert language_dispersion(TRAINED, reverse).group_gap == pytest.approx(0.3 - 0.65)
    for groups in (None, {"one": ["ha"]}):
        assert language_dispersion(TRAINED, groups).group_gap is None


def test_dispersion_of_one_language_is_zero():
    found = language_dispersion({"ha": 0.3})
    assert (found.mean, found.range, found.std, found.worst, found.best) == (0.3, 0.0, 0.0, "ha", "ha")


def test_language_gap():
    found = language_gap(ZERO_SHOT, TRAINED, CEILING, GROUPS)
    assert found.gap_closed == pytest.approx({"ha": 0.5, "yo": 0.0, "de": 0.5, "fr": None})
    assert found.mean_gap_closed == pytest.approx(1 / 3)
    assert found.share_of_ceiling == pytest.approx({key: TRAINED[key] / CEILING[key] for key in TRAINED})
    assert found.zero_shot == language_dispersion(ZERO_SHOT, GROUPS) and found.zero_shot.worst == "ha"
    assert found.trained == language_dispersion(TRAINED, GROUPS) and found.trained.worst == "yo"
    assert found.ceiling == language_dispersion(CEILING, GROUPS)


def test_language_gap_without_gap_or_ceiling():
    found = language_gap({"ha": 0.2}, {"ha": 0.3}, {"ha": 0.0})
    assert found.gap_closed == {"ha": None} and found.mean_gap_closed is None
    assert found.share_of_ceiling == {"ha": None}


def test_language_mismatches_raise():
    with pytest.raises(ValueError, match="values must not be empty"):
        language_dispersion({})
    with pytest.raises(ValueError, match=r"group 'low' must name some of the languages .*, got \['ha', 'ig'\]"):
        language_dispersion(TRAINED, {"low": ["ha", "ig"]})
    with pytest.raises(ValueError, match=r"group 'low' must name some of the languages .*, got \[\]"):
        language_dispersion(TRAINED, {"low": []})
    with pytest.raises(ValueError, match=r"must have the same languages, got .*'ceiling': \['ha'\]"):
        language_gap(ZERO_SHOT, TRAINED, {"ha": 0.7})
    with pytest.raises(ValueError, match=r"must have the same languages, got {'zero_shot': \[\]"):
        language_gap({}, {"ha": 0.1}, {"ha": 0.7})
