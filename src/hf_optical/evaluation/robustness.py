"""How a retrieval measure falls as queries are perturbed, and how unequally it falls over languages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from .language_gap import Spread, spread


@dataclass(frozen=True)
class Robustness:
    """
    What [`robustness_curve`] finds.

    Args:
        curve (`dict[float, float]`):
            Strength -> value of the measure, from strength 0 up.
        relative_drop (`dict[float, float]` or `None`):
            Strength -> share of the unperturbed value that is lost: 0 where nothing is, 1 where all is, and below 0
            where the perturbation helps. `None` where the unperturbed value is 0.
        area (`float`):
            Area under the curve over the range of strengths: the mean value between no perturbation and the strongest.
        relative_area (`float` or `None`):
            The area over the unperturbed value: 1 for a system that does not mind. `None` where that value is 0.
    """

    curve: dict[float, float]
    relative_drop: dict[float, float] | None
    area: float
    relative_area: float | None


@dataclass(frozen=True)
class RobustnessGap:
    """
    What [`robustness_gap`] finds.

    Args:
        languages (`dict[str, Robustness]`):
            Of each language.
        relative_area (`Spread` or `None`):
            Of the relative areas over the languages: `range` is the robustness gap between the best and the worst, and
            `group_gap` that between the groups. `None` where a language has no relative area.
    """

    languages: dict[str, Robustness]
    relative_area: Spread | None


def area_under_curve(scores: Mapping[float, float]) -> float:
    """
    Mean height of a curve of straight lines between its points (trapezoidal rule).

    Args:
        scores (mapping of `float` to `float`): strength -> value of the measure, two strengths or more.

    Returns:
        `float`: the area under the curve over the distance between its first and last strength.

    Raises:
        ValueError: there are fewer than two strengths.
    """
    points = sorted(scores.items())
    if len(points) < 2:
        raise ValueError(f"scores has {len(points)} strengths; an area needs two or more")
    area = sum((right - left) * (low + high) / 2 for (left, low), (right, high) in pairwise(points))
    return area / (points[-1][0] - points[0][0])


def robustness_curve(scores: Mapping[float, float]) -> Robustness:
    """
    How a measure falls with the strength of a perturbation.

    Args:
        scores (mapping of `float` to `float`): strength -> value of the measure, one of them at strength 0.

    Returns:
        [`Robustness`]

    Raises:
        ValueError: strength 0 is missing, or stands alone.
    """
    if 0 not in scores:
        raise ValueError(
            f"scores has no strength 0 (it has {', '.join(map(str, sorted(scores))) or 'none'}); measure the "
            "unperturbed queries too"
        )
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
    How unequally a perturbation hits languages.

    Relative areas are compared, since the measure itself differs with languages and their test sets.

    Args:
        scores (mapping of language to mapping of `float` to `float`): strength -> value of the measure, the same
            strengths for every language, 0 among them.
        groups (mapping of `str` to sequence of `str`, *optional*): group -> its languages, from high- to low-resource.

    Returns:
        [`RobustnessGap`]

    Raises:
        ValueError: there is no language, the strengths differ or lack 0, or a group is empty or names another
            language.
    """
    if not scores:
        raise ValueError("scores is empty; a gap needs at least one language")
    first, *others = scores
    for language in others:
        if scores[language].keys() != scores[first].keys():
            raise ValueError(
                f"{language} is measured at strengths {sorted(scores[language])} and {first} at "
                f"{sorted(scores[first])}; measure both at the same"
            )
    languages = {language: robustness_curve(own) for language, own in scores.items()}
    areas = {language: found.relative_area for language, found in languages.items()}
    known = {language: area for language, area in areas.items() if area is not None}
    return RobustnessGap(languages, spread(known, groups) if len(known) == len(areas) else None)
