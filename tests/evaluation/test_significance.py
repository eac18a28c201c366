import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from hf_optical.evaluation import significance
from hf_optical.evaluation.significance import (
    bootstrap_interval,
    compare_systems,
    correct_together,
    holm,
    paired_randomisation_test,
    paired_t_test,
    runs_bootstrap_test,
)


# Sums of these are often equal on paper and not in floating point, as those of reciprocal ranks are.
value = st.sampled_from([0.0, 0.1, 0.2, 0.3, 1 / 3, 0.5, 0.7, 1.0])
pairs = st.lists(st.tuples(value, value), min_size=1, max_size=8)


def system(seed, queries=40, shift=0.0):
    return np.random.default_rng(seed).random(queries) + shift


def by_enumeration(groups):
    """Share of all ways to swap whose mean of means is at least as large, for groups of (a, b) pairs."""

    def statistic(signs):
        signs = iter(signs)
        return np.mean([np.mean([next(signs) * (a - b) for a, b in group]) for group in groups])

    ways = [abs(statistic(signs)) for signs in itertools.product([1, -1], repeat=sum(map(len, groups)))]
    return sum(way >= ways[0] - 1e-9 for way in ways) / len(ways)


@settings(max_examples=25)
@given(pairs)
def test_randomisation_is_exact_for_few_queries(rows):
    a, b = zip(*rows, strict=True)
    assert paired_randomisation_test(a, b) == pytest.approx(by_enumeration([rows]), abs=1e-12)


@settings(max_examples=15)
@given(pairs.map(lambda rows: rows[:4]), pairs.map(lambda rows: rows[:5]))
def test_randomisation_is_exact_within_groups(first, second):
    a, b = ({"ha": [row[side] for row in first], "yo": [row[side] for row in second]} for side in (0, 1))
    assert paired_randomisation_test(a, b) == pytest.approx(by_enumeration([first, second]), abs=1e-12)


def test_sampled_randomisation_agrees_with_scipy():
    a, b = system(1), system(2, shift=0.1)
    theirs = stats.permutation_test(
        (a - b,), lambda x, axis: x.mean(axis), permutation_type="samples", vectorized=True, n_resamples=20_000
    )
    ours = paired_randomisation_test(a, b, permutations=20_000)
    assert 0.01 < ours < 0.5
    # Four standard errors of the difference of two such shares.
    assert ours == pytest.approx(theirs.pvalue, abs=4 * math.sqrt(2 * ours * (1 - ours) / 20_000))


def test_sampling_agrees_with_enumeration():
    a, b = system(3, 12), system(4, 12, shift=0.2)
    exact = paired_randomisation_test(a, b, permutations=2**12)
    drawn = paired_randomisation_test(a, b, permutations=2**12 - 1)
    assert exact != drawn and exact == pytest.approx(drawn, abs=0.03)
    assert paired_randomisation_test(np.ones(100), np.zeros(100), permutations=999) == 1 / 1000


def test_queries_without_a_difference_do_not_count():
    a, b = np.r_[system(1, 6), np.full(2000, 0.3)], np.r_[system(2, 6), np.full(2000, 0.3)]
    assert paired_randomisation_test(a, b) == by_enumeration([list(zip(a[:6], b[:6], strict=True))])


def test_block_size_does_not_change_results(monkeypatch):
    a, b = system(1), system(2)
    groups = {"ha": a[:15], "yo": a[15:]}
    before = paired_randomisation_test(a[:10], b[:10]), bootstrap_interval(groups, resamples=500)
    monkeypatch.setattr(significance, "_BLOCK", 100)
    assert paired_randomisation_test(a[:10], b[:10]) == before[0]
    assert bootstrap_interval(groups, resamples=500) == pytest.approx(before[1], abs=0.02)
    assert paired_randomisation_test(a, b, permutations=500) == pytest.approx(stats.ttest_rel(a, b).pvalue, abs=0.1)


@pytest.mark.parametrize("test", [paired_randomisation_test, paired_t_test])
@settings(max_examples=25)
@given(rows=pairs)
def test_p_values_are_symmetric_probabilities(test, rows):
    a, b = zip(*rows, strict=True)
    assert 0 <= test(a, b) <= 1
    assert test(a, b) == pytest.approx(test(b, a), abs=1e-9)
    assert test(a, a) == test({"ha": a, "yo": b}, {"ha": a, "yo": b}) == 1.0


