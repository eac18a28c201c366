import copy
import sys
from dataclasses import replace

import mteb
import mteb_task
import pytest
import torch
from datasets import Dataset
from mteb.models.models_protocols import CrossEncoderProtocol, EncoderProtocol, SearchProtocol
from packs import make_pack

from hf_optical import OpticalModel, OpticalProcessor, OpticalRetriever
from hf_optical.errors import DataError
from hf_optical.evaluation import RetrievalEvaluator, mteb_model
from hf_optical.evaluation.datasets import Document, Query, RetrievalDataset
from hf_optical.evaluation.metrics import retrieval_metrics, run_from_hits
from hf_optical.evaluation.mteb_model import OpticalMtebModel
from hf_optical.languages.vocabulary import Vocabulary


WORDS = "the river bread city of a to in one two world people water house sun moon day night and green".split()


def sentence(number, length):
    return " ".join(WORDS[(number * (k + 3) + k * k) % len(WORDS)] for k in range(length))


DATASET = RetrievalDataset(
    "offline",
    {f"d{i}": Document(sentence(i, 2) if i % 3 else "", sentence(7 * i + 1, 4 + i % 5)) for i in range(40)},
    {f"q{i}": Query(sentence(5 * i + 2, 3 + i % 4)) for i in range(12)},
    {f"q{i}": {f"d{3 * i}": 1, f"d{(5 * i + 1) % 40}": 2, f"d{i}": 0} for i in range(12)},
)


class OfflineRetrieval(mteb_task.OfflineRetrieval):
    source = DATASET


@pytest.fixture
def retriever(tiny_model, tiny_processor):
    return OpticalRetriever(tiny_model, tiny_processor)


def scores(model, task=None):
    result = mteb.evaluate(model, task or OfflineRetrieval(), cache=None, show_progress_bar=False, co2_tracker=False)
    return result.task_results[0].scores["test"][0]


def expected(retriever, teacher=None, dataset=DATASET):
    teacher = teacher or retriever
    evaluator = RetrievalEvaluator(
        dataset, teacher.model, teacher.processor, measures=("AP@1000", "ndcg@10", "recall@10", "mrr@10")
    )
    return evaluator(retriever.model, retriever.processor)


def test_scores_agree_with_the_evaluator(retriever):
    model = OpticalMtebModel(retriever)
    assert isinstance(model, SearchProtocol) and not isinstance(model, (EncoderProtocol, CrossEncoderProtocol))
    ours, theirs = expected(retriever), scores(model)
    assert 0.05 < ours["ndcg@10"] < 0.95
    assert theirs["map_at_1000"] == pytest.approx(ours["AP@1000"], abs=1e-5)
    assert theirs["ndcg_at_10"] == pytest.approx(ours["ndcg@10"], abs=1e-5)
    assert theirs["recall_at_10"] == pytest.approx(ours["recall@10"], abs=1e-5)
    assert theirs["mrr_at_10"] == pytest.approx(ours["mrr@10"], abs=1e-5)


def test_identical_ids_are_ignored_as_in_mteb(retriever):
    # Every query is a document too.
    names = dict(zip(DATASET.queries, DATASET.corpus, strict=False))
    asked = RetrievalDataset(
        "identical",
        DATASET.corpus,
        {names[key]: Query(DATASET.document_texts()[i]) for i, key in enumerate(DATASET.queries)},
        {names[key]: {d: score for d, score in own.items() if d != names[key]} for key, own in DATASET.qrels.items()},
    )
    task = OfflineRetrieval()
    task.load_data()
    split = task.dataset["default"]["test"]
    split["queries"] = Dataset.from_list([{"id": key, "text": query.text} for key, query in asked.queries.items()])
    split["relevant_docs"] = asked.qrels
    counted = expected(retriever, dataset=asked)
    passed_over = expected(retriever, dataset=replace(asked, ignore_identical_ids=True))
    assert passed_over["ndcg@10"] > counted["ndcg@10"]
    for ignored, ours in ((False, counted), (True, passed_over)):
        task.ignore_identical_ids = ignored
        assert scores(OpticalMtebModel(retriever), task)["ndcg_at_10"] == pytest.approx(ours["ndcg@10"], abs=1e-5)


def test_student_searches_the_index_of_its_teacher(retriever, tiny, tiny_processor):
    student = OpticalModel.from_pretrained(tiny)
    with torch.no_grad():
        for weight in student.parameters():
            weight.add_(0.02 * torch.randn_like(weight))
    student = OpticalRetriever(student, tiny_processor)
    theirs = scores(OpticalMtebModel(student, document_retriever=retriever))
    assert theirs["ndcg_at_10"] == pytest.approx(expected(student, retriever)["ndcg@10"], abs=1e-5)
    assert theirs["ndcg_at_10"] != pytest.approx(scores(OpticalMtebModel(student))["ndcg_at_10"], abs=1e-5)


def test_language_pack_encodes_queries_only(retriever, tiny):
    retriever.add_language("ha", make_pack(tiny, "ha", seed=3))
    base, pack = scores(OpticalMtebModel(retriever)), scores(OpticalMtebModel(retriever, language="ha"))
    assert pack["ndcg_at_10"] != base["ndcg_at_10"]
    queries = retriever.encode_queries([query.text for query in DATASET.queries.values()], language="ha")
    documents = retriever.encode_documents(DATASET.document_texts())
    hits = retriever.search(queries, documents, top_k=1000, document_ids=list(DATASET.corpus))
    run = run_from_hits(dict(zip(DATASET.queries, hits, strict=True)))
    ours = retrieval_metrics(DATASET.qrels, run, ["ndcg@10", "map"])
    assert pack["ndcg_at_10"] == pytest.approx(ours["ndcg@10"], abs=1e-5)
    assert pack["map_at_1000"] == pytest.approx(ours["map"], abs=1e-5)


