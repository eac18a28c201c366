"""The Qdrant engine in qdrant-edge (HNSW, in a folder) and in the local mode of qdrant-client (a Python server)."""

from __future__ import annotations

import re
import socket
import warnings
from dataclasses import replace

import pytest
import torch
from packs import make_pack, retriever_with
from qdrant_client import QdrantClient
from qdrant_client.models import Distance, VectorParams
from tiny import demo_pairs, tiny_checkpoint

from hf_optical import OpticalRetriever
from hf_optical.errors import DataError
from hf_optical.index import Index, IndexedDocument, IndexSettings, RetrievalIndex, create_index, open_index
from hf_optical.index.qdrant import QdrantIndex
from hf_optical.index.qdrant_collections import ServerCollection
from hf_optical.retrieval import TokenVectors


# The local mode of the client has no payload indexes, and a key is for connections that others cannot read.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Payload indexes have no effect:UserWarning"),
    pytest.mark.filterwarnings("ignore:Api key is used with an insecure connection:UserWarning"),
]

ROWS = [
    {
        "_id": f"d{i}",
        "title": f"title {i}",
        "text": pair["en"],
        "n": i,
        "share": i / 4,
        "even": i % 2 == 0,
        "source": "news" if i % 3 else "book",
        "tags": ["x", i],
        **({"a b": "rare"} if i % 10 == 0 else {}),
    }
    for i, pair in enumerate(demo_pairs()[:60])
]
QUESTIONS = [pair["sw"] for pair in demo_pairs("validation")[:6]]


@pytest.fixture(scope="module")
def retriever(tiny) -> OpticalRetriever:
    return retriever_with(tiny, {"sw": make_pack(tiny, "sw", seed=0, words=["mzuqo"])})


@pytest.fixture(scope="module")
def exact(retriever, tmp_path_factory) -> RetrievalIndex:
    return create_index(tmp_path_factory.mktemp("exact"), retriever, ROWS)


@pytest.fixture(params=["folder", "client"])
def empty(request, retriever, tmp_path) -> QdrantIndex:
    if request.param == "folder":
        return QdrantIndex.create(tmp_path / "index", IndexSettings.of(retriever))
    collection = ServerCollection(QdrantClient(":memory:"), "documents", "the local mode")
    return QdrantIndex.create_in(collection, IndexSettings.of(retriever), collection.place)


@pytest.fixture
def index(empty, retriever) -> QdrantIndex:
    empty.add_documents(ROWS, retriever)
    return empty


def assert_same_hits(found, expected) -> None:
    """Query vectors are rounded to half precision, so close scores may swap places."""
    assert [len(hits) for hits in found] == [len(hits) for hits in expected]
    for own, best in zip(found, expected, strict=True):
        assert [hit.score for hit in own] == pytest.approx([hit.score for hit in best], abs=2e-2)
        scores = {hit.document: hit.score for hit in best}
        assert all(scores.get(hit.document, best[-1].score) == pytest.approx(hit.score, abs=2e-2) for hit in own)


def again(index: QdrantIndex) -> QdrantIndex:
    if isinstance(index._collection, ServerCollection):
        return QdrantIndex.open_in(index._collection, "the local mode")
    index.close()
    return open_index(index.uri)


def test_search_is_that_of_the_exact_engine(index, exact, retriever):
    assert index.build(recall=1.0) == 1.0 and index.candidates >= 10
    for reopened in (False, True):
        opened = again(index) if reopened else index
        assert len(opened) == 60 and sorted(opened.ids) == sorted(exact.ids) and "d7" in opened
        queries = retriever.encode_queries(QUESTIONS)
        assert_same_hits(opened.search(queries, 20), exact.search(queries, 20))
        assert_same_hits(retriever.search(QUESTIONS, opened, 5, language="sw"), exact.search(queries, 5))
        assert opened.recall(queries, top_k=5) > 0.9
        assert opened.documents(["d7", "d0"]) == exact.documents(["d7", "d0"])
        assert opened.search([]) == [] and opened.search([torch.empty(0, 32)]) == [[]]
        # Weights of query tokens count: the engine multiplies, where others compare directions.
        weighted = [vectors * torch.linspace(0, 3, len(vectors))[:, None] for vectors in queries]
        assert_same_hits(opened.search(weighted, 60), exact.search(weighted, 60))


