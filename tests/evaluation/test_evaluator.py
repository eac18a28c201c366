from dataclasses import replace

import ir_measures
import pytest
import torch
from ir_measures import AP, RR, R, nDCG
from tiny import DEMO, tiny_checkpoint

from hf_optical import OpticalModel, OpticalProcessor, OpticalRetriever, load_beir
from hf_optical.bitext.frequency import count_known
from hf_optical.errors import DataError
from hf_optical.evaluation import evaluator as evaluator_module
from hf_optical.evaluation import retrieval_metrics
from hf_optical.evaluation.datasets import Document, Query, RetrievalDataset
from hf_optical.evaluation.evaluator import RetrievalEvaluator
from hf_optical.index import IndexSettings, RetrievalIndex, create_index
from hf_optical.retrieval import Hit


@pytest.fixture(scope="module")
def dataset():
    whole = load_beir(DEMO / "retrieval")
    queries = dict(list(whole.queries.items())[:10])
    qrels = {key: dict(whole.qrels[key]) for key in queries}
    # Graded judgements and more than one relevant document, so that the measures differ.
    for key, document in zip(qrels, whole.corpus, strict=False):
        qrels[key].setdefault(document, 2)
    return RetrievalDataset("demo", whole.corpus, queries, qrels)


@pytest.fixture(scope="module")
def student(tmp_path_factory):
    folder = tiny_checkpoint(tmp_path_factory.mktemp("student"), seed=5)
    return OpticalModel.from_pretrained(folder), OpticalProcessor.from_pretrained(folder)


@pytest.fixture(scope="module")
def teacher(tiny):
    return OpticalModel.from_pretrained(tiny), OpticalProcessor.from_pretrained(tiny)


@pytest.fixture(scope="module")
def evaluator(dataset, teacher):
    return RetrievalEvaluator(dataset, *teacher)


def one_by_one(model, processor, texts, role):
    for text in texts:
        with torch.no_grad():
            output = model(**processor([text], role))
        yield output.embeddings[0][output.mask[0]]


def brute_force(dataset, documents, student, texts):
    """Query id -> document id -> MaxSim, from the definition."""
    run = {}
    for key, query in zip(dataset.queries, one_by_one(*student, texts, "query"), strict=True):
        scores = [float((query @ document.T).max(1).values.sum()) for document in documents]
        run[key] = dict(zip(dataset.corpus, scores, strict=True))
    return run


@pytest.fixture(scope="module")
def documents(dataset, teacher):
    return list(one_by_one(*teacher, dataset.document_texts(), "document"))


@pytest.mark.parametrize("translated", [False, True])
def test_evaluator_agrees_with_brute_force(dataset, evaluator, documents, student, translated):
    texts = [query.translation if translated else query.text for query in dataset.queries.values()]
    run = brute_force(dataset, documents, student, texts)
    found = evaluator(*student, translated=translated)
    hits = evaluator.search(*student, top_k=1000, translated=translated)
    assert list(hits) == list(dataset.queries)
    for key, ranking in hits.items():
        assert {hit.document for hit in ranking} == set(dataset.corpus)
        assert [hit.score for hit in ranking] == pytest.approx([run[key][hit.document] for hit in ranking], abs=1e-4)
        assert [hit.score for hit in ranking] == sorted((hit.score for hit in ranking), reverse=True)
    best = {key: {hit.document: -rank for rank, hit in enumerate(ranking)} for key, ranking in hits.items()}

    measures = {"map": AP, "mrr@10": RR @ 10, "ndcg@10": nDCG @ 10, "recall@100": R @ 100}
    assert list(found) == list(measures)
    # Compare with a run in the same order, and with the scores themselves, where rounding may swap documents.
    for reference, tolerance in ((best, 1e-9), (run, 0.05)):
        expected = ir_measures.calc_aggregate(list(measures.values()), dataset.qrels, reference)
        assert found == pytest.approx({name: expected[each] for name, each in measures.items()}, abs=tolerance)


