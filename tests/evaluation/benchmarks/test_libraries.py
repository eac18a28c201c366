"""The libraries themselves, on small files in their own formats."""

import json
import random
import re
from types import SimpleNamespace
from typing import NamedTuple

import ir_datasets
import mteb
import numpy as np
import pytest
import torch
from ir_datasets.datasets.base import Dataset
from ir_datasets.formats import (
    CLIRMatrixQrels,
    CLIRMatrixQueries,
    ExctractedCCDocs,
    ExctractedCCNoReportNoHtNarQuery,
    ExctractedCCQueries,
    TrecQrels,
    TsvDocs,
    TsvQueries,
)
from ir_datasets.util import LocalDownload
from packaging.version import Version

from hf_optical.evaluation.benchmarks import load_benchmark
from hf_optical.evaluation.benchmarks.libraries import _mteb_subsets, _mteb_tasks, ir_datasets_names, mteb_names
from hf_optical.evaluation.datasets import Document, Query


def fails(message, *arguments, **options):
    with pytest.raises(ValueError) as caught:
        load_benchmark(*arguments, **options)
    assert re.search(message, str(caught.value)), str(caught.value)


@pytest.fixture
def local(tmp_path):
    """Writes a file and gives it as what `ir_datasets` downloads."""

    def write(name, text):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return LocalDownload(path)

    return write


@pytest.fixture
def register(monkeypatch):
    """Registers a set of `ir_datasets` under an id, for one test, in place of what is there."""

    def add(identifier, *parts):
        monkeypatch.setitem(ir_datasets.registry._registered, identifier, Dataset(*parts))

    return add


def marco(local, name, documents, queries):
    judgements = ("11 0 d1 1\n", "11 0 d2 0\n", "12 0 d2 2\n")
    judged = "".join(line for line in judgements if f"{line[:2]}\t" in queries)
    return (
        TsvDocs(local(f"{name}/collection.tsv", documents)),
        TsvQueries(local(f"{name}/queries.tsv", queries)),
        TrecQrels(local(f"{name}/qrels", judged), {}),
    )


@pytest.fixture
def mmarco(local, register):
    german = marco(local, "de", "d1\tEin Fluss.\nd2\tBrot.\nd3\tMond.\n", "11\tWo?\n12\tWas?\n14\tWer?\n")
    english = marco(local, "en", "d1\tA river.\nd2\tBread.\nd3\tMoon.\n", "12\tWhat?\n11\tWhere?\n14\tWho?\n")
    register("mmarco/v2/de/dev/small", *german)
    register("msmarco-passage/dev/small", *english)
    register("mmarco/v2/fr/dev/small", *marco(local, "fr", "d1\tRue.\nd2\tPain.\n", "11\tOù ?\n"))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("mmarco", {"language": "de", "document_language": "de", "split": "dev/small"}),
        ("mmarco/v2/de", {"split": "dev/small"}),
        ("ir_datasets:mmarco/v2/de/dev/small", {}),
    ],
)
def test_ir_datasets_test_set(mmarco, name, options):
    dataset = load_benchmark(name, **options)
    assert dataset.name == "mmarco/v2/de/dev/small"
    assert dataset.corpus == {
        "d1": Document("", "Ein Fluss."),
        "d2": Document("", "Brot."),
        "d3": Document("", "Mond."),
    }
    # 14 has no judgements.
    assert dataset.queries == {"11": Query("Wo?"), "12": Query("Was?")}
    assert dataset.qrels == {"11": {"d1": 1, "d2": 0}, "12": {"d2": 2}}


def test_mmarco_with_documents_in_another_language(mmarco):
    dataset = load_benchmark("mmarco", language="de", document_language="en")
    assert dataset.name == "mmarco/v2/de/dev/small over msmarco-passage/dev/small"
    assert dataset.corpus["d1"] == Document("", "A river.")
    assert dataset.queries == {"11": Query("Wo?", "Where?"), "12": Query("Was?", "What?")}
    french = load_benchmark("mmarco", language="de", document_language="fr")
    assert (french.corpus["d1"], french.queries) == (Document("", "Rue."), {"11": Query("Wo?", "Où ?")})


def test_pool_of_ir_datasets_test_set(mmarco):
    dataset = load_benchmark("msmarco", documents=2)
    assert dataset.name == "msmarco-passage/dev/small (pool of 2)"
    assert list(dataset.corpus) == ["d1", "d2"]


