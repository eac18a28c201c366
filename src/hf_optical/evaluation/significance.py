"""Significance tests for the difference of two systems on the same queries."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, cast

import numpy as np
from scipy import stats

from ..checks import check_choice, check_number


# Values of one system: one per query, in the same order for all systems; or query id -> value; or, if queries come in
# groups such as languages, group -> either of the two.
Group = Sequence[float] | np.ndarray | Mapping[str, float]
Values = Group | Mapping[str, Group]

# The values of a system in each of its training runs.
Runs = Sequence[Values]

# Random numbers held in memory at once (about 16 MB), for any number of queries and permutations.
_BLOCK = 1 << 21


@dataclass(frozen=True)
class Comparison:
    """
    Comparison of two systems on the same queries.

    Args:
        system (`str`), baseline (`str`): Names of the two systems.
        difference (`float`): Mean of `system` minus mean of `baseline`.
        interval (`tuple[float, float]`): Bootstrap interval of the difference, not corrected for multiple comparisons.
        p_randomisation (`float`), p_t (`float`):
            P-values of [`paired_randomisation_test`] and [`paired_t_test`], not corrected.
        adjusted_randomisation (`float`), adjusted_t (`float`):
            The same p-values after Holm's correction over all comparisons.
        significant (`bool`): Whether all corrected p-values are below the significance level.
        p_runs (`float`, *optional*), adjusted_runs (`float`, *optional*):
            P-value of [`runs_bootstrap_test`], alone and corrected, if the values of several training runs were given.
    """

    system: str
    baseline: str
    difference: float
    interval: tuple[float, float]
    p_randomisation: float
    p_t: float
    adjusted_randomisation: float
    adjusted_t: float
    significant: bool
    p_runs: float | None = None
    adjusted_runs: float | None = None

    @property
    def adjusted(self) -> float:
        """The largest of the corrected p-values, which decides."""
        return max(self.adjusted_randomisation, self.adjusted_t, self.adjusted_runs or 0.0)

    @property
    def winner(self) -> str | None:
        """Name of the better system, or `None` if the difference is not significant."""
        if not self.significant:
            return None
        return self.system if self.difference > 0 else self.baseline

    def __str__(self) -> str:
        low, high = self.interval
        verdict = f"{self.winner} is better" if self.significant else "no significant difference"
        return (
            f"{self.system} - {self.baseline}: {self.difference:+.3f} [{low:+.3f}, {high:+.3f}], corrected "
            f"p = {self.adjusted_randomisation:.4f} (randomisation), {self.adjusted_t:.4f} (t): {verdict}"
        )


def paired_randomisation_test(a: Values, b: Values, permutations: int = 10_000, seed: int = 0) -> float:
    r"""
    Run Fisher's two-sided randomisation test on paired values (Smucker et al. 2007).

    Under the null hypothesis the two values of each query are exchangeable: p is the share of random swaps that make a
    difference at least as large as the observed one. With groups of queries, the statistic is the mean of the group
    means, and values are swapped within each group. If there are at most `permutations` ways to swap, all of them are
    counted; otherwise `permutations` are drawn, and p is at least `1 / (permutations + 1)`.

    Args:
        a (`Values`), b (`Values`):
            The two systems: one value per query in the same order, query id -> value, or group -> either of these.
        permutations (`int`, defaults to 10000): Number of swaps.
        seed (`int`, defaults to 0): Seed of the random swaps.

    Returns:
        `float`: the p-value; 1 if no query differs.

    Raises:
        ValueError: there are no values, a value is not a finite number, `permutations` is below 1, or `a` and `b` do
            not have the same queries.
    """
    check_number("permutations", permutations, at_least=1)
    groups = _differences(a, b)
    # The contribution of each query to the mean of means.
    shares = np.concatenate([group / (len(group) * len(groups)) for group in groups])
    shares = shares[shares != 0]
    if len(shares) == 0:
        return 1.0
    # Mathematically equal sums differ in their last bits.
    observed = abs(shares.sum()) - 1e-12 * np.abs(shares).sum()
    exact = len(shares) < 63 and 2 ** len(shares) <= permutations
    blocks = _all_swaps(len(shares)) if exact else _random_swaps(len(shares), permutations, seed)
    as_large = sum(int((np.abs(shares.sum() - 2 * (swaps @ shares)) >= observed).sum()) for swaps in blocks)
    # The observed order counts as one of the permutations, so p is never 0 (Phipson & Smyth 2010).
    return as_large / 2 ** len(shares) if exact else (as_large + 1) / (permutations + 1)


def paired_t_test(a: Values, b: Values) -> float:
    """
    Run Student's two-sided t-test on paired values.

    With groups of queries, the statistic is the mean of the group means. Variances are estimated per group, and the
    degrees of freedom follow Welch and Satterthwaite.

    Args:
        a (`Values`), b (`Values`): as in [`paired_randomisation_test`].

    Returns:
        `float`: the p-value; 1 if no query differs, or if a group has a single query and therefore no variance.

    Raises:
        ValueError: as in [`paired_randomisation_test`].
    """
    groups = _differences(a, b)
    difference = np.mean([group.mean() for group in groups])
    if difference == 0 or min(len(group) for group in groups) < 2:
        return 1.0
    variances = np.array([group.var(ddof=1) / len(group) for group in groups]) / len(groups) ** 2
    total = variances.sum()
    if total == 0:  # the same difference at every query
        return 0.0
    freedom = 1 / ((variances / total) ** 2 / [len(group) - 1 for group in groups]).sum()
    return float(2 * stats.t.sf(abs(difference) / np.sqrt(total), freedom))


def runs_bootstrap_test(a: Runs, b: Runs, resamples: int = 10_000, seed: int = 0) -> float:
    """
    Test the difference of two systems over queries and training runs together, by a hierarchical bootstrap.

    Queries, and independently the training runs of either system, are drawn with replacement (Saravanan, Berman and
    Sober 2020): p is twice the share of the resampled differences that have the other sign. So a difference counts
    only if it holds for other queries and for other training runs. With groups of queries, such as languages, the
    statistic is the mean of the group means. Queries are drawn within each group, but a run is drawn for all groups at
    once, because one training run may teach several languages. For languages that were trained apart and share only
    the seed of a run, this is conservative. Few runs tell little about their spread: three make it look about a
    fifth too small.

    Args:
        a (`Runs`), b (`Runs`):
            The values of each training run, as in [`paired_randomisation_test`]. A system without randomness has one.
        resamples (`int`, defaults to 10000), seed (`int`, defaults to 0): number of resamples, and their seed.

    Returns:
        `float`: the p-value, at least `2 / (resamples + 1)`; 1 if no query differs.

    Raises:
        ValueError: there are no runs, or as in [`paired_randomisation_test`].
    """
    check_number("resamples", resamples, at_least=1)
    check_number("the number of training runs", min(len(a), len(b)), at_least=1)
    # What all values have in common does not change the difference. Queries get one order and are checked by this.
    ours, theirs = ([_differences(b[0], run) for run in runs] for runs in (a, b))
    generator = np.random.default_rng(seed)
    # Drawn once for all groups, which share the training runs.
    drawn = [generator.integers(len(runs), size=(len(runs), resamples)) for runs in (a, b)]
    differences = np.zeros(resamples)
    for place, group in enumerate(zip(zip(*ours, strict=True), zip(*theirs, strict=True), strict=True)):
        values = [np.stack(runs) for runs in group]
        queries = values[0].shape[1]
        for rows in _slices(resamples, queries):
            shares = _drawn_queries(queries, rows.stop - rows.start, (seed, place, rows.start)).T / queries
            means = [
                np.take_along_axis(runs @ shares, own[:, rows], 0).mean(0)
                for runs, own in zip(values, drawn, strict=True)
            ]
            differences[rows] += (means[1] - means[0]) / len(theirs[0])
    other = min((differences <= 1e-12).sum(), (differences >= -1e-12).sum())
    return float(min(1.0, 2 * (other + 1) / (resamples + 1)))


def bootstrap_interval(
    values: Values, level: float = 0.95, resamples: int = 10_000, seed: int = 0, *, baseline: Values | None = None
) -> tuple[float, float]:
    """
    Compute a percentile bootstrap interval (Efron 1979) of a mean over queries, or of a difference.

    With groups of queries, the statistic is the mean of the group means, and queries are resampled within each group.

    Args:
        values (`Values`): One value per query, as in [`paired_randomisation_test`].
        level (`float`, defaults to 0.95): Share of the resampled means that lie within the interval.
        resamples (`int`, defaults to 10000): Number of resamples, drawn with replacement.
        seed (`int`, defaults to 0): Seed of the resampling.
        baseline (`Values`, *optional*):
            Another system on the same queries. The interval is then that of the mean of `values` minus its mean.

    Returns:
        `tuple[float, float]`: lower and upper bound.

    Raises:
        ValueError: `level` is not between 0 and 1, `resamples` is below 1, there are no values, a value is not a
            finite number, or `values` and `baseline` do not have the same queries.
    """
    check_number("level", level, at_least=0, at_most=1)
    check_number("resamples", resamples, at_least=1)
    if baseline is None:
        groups = [_array(group) for group in _groups(values).values()]
    else:
        groups = _differences(values, baseline)
    generator = np.random.default_rng(seed)
    means = np.zeros(resamples)
    for group in groups:
        for rows in _slices(resamples, len(group)):
            drawn = generator.integers(len(group), size=(rows.stop - rows.start, len(group)))
            means[rows] += group[drawn].mean(1) / len(groups)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def holm(p_values: Sequence[float]) -> list[float]:
    """
    Apply Holm's correction for multiple comparisons (1979).

    The probability of any false positive among all comparisons is then at most the level that the corrected values
    are compared with.

    Args:
        p_values (sequence of `float`): one per comparison.

    Returns:
        `list[float]`: corrected, in the same order, at most 1.

    Raises:
        ValueError: a p-value is not between 0 and 1.
    """
    for p in p_values:
        check_number("a p-value", p, at_least=0, at_most=1)
    values = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(values, kind="stable")
    corrected = np.empty_like(values)
    corrected[order] = np.maximum.accumulate(np.minimum(values[order] * np.arange(len(values), 0, -1), 1.0))
    return corrected.tolist()


def compare_systems(
    values: Mapping[str, Values],
    baseline: str | None = None,
    *,
    runs: Mapping[str, Runs] | None = None,
    alpha: float = 0.05,
    permutations: int = 10_000,
    resamples: int = 10_000,
    seed: int = 0,
) -> list[Comparison]:
    """
    Compare systems pairwise on the same queries, with Holm's correction over all comparisons.

    If one report makes comparisons in several calls, correct them together with [`correct_together`].

    Intervals and p-values describe the variation between queries. With `runs`, a third test covers the variation
    between training runs (seeds) too.

    Args:
        values (mapping of `str` to `Values`):
            System -> its values, as in [`paired_randomisation_test`]. With several seeds, pass the mean per query.
        baseline (`str`, *optional*):
            The system that every other one is compared with. By default all pairs are compared.
        runs (mapping of `str` to `Runs`, *optional*):
            System -> its values in each training run, for [`runs_bootstrap_test`]. A difference must then be
            significant by that test too.
        alpha (`float`, defaults to 0.05): Significance level; intervals cover `1 - alpha`.
        permutations (`int`, defaults to 10000), resamples (`int`, defaults to 10000), seed (`int`, defaults to 0):
            Options of the randomisation test, and of the bootstrap of intervals and of the test over runs. With `m`
            comparisons, no corrected p of a sampled permutation test is below `m / (permutations + 1)`, and none of
            the test over runs is below `2 m / (resamples + 1)`: raise both for hundreds of comparisons.

    Returns:
        `list[Comparison]`: in the order of `values`.

    Raises:
        ValueError: there are fewer than two systems, `baseline` is not one of them, `alpha` is not between 0 and 1,
            or two systems do not have the same queries.
    """
    check_number("the number of systems in values", len(values), at_least=2)
    check_number("alpha", alpha, at_least=0, at_most=1)
    if baseline is None:
        pairs = list(itertools.combinations(values, 2))
    else:
        check_choice("baseline", baseline, values)
        pairs = [(system, baseline) for system in values if system != baseline]
    comparisons = []
    for system, other in pairs:
        a, b = values[system], values[other]
        try:
            difference = float(np.mean([group.mean() for group in _differences(a, b)]))
        except ValueError as error:
            raise ValueError(f"{system!r} cannot be compared with {other!r}: {error}") from error
        interval = bootstrap_interval(a, 1 - alpha, resamples, seed, baseline=b)
        p, p_t = paired_randomisation_test(a, b, permutations, seed), paired_t_test(a, b)
        p_runs = None if runs is None else runs_bootstrap_test(runs[system], runs[other], resamples, seed)
        comparisons.append(Comparison(system, other, difference, interval, p, p_t, p, p_t, False, p_runs, p_runs))
    return correct_together(comparisons, alpha)


def correct_together(comparisons: Sequence[Comparison], alpha: float = 0.05) -> list[Comparison]:
    """Replace the correction of comparisons by Holm's correction over all of them, at level `alpha`."""
    check_number("alpha", alpha, at_least=0, at_most=1)

    def corrected(name: str) -> dict[int, float]:
        found = {place: p for place, each in enumerate(comparisons) if (p := getattr(each, name)) is not None}
        return dict(zip(found, holm(list(found.values())), strict=True))

    by_randomisation, by_t, by_runs = map(corrected, ("p_randomisation", "p_t", "p_runs"))
    adjusted = [
        replace(
            each,
            adjusted_randomisation=by_randomisation[place],
            adjusted_t=by_t[place],
            adjusted_runs=by_runs.get(place),
        )
        for place, each in enumerate(comparisons)
    ]
    return [replace(each, significant=each.adjusted < alpha) for each in adjusted]


