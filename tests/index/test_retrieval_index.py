from __future__ import annotations

import json
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from example_scripts import forking_context
from packs import make_pack, retriever_with
from tiny import tiny_checkpoint

from hf_optical import OpticalRetriever
from hf_optical.errors import DataError
from hf_optical.index import IndexedDocument, RetrievalIndex, create_index, protocol
from hf_optical.index.conditions import MetadataTable
from hf_optical.retrieval import search


DOCUMENTS = [
    "The market opens in the morning.",
    "Children are playing near the river.",
    "Rain fell all night.",
    "Bread is baked from flour.",
    "",
]
QUERIES = ["mzuqo market", "rain at night", "river"]


@pytest.fixture(scope="module")
def retriever(tiny) -> OpticalRetriever:
    return retriever_with(tiny, {"sw": make_pack(tiny, "sw", seed=0, words=["mzuqo"])})


@pytest.fixture
def index(retriever, tmp_path) -> RetrievalIndex:
    return create_index(tmp_path / "index", retriever, DOCUMENTS, dtype="float32")


def assert_same_hits(found, expected):
    """Texts in batches of another size have vectors that differ in the last bits."""
    assert [[hit.document for hit in hits] for hits in found] == [[hit.document for hit in hits] for hits in expected]
    scores = [[hit.score for hits in each for hit in hits] for each in (found, expected)]
    assert scores[0] == pytest.approx(scores[1], abs=1e-5)


def contents(folder) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_opened_index_gives_the_hits_of_search_in_memory(retriever, index, monkeypatch, tmp_path):
    opened = RetrievalIndex.open(index.folder)
    assert len(opened) == len(DOCUMENTS) and opened.ids == ["0", "1", "2", "3", "4"]
    queries = retriever.encode_queries(QUERIES)
    expected = search(queries, retriever.encode_documents(DOCUMENTS), 4, document_ids=opened.ids)
    assert_same_hits(opened.search(queries, 4), expected)
    assert_same_hits(retriever.search(QUERIES, opened, 4), expected)
    assert_same_hits([retriever.search(QUERIES[0], opened, 4, language="sw")], expected[:1])
    # Small parts, larger lists than there are documents.
    monkeypatch.setattr(protocol, "CHUNK", 2)
    parts = create_index(tmp_path / "parts", retriever, DOCUMENTS, dtype="float32")
    assert [len(part.ids) for part in parts.parts] == [2, 2, 1]
    everything = search(queries, retriever.encode_documents(DOCUMENTS), 10, document_ids=opened.ids)
    assert_same_hits(parts.search(queries), everything)
    assert_same_hits(parts.search(queries, 4), expected)
    assert parts.search([]) == []


def test_vectors_are_stored_in_half_precision_by_default(retriever, index, tmp_path):
    half = create_index(tmp_path / "half", retriever, DOCUMENTS)
    assert half.parts[0].vectors.values.dtype == torch.float16
    queries = retriever.encode_queries(QUERIES)
    vectors = [vector.half().float() for vector in retriever.encode_documents(DOCUMENTS)]
    assert_same_hits(half.search(queries), search(queries, vectors, document_ids=half.ids))


def test_documents_keep_their_columns(retriever, tmp_path):
    rows = [
        {"_id": "a", "title": "Rain", "text": "It fell.", "year": 1999, "tags": ["x"]},
        {"_id": "b", "text": "Bread."},
        {"_id": 7, "text": "Flour."},
    ]
    index = create_index(tmp_path / "index", retriever, rows)
    found = index.document("a")
    assert (found.id, found.title, found.text) == ("a", "Rain", "It fell.")
    assert found.columns == {"year": 1999, "tags": ["x"]}
    assert index.document("b").title == "" and "7" in index and "8" not in index
    with pytest.raises(KeyError, match="no document 'nowhere'"):
        index.document("nowhere")
    stored = pq.read_table(tmp_path / "index" / "part-00000" / "documents.parquet")
    assert stored["id"].to_pylist() == ["a", "b", "7"]


def test_adding_and_deleting_leave_what_is_there(retriever, index):
    before = contents(index.folder / "part-00000")
    index.add_documents(["Water flows.", "The market closes."], retriever)
    index.delete(["1", "5"])
    assert contents(index.folder / "part-00000") == before
    for current in (index, RetrievalIndex.open(index.folder)):
        assert current.ids == ["0", "2", "3", "4", "6"] and len(current) == 5
        kept = [DOCUMENTS[0], *DOCUMENTS[2:], "The market closes."]
        queries = retriever.encode_queries(QUERIES)
        expected = search(queries, retriever.encode_documents(kept), 9, document_ids=current.ids)
        assert_same_hits(current.search(queries, 9), expected)
        assert current.document("6").text == "The market closes."
        with pytest.raises(KeyError):
            current.document("1")
    with pytest.raises(KeyError, match="'1'"):
        index.delete(["0", "1"])
    for call in (index.delete, index.documents):
        with pytest.raises(TypeError, match=r"got one string; pass \['02'\]"):
            call("02")
    assert "0" in index and "2" in index
    # A deleted document can be added in another version.
    index.add_documents([{"_id": "1", "text": "Fish swim."}], retriever)
    assert RetrievalIndex.open(index.folder).document("1").text == "Fish swim."