def test_conditions_are_those_of_sql(shared, exact, retriever):
    queries = retriever.encode_queries(QUESTIONS[:2])
    for where in (
        "n >= 10 AND n < 20",
        "source = 'news' AND NOT (n > 30 OR even)",
        "n IN (1, 2, 70) OR id = 'd5'",
        "n NOT IN (1, 2) AND n BETWEEN 0 AND 4",
        '"a b" IS NOT NULL',
        '"a b" IS NULL AND 50 <= n',
        "\"a b\" != 'rare'",  # neither true nor false where it is missing
        "NOT \"a b\" = 'common'",
        "even = TRUE AND share <= 2.5",
        "n > -1 AND source <> 'news'",
    ):
        expected = [{hit.document for hit in hits} for hits in exact.search(queries, 60, where=where)]
        for index in shared:
            found = index.search(queries, 60, where=where)
            assert [{hit.document for hit in hits} for hits in found] == expected, where


@pytest.fixture(scope="module")
def shared(retriever, tmp_path_factory) -> list[QdrantIndex]:
    """An index of each kind that no test changes."""
    folder = QdrantIndex.create(tmp_path_factory.mktemp("shared") / "index", IndexSettings.of(retriever))
    collection = ServerCollection(QdrantClient(":memory:"), "documents", "the local mode")
    client = QdrantIndex.create_in(collection, IndexSettings.of(retriever), "the local mode")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Payload indexes have no effect")
        for each in (folder, client):
            each.add_documents(ROWS, retriever)
            each.candidates = 60
    return [folder, client]


def test_other_conditions_are_refused(shared, retriever):
    queries = retriever.encode_queries(["rain"])
    for where, reason in (
        ("n <", "got 'n <'"),
        ("n = 1; DROP TABLE documents", "got 'n = 1"),
        ("year > 1990", "no such column: year \\(columns: id, title, text, n, share, even, source"),
        ("n = 'one'", "holds values of kind number, got 'one'"),
        ("source > 'a'", "only numbers have an order"),
        ("lower(source) = 'news'", "must be the name of a column"),
        ("n IN (SELECT 1)", "not supported"),
        ("n = share", "must be a text, a number"),
        ("n > -'a'", "must be a text, a number"),
    ):
        for index in shared:
            with pytest.raises(ValueError, match=f"^where must be a condition in SQL.*{reason}"):
                index.search(queries, where=where)


def test_adding_and_deleting(index, exact, retriever):
    index.delete(["d3", "d4"])
    for call in (index.delete, index.documents):
        with pytest.raises(TypeError, match="got one string"):
            call("d3")
    for number in ("0", "1"):  # documents without ids
        index.add_documents(["Rain."], retriever)
        assert number in index
    index.delete(["0"])
    index.add_documents(["Rain."], retriever)
    index.delete(["1", "2"])
    index.compact()
    index.add(["new", "empty"], [retriever.encode_documents(["Water flows."])[0], torch.empty(0, 32)], [{"n": 70}, {}])
    index = again(index)
    assert len(index) == 60 and "d3" not in index and "new" in index
    queries = retriever.encode_documents(["Water flows."])
    (hits,) = index.search(queries, 60)
    found = {hit.document for hit in hits}
    assert hits[0].document == "new" and not found & {"d3", "d4", "empty"} and len(found) == 59
    assert [hit.document for hit in index.search(queries, where="n = 70")[0]] == ["new"]
    # Columns of later documents can be named too.
    index.add(["later"], queries, [{"year": 1999}])
    assert [hit.document for hit in again(index).search(queries, where="year < 2000")[0]] == ["later"]


def test_what_cannot_be_added_leaves_the_index_as_it_was(empty, retriever):
    vectors = retriever.encode_documents(["Rain.", "Water."])
    with pytest.raises(DataError, match="must hold values of one kind, number, got 'two' in document 'b'"):
        empty.add(["a", "b"], vectors, [{"n": 1}, {"n": "two"}])
    # No documents, no collection.
    assert empty._collection.read_info() is None and len(empty) == 0
    empty.add(["a"], vectors[:1], [{"n": 1}])
    for ids, message in ((["b", "b"], "'b' again"), (["b", "a"], "'a' again")):
        with pytest.raises(DataError, match=f"must be unique in an index, got {message}"):
            empty.add(ids, vectors)
    with pytest.raises(ValueError, match="shape \\(tokens, 32\\)"):
        empty.add(["b"], [torch.ones(3, 16)])

    def failing():
        yield from empty._checked_chunks([(_documents(empty, vectors), TokenVectors.from_list(vectors))])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        empty._add(failing())
    assert again(empty).ids == ["a"]
    with pytest.raises(KeyError, match="no document 'zzz'"):
        empty.delete(["a", "zzz"])
    with pytest.raises(KeyError, match="no document 'zzz'"):
        empty.documents(["a", "zzz"])
    assert empty.ids == ["a"]