def _groups(values: Values) -> Mapping[str, Group]:
    """Group -> values; without groups, all queries form one group."""
    if isinstance(values, Mapping) and values and not any(np.isscalar(value) for value in values.values()):
        return cast(Mapping[str, Group], values)
    return {"all queries": cast(Group, values)}


def _array(values: Group) -> np.ndarray:
    array = np.asarray(list(values.values()) if isinstance(values, Mapping) else values, dtype=np.float64)
    if array.ndim != 1 or len(array) == 0 or not np.isfinite(array).all():
        raise ValueError("values must be finite numbers, one per query, for at least one query")
    return array


def _differences(a: Values, b: Values) -> list[np.ndarray]:
    """Per-query differences `a - b` of each group."""
    ours, theirs = _groups(a), _groups(b)
    if ours.keys() != theirs.keys():
        raise ValueError(f"a and b must have the same groups, got {list(ours)} and {list(theirs)}")
    return [_difference(group, own, theirs[group]) for group, own in ours.items()]


def _difference(group: str, a: Group, b: Group) -> np.ndarray:
    ours: dict[Any, float] = dict(a if isinstance(a, Mapping) else enumerate(a))
    theirs: dict[Any, float] = dict(b if isinstance(b, Mapping) else enumerate(b))
    if ours.keys() != theirs.keys():
        alone = sorted(ours.keys() ^ theirs.keys(), key=str)[0]
        raise ValueError(f"{group}: a and b must have the same queries, but only one of them has {alone!r}")
    return _array(list(ours.values())) - _array([theirs[query] for query in ours])