def test_objects_see_what_others_added_before_they_add(retriever, index):
    other = RetrievalIndex.open(index.folder)
    other.add_documents([{"_id": "other", "text": "Water."}], retriever)
    other.add_documents(["Rain."], retriever)
    index.add_documents(["Fire."], retriever)
    assert RetrievalIndex.open(index.folder).ids == ["0", "1", "2", "3", "4", "other", "5", "6"]


def test_writers_do_not_add_to_an_index_of_another_base(retriever, index):
    settings = replace(index.settings, base_fingerprint="e" * 64)
    shutil.rmtree(index.folder)
    vectors = retriever.encode_documents(["Water."])
    RetrievalIndex.create(index.folder, settings).add(["a"], vectors)
    for write in (
        lambda: index.add_documents(["Fire."], retriever),
        lambda: index.delete(["a"]),
        index.compact,
    ):
        with pytest.raises(ValueError, match="was replaced by one of another base; open it again"):
            write()
    assert RetrievalIndex.open(index.folder).ids == ["a"] and index.ids == ["0", "1", "2", "3", "4"]


def test_empty_index_has_no_document_to_delete(index, tmp_path):
    empty = RetrievalIndex.create(tmp_path / "empty", index.settings)
    with pytest.raises(KeyError, match="no document 'x' in the index"):
        empty.delete(["x"])
    empty.delete([])
    assert not empty.folder.exists()


@pytest.mark.parametrize(
    ("uri", "engine", "named"),
    [
        ("s3://bucket/index", "qdrant", "lance"),
        ("s3://bucket/index", "exact", "lance"),
        ("gs://bucket/index", "exact", "lance"),
        ("qdrant://localhost:6333/index", "exact", "qdrant"),
        ("qdrant://localhost:6333/index", "lance", "qdrant"),
    ],
)
def test_engines_that_a_uri_excludes_are_refused(retriever, tmp_path, monkeypatch, uri, engine, named):
    monkeypatch.chdir(tmp_path)
    message = f"engine must be '{named}' for {uri}, got '{engine}'; leave it out, or pass a folder"
    with pytest.raises(ValueError, match=message):
        create_index(uri, retriever, DOCUMENTS, engine=engine)
    assert not list(tmp_path.iterdir())


def test_duplicate_ids_are_refused_and_nothing_is_added(retriever, index):
    before = contents(index.folder)
    for documents in ([{"_id": "3", "text": "Again."}], [{"_id": "x", "text": "A."}, {"_id": "x", "text": "B."}]):
        with pytest.raises(DataError, match="must be unique"):
            index.add_documents(documents, retriever)
    assert contents(index.folder) == before and len(index) == 5


def test_queries_of_another_base_are_refused(index, tmp_path):
    other = OpticalRetriever.from_pretrained(tiny_checkpoint(tmp_path / "other", seed=5), device="cpu")
    with pytest.raises(ValueError, match="must be encoded on the base of the index"):
        other.search("rain", index)
    with pytest.raises(ValueError, match="must be encoded on the base of the index"):
        index.add_documents(["Water."], other)


def test_an_index_is_not_replaced_and_not_empty(retriever, index, tmp_path):
    with pytest.raises(FileExistsError, match="already holds an index"):
        create_index(index.folder, retriever, ["Water."])
    assert len(RetrievalIndex.open(index.folder)) == 5
    for entry in ("_versions", "qdrant_index.json"):
        (tmp_path / entry / entry).mkdir(parents=True)
        with pytest.raises(FileExistsError, match="already holds an index of another engine"):
            create_index(tmp_path / entry, retriever, engine="exact")
    with pytest.raises(DataError, match="must not be empty"):
        create_index(tmp_path / "new", retriever, [])
    with pytest.raises(FileNotFoundError, match="index.json"):
        RetrievalIndex.open(tmp_path / "new")


def test_closed_and_open_indexes(index):
    files = [os.path.realpath(file) for file in Path("/proc/self/fd").glob("*")]
    assert str(index.folder / "part-00000" / "documents.parquet") not in files
    index.close()
    with pytest.raises(ValueError, match="the index is closed; open it again"):
        index.search([torch.ones(1, 32)])


