from __future__ import annotations

import gzip
import json
import shutil

import ir_measures
import pytest
import torch
from tiny import DEMO, tiny_checkpoint
from transformers import AutoTokenizer, T5Config, T5ForConditionalGeneration

from hf_optical import OpticalModel, OpticalProcessor, OpticalRetriever, OTDistillationTrainer, RetrievalEvaluator
from hf_optical.bitext import learn_dictionary
from hf_optical.errors import DataError
from hf_optical.evaluation import RetrievalDataset, per_query_metrics, run_from_hits
from hf_optical.evaluation.perturbations import perturb_queries
from hf_optical.retrieval import BM25, Seq2SeqTranslator, encode_texts, english_stemmer, search
from hf_optical.studies import Study
from hf_optical.studies.plan import TestCell, TrainingCell
from hf_optical.studies.runs import read_run
from hf_optical.studies.settings import training_arguments
from hf_optical.studies.workbench import Workbench


EVERY = {
    "before": {"kind": "zero_shot"},
    "new words": {"kind": "untrained_pack"},
    "OT": {"kind": "trained"},
    "all weights": {"kind": "trained", "method": "greedy", "train_all_weights": True, "new_words": 0},
    "words": {"kind": "lexicon", "translations": 1},
    "BM25": {"kind": "bm25"},
    "BM25, human": {"kind": "bm25", "translated": "human"},
    "BM25, unstemmed": {"kind": "bm25", "translated": "human", "stemmer": "none"},
    "ceiling": {"kind": "ceiling"},
}


def bench_of(study, store) -> Workbench:
    return Workbench(study.config, study.inputs, store)


def test_of(study, method: str, perturbation: str | None = None) -> TestCell:
    return next(
        cell
        for cell in study.cells
        if isinstance(cell, TestCell) and (cell.method.name, cell.perturbation) == (method, perturbation)
    )


test_of.__test__ = False


@pytest.fixture
def everything(run):
    pytest.importorskip("bm25s")
    pytest.importorskip("Stemmer")
    return run(methods=EVERY, perturbations={"typos": [0.5], "code_mixing": [0.9]})


def test_english_sentences_join_the_pairs(run, store):
    """Documents of one method change its training alone, and their contents are part of its key."""
    documents = {"kind": "trained", "english_file": {"sw": "retrieval/corpus.jsonl"}}
    study = run(methods={"OT": {"kind": "trained"}, "documents": documents}, training={"num_train_epochs": 1})
    steps = {cell.method.name: store.read(cell.key)["steps"] for cell in study.cells if isinstance(cell, TrainingCell)}
    assert steps["documents"] > 2 * steps["OT"]


def per_query(dataset, hits, measures):
    return per_query_metrics(dataset.qrels, run_from_hits(hits), measures)


def test_every_method_scores_as_an_evaluator_does(everything, store, tiny):
    records = {(record.method, record.perturbation): record for record in everything.records()}
    assert {method for method, _ in records} == EVERY.keys() and len(records) == 3 * len(EVERY) - 6
    measures = everything.config.measures
    bench = bench_of(everything, store)
    dataset = everything.inputs.test_set("questions", "sw")
    teacher = OpticalModel.from_pretrained(tiny), OpticalProcessor.from_pretrained(tiny)
    vectors = bench.document_vectors(test_of(everything, "before"))
    evaluator = RetrievalEvaluator(dataset, *teacher, document_vectors=vectors)

    assert records["before", None].values == per_query(dataset, evaluator.search(*teacher), measures)
    assert records["ceiling", None].values == per_query(dataset, evaluator.search(*teacher, translated=True), measures)
    typed = perturb_queries({key: query.text for key, query in dataset.queries.items()}, "typos", 0.5)
    assert records["before", "typos"].values == per_query(dataset, evaluator.search(*teacher, queries=typed), measures)
    assert records["before", "typos"].strength == 0.5

    # Saved and reopened models are those of the trainer.
    trainer = train_directly(everything, tiny)
    found = evaluator.search(trainer.model, trainer.processors["sw"])
    assert records["OT", None].values == per_query(dataset, found, measures)
    assert records["OT", None].kind == "ot" and records["OT", None].pairs == 30

    learned = bench.dictionary(test_of(everything, "words"))
    words = {key: learned.replace(query.text, lambda entries: entries[0][0]) for key, query in dataset.queries.items()}
    assert records["words", None].values == per_query(dataset, evaluator.search(*teacher, queries=words), measures)
    spoken = [query.translation for query in dataset.queries.values()]
    for method, stemmer in (("BM25, human", english_stemmer()), ("BM25, unstemmed", None)):
        index = BM25(dataset.document_texts(), list(dataset.corpus), stemmer=stemmer)
        found = dict(zip(dataset.queries, index.search(spoken, 1000), strict=True))
        assert records[method, None].values == per_query(dataset, found, measures)
    assert records["BM25, human", None].values != records["BM25, unstemmed", None].values
    assert records["BM25, human", None].mean("AP") > records["BM25", None].mean("AP")
    assert records["before", "code_mixing"].values != records["before", None].values
    assert all(
        record.values[name].keys() == dataset.queries.keys() for record in records.values() for name in measures
    )