def _all_swaps(queries: int) -> Iterator[np.ndarray]:
    """All ways to swap `queries` pairs: blocks of rows of 0 (keep) and 1 (swap)."""
    for rows in _slices(2**queries, queries):
        codes = np.arange(rows.start, rows.stop, dtype=np.int64)[:, None]
        yield (codes >> np.arange(queries) & 1).astype(np.float64)


def _random_swaps(queries: int, permutations: int, seed: int) -> Iterator[np.ndarray]:
    generator = np.random.default_rng(seed)
    for rows in _slices(permutations, queries):
        drawn = generator.integers(256, size=(rows.stop - rows.start, -(-queries // 8)), dtype=np.uint8)
        yield np.unpackbits(drawn, axis=1, count=queries).astype(np.float64)


@lru_cache(maxsize=64)
def _drawn_queries(queries: int, resamples: int, seed: tuple[int, ...]) -> np.ndarray:
    """
    How often each query is drawn in each resample, of shape `(resamples, queries)`.

    Drawing takes most of the time of a test, and all comparisons of a report draw from the same numbers of queries.
    """
    counts = np.random.default_rng(seed).multinomial(queries, np.full(queries, 1 / queries), resamples)
    return counts.astype(np.min_scalar_type(queries))


def _slices(rows: int, columns: int) -> Iterator[slice]:
    """Split `rows` into slices of at most `_BLOCK` entries, or of one row."""
    size = max(1, _BLOCK // columns)
    for start in range(0, rows, size):
        yield slice(start, min(start + size, rows))