@pytest.mark.parametrize("test", [lambda a, b: paired_randomisation_test(a, b, permutations=400), paired_t_test])
def test_p_values_are_uniform_for_groups_of_unequal_size_and_noise(test):
    generator = np.random.default_rng(1)
    p_values = []
    for _ in range(400):
        a, b = ({"ha": generator.normal(size=8), "yo": generator.normal(size=60, scale=3)} for _ in range(2))
        p_values.append(test(a, b))
    assert stats.kstest(p_values, "uniform").pvalue > 0.01


def test_power_grows_with_the_number_of_queries():
    better = system(1, 500) + 0.05
    noise = np.random.default_rng(9).normal(scale=0.2, size=500)
    for test in (paired_randomisation_test, paired_t_test):
        assert test(better + noise, better - 0.05) < 0.001
        assert test((better + noise)[:10], (better - 0.05)[:10]) > 0.05


def test_t_test_agrees_with_scipy():
    a, b = system(1), system(2, shift=0.1)
    assert paired_t_test(a, b) == pytest.approx(stats.ttest_rel(a, b).pvalue, rel=1e-12)
    # The mean of two groups' differences is, with the sign of one turned, Welch's difference of two means.
    ours = paired_t_test({"ha": a[:10], "yo": a[10:]}, {"ha": b[:10], "yo": b[10:]})
    d = a - b
    assert ours == pytest.approx(stats.ttest_ind(d[:10], -d[10:], equal_var=False).pvalue, rel=1e-12)


def test_t_test_without_variance():
    assert paired_t_test([1.0, 2.0, 3.0], [0.0, 1.0, 2.0]) == 0.0
    assert paired_t_test([1.0], [0.0]) == 1.0
    assert paired_t_test({"ha": [1.0], "yo": [1.0, 0.0, 1.0]}, {"ha": [0.0], "yo": [0.0, 0.0, 0.5]}) == 1.0


def test_bootstrap_agrees_with_scipy():
    a = system(1) ** 2
    theirs = stats.bootstrap((a,), np.mean, n_resamples=10_000, method="percentile", rng=np.random.default_rng(1))
    assert bootstrap_interval(a) == pytest.approx(tuple(theirs.confidence_interval), abs=0.004)
    wide, narrow = bootstrap_interval(a, 0.99), bootstrap_interval(a, 0.5)
    assert wide[0] < narrow[0] < a.mean() < narrow[1] < wide[1]


def test_bootstrap_of_groups_has_the_standard_error_of_a_mean_of_means():
    groups = {"ha": system(1, 200), "yo": system(2, 50, shift=0.5)}
    mean = np.mean([group.mean() for group in groups.values()])
    error = math.sqrt(sum(group.var() / len(group) for group in groups.values())) / 2
    assert bootstrap_interval(groups) == pytest.approx((mean - 1.96 * error, mean + 1.96 * error), abs=0.004)


def test_bootstrap_of_a_difference():
    a, b = system(1), system(2, shift=0.1)
    assert bootstrap_interval(a, baseline=b) == bootstrap_interval(a - b)
    assert bootstrap_interval(a, baseline=a) == (0.0, 0.0)


def test_intervals_have_nominal_coverage():
    generator = np.random.default_rng(0)
    draws = (bootstrap_interval(generator.random(60), 0.9, resamples=400) for _ in range(300))
    covered = sum(low <= 0.5 <= high for low, high in draws) / 300
    assert 0.84 < covered < 0.95


def test_queries_are_paired_by_id():
    a, b = {"q1": 0.1, "q2": 0.9, "q3": 0.4}, {"q3": 0.5, "q1": 0.0, "q2": 0.2}
    lined_up = [0.1, 0.9, 0.4], [0.0, 0.2, 0.5]
    for test in (paired_randomisation_test, paired_t_test):
        assert test(a, b) == test(*lined_up) == test({"ha": a}, {"ha": b})
    assert bootstrap_interval(a, baseline=b) == bootstrap_interval(lined_up[0], baseline=lined_up[1])


def test_groups_have_equal_weight():
    a = {"ha": np.full(4, 0.4), "yo": np.full(100, 0.1)}
    b = {"yo": np.full(100, 0.2), "ha": np.full(4, 0.1)}
    (found,) = compare_systems({"a": a, "b": b})
    assert found.difference == pytest.approx((0.3 - 0.1) / 2)
    assert found.interval == pytest.approx((0.1, 0.1))


def test_holm_corrects_p_values():
    # 4 x .005, 3 x .01, then 2 x .03 = .06, which 1 x .04 may not fall below.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == [] and holm([0.2]) == [0.2] and holm([0.9, 0.8]) == [1.0, 1.0]


