"""Differences in retrieval quality between languages, and the share of the gap that training closes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, pstdev

from ..checks import check_not_empty


@dataclass(frozen=True)
class LanguageDispersion:
    """
    Dispersion of a measure over languages.

    Args:
        mean (`float`): Mean over the languages.
        range (`float`): Best language minus worst.
        std (`float`): Population standard deviation over the languages.
        worst (`str`), best (`str`): The languages with the lowest and the highest value; the first one in a tie.
        groups (`dict[str, LanguageDispersion]`): The same within each named group of languages.
        group_gap (`float` or `None`):
            Mean of the first group minus mean of the last: the deficit of low-resource languages if the groups are
            ordered from high- to low-resource. `None` with fewer than two groups.
    """

    mean: float
    range: float
    std: float
    worst: str
    best: str
    groups: dict[str, LanguageDispersion]
    group_gap: float | None


@dataclass(frozen=True)
class LanguageGap:
    """
    Result of [`language_gap`].

    Args:
        gap_closed (`dict[str, float | None]`): Language -> share of its gap that is closed, see [`gap_closed`].
        mean_gap_closed (`float` or `None`): Mean over the languages that have a gap. `None` if none has.
        share_of_ceiling (`dict[str, float | None]`):
            Trained divided by ceiling, which is comparable across test sets of unequal difficulty. `None` if the
            ceiling is 0.
        zero_shot (`LanguageDispersion`), trained (`LanguageDispersion`), ceiling (`LanguageDispersion`):
            Dispersion of the measure itself.
    """

    gap_closed: dict[str, float | None]
    mean_gap_closed: float | None
    share_of_ceiling: dict[str, float | None]
    zero_shot: LanguageDispersion
    trained: LanguageDispersion
    ceiling: LanguageDispersion


def gap_closed(zero_shot: float, trained: float, ceiling: float) -> float | None:
    """
    Compute the share of the gap between the untrained student and the ceiling that training closed.

    Args:
        zero_shot (`float`): value of the measure for the untrained student.
        trained (`float`): value for the trained student.
        ceiling (`float`): value for the teacher on human translations of the queries.

    Returns:
        `float` or `None`: `(trained - zero_shot) / (ceiling - zero_shot)`. 0 is no better than untrained, 1 is as good
        as the ceiling; values below 0 and above 1 are possible. `None` if there is no gap: `ceiling <= zero_shot`.
    """
    return (trained - zero_shot) / (ceiling - zero_shot) if ceiling > zero_shot else None


def language_dispersion(
    values: Mapping[str, float], groups: Mapping[str, Sequence[str]] | None = None
) -> LanguageDispersion:
    """
    Measure how much a value differs between languages.

    Args:
        values (mapping of language to `float`): Language -> value of the measure.
        groups (mapping of `str` to sequence of `str`, *optional*): Group -> its languages, from high- to low-resource.

    Raises:
        ValueError: there is no language, or a group is empty or names a language that is not in `values`.
    """
    check_not_empty("values", values)
    within = {}
    for group, languages in (groups or {}).items():
        if not languages or not values.keys() >= set(languages):
            raise ValueError(f"group {group!r} must name some of the languages {list(values)}, got {list(languages)}")
        within[group] = language_dispersion({language: values[language] for language in languages})
    means = [group.mean for group in within.values()]
    worst, best = min(values, key=values.__getitem__), max(values, key=values.__getitem__)
    return LanguageDispersion(
        mean=fmean(values.values()),
        range=values[best] - values[worst],
        std=pstdev(values.values()),
        worst=worst,
        best=best,
        groups=within,
        group_gap=means[0] - means[-1] if len(means) > 1 else None,
    )


def language_gap(
    zero_shot: Mapping[str, float],
    trained: Mapping[str, float],
    ceiling: Mapping[str, float],
    groups: Mapping[str, Sequence[str]] | None = None,
) -> LanguageGap:
    """
    Measure how close training brings languages to their ceilings, and to each other.

    Args:
        zero_shot, trained, ceiling (mappings of language to `float`): values of the measure, as in [`gap_closed`].
        groups (mapping of `str` to sequence of `str`, *optional*): see [`language_dispersion`].

    Raises:
        ValueError: there is no language, the three arguments have different languages, or a group is empty or names
            an unknown language.
    """
    if not zero_shot.keys() == trained.keys() == ceiling.keys():
        languages = {"zero_shot": list(zero_shot), "trained": list(trained), "ceiling": list(ceiling)}
        raise ValueError(f"zero_shot, trained and ceiling must have the same languages, got {languages}")
    closed = {language: gap_closed(zero_shot[language], trained[language], ceiling[language]) for language in trained}
    gaps = [share for share in closed.values() if share is not None]
    return LanguageGap(
        gap_closed=closed,
        mean_gap_closed=fmean(gaps) if gaps else None,
        share_of_ceiling={key: value / ceiling[key] if ceiling[key] else None for key, value in trained.items()},
        zero_shot=language_dispersion(zero_shot, groups),
        trained=language_dispersion(trained, groups),
        ceiling=language_dispersion(ceiling, groups),
    )