def test_kept_runs_have_the_values_of_their_cells(run, store, tmp_path):
    """Read and measured by ir_measures."""
    methods = {"before": {"kind": "zero_shot"}, "ceiling, human": {"kind": "ceiling"}}
    run(methods=methods)
    study = run(methods=methods, keep_runs=True)  # finished cells that lack their rankings run again
    study.write_runs(tmp_path / "runs")
    files = sorted((tmp_path / "runs").iterdir())
    assert [file.name for file in files] == [
        "before-on-questions-sw.trec.gz",
        "ceiling-human-on-questions-sw.trec.gz",
    ]
    qrels = study.inputs.test_set("questions", "sw").qrels
    for record, file in zip(study.records(), files, strict=True):
        ranked = ir_measures.read_trec_run(gzip.decompress(file.read_bytes()).decode())
        found = {each.query_id: each.value for each in ir_measures.iter_calc([ir_measures.AP], qrels, ranked)}
        assert found == pytest.approx(record.values["AP"])
        assert read_run(file).keys() == found.keys()


def test_spelling_is_learned_again_when_a_system_is_opened_again(run, store):
    study = run(methods={"before": {"kind": "zero_shot"}, "OT": {"kind": "trained"}}, perturbations={"typos": [0.3]})
    cells = [test_of(study, "OT"), test_of(study, "before"), test_of(study, "OT", "typos")]
    bench = bench_of(study, store)
    assert [bench.evaluate(cell) for cell in cells][-1] == bench_of(study, store).evaluate(cells[-1])


def test_a_pack_is_trained_once_and_tested_at_several_strengths(run, store, tiny):
    """As a retriever does that opens the pack and sets, or tunes, its strength."""
    training = {"max_steps": 8, "learning_rate": 0.02, "use_cpu": True, "new_words": 20}
    strengths = {"OT": None, "half": 0.5, "by depth": [0.0, 1.0], "tuned": "tuned"}
    methods = {
        name: {"kind": "trained", **({} if strength is None else {"test_strength": strength})}
        for name, strength in strengths.items()
    }
    study = run(methods=methods, training=training)
    assert len({cell.key for cell in study.cells if isinstance(cell, TrainingCell)}) == 1
    bench, dataset = bench_of(study, store), study.inputs.test_set("questions", "sw")
    queries = {key: query.text for key, query in dataset.queries.items()}
    documents = dataset.document_texts()
    folder = next(store.folder_of(cell.key) for cell in study.cells if isinstance(cell, TrainingCell))
    for record in study.records():
        retriever = OpticalRetriever.from_pretrained(folder, device="cpu", base_model=tiny)
        retriever.learn_spelling(documents)
        vectors = bench.document_vectors(test_of(study, record.method))
        strength = strengths[record.method]
        if strength == "tuned":
            pairs = study.inputs.pairs("sentences", "sw", 30, 42)
            dictionary = learn_dictionary(pairs, retriever.processor.tokenizer, "sw")
            retriever.tune_strength("sw", documents, dictionary=dictionary, document_vectors=vectors)
        elif strength is not None:
            retriever.set_strength("sw", strength)
        hits = search(retriever.encode_queries(queries.values()), vectors, 1000, document_ids=list(dataset.corpus))
        expected = per_query(dataset, dict(zip(queries, hits, strict=True)), study.config.measures)
        assert record.values == expected
    assert len({json.dumps(record.values) for record in study.records()}) > 2


def test_a_strength_needs_an_adapter(load):
    method = {"kind": "trained", "method": "greedy", "train_all_weights": True, "new_words": 0, "test_strength": 0.5}
    with pytest.raises(ValueError, match="test_strength must be left out with train_all_weights"):
        load(methods={"all weights": method})
    with pytest.raises(ValueError, match="test_strength: strength must be between 0 and 2"):
        load(methods={"OT": {"kind": "trained", "test_strength": 3.0}})


def train_directly(study, tiny) -> OTDistillationTrainer:
    cell = next(cell for cell in study.cells if isinstance(cell, TrainingCell) and cell.method.name == "OT")
    folder = str(study.store.folder / "direct")
    args = training_arguments(
        study.config.training, ["sw"], output_dir=folder, seed=42, cache_teacher=True, teacher_cache_dir=folder
    )
    trainer = OTDistillationTrainer(tiny, tiny, args, study.inputs.pairs(cell.corpus, "sw", cell.size, cell.seed))
    trainer.train()
    return trainer