def test_documents_are_encoded_once_and_lazily(dataset, teacher, student, monkeypatch):
    evaluator, roles = RetrievalEvaluator(dataset, *teacher), []
    real = evaluator_module.encode_texts

    def counting(model, processor, texts, role, **settings):
        roles.append(role)
        return real(model, processor, texts, role, **settings)

    monkeypatch.setattr(evaluator_module, "encode_texts", counting)
    first, second = evaluator(*student), evaluator(*student)
    evaluator(*student, translated=True)
    evaluator.search(*student)
    assert first == second
    assert roles.count("document") == 1
    assert roles.count("query") == 4


def test_precomputed_document_vectors_are_used(dataset, evaluator, student):
    given = RetrievalEvaluator(dataset, None, None, document_vectors=evaluator.document_vectors)
    assert given(*student) == evaluator(*student)
    with pytest.raises(ValueError, match=f"one entry for each of the {len(dataset.corpus)} documents, got 3"):
        RetrievalEvaluator(dataset, None, None, document_vectors=evaluator.document_vectors[:3])


def test_index_of_other_documents_is_refused(dataset, teacher, tmp_path):
    retriever = OpticalRetriever(*teacher)
    rows = [{"_id": key, "text": text} for key, text in zip(dataset.corpus, dataset.document_texts(), strict=True)]
    numbered = [{"_id": f"row {position}", "text": row["text"]} for position, row in enumerate(rows)]
    index = create_index(tmp_path / "index", retriever, numbered)
    evaluator = RetrievalEvaluator(dataset, *teacher, index=index)
    with pytest.raises(
        DataError, match="index must hold the documents of demo under their ids, got 'row .*; build it"
    ):
        evaluator(*teacher)
    assert evaluator.search(*teacher, query_ids=[]) == {}
    evaluator.index = RetrievalIndex.create(tmp_path / "empty", IndexSettings.of(retriever))
    with pytest.raises(DataError, match="got no hits"):
        evaluator(*teacher)
    # An index may hold other documents too.
    index.add_documents(rows, retriever)
    evaluator.index = index
    assert evaluator(*teacher)["map"] > 0


def test_measures_and_depth_are_configurable(dataset, evaluator, student):
    vectors = evaluator.document_vectors
    evaluator = RetrievalEvaluator(dataset, None, None, document_vectors=vectors, measures=("p@3", "map"), depth=3)
    found = evaluator(*student)
    assert list(found) == ["p@3", "map"]
    hits = evaluator.search(*student, top_k=3)
    run = {key: {hit.document: -rank for rank, hit in enumerate(ranking)} for key, ranking in hits.items()}
    assert found == retrieval_metrics(dataset.qrels, run, ("p@3", "map"))


def test_missing_translations_raise(tiny_model, tiny_processor):
    queries = {"q1": Query("basi", "the bus"), "q2": Query("dereva")}
    dataset = RetrievalDataset("two", {"d": Document("", "bus")}, queries, {"q1": {"d": 1}, "q2": {"d": 1}})
    evaluator = RetrievalEvaluator(dataset, tiny_model, tiny_processor)
    assert not evaluator.has_translations
    assert evaluator(tiny_model, tiny_processor)["map"] == 1.0
    with pytest.raises(ValueError, match=r"translations of the dataset must cover every query, but lacks \['q2'\]"):
        evaluator(tiny_model, tiny_processor, translated=True)
    # Only selected queries need them.
    found = evaluator.search(tiny_model, tiny_processor, translated=True, query_ids=["q1"])
    assert [hit.document for hit in found["q1"]] == ["d"]


def test_query_texts_can_be_replaced(dataset, evaluator, student):
    translations = {key: query.translation for key, query in dataset.queries.items()}
    assert evaluator(*student, queries=translations) == evaluator(*student, translated=True)
    # Texts are matched by id, not by order. Extra ones are allowed.
    backwards = dict(reversed(translations.items()))
    asked = list(dataset.queries)[3:6]
    some = evaluator.search(*student, queries=backwards, query_ids=asked)
    assert some == evaluator.search(*student, translated=True, query_ids=asked) and list(some) == asked
    assert evaluator(*student, queries=backwards) != evaluator(*student)