def test_writers_do_not_add_to_an_index_of_another_base(empty, retriever):
    collection, settings = empty._collection, replace(empty.settings, base_fingerprint="e" * 64)
    vectors = retriever.encode_documents(["Rain."])
    early = QdrantIndex.create_in(collection, settings, empty.uri)  # in the same empty place
    empty.add(["a"], vectors)
    with pytest.raises(ValueError, match="was replaced by one of another base; open it again"):
        early.add(["b"], vectors)
    collection.drop()
    with pytest.raises(FileNotFoundError, match="there is no index at"):
        empty.add(["b"], vectors)
    QdrantIndex.create_in(collection, settings, empty.uri).add(["c"], vectors)
    for write in (lambda: empty.add(["d"], vectors), lambda: empty.delete(["c"]), empty.build):
        with pytest.raises(ValueError, match="was replaced by one of another base; open it again"):
            write()
    with pytest.raises(ValueError, match="the index is closed; open it again"):
        empty.search(vectors)
    assert QdrantIndex.open_in(collection, empty.uri).ids == ["c"]
    # On the same base, the settings and columns are those of the index that is there now.
    collection.drop()
    late = QdrantIndex.create_in(collection, settings, empty.uri)
    first = QdrantIndex.create_in(collection, replace(settings, base_model="moved"), empty.uri)
    first.add(["d"], vectors, [{"n": 1}])
    late.add(["e"], vectors, [{"year": 1999}])
    assert late.settings.base_model == "moved" and sorted(late.ids) == ["d", "e"]
    assert [hit.document for hit in late.search(vectors, where="n = 1")[0]] == ["d"]


def _documents(index, vectors):
    return [IndexedDocument(f"x{i}", "", "", {}) for i in range(len(vectors))]


def test_index_without_documents_is_not_built(empty):
    with pytest.raises(ValueError, match="number of documents must be at least 1, got 0; add documents first"):
        empty.build()


def test_queries_that_do_not_fit_are_refused(index, retriever, tmp_path):
    other = OpticalRetriever.from_pretrained(tiny_checkpoint(tmp_path / "other", seed=5), device="cpu")
    for reopened in (False, True):
        opened = again(index) if reopened else index
        with pytest.raises(ValueError, match="must be encoded on the base of the index"):
            other.search("rain", opened)
        with pytest.raises(ValueError, match="shape \\(tokens, 32\\)"):
            opened.search([torch.ones(3, 16)])
        with pytest.raises(ValueError, match="top_k must be"):
            opened.search([torch.ones(3, 32)], 0)
    settings = index.settings
    with pytest.raises(FileExistsError, match="already holds an index"):
        QdrantIndex.create_in(index._collection, settings, index.uri)
    with pytest.raises(ValueError, match="dtype must be one of 'float16', 'float32', got 'int8'"):
        QdrantIndex.create(tmp_path / "new", IndexSettings.of(retriever, "int8"))


def test_folders_open_once(retriever, tmp_path):
    index = create_index(tmp_path / "index", retriever, ROWS[:5], engine="qdrant", dtype="float32")
    with pytest.raises(OSError, match="another process has opened it"):
        open_index(tmp_path / "index").search(retriever.encode_queries(["rain"]))
    index.close()
    with open_index(tmp_path / "index") as opened:
        assert isinstance(opened, Index) and isinstance(opened, QdrantIndex) and opened.settings.dtype == "float32"
        assert retriever.search("rain", opened)
    (tmp_path / "index" / "qdrant_index.json").write_text("{}")
    with pytest.raises(OSError, match="format version"):
        open_index(tmp_path / "index")
    with pytest.raises(FileNotFoundError, match="there is no index at"):
        QdrantIndex.open(tmp_path / "nowhere")


def test_servers_and_collections_that_are_not_there(retriever, monkeypatch):
    for uri in (
        "qdrant://",
        "qdrant://host:6333",
        "qdrant://host:x/documents",
        "qdrant://h/a/b",
        "qdrant://h/a?tls=1",
    ):
        message = f"qdrant://host:port/collection, or with ?https=true, got {uri!r}"
        with pytest.raises(ValueError, match=re.escape(message)):
            open_index(uri)
    monkeypatch.setenv("QDRANT_API_KEY", "a secret key")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        uri = f"qdrant://127.0.0.1:{free.getsockname()[1]}/documents"
    with pytest.raises(OSError, match="cannot be reached .*refused.*; is the server running?") as error:
        open_index(uri)
    assert "a secret" not in str(error.value)
    client = QdrantClient(":memory:")
    with pytest.raises(FileNotFoundError, match="there is no index at here"):
        QdrantIndex.open_in(ServerCollection(client, "documents", "here"), "here")
    client.create_collection("others", VectorParams(size=4, distance=Distance.COSINE))
    with pytest.raises(OSError, match="here is not an index of hf_optical; choose another collection"):
        QdrantIndex.open_in(ServerCollection(client, "others", "here"), "here")