def test_document_vectors_are_those_of_the_teacher_of_another_student(run, store, tiny, tmp_path):
    student = tiny_checkpoint(tmp_path / "student", seed=3)
    training = {"use_cpu": True, "fit_projection": False}
    study = run(methods=["zero_shot"], student=str(student), training=training)
    dataset = study.inputs.test_set("questions", "sw")
    found = bench_of(study, store).document_vectors(test_of(study, "zero_shot"))
    model, processor = OpticalModel.from_pretrained(tiny), OpticalProcessor.from_pretrained(tiny)
    expected = encode_texts(model, processor, dataset.document_texts(), "document")
    assert found.values.dtype == torch.float16 and torch.equal(found.lengths, expected.lengths)
    assert (found.values.float() - expected.values).abs().max() < 1e-3
    evaluator = RetrievalEvaluator(dataset, None, None, document_vectors=found, measures=study.config.measures)
    asked = evaluator.search(OpticalModel.from_pretrained(student), OpticalProcessor.from_pretrained(student))
    assert study.records()[0].values == evaluator.measure_each(asked)


def test_languages_train_into_separate_or_shared_packs(run, store):
    corpora = {"both": {"sw": "train.jsonl", "lo": "lo.jsonl"}}
    lo = (store.folder.parent / "lo.jsonl").absolute()
    lo.write_text(
        '{"translation": {"en": "the water", "lo": "jam"}}\n{"translation": {"en": "the market", "lo": "okos"}}\n',
        encoding="utf-8",
    )
    corpora["both"]["lo"] = str(lo)
    tests = {"pairs": {"sw": {"bitext": "validation.jsonl", "queries": 5}, "lo": {"bitext": str(lo)}}}
    methods = {"apart": {"kind": "trained"}, "together": {"kind": "trained", "shared_pack": "all"}}
    study = run(corpora=corpora, tests=tests, language_sets=[["sw", "lo"]], methods=methods)
    records = study.records()
    assert [(record.method, record.language) for record in records] == [
        (method, language) for method in methods for language in ("sw", "lo")
    ]
    assert all(record.languages == ("sw", "lo") and record.pairs == 32 for record in records)
    folders = [store.folder_of(cell.key) for cell in study.cells if isinstance(cell, TrainingCell)]
    assert (folders[0] / "lo" / "language_pack.json").is_file() and (folders[1] / "language_pack.json").is_file()


def test_translation_model_respects_max_length(run, store, tiny, tmp_path):
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    ids = {name: getattr(tokenizer, f"{name}_token_id") for name in ("pad", "cls", "sep")}
    small = {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2}
    T5ForConditionalGeneration(
        T5Config(
            vocab_size=len(tokenizer),
            pad_token_id=ids["pad"],
            eos_token_id=ids["sep"],
            decoder_start_token_id=ids["cls"],
            initializer_factor=5.0,
            **small,
        )
    ).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    model = {"model": str(tmp_path / "model"), "num_beams": 1}
    methods = {
        "model": {"kind": "translation", "max_length": 5, **model},
        "at length": {"kind": "translation", "max_length": 9, **model},
    }
    study = run(methods=methods)
    dataset = study.inputs.test_set("questions", "sw")
    teacher = OpticalModel.from_pretrained(tiny), OpticalProcessor.from_pretrained(tiny)
    vectors = bench_of(study, store).document_vectors(test_of(study, "model"))
    evaluator = RetrievalEvaluator(dataset, *teacher, document_vectors=vectors, measures=study.config.measures)
    asked = {}
    for record, length in zip(study.records(), (5, 9), strict=True):
        translate = Seq2SeqTranslator.from_pretrained(model["model"], max_length=length, num_beams=1, device="cpu")
        asked[length] = translate([query.text for query in dataset.queries.values()])
        found = evaluator.search(*teacher, queries=dict(zip(dataset.queries, asked[length], strict=True)))
        assert record.values == evaluator.measure_each(found)
    assert asked[5] != asked[9]


def test_documents_with_the_id_of_the_query_are_ignored(run, store):
    study = run(methods=["zero_shot"])
    cell, bench = test_of(study, "zero_shot"), bench_of(study, store)
    before = bench.evaluate(cell)
    dataset = study.inputs.test_set("questions", "sw")
    source = study.config.tests["questions"]["sw"]
    hits = dict(
        zip(dataset.queries, bench.search_with_teacher([q.text for q in dataset.queries.values()], cell), strict=True)
    )
    # Give a query the id of the first irrelevant document that it finds.
    query, document = next(
        (key, own[0].document) for key, own in hits.items() if own[0].document not in dataset.qrels[key]
    )
    own = {document: dataset.queries[query]}, {document: dataset.qrels[query]}
    for ignored in (False, True):
        study.inputs._loaded[source, "sw"] = RetrievalDataset("own", dataset.corpus, *own, ignored)
        assert (bench.evaluate(cell)["AP"][document] > before["AP"][query]) is ignored