def test_candidates_are_reranked(dataset, evaluator, student):
    everything = evaluator.search(*student)
    # The best five of another model; their scores there do not matter.
    first = evaluator.search(evaluator.teacher, evaluator.processor, top_k=5, translated=True)
    again = evaluator.search(*student, candidates=dict(reversed(first.items())))
    assert list(again) == list(everything)
    for key, ranking in again.items():
        chosen = {hit.document for hit in first[key]}
        expected = [hit for hit in everything[key] if hit.document in chosen]
        assert [hit.document for hit in ranking] == [hit.document for hit in expected]
        assert [hit.score for hit in ranking] == pytest.approx([hit.score for hit in expected], abs=1e-4)
    assert {key: ranking[:2] for key, ranking in again.items()} == evaluator.search(
        *student, candidates=first, top_k=2
    )
    assert evaluator(*student, candidates=first) == evaluator.measure(again)


def test_unknown_or_missing_queries_raise(dataset, evaluator, student):
    first, *others = dataset.queries
    texts = dict.fromkeys(others, "basi")
    with pytest.raises(ValueError, match=rf"queries must cover every query, but lacks \['{first}'\]"):
        evaluator.search(*student, queries=texts)
    with pytest.raises(ValueError, match=r"queries must name queries of demo, got others: \['new'\]"):
        evaluator.search(*student, queries=texts | {first: "basi", "new": "basi"})
    with pytest.raises(ValueError, match=rf"candidates must cover every query, but lacks \['{first}'\]"):
        evaluator.search(*student, candidates={key: [] for key in others})
    with pytest.raises(ValueError, match=r"query_ids must name queries of demo, got others: \['new'\]"):
        evaluator.search(*student, query_ids=["new", first])
    with pytest.raises(ValueError, match="translated and queries both replace"):
        evaluator.search(*student, translated=True, queries=texts)


def test_identical_ids_can_be_ignored():
    found = {"d1": [Hit("d1", 3.0), Hit("d2", 2.0), Hit("d3", 1.0)], "d2": [Hit("d1", 2.0), Hit("d2", 1.0)]}
    corpus = {key: Document("", key) for key in ("d1", "d2", "d3")}
    queries = {key: Query(key) for key in found}
    own = RetrievalDataset("own", corpus, queries, {"d1": {"d2": 1}, "d2": {"d1": 1}})
    for ignored, expected in ((False, {"d1": 0.5, "d2": 1.0}), (True, {"d1": 1.0, "d2": 1.0})):
        evaluator = RetrievalEvaluator(replace(own, ignore_identical_ids=ignored), None, None, measures=["RR"])
        assert evaluator.measure_each(found) == {"RR": expected}
        assert evaluator.measure(found) == {"RR": sum(expected.values()) / 2}


def test_per_query_values_average_to_the_mean(dataset, evaluator, student):
    hits = evaluator.search(*student)
    each = evaluator.measure_each(hits)
    assert all(list(values) == list(dataset.queries) for values in each.values())
    means = {name: sum(values.values()) / len(values) for name, values in each.items()}
    assert means == pytest.approx(evaluator.measure(hits), abs=1e-9)


def test_queries_know_the_words_of_the_documents(dataset, evaluator, tiny_model, tiny_processor):
    words = {"language": {"maji": 5}}
    documents = {"documents": count_known(tiny_processor, dataset.document_texts())}
    untaught, taught = (
        OpticalProcessor(tiny_processor.tokenizer, known_words=known, **tiny_processor.roles)
        for known in (words, words | documents)
    )
    titles = [document.title.lower() for document in dataset.corpus.values()]
    texts = {key: f"maj {title}x" for key, title in zip(dataset.queries, titles, strict=False)}
    read = [each(list(texts.values()), "query")["input_ids"].tolist() for each in (untaught, taught)]
    assert read[0] != read[1]
    vectors = evaluator.document_vectors
    plain = RetrievalEvaluator(dataset, tiny_model, tiny_processor, document_vectors=vectors, learn_spelling=False)
    for learn_spelling, expected in ((True, taught), (False, untaught)):
        evaluator = RetrievalEvaluator(dataset, tiny_model, tiny_processor, learn_spelling=learn_spelling)
        found = evaluator.search(tiny_model, untaught, queries=texts)
        assert found == plain.search(tiny_model, expected, queries=texts)
