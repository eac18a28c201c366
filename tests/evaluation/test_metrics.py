import math

import ir_measures
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ir_measures import AP, RR, NumRel, NumRet, P, R, nDCG

from hf_optical.evaluation.metrics import measure_name, per_query_metrics, retrieval_metrics, run_from_hits
from hf_optical.retrieval.search import Hit


QRELS = {"q1": {"d1": 1, "d4": 2, "d9": 0}, "q2": {"d2": 1}, "q3": {"d3": 1, "d1": 1}}
RUN = {
    "q1": {"d2": 3.5, "d1": 2.5, "d9": 2.0, "d4": 1.0},
    "q3": {"d3": 0.0, "d2": -1.0},
    "unjudged": {"d1": 1.0},
}


def average_precision(judgements, ranking):
    relevant = {document for document, judgement in judgements.items() if judgement > 0}
    found, total = 0, 0.0
    for rank, document in enumerate(ranking, start=1):
        if document in relevant:
            found += 1
            total += found / rank
    return total / len(relevant) if relevant else 0.0


documents = st.sampled_from([f"d{i}" for i in range(8)])
qrels = st.dictionaries(
    st.sampled_from("abcd"), st.dictionaries(documents, st.integers(0, 2), min_size=1), min_size=1, max_size=4
)
rankings = st.dictionaries(st.sampled_from("abcde"), st.lists(documents, unique=True, min_size=1), max_size=5)


@settings(max_examples=30)
@given(qrels=qrels, rankings=rankings)
def test_map_agrees_with_a_loop(qrels, rankings):
    run = run_from_hits({query: [Hit(document, 7.0) for document in ids] for query, ids in rankings.items()})
    expected = {query: average_precision(judged, rankings.get(query, [])) for query, judged in qrels.items()}
    assert per_query_metrics(qrels, run, ["map"])["map"] == pytest.approx(expected, abs=1e-9)
    mean = sum(expected.values()) / len(expected)
    assert retrieval_metrics(qrels, run, ["map"]) == pytest.approx({"map": mean}, abs=1e-9)


def test_aggregates_agree_with_ir_measures():
    names = {"map": AP, "mrr": RR, "mrr@10": RR @ 10, "ndcg@10": nDCG @ 10, "recall@2": R @ 2, "p@2": P @ 2}
    names |= {"AP@3": AP @ 3, "nDCG@10": nDCG @ 10, "MAP": AP, "AP(rel=2)": AP(rel=2), "AP(rel=2)@3": AP(rel=2) @ 3}
    theirs = ir_measures.calc_aggregate(list(names.values()), QRELS, RUN)
    ours = retrieval_metrics(QRELS, RUN, list(names))
    assert ours == {name: theirs[measure] for name, measure in names.items()}
    assert list(ours) == list(names) and all(type(value) is float for value in ours.values())


def test_measure_name_is_the_ir_measures_name():
    ours = ["map", "mrr@10", "ndcg@10", "recall@100", "p@5", "MRR", "AP", "RR@10", "nDCG@10", "R@100", "P@5"]
    theirs = ["AP", "RR@10", "nDCG@10", "R@100", "P@5", "RR", "AP", "RR@10", "nDCG@10", "R@100", "P@5"]
    assert [measure_name(name) for name in ours] == theirs
    # A name and its official form are one measure, each under the name it was asked by.
    both = retrieval_metrics(QRELS, RUN, ours + theirs)
    assert all(both[our] == both[their] for our, their in zip(ours, theirs, strict=True))
    assert measure_name("ndcg(dcg='exp-log2')@7") == str(nDCG(dcg="exp-log2") @ 7)
    with pytest.raises(ValueError, match="unknown measure 'f1'"):
        measure_name("f1")


@settings(max_examples=30)
@given(qrels=qrels, rankings=rankings)
def test_per_query_values_agree_with_ir_measures(qrels, rankings):
    run = run_from_hits({query: [Hit(document, 7.0) for document in ids] for query, ids in rankings.items()})
    names = ["AP", "RR@10", "nDCG@10", "R@100", "P@5"]
    ours = per_query_metrics(qrels, run, names)
    for found in ir_measures.iter_calc([AP, RR @ 10, nDCG @ 10, R @ 100, P @ 5], qrels, run):
        assert ours[str(found.measure)][found.query_id] == found.value
    assert all(list(values) == list(qrels) for values in ours.values()) and list(ours) == names


def test_default_measures():
    metrics = retrieval_metrics(QRELS, RUN)
    assert list(metrics) == ["map", "mrr@10", "ndcg@10", "recall@100"]
    assert metrics["map"] == pytest.approx(((1 / 2 + 2 / 4) / 2 + 0 + 1 / 2) / 3)
    assert metrics["mrr@10"] == pytest.approx((1 / 2 + 0 + 1) / 3)
    assert metrics["recall@100"] == pytest.approx((1 + 0 + 1 / 2) / 3)