def test_identical_ids_are_ignored_in_beir_sets(mmarco, local, register):
    register("beir/quora/test", *marco(local, "quora", "11\tWo?\nd1\tWo denn?\nd2\tWas?\n", "11\tWo?\n"))
    assert load_benchmark("beir/quora/test").ignore_identical_ids
    assert not load_benchmark("mmarco", language="de").ignore_identical_ids


def test_clirmatrix_test_set(local, register):
    rows = [
        {"src_id": "34", "src_query": "Ìwé", "tgt_results": [["7", 6], ["8", 1], ["9", 0]]},
        {"src_id": "35", "src_query": "Omi", "tgt_results": [["9", 3]]},
    ]
    jsonl = local("yo_en.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    documents = TsvDocs(local("en.tsv", "7\tBook is a book.\n8\tPaper.\n9\tWater.\n"))
    register(
        "clirmatrix/en/bi139-base/yo/test1", documents, CLIRMatrixQueries(jsonl, "yo"), CLIRMatrixQrels(jsonl, {})
    )
    dataset = load_benchmark("clirmatrix", language="yo")
    assert dataset.name == "clirmatrix/en/bi139-base/yo/test1"
    assert dataset.queries == {"34": Query("Ìwé"), "35": Query("Omi")}
    assert dataset.qrels == {"34": {"7": 6, "8": 1, "9": 0}, "35": {"9": 3}}
    assert dataset.corpus["7"] == Document("", "Book is a book.")
    assert load_benchmark("clirmatrix", language="yo", document_language="en", split="test1") == dataset


def test_neuclir_queries_have_human_translations(local, register):
    def topic(lang, source, title):
        fields = ("topic_title", "topic_description", "topic_narrative")
        return {"lang": lang, "source": source, **dict.fromkeys(fields, "..."), "topic_title": title}

    topics = [topic("eng", "original", "Water"), topic("fas", "human translation", "آب")]
    topics.append(topic("fas", "google", "آبِ"))
    line = {"topic_id": "1", "languages_with_qrels": ["fas"], "topics": topics, "narratives": {}}
    document = {"id": "u-1", "title": "خبر", "text": "متن", "url": "", "time": "", "cc_file": ""}
    register(
        "neuclir/1/fa/trec-2023",
        ExctractedCCDocs(local("docs.jsonl", json.dumps(document) + "\n"), subset_lang="fa", count=1),
        ExctractedCCQueries(
            local("topics.jsonl", json.dumps(line)),
            subset_lang="fa",
            filter_lwq=False,
            cls=ExctractedCCNoReportNoHtNarQuery,
        ),
        TrecQrels(local("qrels", "1 0 u-1 3\n"), {}),
    )
    dataset = load_benchmark("neuclir", language="fa")
    assert dataset.queries == {"1": Query("Water", "آب")}
    assert dataset.corpus == {"u-1": Document("خبر", "متن")}


class Headed(NamedTuple):
    """A document whose default text begins with its title."""

    doc_id: str
    title: str
    body: str

    def default_text(self):
        return f"{self.title} {self.body}"


class Bodied(NamedTuple):
    """A document whose default text is not made of its title."""

    doc_id: str
    title: str
    text: str

    def default_text(self):
        return self.text


class Silent(NamedTuple):
    """A document without a text."""

    doc_id: str
    picture: bytes


def with_documents(mmarco_parts, documents):
    _, queries, qrels = mmarco_parts
    handler = SimpleNamespace(docs_iter=lambda: iter(documents), docs_handler=lambda: None)
    return handler, queries, qrels


def test_default_text_is_split_into_title_and_text(local, register):
    parts = marco(local, "de", "", "11\tWo?\n")
    documents = [Headed("d1", "Fluss", "Ein Fluss."), Headed("d2", "", "Brot."), Bodied("d3", "Titel", "Mond.")]
    register("mixed", *with_documents(parts, documents))
    assert load_benchmark("mixed").corpus == {
        "d1": Document("Fluss", "Ein Fluss."),
        "d2": Document("", "Brot."),
        "d3": Document("", "Mond."),
    }
    register("silent", *with_documents(parts, [Silent("d1", b"")]))
    fails("silent: Silent has no default text", "silent")


def test_best_of_several_judgements_counts(local, register):
    documents, queries, _ = marco(local, "de", "d1\tEin Fluss.\n", "11\tWo?\n")
    register("aspects", documents, queries, TrecQrels(local("qrels", "11 1 d1 0\n11 2 d1 2\n11 3 d1 1\n"), {}))
    assert load_benchmark("aspects").qrels == {"11": {"d1": 2}}


def test_unknown_ir_datasets_options_raise():
    fails(
        "beir/scifact of ir_datasets has no qrels; choose one of beir/scifact/test, beir/scifact/train", "beir/scifact"
    )
    fails("beir/scifact/dev of ir_datasets does not exist; choose one of .*scifact/test", "beir/scifact", split="dev")
    fails("no miracl/ha/dev .language 'ha', split None of miracl.; languages: ar, .*yo, zh", "miracl", language="ha")
    fails("language None.*; languages: ar, ", "wikiclir")
    fails("split 'x' .*; splits: dev$", "miracl", language="yo", split="x")
    fails("language 'de'.* of msmarco.; it has one language, leave language out", "msmarco", language="de")
    fails("no msmarco-passage/x .*; splits: .*dev/small, ", "msmarco", split="x")
    fails("no clirmatrix/en/bi139-base/None/test1 .language None", "clirmatrix")
    fails("no clirmatrix/en/bi139-base/ha/test1 .language 'ha'", "clirmatrix", language="ha")
    fails(
        "document_language applies to clirmatrix and mmarco only, got 'en'",
        "neuclir",
        language="fa",
        document_language="en",
    )
    fails("beir/scifact/test includes its language, got language 'en'", "beir/scifact/test", language="en")


def test_ir_datasets_names_are_complete_and_current(capfd):
    names = ir_datasets_names()
    for name in ("miracl/yo/dev", "beir/scifact/test", "wikiclir/de", "neuclir/1/fa/trec-2022", "wikir/fr14k/test"):
        assert name in names
    assert "beir/scifact" not in names  # not judged
    assert "trec-robust04" not in names  # deprecated
    assert "deprecated" not in capfd.readouterr().err


@pytest.fixture
def xquad(tmp_path, monkeypatch):
    """The task XQuADRetrieval of mteb, over a folder laid out as its repository is."""
    if Version(mteb.__version__) < Version("2.25"):
        pytest.skip("before, mteb read it from a repository of another layout")
    rows = {
        "de-corpus": [{"_id": "c1", "title": "", "text": "Ein Fluss."}, {"_id": "c2", "title": "B", "text": "Brot."}],
        "de-queries": [{"_id": "q1", "text": "Wo?"}, {"_id": "q2", "text": "Was?"}],
        "de-qrels": [{"query-id": "q1", "corpus-id": "c1", "score": 1}],
        "en-corpus": [{"_id": "e1", "title": "", "text": "A river."}, {"_id": "e2", "title": "B", "text": "Bread."}],
        "en-queries": [{"_id": "q2", "text": "What?"}, {"_id": "q1", "text": "Where?"}],
        "en-qrels": [
            {"query-id": "q1", "corpus-id": "e1", "score": 1},
            {"query-id": "q2", "corpus-id": "e2", "score": 1},
        ],
    }
    configs = []
    for name, own in rows.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in own))
        files = [{"split": "validation", "path": f"{name}.jsonl"}]
        configs.append({"config_name": name, "data_files": files})
    (tmp_path / "README.md").write_text(f"---\nconfigs: {json.dumps(configs)}\n---\n")
    task = type(mteb.get_task("XQuADRetrieval"))
    dataset = {"path": str(tmp_path), "revision": "main"}
    monkeypatch.setattr(task, "metadata", task.metadata.model_copy(update={"dataset": dataset}))