def test_instructions_follow_the_query(retriever):
    task = OfflineRetrieval()
    task.instruction = "green house"
    asked = RetrievalDataset(
        "asked",
        DATASET.corpus,
        {key: Query(f"{query.text} green house") for key, query in DATASET.queries.items()},
        DATASET.qrels,
    )
    assert scores(OpticalMtebModel(retriever), task)["ndcg_at_10"] == pytest.approx(
        expected(retriever, dataset=asked)["ndcg@10"], abs=1e-5
    )


def test_only_candidates_are_ranked(retriever):
    task = OfflineRetrieval()
    task.top_ranked = {key: [f"d{3 * i}", f"d{(i + 20) % 40}"] for i, key in enumerate(DATASET.queries)}
    model = OpticalMtebModel(retriever)
    task.load_data()
    data = task.dataset["default"]["test"]
    arguments = {"task_metadata": task.metadata, "hf_split": "test", "hf_subset": "default", "num_proc": None}
    model.index(data["corpus"], encode_kwargs={}, **arguments)
    every = model.search(data["queries"], top_k=40, encode_kwargs={}, **arguments)
    found = model.search(data["queries"], top_k=5, encode_kwargs={}, top_ranked=task.top_ranked, **arguments)
    for key, candidates in task.top_ranked.items():
        assert set(found[key]) == set(candidates)
        for document, score in found[key].items():
            assert score == pytest.approx(every[key][document], abs=1e-5)
    assert scores(model, task)["recall_at_5"] > 0
    # A query without candidates finds nothing.
    first, *others = task.top_ranked
    given = {key: task.top_ranked[key] for key in others}
    some = model.search(data["queries"], top_k=5, encode_kwargs={}, top_ranked=given, **arguments)
    assert some == {**found, first: {}}


def test_revision_changes_with_weights_and_settings(retriever, tiny_model):
    model = OpticalMtebModel(retriever, name="us/ours")
    before = model.mteb_model_meta
    assert before.name == "us/ours"
    assert before.revision == OpticalMtebModel(retriever).mteb_model_meta.revision
    assert before.model_type == ["late-interaction"]
    assert before.embed_dim == tiny_model.embedding_dim
    with torch.no_grad():
        next(tiny_model.parameters()).add_(1e-3)
    assert model.mteb_model_meta.revision != before.revision
    before = model.mteb_model_meta
    retriever.processor.query_length -= 1
    assert model.mteb_model_meta.revision != before.revision


def test_revision_changes_with_the_vocabulary_of_a_pack(retriever, tiny):
    pack = make_pack(tiny, "ha", seed=3, words=["mzuqo", "kitxbu"])

    def revision(pack):
        opened = OpticalRetriever(OpticalModel.from_pretrained(tiny), retriever.processor)
        opened.add_language("ha", pack)
        return OpticalMtebModel(opened, language="ha").mteb_model_meta.revision

    assert revision(pack) == revision(pack)
    words = Vocabulary(pack.vocabulary.tokens[::-1], pack.vocabulary.rows, pack.vocabulary.first_id)
    assert revision(replace(pack, vocabulary=words)) != revision(pack)
    assert revision(replace(pack, roles={"query_length": 5})) != revision(pack)


def test_revision_changes_with_nearest_words_and_the_rules_of_words(tiny_model, tiny_processor):
    def revision(words, rules):
        tokenizer = copy.deepcopy(tiny_processor.tokenizer)  # the rules change it
        processor = OpticalProcessor(tokenizer, nearest_words=words, word_rules=rules)
        return OpticalMtebModel(OpticalRetriever(tiny_model, processor)).mteb_model_meta.revision

    settings = [(["river"], 1), (["river"], 2), (["river"], 3), (["bread"], 3)]
    assert len({revision(*own) for own in settings}) == len(settings)


def test_weights_are_hashed_once(retriever, monkeypatch):
    calls = []
    real = mteb_model._hash_into
    monkeypatch.setattr(mteb_model, "_hash_into", lambda *arguments: calls.append(real(*arguments)))
    model = OpticalMtebModel(retriever)
    assert model.mteb_model_meta.revision == model.mteb_model_meta.revision
    assert len(calls) == 2  # one for queries and one for documents


def test_missing_index_and_conversations_raise(retriever, monkeypatch):
    model = OpticalMtebModel(retriever)
    arguments = {"task_metadata": OfflineRetrieval.metadata, "top_k": 5, "encode_kwargs": {}}
    with pytest.raises(RuntimeError, match="call `index` first"):
        model.search(Dataset.from_list([{"id": "q", "text": "the river"}]), **arguments)
    model.index(Dataset.from_list([{"id": "d", "text": "the river"}]), encode_kwargs={})
    with pytest.raises(DataError, match="OfflineRetrieval must have plain text queries, got conversations"):
        model.search(Dataset.from_list([{"id": "q", "text": ["the river", "bread"]}]), **arguments)
    monkeypatch.setitem(sys.modules, "mteb.models.model_meta", None)
    with pytest.raises(ImportError, match=r'pip install "hf_optical\[benchmarks\]"'):
        _ = model.mteb_model_meta