def test_queries_missing_from_the_run_count_as_zero():
    per_query = per_query_metrics(QRELS, RUN)
    assert all(list(values) == ["q1", "q2", "q3"] and values["q2"] == 0.0 for values in per_query.values())
    assert all(type(value) is float for values in per_query.values() for value in values.values())
    metrics = retrieval_metrics(QRELS, RUN)
    for name, values in per_query.items():
        assert metrics[name] == pytest.approx(sum(values.values()) / 3)
    assert set(retrieval_metrics(QRELS, {}).values()) == {0.0}


def test_run_from_hits_keeps_the_order_of_tied_scores():
    found = ["c", "b", "a"]
    run = run_from_hits({"q": [Hit(document, 1.0) for document in found]})
    for relevant in found:
        metrics = retrieval_metrics({"q": {relevant: 1}}, run, ["map", "mrr@10"])
        assert metrics == pytest.approx(dict.fromkeys(metrics, 1 / (found.index(relevant) + 1)))


def test_hits_without_unique_document_ids_raise():
    with pytest.raises(ValueError, match="hits of query 'q' must have unique document ids; pass `document_ids`"):
        run_from_hits({"q": [Hit(0, 1.0)]})
    with pytest.raises(ValueError, match="hits of query 'q' must have unique document ids"):
        run_from_hits({"q": [Hit("d", 1.0), Hit("d", 0.5)]})


@pytest.mark.parametrize(
    "name",
    ["f1", "recall", "AP(x=1)", "ndcg@0", "map@x", "AP(rel=-3)", "nDCG(gains={1: 2000000000})", "nDCG(gains=3)"],
)
def test_unknown_measures_raise_with_a_list_of_known_ones(name):
    for measured in (retrieval_metrics, per_query_metrics):
        with pytest.raises(ValueError, match=r"unknown measure .* recall@k, p@k or .* nDCG"):
            measured(QRELS, RUN, [name])


def test_empty_judgements_raise():
    with pytest.raises(ValueError, match="qrels must not be empty"):
        retrieval_metrics({}, RUN)


@pytest.mark.promise(
    "Numbers",
    "Judgements are whole numbers of at most 9999. Negative ones count as 0, and a query without judgements scores 0.",
)
@pytest.mark.parametrize("below", [-2, -(10**12)])
def test_negative_judgements_count_as_zero(below):
    """TREC Web judges spam -2, which makes pytrec_eval crash, hang or corrupt memory."""
    qrels = {"q0": {"a": 1, "b": below}, "q1": {"a": below, "b": below}}
    run = {query: {"a": 0.0, "b": 1.0} for query in qrels}
    names = ["map", "ndcg", "ndcg@10", "recall@100", "P@1", "Bpref", "nDCG(gains={1: 3})"]
    flat = {query: {document: max(value, 0) for document, value in each.items()} for query, each in qrels.items()}
    assert retrieval_metrics(qrels, run, names) == retrieval_metrics(flat, run, names)
    assert per_query_metrics(qrels, run, names) == per_query_metrics(flat, run, names)
    assert retrieval_metrics(qrels, run, ["map"]) == {"map": 0.25}
    assert qrels["q0"]["b"] == below


def test_judgements_that_are_not_grades_raise():
    for measured in (retrieval_metrics, per_query_metrics):
        for value in (2_000_000_000, 0.5, math.nan, math.inf):
            with pytest.raises(
                ValueError, match=f"'q', 'd': a judgement must be a whole number up to 9999, got {value}"
            ):
                measured({"q": {"a": 1, "d": value}}, {})
    judgement = np.int64(1)  # as in a data frame
    assert retrieval_metrics({"q": {"d": judgement}, "p": {"d": 9999}}, {"q": {"d": 1.0}}, ["map"]) == {"map": 0.5}


def test_query_without_judgements_scores_zero():
    assert retrieval_metrics({"a": {}}, {"a": {}}, ["mrr@10"]) == {"mrr@10": 0.0}
    assert retrieval_metrics({"a": {}, "b": {"d": 1}}, {"b": {"d": 1.0}}, ["map"]) == {"map": 0.5}


def test_counts_are_summed_as_in_ir_measures():
    theirs = ir_measures.calc_aggregate([NumRel, NumRet], QRELS, RUN)
    assert retrieval_metrics(QRELS, RUN, ["NumRel", "NumRet"]) == {"NumRel": theirs[NumRel], "NumRet": theirs[NumRet]}
