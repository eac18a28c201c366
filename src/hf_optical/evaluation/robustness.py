"""Robustness of a retrieval measure to perturbed queries, and differences in robustness between languages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scipy.integrate import trapezoid

from ..checks import check_not_empty, check_number
from .language_gap import LanguageDispersion, language_dispersion


@dataclass(frozen=True)
class Robustness:
    """
    Result of [`robustness_curve`].

    Args:
        curve (`dict[float, float]`): Strength -> value of the measure, from strength 0 up.
        relative_drop (`dict[float, float]` or `None`):
            Strength -> share of the unperturbed value that is lost: 0 if nothing is lost, 1 if everything is, below 0
            if the perturbation helps. `None` if the unperturbed value is 0.
        area (`float`):
            Area under the curve divided by the range of strengths: the mean value of the measure over that range.
        relative_area (`float` or `None`):
            The area divided by the unperturbed value: 1 for a system that is not affected. `None` if that value is 0.
    """

    curve: dict[float, float]
    relative_drop: dict[float, float] | None
    area: float
    relative_area: float | None


@dataclass(frozen=True)
class RobustnessGap:
    """
    Result of [`robustness_gap`].

    Args:
        languages (`dict[str, Robustness]`): Language -> its robustness.
        relative_area (`LanguageDispersion` or `None`):
            Dispersion of the relative areas: `range` is the robustness gap between the best and the worst language,
            and `group_gap` that between the groups. `None` if a language has no relative area.
    """

    languages: dict[str, Robustness]
    relative_area: LanguageDispersion | None


def area_under_curve(scores: Mapping[float, float]) -> float:
    """
    Compute the mean height of a piecewise linear curve with the trapezoidal rule.

    Args:
        scores (mapping of `float` to `float`): strength -> value of the measure, for at least two strengths.

    Returns:
        `float`: the area under the curve divided by the distance between its first and last strength.

    Raises:
        ValueError: there are fewer than two strengths.
    """
    check_number("the number of strengths in scores", len(scores), at_least=2)
    strengths, values = zip(*sorted(scores.items()), strict=True)
    return float(trapezoid(values, strengths)) / (strengths[-1] - strengths[0])


def robustness_curve(scores: Mapping[float, float]) -> Robustness:
    """
    Measure how retrieval quality falls with the strength of a perturbation.

    Args:
        scores (mapping of `float` to `float`): strength -> value of the measure, with strength 0 included.

    Raises:
        ValueError: strength 0 is missing, or is the only one.
    """
    if 0 not in scores:
        raise ValueError(f"scores must include strength 0, got {sorted(scores)}; measure the unperturbed queries too")
    curve = dict(sorted(scores.items()))
    area, clean = area_under_curve(curve), curve[0]
    return Robustness(
        curve=curve,
        relative_drop={strength: 1 - value / clean for strength, value in curve.items()} if clean else None,
        area=area,
        relative_area=area / clean if clean else None,
    )


def robustness_gap(
    scores: Mapping[str, Mapping[float, float]], groups: Mapping[str, Sequence[str]] | None = None
) -> RobustnessGap:
    """
    Compare how much a perturbation affects each language.

    Relative areas are compared, because the measure itself differs between languages and their test sets.

    Args:
        scores (mapping of language to mapping of `float` to `float`): strength -> value of the measure, with the same
            strengths for every language, including 0.
        groups (mapping of `str` to sequence of `str`, *optional*): group -> its languages, from high- to low-resource.

    Raises:
        ValueError: there is no language, the strengths differ or do not include 0, or a group is empty or names an
            unknown language.
    """
    check_not_empty("scores", scores)
    if len({frozenset(own) for own in scores.values()}) > 1:
        strengths = {language: sorted(own) for language, own in scores.items()}
        raise ValueError(f"scores must have the same strengths for every language, got {strengths}")
    languages = {language: robustness_curve(own) for language, own in scores.items()}
    areas = {language: found.relative_area for language, found in languages.items()}
    known = {language: area for language, area in areas.items() if area is not None}
    return RobustnessGap(languages, language_dispersion(known, groups) if len(known) == len(areas) else None)
