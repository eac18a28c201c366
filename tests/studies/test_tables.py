from dataclasses import replace

import numpy as np
import pytest
from study_records import MEASURE, record, references

from hf_optical.errors import DataError
from hf_optical.evaluation import compare_systems, gap_closed, holm
from hf_optical.studies.robustness import robustness_curves
from hf_optical.studies.tables import (
    MEAN,
    NOTHING,
    compare,
    data_size_curves,
    domain_matrices,
    has_several_settings,
    headline,
    joined,
    language_pair_curves,
    places_of,
    pool_seeds,
    runs_of,
)


def test_seeds_are_averaged_query_by_query():
    first, second = record("ot", 0.3, seed=1, seconds=10.0), record("ot", 0.5, seed=2, seconds=20.0)

    (cell,) = pool_seeds([first, second])

    for query in first.values[MEASURE]:
        assert cell.values[MEASURE][query] == pytest.approx(
            (first.values[MEASURE][query] + second.values[MEASURE][query]) / 2
        )
    assert cell.runs[MEASURE] == {1: first.values[MEASURE], 2: second.values[MEASURE]}
    assert cell.seconds == 15


def test_runs_pair_the_seeds_that_all_languages_have():
    records = [
        record("ot", seed / 10, code, seed=seed)
        for code, seeds in (("ha", (1, 2, 3)), ("ig", (1, 3)))
        for seed in seeds
    ]
    records.append(record("ot", 0.9, "yo"))  # without randomness
    row = {cell.language: cell for cell in pool_seeds(records)}
    values = {(each.language, each.seed): each.values[MEASURE] for each in records}

    found = runs_of(row, MEASURE)

    assert found == [{"ha": values["ha", seed], "ig": values["ig", seed], "yo": values["yo", None]} for seed in (1, 3)]


def test_seeds_with_different_queries_raise_an_error():
    with pytest.raises(DataError, match="different queries"):
        pool_seeds([record("ot", 0.3, seed=1), record("ot", 0.3, seed=2, queries=41)])


def test_pairs_are_per_language():
    (cell,) = pool_seeds([record("ot", 0.3, languages=("ha", "ig"), pairs=500)])

    assert cell.pairs == 250


def test_headline_has_only_cells_of_the_largest_setting():
    both = ("ha", "ig")
    cells = pool_seeds(
        [
            record("ot", 0.4, size=500),
            record("ot", 0.5, size=None),
            whole := record("ot", 0.6, size=None, languages=both),
            record("greedy", 0.9, size=500, languages=both),  # has no cell of that size
            words := record("lexicon", 0.3, size=None),  # learns languages separately
            record("ot", 0.2, size=None, languages=both, perturbation="case", strength=0.5),
            *references(["ha", "de"]),  # without training in German
        ]
    )

    table = headline(cells, "questions", "news").table

    assert {method: list(row) for method, row in table.items()} == {
        "ot": ["ha"],
        "lexicon": ["ha"],
        "zero_shot": ["ha"],
        "ceiling": ["ha"],
    }
    assert table["ot"]["ha"].values == whole.values and table["lexicon"]["ha"].values == words.values


@pytest.mark.parametrize(
    ("settings", "several"),
    [
        ([{"language": "ha"}, {"language": "ig"}], False),
        ([{"language": code, "languages": ("ha", "ig")} for code in ("ha", "ig")], False),
        ([{"size": 500}, {"size": None}], True),
        ([{"languages": ("ha",)}, {"languages": ("ha", "ig")}], True),
        ([{"languages": ("ha",)}, {"languages": ("ha", "ig"), "corpus": "pairs"}], False),
    ],
)
def test_settings_are_several_only_within_a_language(settings, several):
    cells = pool_seeds([*(record("ot", 0.5, **own) for own in settings), *references(["ha", "ig"])])

    assert has_several_settings(cells) == several


def test_comparisons_are_corrected_over_all_tests_and_languages():
    levels = {"ot": 0.5, "greedy": 0.48, "sentence": 0.45}
    records = [
        record(method, level, language, test)
        for method, level in levels.items()
        for test in ("questions", "captions")
        for language in ("ha", "ig")
    ]

    tested = compare(pool_seeds([*records, *references(["ha", "ig"])]), MEASURE)

    # Three pairs in the mean and one in each of two languages, on two tests; references are not among them.
    assert [each.column for each in tested] == [MEAN, MEAN, MEAN, "ha", "ig"] * 2
    raw = [each.result.p_randomisation for each in tested]
    assert [each.result.adjusted_randomisation for each in tested] == pytest.approx(holm(raw))
    values = {method: {} for method in levels}
    for own in records:
        if own.test == "questions":
            values[own.method][own.language] = own.values[MEASURE]
    found = {frozenset((each.result.system, each.result.baseline)): each.result for each in tested[:3]}
    for expected in compare_systems(values):
        own = found[frozenset((expected.system, expected.baseline))]
        assert abs(own.difference) == pytest.approx(abs(expected.difference))
        assert own.p_t == pytest.approx(expected.p_t)


def test_best_method_of_a_language_is_compared_with_the_runner_up():
    records = [
        record(method, level, language)
        for method, levels in {"ot": (0.6, 0.3), "greedy": (0.5, 0.5), "sentence": (0.2, 0.6)}.items()
        for language, level in zip(("ha", "ig"), levels, strict=True)
    ]

    tested = {each.column: each.result for each in compare(pool_seeds(records), MEASURE) if each.column != MEAN}

    assert (tested["ha"].system, tested["ha"].baseline) == ("ot", "greedy")
    assert (tested["ig"].system, tested["ig"].baseline) == ("sentence", "greedy")


