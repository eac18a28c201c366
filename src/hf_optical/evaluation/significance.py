"""Whether one system is better than another, or was only luckier with the queries."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats


# Values of one system: one a query, in any order that all systems share; or query id -> value; or, where queries come
# in groups such as languages, group -> either of the two.
Values = Sequence[float] | np.ndarray | Mapping[str, float] | Mapping[str, Sequence[float] | Mapping[str, float]]

# Random numbers held at once: some 16 MB, however many queries and permutations.
_BLOCK = 1 << 21


@dataclass(frozen=True)
class Comparison:
    """
    Two systems on the same queries.

    Args:
        system (`str`), baseline (`str`):
            Their names.
        difference (`float`):
            Mean of `system` minus mean of `baseline`.
        interval (`tuple[float, float]`):
            Bootstrap interval of the difference, for this comparison alone.
        p_randomisation (`float`), p_t (`float`):
            From [`paired_randomisation_test`] and [`paired_t_test`], for this comparison alone.
        adjusted_randomisation (`float`), adjusted_t (`float`):
            The same after Holm's correction over all comparisons made.
        significant (`bool`):
            Whether both corrected tests stay below the level asked for.
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

    @property
    def winner(self) -> str | None:
        """Name of the better system, or `None` if the difference may be chance."""
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
    Fisher's randomisation test of the difference of two means over the same queries (Smucker et al. 2007), two-sided.

    If the systems were alike, each query's two values could as well have stood the other way round: p is how often
    swapping them at random makes a difference at least as large as the one observed. With groups of queries the mean
    is that over the groups of their means, and values are swapped within each group. All ways to swap are counted
    where there are no more than `permutations`; else as many are drawn, and p is at least `1 / (permutations + 1)`.

    Args:
        a (`Values`), b (`Values`):
            The two systems: a value a query in the same order, query id -> value, or group -> either of these.
        permutations (`int`, defaults to 10000):
            Ways to swap.
        seed (`int`, defaults to 0):
            Of the draw.

    Returns:
        `float`: the p-value; 1 where no query differs.

    Raises:
        ValueError: there are no values, a value is not a finite number, `permutations` is below 1, or `a` and `b` do
            not hold the same queries.
    """
    _at_least_one("permutations", permutations)
    groups = _differences(a, b)
    # What each query adds to the mean of means.
    shares = np.concatenate([group / (len(group) * len(groups)) for group in groups])
    shares = shares[shares != 0]
    if len(shares) == 0:
        return 1.0
    # Sums that are equal on paper differ in their last bits.
    observed = abs(shares.sum()) - 1e-12 * np.abs(shares).sum()
    exact = len(shares) < 63 and 2 ** len(shares) <= permutations
    blocks = _all_swaps(len(shares)) if exact else _random_swaps(len(shares), permutations, seed)
    as_large = sum(int((np.abs(shares.sum() - 2 * (swaps @ shares)) >= observed).sum()) for swaps in blocks)
    # The order observed is one of those possible, and counted among them: p is never 0 (Phipson & Smyth 2010).
    return as_large / 2 ** len(shares) if exact else (as_large + 1) / (permutations + 1)


def paired_t_test(a: Values, b: Values) -> float:
    """
    Student's t-test of the difference of two means over the same queries, two-sided.

    With groups of queries the mean is that over the groups of their means; their variances are estimated apart, and
    the degrees of freedom are those of Welch and Satterthwaite.

    Args:
        a (`Values`), b (`Values`): as in [`paired_randomisation_test`].

    Returns:
        `float`: the p-value; 1 where no query differs, or where a group has one query, which tells no variance.

    Raises:
        ValueError: there are no values, a value is not a finite number, or `a` and `b` do not hold the same queries.
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


