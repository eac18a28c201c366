import json
import re
import sys
from importlib.util import module_from_spec, spec_from_file_location

import pytest

from hf_optical.errors import DataError
from hf_optical.evaluation import mteb_model
from hf_optical.evaluation.benchmarks import benchmark_names, libraries, load_benchmark, loading
from hf_optical.evaluation.datasets import load_beir


def fails(message, *arguments, **options):
    with pytest.raises(DataError) as caught:
        load_benchmark(*arguments, **options)
    assert re.search(message, str(caught.value)), str(caught.value)


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "ha"
    (folder / "qrels").mkdir(parents=True)
    rows = [{"_id": f"d{i}", "title": "", "text": f"text {i}"} for i in range(30)]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "queries.jsonl").write_text('{"_id": "q1", "text": "Ina?"}\n')
    for split in ("test", "dev"):
        (folder / "qrels" / f"{split}.tsv").write_text("query-id\tcorpus-id\tscore\nq1\td3\t1\n")
    return folder


def test_folder_is_loaded_like_load_beir(folder):
    assert load_benchmark(folder) == load_beir(folder)
    assert load_benchmark(str(folder), split="dev") == load_beir(folder, "dev")
    pool = load_benchmark(folder, documents=4, seed=2)
    assert pool.name == "ha/test (pool of 4)"
    assert len(pool.corpus) == 4 and "d3" in pool.corpus
    assert pool != load_benchmark(folder, documents=4, seed=3)


def test_unused_options_raise(folder):
    fails("the folder .* takes the options split, not language", folder, language="ha")
    fails("takes the options split, not folder", folder, folder=folder)


def test_empty_pool_raises_before_loading(folder):
    # Before anything is downloaded.
    for name in (folder, "afriqa", "mteb:SciFact"):
        with pytest.raises(ValueError, match="documents must be at least 1, got 0"):
            load_benchmark(name, documents=0)


def test_benchmark_names_are_unique():
    names = benchmark_names()
    assert names[:3] == ["afriqa", "ciral", "clirmatrix"]
    for name in ("miracl", "ir_datasets:beir/scifact/test", "mteb:XQuADRetrieval", "mteb:BelebeleRetrieval"):
        assert name in names
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("AfriQA", "afriqa"),
        ("xquad", "mteb:XQuADRetrieval"),
        ("ir_datasets:beir/scifct/test", "ir_datasets:beir/scifact/test"),
    ],
)
def test_unknown_name_suggests_similar_ones(name, near):
    fails(rf"^there is no benchmark and no folder '{name}'; did you mean .*{near}.*\? `benchmark_names\(\)`", name)


def test_unknown_name_without_similar_ones():
    fails(r"no folder 'zzzzzzzzzzzz'; `benchmark_names\(\)` lists all known names$", "zzzzzzzzzzzz")


@pytest.mark.parametrize("name", ["miracl", "mteb:XQuADRetrieval"])
def test_missing_library_raises(monkeypatch, name):
    monkeypatch.setitem(sys.modules, "ir_datasets", None)
    monkeypatch.setitem(sys.modules, "mteb", None)
    library = "mteb" if name.startswith("mteb") else "ir_datasets"
    with pytest.raises(
        ImportError, match=rf'library {library}.* is not installed: pip install "hf_optical\[benchmarks\]"'
    ):
        load_benchmark(name, language="yo")


def test_broken_library_is_distinguished_from_missing(monkeypatch, tmp_path):
    (tmp_path / "half_a_library.py").write_text("import not_there_at_all\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ImportError, match=r"half_a_library cannot be imported \(No module .*not_there_at_all"):
        libraries.import_library("half_a_library")
    with pytest.raises(ImportError, match="nowhere_to_be_found is not installed"):
        libraries.import_library("nowhere_to_be_found")


def test_other_names_work_without_the_libraries(monkeypatch, folder):
    monkeypatch.setitem(sys.modules, "ir_datasets", None)
    fails("ir_datasets would add more: pip install", "beir/scifact/tests")
    monkeypatch.setitem(sys.modules, "mteb", None)
    assert load_benchmark(folder).name == "ha/test"
    assert [name for name in benchmark_names() if ":" in name] == []
    fails(r'ir_datasets and mteb would add more: pip install "hf_optical\[benchmarks\]"', "XQuADRetrieval")


def test_libraries_are_imported_lazily(monkeypatch):
    monkeypatch.setitem(sys.modules, "ir_datasets", None)
    monkeypatch.setitem(sys.modules, "mteb", None)
    for module in (libraries, loading, mteb_model):
        spec = spec_from_file_location(f"{module.__name__}_again", module.__file__)
        spec.loader.exec_module(module_from_spec(spec))
