"""mteb, which opens our folders through sentence-transformers, measures the same scores."""

from __future__ import annotations

import mteb
import pytest
from mteb_task import OfflineRetrieval
from tiny import DEMO, MINILM

from hf_optical import LanguagePack, OpticalModel, OpticalRetriever, RetrievalEvaluator, load_beir, load_bitext
from hf_optical.evaluation import RetrievalDataset
from hf_optical.languages import add_adapter, default_lora_config, learn_vocabulary


EVERY = load_beir(DEMO / "retrieval")
CORPUS = dict(list(EVERY.corpus.items())[::2])
QRELS = {query: judged for query, judged in EVERY.qrels.items() if judged.keys() <= CORPUS.keys()}
DATASET = RetrievalDataset("half", CORPUS, {query: EVERY.queries[query] for query in QRELS}, QRELS)


class DemoQuestions(OfflineRetrieval):
    source = DATASET


@pytest.fixture(scope="module", params=["base", "merged"])
def student(request) -> OpticalRetriever:
    """MiniLM with and without merged words of a language pack; rankings of tiny models depend on rounding errors."""
    retriever = OpticalRetriever.from_pretrained(MINILM, device="cpu")
    if request.param == "base":
        return retriever
    pairs = load_bitext(DEMO / "train.jsonl", "sw")
    model = OpticalModel.from_pretrained(MINILM)
    words = learn_vocabulary(model, retriever.processor, pairs, "sw", "en", max_words=500)
    add_adapter(model, "sw", default_lora_config(model, rank=4, embeddings=False), words)
    retriever.add_language("sw", LanguagePack.from_model(model, "sw"))
    return retriever.merge("sw")


@pytest.mark.slow  # test_sentence_transformers.py compares the vectors in every run
def test_mteb_scores_equal_ours(student, tmp_path):
    from sentence_transformers import MultiVectorEncoder

    student.save_pretrained(tmp_path)
    # Other libraries do not read the nearest new word after an unseen one.
    student.processor.nearest_words = None
    evaluator = RetrievalEvaluator(
        DATASET, student.model, student.processor, measures=("AP@1000", "ndcg@10", "recall@10", "mrr@10")
    )
    ours = evaluator(student.model, student.processor)
    encoder = MultiVectorEncoder(str(tmp_path), device="cpu")
    result = mteb.evaluate(encoder, DemoQuestions(), cache=None, show_progress_bar=False, co2_tracker=False)
    theirs = result.task_results[0].scores["test"][0]
    assert 0.01 < ours["AP@1000"] < 0.95
    assert theirs["map_at_1000"] == pytest.approx(ours["AP@1000"], abs=1e-5)
    assert theirs["ndcg_at_10"] == pytest.approx(ours["ndcg@10"], abs=1e-5)
    assert theirs["recall_at_10"] == pytest.approx(ours["recall@10"], abs=1e-5)
    assert theirs["mrr_at_10"] == pytest.approx(ours["mrr@10"], abs=1e-5)