def bootstrap_interval(
    values: Values, level: float = 0.95, resamples: int = 10_000, seed: int = 0, *, baseline: Values | None = None
) -> tuple[float, float]:
    """
    Percentile bootstrap interval of a mean over queries (Efron 1979), or of the difference of two.

    With groups of queries the mean is that over the groups of their means, and queries are drawn within each group.

    Args:
        values (`Values`):
            A value a query, as in [`paired_randomisation_test`].
        level (`float`, defaults to 0.95):
            Share of the resampled means that lie within.
        resamples (`int`, defaults to 10000):
            How often queries are drawn, with replacement.
        seed (`int`, defaults to 0):
            Of the draw.
        baseline (`Values`, *optional*):
            Another system on the same queries: the interval is then of the mean of `values` minus its mean.

    Returns:
        `tuple[float, float]`: lower and upper end.

    Raises:
        ValueError: `level` is not between 0 and 1, `resamples` is below 1, there are no values, a value is not a
            finite number, or `values` and `baseline` do not hold the same queries.
    """
    _between_0_and_1("level", level)
    _at_least_one("resamples", resamples)
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
    Holm's correction (1979) for making several comparisons.

    The chance of any false finding among all of them is then at most the level that the corrected values are held
    against.

    Args:
        p_values (sequence of `float`): one a comparison.

    Returns:
        `list[float]`: corrected, in the same order, at most 1.

    Raises:
        ValueError: a p-value is not between 0 and 1.
    """
    values = np.asarray(p_values, dtype=np.float64)
    if not ((values >= 0) & (values <= 1)).all():
        raise ValueError("p_values holds something that is not between 0 and 1")
    order = np.argsort(values, kind="stable")
    corrected = np.empty_like(values)
    corrected[order] = np.maximum.accumulate(np.minimum(values[order] * np.arange(len(values), 0, -1), 1.0))
    return corrected.tolist()


def compare_systems(
    values: Mapping[str, Values],
    baseline: str | None = None,
    *,
    alpha: float = 0.05,
    permutations: int = 10_000,
    resamples: int = 10_000,
    seed: int = 0,
) -> list[Comparison]:
    """
    Compares systems two by two on the same queries, with Holm's correction over all comparisons.

    Comparisons that one report makes in several calls belong together: correct them with [`correct_together`].

    The queries are what is drawn: intervals and p-values say what other queries might have shown, and nothing of what
    another training run (another seed) would give.

    Args:
        values (mapping of `str` to `Values`):
            System -> its values, as in [`paired_randomisation_test`]. Of several seeds, the mean a query.
        baseline (`str`, *optional*):
            The system that each other one is compared with. By default all pairs are compared.
        alpha (`float`, defaults to 0.05):
            Level of significance; intervals hold `1 - alpha`.
        permutations (`int`, defaults to 10000), resamples (`int`, defaults to 10000), seed (`int`, defaults to 0):
            Of the randomisation test and the bootstrap. For `m` comparisons no corrected p of a drawn permutation test
            is below `m / (permutations + 1)`: raise `permutations` where there are hundreds.

    Returns:
        `list[Comparison]`: in the order of `values`.

    Raises:
        ValueError: there are fewer than two systems, `baseline` is not one of them, `alpha` is not between 0 and 1,
            or two systems do not hold the same queries.
    """
    if len(values) < 2:
        raise ValueError(f"values holds {len(values)} systems; there must be at least two to compare")
    if baseline is None:
        pairs = list(itertools.combinations(values, 2))
    elif baseline in values:
        pairs = [(system, baseline) for system in values if system != baseline]
    else:
        raise ValueError(f"baseline {baseline!r} is not in values; the systems are {', '.join(values)}")
    _between_0_and_1("alpha", alpha)
    comparisons = []
    for system, other in pairs:
        a, b = values[system], values[other]
        try:
            difference = float(np.mean([group.mean() for group in _differences(a, b)]))
        except ValueError as error:
            raise ValueError(f"{system!r} cannot be compared with {other!r}: {error}") from error
        interval = bootstrap_interval(a, 1 - alpha, resamples, seed, baseline=b)
        p, p_t = paired_randomisation_test(a, b, permutations, seed), paired_t_test(a, b)
        comparisons.append(Comparison(system, other, difference, interval, p, p_t, p, p_t, False))
    return correct_together(comparisons, alpha)


def correct_together(comparisons: Sequence[Comparison], alpha: float = 0.05) -> list[Comparison]:
    """The same comparisons with Holm's correction over all of them, in place of any before, and at level `alpha`."""
    _between_0_and_1("alpha", alpha)
    adjusted = holm([comparison.p_randomisation for comparison in comparisons])
    adjusted_t = holm([comparison.p_t for comparison in comparisons])
    return [
        replace(each, adjusted_randomisation=p, adjusted_t=p_t, significant=max(p, p_t) < alpha)
        for each, p, p_t in zip(comparisons, adjusted, adjusted_t, strict=True)
    ]