def test_data_size_curve():
    records = [
        record("ot", 0.3 + size / 10_000, language, size=size, pairs=size)
        for size in (2000, 500)
        for language in ("ha", "ig")
    ]
    records += [record("ot", 0.6, "ha", size=None, pairs=5865), record("ot", 0.6, "ig", size=None, pairs=6998)]

    curves = data_size_curves(pool_seeds(records), "questions", "news", MEASURE)

    assert list(curves) == [MEAN, "ha", "ig"]
    assert [x for x, _ in curves["ha"]["ot"]] == [500, 2000, 5865]
    assert [x for x, _ in curves[MEAN]["ot"]] == [500, 2000, (5865 + 6998) / 2]
    largest = [own.mean(MEASURE) for own in records if own.size is None]
    assert curves[MEAN]["ot"][-1][1] == pytest.approx(np.mean(largest))


def test_robustness_curve_starts_with_the_unperturbed_queries():
    clean = record("ot", 0.5)
    changed = [record("ot", 0.5 - strength, perturbation="case", strength=strength) for strength in (0.3, 0.1)]

    curves = robustness_curves(pool_seeds([*changed, clean]), "questions", "news", MEASURE)

    assert curves == {
        "case": {
            "ot": [
                (0.0, pytest.approx(clean.mean(MEASURE))),
                (0.1, pytest.approx(changed[1].mean(MEASURE))),
                (0.3, pytest.approx(changed[0].mean(MEASURE))),
            ]
        }
    }


def test_domain_matrix_holds_languages_that_all_corpora_share():
    near, far = record("ot", 0.6, "de", corpus="captions"), record("ot", 0.4, "de", corpus="news")
    more = record("ot", 0.9, "fr", corpus="captions")
    untrained = references(["de", "fr"])

    matrices = domain_matrices(pool_seeds([near, more, far, *untrained]), MEASURE)

    assert matrices == {
        "ot": {
            (NOTHING, "questions"): pytest.approx(untrained[0].mean(MEASURE)),
            ("captions", "questions"): pytest.approx(near.mean(MEASURE)),
            ("news", "questions"): pytest.approx(far.mean(MEASURE)),
        }
    }


@pytest.mark.parametrize(
    ("places", "is_shown"),
    [
        ([("ha", "questions", "news")], False),
        ([("ha", "questions", "news"), ("es", "captions", "news")], False),
        ([("ha", "questions", "news"), ("ha", "captions", "news")], True),
        ([("ha", "questions", "news"), ("ha", "questions", "pairs")], True),
        ([("ha", "questions", "news"), ("es", "captions", "pairs")], False),
        ([("ha", "questions", "news"), ("ha", "captions", "pairs")], False),
    ],
)
def test_domain_matrix_needs_cells_that_differ_in_test_or_corpus_alone(places, is_shown):
    records = [record("ot", 0.5, language, test, corpus=corpus) for language, test, corpus in places]
    for language, test in dict.fromkeys((language, test) for language, test, _ in places):
        records += references([language], test)

    matrices = domain_matrices(pool_seeds(records), MEASURE)

    assert bool(matrices) == is_shown


def test_tables_are_joined_if_no_language_is_in_two_of_them():
    one, other = {"ot": {"ha": 1, "ig": 2}, "greedy": {"ha": 3}}, {"ot": {"de": 4}}

    assert joined([one, {}, other]) == {"ot": {"ha": 1, "ig": 2, "de": 4}, "greedy": {"ha": 3}}
    assert joined([one]) is None and joined([one, {}]) is None and joined([]) is None
    assert joined([one, {"greedy": {"ig": 5}}]) is None
    assert one["ot"] == {"ha": 1, "ig": 2}


def test_language_pair_curves():
    alone = record("ot", 0.3)
    both = [record("ot", level, language, languages=("ha", "ig")) for language, level in (("ha", 0.4), ("ig", 0.5))]
    words = record("lexicon", 0.2)
    zero, _, top, _ = ends = references(["ha", "ig"])

    curves, is_gap = language_pair_curves(pool_seeds([alone, *both, words, *ends]), "news", MEASURE)

    closed = [gap_closed(zero.mean(MEASURE), own.mean(MEASURE), top.mean(MEASURE)) for own in (alone, both[0])]
    assert is_gap and set(curves) == {"ha", "ig"}
    assert curves["ha"] == {"ot": [(1, pytest.approx(closed[0])), (2, pytest.approx(closed[1]))]}

    curves, is_gap = language_pair_curves(pool_seeds([alone, *both]), "news", MEASURE)
    assert not is_gap and curves["ha"]["ot"][0] == (1, pytest.approx(alone.mean(MEASURE)))


def test_mean_is_over_languages_with_all_numbers():
    records = [
        record("ot", 0.3, language, languages=tuple(languages.split("+")))
        for languages in ("ha", "ig", "ha+ig", "ha+yo")
        for language in languages.split("+")
    ]

    curves, _ = language_pair_curves(pool_seeds(records), "news", MEASURE)

    assert list(curves) == [MEAN, "ha", "ig", "yo"]
    one, two = (np.mean([dict(curves[language]["ot"])[n] for language in ("ha", "ig")]) for n in (1, 2))
    assert curves[MEAN]["ot"] == [(1, pytest.approx(one)), (2, pytest.approx(two))]


def test_places_of_methods_without_training():
    cells = pool_seeds([replace(record("translation", 0.4), corpus=None)])

    assert places_of(cells) == [("questions", None)]