@pytest.mark.slow
def test_dense_peer_with_and_without_new_words(run):
    pytest.importorskip("sentence_transformers")
    methods = {
        "peer": {"kind": "dense_peer", "max_steps": 2},
        "peer with words": {"kind": "dense_peer", "max_steps": 2, "new_words": 20},
    }
    tests = {"questions": {"sw": {"folder": "retrieval", "queries": 20, "pool": 60}}}
    plain, with_words = run(methods=methods, tests=tests).records()
    assert plain.corpus == "sentences" and plain.seconds > 0 and plain.values != with_words.values


def test_missing_human_translations_raise_an_error(load, store, tmp_path):
    folder = tmp_path / "retrieval"
    shutil.copytree(DEMO / "retrieval", folder)
    queries = [json.loads(line) for line in (folder / "queries.jsonl").read_text("utf-8").splitlines()]
    rows = [json.dumps({"_id": query["_id"], "text": query["text"]}) for query in queries]
    (folder / "queries.jsonl").write_text("\n".join(rows), encoding="utf-8")
    study = Study(load(tests={"questions": {"sw": {"folder": str(folder)}}}, methods=["ceiling"]), store)
    with pytest.raises(DataError, match="no human translation, which ceiling needs"):
        bench_of(study, store).evaluate(test_of(study, "ceiling"))


def test_models_as_they_are_search_indexes_of_their_own(run, store, tiny, tmp_path):
    pytest.importorskip("sentence_transformers")
    other = str(tiny_checkpoint(tmp_path / "other", "xlm-roberta", projection_dim=16, seed=5))
    plain = str(tiny_checkpoint(tmp_path / "plain", seed=6))
    methods = {
        "student": {"kind": "late_interaction"},
        "prompted": {"kind": "late_interaction", "model": other, "query_prompt": "the ", "document_prompt": "a "},
        "other": {"kind": "late_interaction", "model": other},
        "means": {"kind": "sentence_vectors", "model": plain},
        "before": {"kind": "zero_shot"},
    }
    study = run(methods=methods)
    records = {record.method: record for record in study.records()}
    dataset, measures = study.inputs.test_set("questions", "sw"), study.config.measures
    for name, prompts in (("other", {}), ("prompted", {"query_prompt": "the ", "document_prompt": "a "})):
        model, processor = OpticalModel.from_pretrained(other), OpticalProcessor.from_pretrained(other, **prompts)
        vectors = encode_texts(model, processor, dataset.document_texts(), "document", dtype=torch.float16)
        evaluator = RetrievalEvaluator(dataset, model, processor, document_vectors=vectors, measures=measures)
        assert records[name].values == evaluator.measure_each(evaluator.search(model, processor))
    assert records["student"].values == records["before"].values
    assert records["means"].values["AP"].keys() == dataset.queries.keys()


def test_untrained_student_of_another_space_is_projected(run, store, tmp_path):
    student = tiny_checkpoint(tmp_path / "student", projection_dim=16, seed=3)
    methods = {
        **{name: EVERY[name] for name in ("before", "new words")},
        "own index": {"kind": "late_interaction"},
    }
    records = {record.method: record for record in run(student=str(student), methods=methods).records()}
    assert records["before"].values != records["own index"].values
    assert all(record.values["AP"].keys() == records["before"].values["AP"].keys() for record in records.values())


def test_rankings_of_other_programs_are_measured(run, store, tmp_path):
    study = run(methods=["zero_shot"], sizes=[20])
    cell, bench = test_of(study, "zero_shot"), bench_of(study, store)
    dataset = study.inputs.test_set("questions", "sw")
    hits = bench.search_with_teacher([query.text for query in dataset.queries.values()], cell)
    lines = [
        f"{query} Q0 {hit.document} {rank} {hit.score!r} mine"
        for query, own in zip(dataset.queries, hits, strict=True)
        for rank, hit in enumerate(own, start=1)
    ]
    file = tmp_path / "mine.trec"
    file.write_text("\n".join([*lines, f"{next(iter(dataset.queries))} Q0 elsewhere 0 9999 mine"]), encoding="utf-8")
    entry = {"kind": "run", "files": {"questions": {"sw": str(file)}}}
    found = run(methods={"mine": entry}, perturbations={"typos": [0.5]}).records()
    assert [record.values for record in found] == [study.records()[0].values]
    file.write_text("\n".join(lines[: len(lines) // 2]), encoding="utf-8")
    assert run(methods={"mine": entry}).records()[0].values != found[0].values