@settings(max_examples=30)
@given(st.lists(st.floats(0, 1), max_size=8))
def test_holm_agrees_with_the_step_down_procedure(p_values):
    adjusted = holm(p_values)
    assert all(p <= q <= min(1.0, p * len(p_values)) + 1e-12 for p, q in zip(p_values, adjusted, strict=True))
    for alpha in (0.01, 0.05, 0.3):
        # Holm's own words: reject in order until one is above alpha / (m - i).
        rejected = set()
        for i, position in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
            if p_values[position] * (len(p_values) - i) > alpha:
                break
            rejected.add(position)
        assert rejected == {i for i, q in enumerate(adjusted) if q <= alpha}


@pytest.fixture
def systems():
    base = system(0, 300)
    noise = np.random.default_rng(5).normal(scale=0.1, size=(2, 300))
    return {"ot": base + 0.1 + noise[0], "greedy": base + noise[1], "same": base.copy(), "none": base}


def test_compares_all_pairs_or_with_a_baseline(systems):
    every = compare_systems(systems)
    assert [(each.system, each.baseline) for each in every] == list(itertools.combinations(systems, 2))
    against = compare_systems(systems, "greedy")
    assert [(each.system, each.baseline) for each in against] == [(name, "greedy") for name in ("ot", "same", "none")]
    first, reverse = every[0], compare_systems(dict(reversed(systems.items())), "ot")[-1]
    assert reverse.difference == -first.difference and reverse.p_randomisation == first.p_randomisation


def test_comparison_has_raw_and_corrected_p_values(systems):
    found = compare_systems(systems, permutations=999, resamples=500, seed=3)
    for each in found:
        a, b = systems[each.system], systems[each.baseline]
        assert each.difference == pytest.approx(a.mean() - b.mean())
        assert each.p_randomisation == paired_randomisation_test(a, b, 999, seed=3)
        assert each.p_t == paired_t_test(a, b)
        assert each.interval == bootstrap_interval(a, 0.95, 500, seed=3, baseline=b)
    assert [each.adjusted_randomisation for each in found] == holm([each.p_randomisation for each in found])
    assert [each.adjusted_t for each in found] == holm([each.p_t for each in found])


def test_runs_and_queries_are_drawn_together():
    """A plain loop over resamples of two groups, in which one system has three runs and the other two."""
    draw = np.random.default_rng(0)
    runs = {
        name: [{"x": draw.normal(shift, 1, 12) + luck, "y": draw.normal(shift, 1, 5) + luck} for luck in lucks]
        for name, shift, lucks in (("a", 0.5, (0.3, -0.2, 0.1)), ("b", 0.0, (0.2, -0.1)))
    }

    def resampled() -> float:
        means = []
        drawn = [[own[draw.integers(len(own))] for _ in own] for own in runs.values()]
        for group in ("x", "y"):
            queries = draw.integers(len(runs["a"][0][group]), size=len(runs["a"][0][group]))
            sides = [[run[group][queries].mean() for run in own] for own in drawn]
            means.append(np.mean(sides[0]) - np.mean(sides[1]))
        return np.mean(means)

    differences = np.array([resampled() for _ in range(4000)])
    expected = 2 * min((differences <= 0).mean(), (differences >= 0).mean())
    assert runs_bootstrap_test(runs["a"], runs["b"], 20_000) == pytest.approx(expected, abs=0.02)
    by_id = {name: [{"x": dict(enumerate(run["x"])), "y": run["y"]} for run in own] for name, own in runs.items()}
    assert runs_bootstrap_test(by_id["a"], by_id["b"]) == runs_bootstrap_test(runs["a"], runs["b"])
    assert runs_bootstrap_test(runs["a"], runs["a"][:1] * 2) == pytest.approx(
        runs_bootstrap_test(runs["a"][:1] * 2, runs["a"]), abs=0.05
    )
    assert runs_bootstrap_test(runs["b"][:1], runs["b"][:1]) == 1.0


def test_one_training_run_of_several_languages_counts_once():
    draw = np.random.default_rng(0)
    base = {code: draw.uniform(0.3, 0.7, 200) for code in ("ha", "ig", "sw", "yo")}
    shifted = [
        {code: values + shift + draw.normal(0, 0.01, 200) for code, values in base.items()}
        for shift in (0.06, 0.04, -0.035)
    ]
    p = runs_bootstrap_test(shifted, [base])
    # As in one language: the mean of three drawn runs is below 0 in 7 of 27 ways.
    assert p == pytest.approx(2 * 7 / 27, abs=0.03)
    assert p == pytest.approx(runs_bootstrap_test([run["ha"] for run in shifted], [base["ha"]]), abs=0.03)
    assert runs_bootstrap_test(shifted, [base]) == p


