"""How unequally languages are served, and how much of that training mends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, pstdev


@dataclass(frozen=True)
class Spread:
    """
    How a measure spreads over languages.

    Args:
        mean (`float`):
            Over the languages.
        range (`float`):
            Best language minus worst.
        std (`float`):
            Standard deviation over the languages (of these, not an estimate for others).
        worst (`str`), best (`str`):
            The languages of lowest and of highest value; the first of equal ones.
        groups (`dict[str, Spread]`):
            The same within each named group of languages.
        group_gap (`float` or `None`):
            Mean of the first group minus mean of the last: what low-resource languages lack, if the groups are named
            from high to low. `None` with fewer than two groups.
    """

    mean: float
    range: float
    std: float
    worst: str
    best: str
    groups: dict[str, Spread]
    group_gap: float | None


@dataclass(frozen=True)
class LanguageGap:
    """
    What [`language_gap`] finds.

    Args:
        gap_closed (`dict[str, float | None]`):
            Of each language, as in [`gap_closed`].
        mean_gap_closed (`float` or `None`):
            Over the languages that have a gap. `None` if none has.
        share_of_ceiling (`dict[str, float | None]`):
            Trained over ceiling, which test sets of unequal difficulty do not distort. `None` where the ceiling is 0.
        zero_shot (`Spread`), trained (`Spread`), ceiling (`Spread`):
            Of the measure itself.
    """

    gap_closed: dict[str, float | None]
    mean_gap_closed: float | None
    share_of_ceiling: dict[str, float | None]
    zero_shot: Spread
    trained: Spread
    ceiling: Spread


def gap_closed(zero_shot: float, trained: float, ceiling: float) -> float | None:
    """
    Share of the gap between the untrained student and the ceiling that training closed.

    Args:
        zero_shot (`float`): a measure, for the untrained student.
        trained (`float`): the same, for the trained one.
        ceiling (`float`): the same, for the teacher on human translations of the queries.

    Returns:
        `float` or `None`: `(trained - zero_shot) / (ceiling - zero_shot)`: 0 is no better than untrained, 1 is as good
        as the ceiling, and below 0 or above 1 is possible. `None` where there is no gap: `ceiling <= zero_shot`.
    """
    return (trained - zero_shot) / (ceiling - zero_shot) if ceiling > zero_shot else None


def spread(values: Mapping[str, float], groups: Mapping[str, Sequence[str]] | None = None) -> Spread:
    """
    How a measure spreads over languages.

    Args:
        values (mapping of language to `float`):
            The measure.
        groups (mapping of `str` to sequence of `str`, *optional*):
            Group -> its languages, from high- to low-resource.

    Returns:
        [`Spread`]

    Raises:
        ValueError: there is no language, or a group is empty or names a language that `values` lacks.
    """
    if not values:
        raise ValueError("values is empty; a spread needs at least one language")
    within = {name: _spread_within(name, languages, values) for name, languages in (groups or {}).items()}
    means = [group.mean for group in within.values()]
    worst, best = min(values, key=values.__getitem__), max(values, key=values.__getitem__)
    return Spread(
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
    How far training brings languages to their ceilings, and to each other.

    Args:
        zero_shot (mapping of language to `float`): a measure, for the untrained student.
        trained (mapping of language to `float`): the same, for the trained one.
        ceiling (mapping of language to `float`): the same, for the teacher on human translations of the queries.
        groups (mapping of `str` to sequence of `str`, *optional*): as in [`spread`].

    Returns:
        [`LanguageGap`]

    Raises:
        ValueError: there is no language, the three do not have the same languages, or a group is empty or names
            another language.
    """
    for name, other in (("zero_shot", zero_shot), ("ceiling", ceiling)):
        if other.keys() != trained.keys():
            raise ValueError(
                f"{name} has the languages {', '.join(other) or 'none'} and trained {', '.join(trained) or 'none'}; "
                "pass the same for each"
            )
    closed = {language: gap_closed(zero_shot[language], trained[language], ceiling[language]) for language in trained}
    gaps = [share for share in closed.values() if share is not None]
    return LanguageGap(
        gap_closed=closed,
        mean_gap_closed=fmean(gaps) if gaps else None,
        share_of_ceiling={key: value / ceiling[key] if ceiling[key] else None for key, value in trained.items()},
        zero_shot=spread(zero_shot, groups),
        trained=spread(trained, groups),
        ceiling=spread(ceiling, groups),
    )


def _spread_within(group: str, languages: Sequence[str], values: Mapping[str, float]) -> Spread:
    missing = [language for language in languages if language not in values]
    if missing or not languages:
        lack = f"names {missing[0]!r}, which is not measured" if missing else "is empty"
        raise ValueError(f"group {group!r} {lack}; the languages are {', '.join(values)}")
    return spread({language: values[language] for language in languages})