def test_damaged_files_are_named(index):
    for part in ("vectors.safetensors", "documents.parquet"):
        file = index.folder / "part-00000" / part
        whole = file.read_bytes()
        file.write_bytes(whole[:40])
        with pytest.raises(OSError, match=part):
            RetrievalIndex.open(index.folder)
        file.write_bytes(whole)
    file = index.folder / "index.json"
    whole = json.loads(file.read_text())
    for entry, value, message in (
        ("format_version", 2, "format version 1"),
        ("parts", [{"name": "../elsewhere", "deleted": []}], "elsewhere"),
        ("dim", "many", "dim"),
        ("parts", None, "parts"),
    ):
        file.write_text(json.dumps({**whole, entry: value}))
        with pytest.raises(OSError, match=message):
            RetrievalIndex.open(index.folder)


def _add_forever(base, folder, started):
    retriever = OpticalRetriever.from_pretrained(base, device="cpu")
    index = RetrievalIndex.open(folder)
    started.set()
    for _ in range(10_000):
        index.add_documents(DOCUMENTS, retriever)


@pytest.mark.promise("Stopping anywhere", "An index opens after the process that was adding documents was killed.")
def test_killed_writer_leaves_a_whole_index(index, tiny, tmp_path):
    context = forking_context()
    started = context.Event()
    writer = context.Process(target=_add_forever, args=(tiny, index.folder, started))
    writer.start()
    assert started.wait(120)
    writer.join(0.7)
    writer.kill()
    writer.join()
    opened = RetrievalIndex.open(index.folder)
    assert len(opened) % 5 == 0 and opened.document(opened.ids[-2]).text == DOCUMENTS[3]


def test_condition_selects_documents(retriever, tmp_path):
    rows = [
        {"_id": "a", "text": "Rain fell.", "year": 1999, "source": "news"},
        {"_id": "b", "text": "Rain will fall.", "year": 2005, "source": "it's"},
        {"_id": "c", "text": "Rain and bread.", "year": None},
    ]
    index = create_index(tmp_path / "index", retriever, rows)
    index.add_documents([{"_id": "d", "text": "Rain at night.", "pages": 7, "year": 2006}], retriever)
    index.delete(["b"])

    def found(where):
        return {hit.document for hit in retriever.search("rain", index, 9, where=where)}

    assert found("year >= 2000") == {"d"}
    assert found("source = 'it''s' OR pages IN (6, 7)") == {"d"}
    assert found("year IS NULL AND id <> 'x'") == {"c"}
    assert found("text LIKE 'Rain%'") == {"a", "c", "d"} and found("text LIKE 'rain%'") == set()
    for wrong in ("year >", "yeer = 3", "1=1); DROP TABLE documents; --"):
        with pytest.raises(ValueError, match="where must be a condition in SQL"):
            found(wrong)


def test_conditions_on_any_metadata():
    columns = [{"year": 10**30, "rowid": 7, "Year": 1}, {"year": 5, "rowid": 8}]
    documents = [IndexedDocument(str(number), "", "", own) for number, own in enumerate(columns)]
    table = MetadataTable(documents * 1000, ["year", "rowid", "Year"])
    assert table.matching("rowid = 8 AND year = 5")[:2] == [1, 3] and table.matching("YEAR > 6")[:2] == [0, 2]
    with pytest.raises(ValueError, match="it takes more than 1 s"):
        table.matching("(SELECT count(*) FROM documents a, documents b, documents c) > 0")
    if sys.version_info >= (3, 12):
        with pytest.raises(ValueError, match="yeer"):
            table.matching('"yeer" = 5')


def test_int8_vectors_lose_little(retriever, tmp_path):
    index = create_index(tmp_path / "index", retriever, DOCUMENTS, dtype="int8")
    assert index.parts[0].vectors.values.dtype == torch.int8
    queries = retriever.encode_queries(QUERIES)
    expected = search(queries, retriever.encode_documents(DOCUMENTS), 9, document_ids=index.ids)
    found = index.search(queries, 9)
    for own, best in zip(found, expected, strict=True):
        assert dict(own) == pytest.approx(dict(best), abs=0.02 * len(queries))


def test_vectors_are_added_without_a_model(retriever, index):
    vectors = retriever.encode_documents(["Water flows.", "Fire burns."])
    index.add(["w", "f"], vectors, [{"title": "Water", "year": 1}, {"text": "Fire burns."}])
    assert index.search(vectors[:1], 1)[0][0].document == "w"
    assert index.documents(["f", "w"])[1] == ("w", "Water", "", {"year": 1})
    assert index.recall(vectors) == index.build() == 1
    for ids, given, message in (
        (["x"], [torch.ones(2, 5)], "vectors must have shape"),
        (["x", "y"], vectors[:1], "one entry for each of the 2 ids"),
        (["w"], vectors[:1], "must be unique"),
        (["x", "x"], vectors, "must be unique"),
        (["x", "y"], [vectors[0], vectors[1] * torch.nan], "must be finite numbers, got others in document 'y'"),
    ):
        with pytest.raises(ValueError, match=message):
            index.add(ids, given)
    assert len(index) == 7