@pytest.mark.parametrize(("name", "language"), [("XQuADRetrieval", "deu"), ("mteb:XQuADRetrieval", "deu-Latn")])
def test_mteb_task(xquad, name, language):
    dataset = load_benchmark(name, language=language, split="validation")
    assert dataset.name == "XQuADRetrieval/de/validation"
    assert dataset.corpus == {"c1": Document("", "Ein Fluss."), "c2": Document("B", "Brot.")}
    assert dataset.queries == {"q1": Query("Wo?")}
    assert dataset.qrels == {"q1": {"c1": 1}}


def test_mteb_task_that_ignores_identical_ids(xquad, monkeypatch):
    assert not load_benchmark("XQuADRetrieval", language="de").ignore_identical_ids
    monkeypatch.setattr(type(mteb.get_task("XQuADRetrieval")), "ignore_identical_ids", True)
    assert load_benchmark("XQuADRetrieval", language="de").ignore_identical_ids
    assert load_benchmark("XQuADRetrieval", language="de", document_language="en").ignore_identical_ids


def test_mteb_queries_with_documents_in_english(xquad):
    dataset = load_benchmark("XQuADRetrieval", language="de", document_language="en")
    assert dataset.name == "XQuADRetrieval/de over en/validation"
    assert dataset.corpus == {"e1": Document("", "A river."), "e2": Document("B", "Bread.")}
    assert dataset.queries == {"q1": Query("Wo?", "Where?")}
    assert dataset.qrels == {"q1": {"e1": 1}}