def _groups(values: Values) -> Mapping[str, Sequence[float] | Mapping[str, float]]:
    """Group -> values; without groups all queries are one."""
    if isinstance(values, Mapping) and values and not any(np.isscalar(value) for value in values.values()):
        return values
    return {"all queries": values}


def _array(values: Sequence[float] | np.ndarray | Mapping[str, float]) -> np.ndarray:
    array = np.asarray(list(values.values()) if isinstance(values, Mapping) else values, dtype=np.float64)
    if array.ndim != 1 or len(array) == 0 or not np.isfinite(array).all():
        raise ValueError("the values of a system must be finite numbers, one a query, for at least one query")
    return array


def _differences(a: Values, b: Values) -> list[np.ndarray]:
    """For each group, query by query, the value in `a` minus that in `b`."""
    ours, theirs = _groups(a), _groups(b)
    if ours.keys() != theirs.keys():
        raise ValueError(f"a has groups {', '.join(ours)} and b {', '.join(theirs)}; measure both on the same queries")
    return [_difference(group, own, theirs[group]) for group, own in ours.items()]


def _difference(
    group: str, a: Sequence[float] | Mapping[str, float], b: Sequence[float] | Mapping[str, float]
) -> np.ndarray:
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        if a.keys() != b.keys():
            alone = next(iter(a.keys() ^ b.keys()))
            raise ValueError(f"{group}: only one of a and b has query {alone!r}; measure both on the same queries")
        b = {query: b[query] for query in a}
    elif isinstance(a, Mapping) or isinstance(b, Mapping):
        raise ValueError(f"{group}: one of a and b names its queries and the other does not; name those of both")
    ours, theirs = _array(a), _array(b)
    if len(ours) != len(theirs):
        raise ValueError(f"{group}: {len(ours)} values in a and {len(theirs)} in b; measure both on the same queries")
    return ours - theirs


def _all_swaps(queries: int) -> Iterator[np.ndarray]:
    """Every way to swap `queries` pairs or to leave them: blocks of rows of 0 and 1."""
    for rows in _slices(2**queries, queries):
        codes = np.arange(rows.start, rows.stop, dtype=np.int64)[:, None]
        yield (codes >> np.arange(queries) & 1).astype(np.float64)


def _random_swaps(queries: int, permutations: int, seed: int) -> Iterator[np.ndarray]:
    generator = np.random.default_rng(seed)
    for rows in _slices(permutations, queries):
        drawn = generator.integers(256, size=(rows.stop - rows.start, -(-queries // 8)), dtype=np.uint8)
        yield np.unpackbits(drawn, axis=1, count=queries).astype(np.float64)


def _slices(rows: int, columns: int) -> Iterator[slice]:
    """Cuts `rows` so that a slice of them holds at most `_BLOCK` entries, or is one row."""
    size = max(1, _BLOCK // columns)
    for start in range(0, rows, size):
        yield slice(start, min(start + size, rows))


def _at_least_one(name: str, value: int) -> None:
    if value < 1:
        raise ValueError(f"{name} is {value}; it must be at least 1")


def _between_0_and_1(name: str, value: float) -> None:
    if not 0 < value < 1:
        raise ValueError(f"{name} is {value}; it must be between 0 and 1")
