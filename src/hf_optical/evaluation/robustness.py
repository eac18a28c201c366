"""Robustness of a retrieval measure to perturbed queries, and differences in robustness between languages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats
from scipy.integrate import trapezoid

from ..checks import check_not_empty, check_number
from .language_gap import LanguageDispersion, language_dispersion


# Strength -> query id -> value of the measure.
QueryCurves = Mapping[float, Mapping[str, float]]
# Random numbers held in memory at once (about 16 MB).
_BLOCK = 1 << 21


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


@dataclass(frozen=True)
class RobustnessGapTest:
    """
    Result of [`robustness_gap_test`].

    Args:
        gap (`float`): What the first group keeps of its unperturbed value (relative area) minus what the last keeps.
            With a baseline, the gap minus that of the baseline.
        interval (`tuple[float, float]`): Bootstrap interval of the gap over queries, at 95 %.
        p_bootstrap (`float`), p_t (`float`): P-values of the two-sided tests that it is 0, not corrected.
    """

    gap: float
    interval: tuple[float, float]
    p_bootstrap: float
    p_t: float


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


def robustness_gap_test(
    scores: Mapping[str, QueryCurves],
    groups: Mapping[str, Sequence[str]],
    *,
    baseline: Mapping[str, QueryCurves] | None = None,
    resamples: int = 10_000,
    seed: int = 0,
) -> RobustnessGapTest:
    """
    Test whether a perturbation affects two groups of languages differently, or two systems' groups.

    The statistic is the mean relative area of the first group minus that of the last, as `group_gap` of
    [`robustness_gap`]. Languages have their own queries, so queries cannot be swapped between them: the bootstrap
    resamples the queries of each language, unperturbed and perturbed values together, and the t-test linearises the
    ratio of the two means (delta method) and estimates its variance per language, with the degrees of freedom of Welch
    and Satterthwaite. Both describe the variation between queries. The languages are taken as they are; neither test
    says anything about others.

    Args:
        scores (mapping of language to mapping of `float` to mapping of `str` to `float`):
            Strength -> query id -> value of the measure, with strength 0 included.
        groups (mapping of `str` to sequence of `str`): At least two groups of languages; others are ignored.
        baseline (as `scores`, *optional*):
            Another system on the same queries. The test is then of the difference between the gaps of the two.
        resamples (`int`, defaults to 10000), seed (`int`, defaults to 0): Options of the bootstrap.

    Raises:
        ValueError: there are fewer than two groups, a group is empty or names an unknown language, a language is in
            both groups, strength 0 is missing or is the only one, strengths of a language were measured on different
            queries, `baseline` differs from `scores` in strengths or queries, or the unperturbed values of a language
            are all 0.
    """
    check_number("resamples", resamples, at_least=1)
    check_number("the number of groups", len(groups), at_least=2)
    names = list(groups)
    first, last = names[0], names[-1]
    if twice := set(groups[first]).intersection(groups[last]):
        raise ValueError(f"groups must not share languages, got {sorted(twice)} in both {first!r} and {last!r}")
    generator = np.random.default_rng(seed)
    gap, resampled = 0.0, np.zeros(resamples)
    variances: list[float] = []
    freedoms: list[int] = []
    for name, sign in ((first, 1), (last, -1)):
        if not groups[name] or not scores.keys() >= set(groups[name]):
            raise ValueError(
                f"group {name!r} must name some of the languages {list(scores)}, got {list(groups[name])}"
            )
        for language in groups[name]:
            share = sign / len(groups[name])
            systems = _systems(language, scores, baseline)
            kept, changes = _kept(systems)
            gap += share * kept
            variances.append(share**2 * float(changes.var(ddof=1)) / len(changes) if len(changes) > 1 else 0.0)
            freedoms.append(len(changes) - 1)
            resampled += share * _resampled(systems, resamples, generator)
    low, high = np.quantile(resampled, [0.025, 0.975])
    beyond = int(min((resampled <= 0).sum(), (resampled >= 0).sum()))
    p_bootstrap = min(1.0, 2 * (beyond + 1) / (resamples + 1))
    if min(freedoms) < 1:  # a language with one query tells nothing about their variance
        p_t = 1.0
    elif total := sum(variances):
        freedom = total**2 / sum(own**2 / free for own, free in zip(variances, freedoms, strict=True))
        p_t = float(2 * stats.t.sf(abs(gap) / np.sqrt(total), freedom))
    else:  # all queries of a language lose alike
        p_t = 1.0 if abs(gap) < 1e-12 else 0.0
    return RobustnessGapTest(float(gap), (float(low), float(high)), p_bootstrap, p_t)


# Of one system and language: unperturbed value and area of each query.
_System = tuple[np.ndarray, np.ndarray]


def _systems(
    language: str, scores: Mapping[str, QueryCurves], baseline: Mapping[str, QueryCurves] | None
) -> list[_System]:
    """A system on the queries of a language and, if there is one, its baseline on the same."""
    (place, own) = _areas(language, scores[language])
    if baseline is None:
        return [own]
    other_place, other = _areas(language, baseline.get(language, {}))
    if place != other_place:
        raise ValueError(f"{language}: scores and baseline must have the same strengths and queries")
    return [own, other]


def _areas(language: str, curves: QueryCurves) -> tuple[tuple, _System]:
    """Strengths and query ids of a language, and its values in their order."""
    check_number(f"the number of strengths of {language!r}", len(curves), at_least=2)
    if 0 not in curves:
        raise ValueError(f"{language}: scores must include strength 0, got {sorted(curves)}")
    queries, strengths = sorted(curves[0]), sorted(curves)
    if any(curves[strength].keys() != curves[0].keys() for strength in strengths):
        raise ValueError(f"{language}: all strengths must be measured on the same queries")
    values = np.array([[curves[strength][query] for query in queries] for strength in strengths], dtype=np.float64)
    if not values[0].sum() > 0:
        raise ValueError(f"{language}: some unperturbed value must be above 0, or there is nothing to lose")
    area = trapezoid(values, strengths, axis=0) / (strengths[-1] - strengths[0])
    return (tuple(strengths), tuple(queries)), (values[0], area)


def _kept(systems: Sequence[_System]) -> tuple[float, np.ndarray]:
    """The relative area, minus that of the baseline, and how each query changes it to first order."""
    kept, changes = 0.0, np.zeros(len(systems[0][0]))
    for sign, (clean, area) in zip((1, -1), systems, strict=False):
        ratio = area.mean() / clean.mean()
        kept += sign * ratio
        changes += sign * (area - ratio * clean) / clean.mean()
    return kept, changes


def _resampled(systems: Sequence[_System], resamples: int, generator: np.random.Generator) -> np.ndarray:
    """The first value of [`_kept`] on queries drawn with replacement."""
    queries = len(systems[0][0])
    found = np.zeros(resamples)
    for start in range(0, resamples, step := max(1, _BLOCK // queries)):
        rows = slice(start, min(start + step, resamples))
        drawn = generator.integers(queries, size=(rows.stop - rows.start, queries))
        for sign, (clean, area) in zip((1, -1), systems, strict=False):
            means = clean[drawn].mean(1)
            # Nothing can be lost in a draw whose unperturbed values are all 0.
            found[rows] += sign * np.divide(area[drawn].mean(1), means, out=np.ones_like(means), where=means > 0)
    return found
