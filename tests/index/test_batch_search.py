from __future__ import annotations

import pytest
from encoding_runs import ids_of, write_corpus
from tiny import DEMO, tiny_checkpoint

from hf_optical import OpticalRetriever, RetrievalEvaluator, load_beir
from hf_optical.index.batch_search import BatchSearch
from hf_optical.index.encoding_run import encode_corpus
from hf_optical.index.lance_rows import open_dataset, read_vectors
from hf_optical.index.tasks import Workers
from hf_optical.retrieval import search


pytest.importorskip("lance")
QUERIES = ["water in a", "the river", "rain 3"]


@pytest.fixture(scope="module")
def dataset(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("search")
    files = write_corpus(folder / "corpus", sizes=(40, 1, 30))
    encode_corpus(files, folder / "out", tiny, shards=5, workers=Workers(processes=1))
    dataset = open_dataset(str(folder / "out"))
    dataset.delete("id = 'a3'")
    return dataset


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_merged_rankings_are_those_of_one_exact_search(dataset, tiny, processes):
    vectors = read_vectors(dataset.to_table(columns=["vectors"])["vectors"])
    retriever = OpticalRetriever.from_pretrained(tiny, device="cpu")
    expected = search(retriever.encode_queries(QUERIES), vectors, 12, document_ids=ids_of(dataset.uri))
    found = retriever.search(QUERIES, BatchSearch(dataset.uri, Workers(processes=processes)), 12)
    assert len(dataset.get_fragments()) == 5 and "a3" not in {hit.document for hits in found for hit in hits}
    assert found == expected


def test_dataset_without_documents_finds_none(tiny, tmp_path):
    (tmp_path / "corpus.csv").write_text("text\nRain.\n")
    encode_corpus(tmp_path / "corpus.csv", tmp_path / "out", tiny, workers=Workers(processes=1))
    open_dataset(str(tmp_path / "out")).delete("id = '0'")
    retriever = OpticalRetriever.from_pretrained(tiny, device="cpu")
    assert retriever.search(QUERIES, BatchSearch(tmp_path / "out", Workers(processes=1))) == [[], [], []]


def test_evaluation_with_an_index_gives_the_measures_of_vectors_in_memory(tiny, tmp_path):
    data = load_beir(DEMO / "retrieval")
    encode_corpus(DEMO / "retrieval" / "corpus.jsonl", tmp_path / "out", tiny, workers=Workers(processes=1))
    retriever = OpticalRetriever.from_pretrained(tiny, device="cpu")
    index = BatchSearch(tmp_path / "out", Workers(processes=1))
    found = RetrievalEvaluator(data, retriever.model, retriever.processor, index=index)
    expected = RetrievalEvaluator(data, retriever.model, retriever.processor)
    measures = [each(retriever.model, retriever.processor) for each in (found, expected)]
    # In half precision.
    assert measures[0] == pytest.approx(measures[1], abs=0.01)


def test_queries_of_another_base_are_refused(dataset, tiny, tmp_path):
    index = BatchSearch(dataset.uri, Workers(processes=1))
    other = OpticalRetriever.from_pretrained(tiny_checkpoint(tmp_path / "other", seed=5), device="cpu")
    with pytest.raises(ValueError, match="must be encoded on the base of the index"):
        other.search(QUERIES, index)
    with pytest.raises(FileNotFoundError, match="no Lance dataset"):
        BatchSearch(tmp_path / "nothing")