def test_loading_an_mteb_task_keeps_the_random_state(xquad):
    """mteb itself sets them all when it makes a task."""

    def draw():
        return random.random(), np.random.rand(), torch.rand(1).item()

    def seed():
        random.seed(7), np.random.seed(7), torch.manual_seed(7)

    seed()
    expected = draw()
    seed()
    load_benchmark("XQuADRetrieval", language="de")
    assert draw() == expected
    seed()
    mteb.get_task("XQuADRetrieval")
    assert draw() != expected


def test_mteb_task_in_the_old_format(monkeypatch):
    """Belebele still fills `queries`, `corpus` and `relevant_docs`, from a table a language."""
    import datasets
    from mteb.tasks.retrieval.multilingual import belebele_retrieval

    tables = {
        "eng_Latn": [{"link": "a", "flores_passage": "A river.", "question": "Where?"}],
        "hau_Latn": [{"link": "a", "flores_passage": "Kogi.", "question": "Ina?"}],
    }

    def load(name, path, revision):
        return {"test": datasets.Dataset.from_list(tables[name])}

    monkeypatch.setattr(belebele_retrieval, "load_dataset", load)
    dataset = load_benchmark("BelebeleRetrieval", language="ha", document_language="en")
    assert dataset.name == "BelebeleRetrieval/eng_Latn-hau_Latn/test"
    assert list(dataset.corpus.values()) == [Document("", "A river.")]
    assert list(dataset.queries.values()) == [Query("Ina?")]
    assert load_benchmark("BelebeleRetrieval", language="eng_Latn-hau_Latn") == dataset


def test_mteb_subset_of_a_language():
    tasks = _mteb_tasks()
    for task, language, document_language, subsets in (
        ("BelebeleRetrieval", "ha", "en", ["eng_Latn-hau_Latn"]),
        ("BelebeleRetrieval", "ha", "ha", ["hau_Latn-hau_Latn"]),
        ("BelebeleRetrieval", "hau_Latn-eng_Latn", None, ["hau_Latn-eng_Latn"]),
        ("MLQARetrieval", "de", "en", ["eng-deu"]),
        ("XPQARetrieval", "de", "en", ["eng-deu"]),
        ("CUREv1", "es", "en", ["es"]),
        ("CUREv1", "spa", None, ["es"]),
        ("MrTidyRetrieval", "sw", None, ["swahili"]),
        ("XQuADRetrieval", "zh", "en", ["zh", "en"]),
        ("MultilingualNanoSciFactRetrieval", "no", "en", ["no", "en"]),
        ("SciFact", None, None, ["default"]),
        ("SciFact", "en", None, ["default"]),
    ):
        assert _mteb_subsets(tasks[task].metadata, language, document_language) == subsets, (task, language)


def test_ambiguous_mteb_subset_raises():
    for task, language, document_language, message in (
        ("BelebeleRetrieval", "ha", None, "match 2 .*: hau_Latn-hau_Latn, eng_Latn-hau_Latn$"),
        ("BelebeleRetrieval", None, "en", "match 0 .*: acm_Arab-acm_Arab, "),
        ("XQuADRetrieval", "ha", None, "match 0 subsets of XQuADRetrieval; pass one as language: ar, de, el"),
        # Its questions differ from language to language.
        ("MIRACLRetrieval", "yo", "en", "match 0"),
        ("SciFact", "de", None, "match 0 .*: default"),
    ):
        fails(message, task, language=language, document_language=document_language)


def test_unknown_mteb_split_raises():
    fails(
        "split of XQuADRetrieval must be 'validation', got 'test'",
        "XQuADRetrieval",
        language="de",
        split="test",
    )


def test_mteb_names_are_text_retrieval_tasks():
    names = mteb_names()
    every = mteb.get_tasks(task_types=["Retrieval"], modalities=["text"], exclusive_modality_filter=True)
    more = set(names) - {task.metadata.name for task in every}
    assert len(more) == len(names) - len(every)
    # Superseded and private tasks can be loaded too.
    for task in map(mteb.get_task, more):
        assert task.metadata.superseded_by or not task.metadata.is_public
    assert {"XQuADRetrieval", "BelebeleRetrieval", "MLQARetrieval", "SciFact"} <= set(names)
    assert "STS22" not in names  # no retrieval
    assert "WITT2IRetrieval" not in names  # images
