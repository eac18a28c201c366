import random

import pytest
from datasets import Dataset

from hf_optical.errors import DataError
from hf_optical.evaluation.benchmarks import from_bitext, sample_pool
from hf_optical.evaluation.benchmarks.derived import across_languages
from hf_optical.evaluation.datasets import BenchmarkParts, Document, Query, RetrievalDataset, build_dataset


PAIRS = [
    {"translation": {"en": "A dog runs.", "de": "Ein Hund rennt."}},
    {"translation": {"en": "Two cats.", "de": " Zwei Katzen. "}},
    {"translation": {"en": "A dog runs.", "de": "Ein Hund läuft."}},
    {"translation": {"en": "A dog is running.", "de": "Ein Hund rennt."}},
    {"translation": {"en": "Two cats.", "de": "Zwei Katzen."}},
]


def many(documents=500, queries=10):
    """Judges three documents a query, one of them not relevant."""
    return RetrievalDataset(
        "many/test",
        {f"d{i}": Document("", f"text {i}") for i in range(documents)},
        {f"q{i}": Query(f"query {i}") for i in range(queries)},
        {f"q{i}": {f"d{7 * i}": 1, f"d{7 * i + 1}": 0, f"d{3 * i}": 1} for i in range(queries)},
    )


def test_sentences_are_queries_for_their_translations():
    dataset = from_bitext(Dataset.from_list(PAIRS), "de")
    assert dataset.name == "bitext/de"
    assert {key: document.text for key, document in dataset.corpus.items()} == {
        "d0": "A dog runs.",
        "d1": "Two cats.",
        "d3": "A dog is running.",
    }
    assert dataset.queries == {
        "q0": Query("Ein Hund rennt.", "A dog runs."),
        "q1": Query("Zwei Katzen.", "Two cats."),
        "q2": Query("Ein Hund läuft.", "A dog runs."),
    }
    # Every translation of a sentence is relevant to it, and the same English sentence is one document.
    assert dataset.qrels == {"q0": {"d0": 1, "d3": 1}, "q1": {"d1": 1}, "q2": {"d0": 1}}


def test_from_bitext_options():
    dataset = from_bitext(iter(PAIRS), "en", "de", name="captions", limit=2)
    assert dataset.name == "captions"
    assert dataset.queries == {"q0": Query("A dog runs.", "Ein Hund rennt."), "q1": Query("Two cats.", "Zwei Katzen.")}


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ([], "pairs must not be empty"),
        (
            [*PAIRS, {"translation": {"en": "x", "de": "  "}}],
            r"pair 5 has no text in 'de' \(languages: en, de\); see `filter_bitext`",
        ),
        ([{"en": "x", "de": "y"}], r"pair 0 has no text in 'de' \(languages: none\)"),
    ],
)
def test_malformed_pairs_raise(pairs, message):
    with pytest.raises(DataError, match=message):
        from_bitext(pairs, "de")


def test_pool_keeps_judged_documents_and_order():
    dataset = many()
    pool = sample_pool(dataset, 60)
    assert pool.name == "many/test (pool of 60)"
    assert len(pool.corpus) == 60
    judged = {document for judgements in dataset.qrels.values() for document in judgements}
    assert judged <= set(pool.corpus)
    assert list(pool.corpus) == [key for key in dataset.corpus if key in pool.corpus]
    assert all(pool.corpus[key] == dataset.corpus[key] for key in pool.corpus)
    assert (pool.queries, pool.qrels) == (dataset.queries, dataset.qrels)
    assert sample_pool(dataset, 500) is sample_pool(dataset, 9999) is dataset


def test_pool_depends_only_on_seed_and_ids():
    dataset = many()
    rows = list(dataset.corpus.items())
    random.Random(1).shuffle(rows)
    shuffled = RetrievalDataset("x", dict(rows), dataset.queries, dataset.qrels)
    assert set(sample_pool(dataset, 60).corpus) == set(sample_pool(shuffled, 60).corpus)
    assert set(sample_pool(dataset, 60).corpus) != set(sample_pool(dataset, 60, seed=1).corpus)
    assert set(sample_pool(dataset, 60).corpus) < set(sample_pool(dataset, 61).corpus)
    # The same on every machine, so it can be written down.
    judged = {document for judgements in dataset.qrels.values() for document in judgements}
    others = [key for key in sample_pool(dataset, len(judged) + 4).corpus if key not in judged]
    assert others == ["d269", "d343", "d411", "d422"]


def test_pool_is_sampled_evenly():
    dataset = many(documents=2000)
    positions = [int(key[1:]) for key in sample_pool(dataset, 500).corpus]
    assert 200 < sum(position < 1000 for position in positions) < 320


def test_pool_smaller_than_the_judged_documents_raises():
    dataset = many()
    judged = len({document for judgements in dataset.qrels.values() for document in judgements})
    assert len(sample_pool(dataset, judged).corpus) == judged
    with pytest.raises(
        DataError, match=f"documents must be at least {judged}, the number judged in many/test, got {judged - 1}"
    ):
        sample_pool(dataset, judged - 1)


def test_empty_pool_raises():
    # Where nothing is judged, no judged document would be missed.
    unjudged = RetrievalDataset("none", many().corpus, {"q": Query("Wo?")}, {"q": {}})
    with pytest.raises(ValueError, match="documents must be at least 1, got 0"):
        sample_pool(unjudged, 0)


def test_documents_are_read_lazily():
    dataset = many()
    reads = []

    def documents():
        for row in dataset.corpus.items():
            reads.append(row[0])
            yield row

    parts = BenchmarkParts("many/test", documents(), dataset.queries, dataset.qrels)
    assert reads == []
    assert parts.build(60) == sample_pool(dataset, 60)
    assert reads == list(dataset.corpus)
    assert build_dataset("many/test", documents(), dataset.queries, dataset.qrels) == dataset
    assert build_dataset("many/test", dataset.corpus, dataset.queries, dataset.qrels) == dataset


def test_only_judged_queries_are_kept():
    documents = [("d1", Document("", "one")), ("d2", Document("", "two"))]
    queries = {"a": Query("a"), "b": Query("b"), "c": Query("c")}
    dataset = build_dataset("set", documents, queries, {"c": {"d1": 1}, "a": {"d2": 1}})
    assert list(dataset.queries) == list(dataset.qrels) == ["a", "c"]
    for qrels in ({"x": {"d2": 1}}, {"a": {"gone": 1, "d1": 0}}):
        with pytest.raises(
            DataError, match="set has 1 relevant judgements, 1 for missing queries or documents .such as"
        ):
            build_dataset("set", documents, queries, qrels)


def test_queries_with_documents_in_another_language():
    german = BenchmarkParts(
        "german", [("g1", Document("", "eins"))], {"1": Query("Wo?"), "2": Query("Wer?")}, {"1": {"g1": 1}}
    )
    questions = {"3": Query("What?"), "1": Query("Where?")}
    english = BenchmarkParts("english", [("e1", Document("", "one"))], questions, {"1": {"e1": 1}}, True)
    dataset = across_languages(german, english).build()
    assert dataset.ignore_identical_ids  # goes with documents and judgements
    assert dataset.queries == {"1": Query("Wo?", "Where?")}
    assert dataset.corpus == {"e1": Document("", "one")}
    assert dataset.qrels == {"1": {"e1": 1}}
    other = BenchmarkParts("other", [], {"7": Query("Why?")}, {})
    with pytest.raises(DataError, match="german and other must ask the same questions, but share no query id"):
        across_languages(german, other)