def test_resamples_are_those_of_the_test_over_runs():
    base = system(1, 50)
    runs = {"ot": [base + 0.2, base + 0.21], "none": [base]}
    values = {"ot": base + 0.205, "none": base}
    (found,) = compare_systems(values, runs=runs, permutations=99, resamples=1999)
    assert found.p_runs == runs_bootstrap_test(runs["ot"], runs["none"], 1999) == 2 / 2000


def test_difference_that_depends_on_the_run_is_not_significant():
    base = system(1, 300)
    steady = {"ot": [base + 0.1, base + 0.11, base + 0.09], "none": [base]}
    lucky = {"ot": [base + 0.5, base - 0.1, base - 0.1], "none": [base]}
    for runs, winner in ((steady, "ot"), (lucky, None)):
        means = {name: np.mean(own, axis=0) for name, own in runs.items()}
        means["ot"][:30] -= 0.2  # so that queries differ
        (found,) = compare_systems(means, runs=runs)
        assert found.winner == winner and found.adjusted_randomisation < 0.01 and found.p_runs == found.adjusted_runs
    (first,), second = compare_systems(means, runs=lucky), compare_systems(means)
    together = correct_together([first, *second])
    assert together[0].adjusted_runs == first.p_runs and together[1].adjusted_runs is None


def test_winner_requires_significance(systems):
    found = {(each.system, each.baseline): each for each in compare_systems(systems)}
    assert found["ot", "greedy"].winner == "ot"
    assert str(found["ot", "greedy"]).endswith("(t): ot is better")
    assert found["same", "none"].winner is None and found["same", "none"].interval == (0.0, 0.0)
    assert str(found["same", "none"]).endswith(": no significant difference")
    worse = compare_systems({"none": systems["none"], "ot": systems["ot"]})[0]
    assert worse.winner == "ot" and worse.difference < 0
    # Seven queries swap in 128 ways, of which 2 are as one-sided: p = 0.016, which correction over ten lifts.
    few = compare_systems({str(i): np.arange(7) * 0.1 + i for i in range(5)})
    assert all(each.p_randomisation == 2 / 128 and each.winner is None for each in few)


def test_correct_together_covers_several_calls(systems):
    first, second = compare_systems(systems, "none"), compare_systems(systems, "greedy")
    together = correct_together([*first, *second])
    assert [each.adjusted_t for each in together] == holm([each.p_t for each in (*first, *second)])
    assert correct_together(together) == together
    assert not any(each.significant for each in correct_together(together, alpha=1e-9))


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        ([], [], "finite numbers, one per query, for at least one query"),
        ([1.0, math.nan], [1.0, 1.0], "finite numbers"),
        ([1.0], [1.0, 2.0], "same queries, but only one of them has 1"),
        ({"q1": 1.0}, {"q2": 1.0}, "same queries, but only one of them has 'q1'"),
        ({"ha": [1.0]}, {"yo": [1.0]}, r"same groups, got \['ha'\] and \['yo'\]"),
    ],
)
def test_systems_with_different_queries_raise(a, b, message):
    for test in (paired_randomisation_test, paired_t_test, lambda a, b: bootstrap_interval(a, baseline=b)):
        with pytest.raises(ValueError, match=message):
            test(a, b)
    with pytest.raises(ValueError, match=f"'one' cannot be compared with 'two': .*{message}"):
        compare_systems({"one": a, "two": b})


def test_invalid_settings_raise():
    with pytest.raises(ValueError, match="permutations must be at least 1, got 0"):
        paired_randomisation_test([1.0], [0.0], permutations=0)
    with pytest.raises(ValueError, match="resamples must be at least 1, got 0"):
        bootstrap_interval([1.0], resamples=0)
    with pytest.raises(ValueError, match="level must be between 0 and 1, got 95"):
        bootstrap_interval([1.0], 95)
    with pytest.raises(ValueError, match="alpha must be between 0 and 1, got 5"):
        compare_systems({"a": [1.0], "b": [0.0]}, alpha=5)
    with pytest.raises(ValueError, match="the number of systems in values must be at least 2, got 1"):
        compare_systems({"a": [1.0]})
    with pytest.raises(ValueError, match="baseline must be one of 'a', 'b', got 'c'"):
        compare_systems({"a": [1.0], "b": [0.0]}, "c")
    with pytest.raises(ValueError, match="a p-value must be between 0 and 1, got 1.5"):
        holm([0.5, 1.5])
    with pytest.raises(ValueError, match="a p-value must be between 0 and 1, got nan"):
        holm([math.nan])
