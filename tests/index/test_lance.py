from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
import torch
from example_scripts import forking_context
from packs import make_pack, retriever_with
from tiny import tiny_checkpoint

from hf_optical import OpticalRetriever
from hf_optical.errors import DataError
from hf_optical.index import IndexSettings, RetrievalIndex, create_index, open_index, protocol
from hf_optical.index.effort import Effort
from hf_optical.index.lance import LanceIndex
from hf_optical.index.lance_rows import (
    SETTINGS_KEY,
    document_schema,
    lance_reason,
    read_vectors,
    to_documents,
    to_table,
)
from hf_optical.retrieval import TokenVectors, search


ROWS = [
    {"_id": "a", "title": "Rain", "text": "It fell all night.", "year": 1999, "tags": ["wet"]},
    {"_id": "b", "text": "Bread is baked from flour.", "year": 2005, "source": "it's a book"},
    {"_id": "c", "text": "Children are playing near the river.", "source": "news"},
]
SETTINGS = IndexSettings("base", "f" * 64, {}, 16, "float16")


@pytest.fixture(scope="module")
def retriever(tiny) -> OpticalRetriever:
    return retriever_with(tiny, {"sw": make_pack(tiny, "sw", seed=0, words=["mzuqo"])})


@pytest.fixture
def index(retriever, tmp_path) -> LanceIndex:
    return create_index(tmp_path / "index", retriever, ROWS, engine="lance")


def corpus(documents: int, seed: int = 0) -> TokenVectors:
    """Documents of 4 to 12 tokens around 30 directions."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(4, 13, (documents,), generator=generator)
    centres = torch.randn(30, 16, generator=torch.Generator().manual_seed(9))
    values = centres[torch.randint(30, (int(lengths.sum()),), generator=generator)]
    values = values + 0.7 * torch.randn(values.shape, generator=generator)
    return TokenVectors(torch.nn.functional.normalize(values, dim=1).half(), lengths)


def keys(documents: int, first: int = 0) -> list[str]:
    return [str(number) for number in range(first, first + documents)]


def common(found, expected) -> int:
    """Number of documents that rankings share."""
    pairs = zip(found, expected, strict=True)
    return sum(len({hit.document for hit in own} & {hit.document for hit in best}) for own, best in pairs)


def as_pairs(rankings) -> list[list[tuple[str, float]]]:
    return [[(hit.document, pytest.approx(hit.score, abs=5e-3)) for hit in hits] for hits in rankings]


def test_any_engine_answers_questions_in_any_language(retriever, index, tmp_path):
    opened = open_index(tmp_path / "index")
    assert isinstance(opened, LanceIndex) and len(opened) == 3 and opened.ids == ["a", "b", "c"]
    assert opened.settings == IndexSettings.of(retriever) and "b" in opened and "z" not in opened
    exact = create_index(tmp_path / "exact", retriever, ROWS)
    assert isinstance(open_index(tmp_path / "exact"), RetrievalIndex)
    for language in ("base", "sw"):
        expected = retriever.search(["mzuqo rain", "river"], exact, 2, language=language)
        assert as_pairs(retriever.search(["mzuqo rain", "river"], opened, 2, language=language)) == as_pairs(expected)
    document = opened.document("a")
    assert document == ("a", "Rain", "It fell all night.", {"year": 1999, "tags": ["wet"]})
    assert opened.search([]) == [] and opened.recall(retriever.encode_queries(["rain"])) == 1
    with pytest.raises(KeyError, match="no document 'z'"):
        opened.documents(["a", "z"])


def test_condition_selects_documents(retriever, index):
    def found(where):
        return {hit.document for hit in retriever.search("rain", index, where=where)}

    assert found("year >= 2000 AND source = 'it''s a book'") == {"b"}
    assert found("year IS NULL OR text LIKE 'It%'") == {"a", "c"}
    for wrong in ("year >", "yeer = 3", "year = 'x y'"):
        with pytest.raises(ValueError, match=r"^where must be a condition in SQL (?!.*\.rs:)"):
            found(wrong)


def test_later_columns_join_the_dataset(retriever, index):
    LanceIndex.open(index.uri).add_documents(["Water."], retriever)
    index.add_documents([{"text": "Fire."}], retriever)
    index.delete(["0", "1"])  # which others added, and this one after them
    index.add_documents([{"_id": "d", "text": "Water.", "pages": 7}], retriever)
    assert index.document("d").columns == {"pages": 7}
    assert {hit.document for hit in retriever.search("rain", index, where="pages IS NULL")} == {"a", "b", "c"}
    with pytest.raises(DataError, match="'pages' must be of type int64.* got 'many'"):
        index.add_documents([{"_id": "e", "text": "Fire.", "pages": "many"}], retriever)
    with pytest.raises(DataError, match="letters, digits and underscores.*first page"):
        index.add_documents([{"_id": "e", "text": "Fire.", "first page": 1}], retriever)
    assert len(index) == 4


def test_fractions_are_not_cut_to_the_whole_numbers_of_the_first_documents(retriever, tmp_path, monkeypatch):
    monkeypatch.setattr(protocol, "CHUNK", 2)

    def create(values):
        documents = [{"text": "Rain.", "price": value} for value in values]
        return create_index(tmp_path / f"{len(list(tmp_path.iterdir()))}", retriever, documents, engine="lance")

    for values, wrong in (([3, 4, 5.0, 4.99], "4.99"), ([[3], [4], [0.5], []], r"\[0.5\]")):
        with pytest.raises(DataError, match=f"'price' must be of type .*int64.* got {wrong}"):
            create(values)
    nested = [{"low": 3}, {"low": 4}, {"low": 0.5}]
    with pytest.raises(DataError, match="'price' must be of type struct<low: int64>.* got {'low': 0.5}"):
        create(nested)
    for values in ([3, 4, 5.0, None], [3, 4.99, 4, 0.5], [[3], [4.5], [], None]):
        opened = create(values)
        assert [opened.document(key).columns.get("price") for key in "0123"] == values


def test_writers_do_not_add_to_an_index_of_another_base(tmp_path):
    settings = replace(SETTINGS, base_fingerprint="e" * 64)
    early = LanceIndex.create(tmp_path / "index", settings)  # in the same empty folder
    writer = LanceIndex.create(tmp_path / "index", SETTINGS)
    writer.add(["a"], corpus(1))
    with pytest.raises(ValueError, match="was replaced by one of another base; open it again"):
        early.add(["b"], corpus(1))
    shutil.rmtree(tmp_path / "index")
    LanceIndex.create(tmp_path / "index", settings).add(["c"], corpus(1))
    for write in (lambda: writer.add(["d"], corpus(1)), lambda: writer.delete(["c"]), writer.build, writer.compact):
        with pytest.raises(ValueError, match="was replaced by one of another base; open it again"):
            write()
    with pytest.raises(ValueError, match="the index is closed; open it again"):
        writer.search(corpus(1))
    assert LanceIndex.open(tmp_path / "index").ids == ["c"]
    # On the same base, the settings are those of the index that is there now.
    early.close()
    shutil.rmtree(tmp_path / "index")
    LanceIndex.create(tmp_path / "index", replace(settings, base_model="moved")).add(["d"], corpus(1))
    early.add(["e"], corpus(1))
    assert early.settings.base_model == "moved" and early.ids == ["d", "e"]


def test_index_without_documents_is_not_trained(tmp_path):
    empty = LanceIndex.create(tmp_path / "index", SETTINGS)
    for _ in range(2):  # before the first addition, and after everything was deleted
        for queries in (None, corpus(2)):
            with pytest.raises(ValueError, match="number of documents must be at least 1, got 0; add documents first"):
                empty.build(queries=queries)
        empty.add(keys(3), corpus(3))
        empty.delete(keys(3))


def test_failed_additions_leave_the_index_as_it_was(retriever, index, tmp_path):
    version = index.dataset.version
    vectors = [torch.nn.functional.normalize(torch.randn(3, retriever.model.embedding_dim), dim=1)]
    for error, message, ids, given in (
        (DataError, "must be unique", ["a"], vectors),
        (DataError, "must be unique", ["x", "x"], vectors * 2),
        (ValueError, "vectors must have shape", ["x"], [torch.ones(2, 5)]),
        (ValueError, "one entry for each of the 2 ids", ["x", "y"], vectors),
        (DataError, "must not be empty", [], TokenVectors(torch.empty(0, 32), torch.empty(0))),
    ):
        with pytest.raises(error, match=message):
            index.add(ids, given)
    with pytest.raises(KeyError, match="'nowhere'"):
        index.delete(["a", "nowhere"])
    with pytest.raises(FileExistsError, match="already holds an index"):
        LanceIndex.create(index.uri, index.settings)
    assert len(index) == 3 and LanceIndex.open(index.uri).dataset.version == version
    with pytest.raises(FileNotFoundError, match="no Lance dataset"):
        LanceIndex.open(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="dtype must be one of 'float16', 'float32', got 'int8'"):
        create_index(tmp_path / "other", retriever, engine="lance", dtype="int8")


def test_queries_of_another_base_and_weighted_queries_are_refused(retriever, index, tmp_path):
    other = OpticalRetriever.from_pretrained(tiny_checkpoint(tmp_path / "other", seed=5), device="cpu")
    with pytest.raises(ValueError, match="must be encoded on the base of the index"):
        other.search("rain", index)
    with pytest.raises(ValueError, match="Lance only knows the cosine"):
        retriever.search(["rain"], index, weights=[[2.0] * len(own) for own in retriever.encode_queries(["rain"])])
    with pytest.raises(ValueError, match="query_vectors must have shape"):
        index.search([torch.ones(2, 5)])


def test_trained_index_finds_true_scores_as_often_as_it_says(tmp_path, monkeypatch):
    monkeypatch.setattr("hf_optical.index.lance._FEW", 100)
    trained = LanceIndex.create(tmp_path / "index", SETTINGS)
    trained.add(keys(500), corpus(500), [{"number": number} for number in range(500)])
    assert trained.build(recall=0.95, queries=corpus(20, seed=3), top_k=5) >= 0.95
    assert trained.search([]) == []
    queries = corpus(40, seed=4)
    exact = search(queries, corpus(500), 5, document_ids=keys(500))
    found = trained.search(queries, 5)
    scores = [dict(hits) for hits in search(queries, corpus(500), 500, document_ids=keys(500))]
    for own, hits in zip(scores, found, strict=True):
        assert all(hit.score == pytest.approx(own[hit.document], abs=1e-4) for hit in hits)
    share = (
        sum(len({h.document for h in a} & {h.document for h in b}) for a, b in zip(found, exact, strict=True)) / 200
    )
    assert share == pytest.approx(trained.recall(queries, top_k=5)) and share >= 0.9
    reopened = LanceIndex.open(trained.uri)
    assert reopened.effort == trained.effort != Effort() and reopened.search(queries, 5) == found
    # Fewer documents fulfil the first condition than are searched exactly, and more the second one.
    for where, kept in (("number < 50", 50), ("number < 400", 400)):
        expected = search(queries, corpus(500)[:kept], 5, document_ids=keys(kept))
        hits = trained.search(queries, 5, where=where)
        assert common(hits, expected) / 200 >= (1 if kept == 50 else 0.9) and all(
            int(h.document) < kept for own in hits for h in own
        )

    # Documents that are added after training are found.
    new = corpus(20, seed=7)
    trained.add(keys(20, first=500), new)
    for _ in range(2):  # before and after the inverted index is brought up to date
        assert [hits[0].document for hits in trained.search(new, 1)] == keys(20, first=500)
        trained.compact()
    trained.delete(keys(10, first=500))
    assert [hits[0].document for hits in trained.search(new[10:], 1)] == keys(10, first=510)
    assert not {hit.document for hits in trained.search(new[:10], 5) for hit in hits} & set(keys(10, first=500))
    assert len(trained) == 510 and trained.documents(["515"])[0].id == "515"


def test_rows_give_back_documents(retriever):
    documents = [*create_rows()]
    schema = document_schema(SETTINGS, documents)
    vectors = corpus(len(documents))
    table = to_table(documents, vectors, schema)
    assert to_documents(table) == documents and IndexSettings.from_json(schema.metadata[SETTINGS_KEY], "x") == SETTINGS
    for part in (table["vectors"], table["vectors"].chunk(0), table.slice(0, 3)["vectors"]):
        assert torch.equal(read_vectors(part).values, vectors.values)
    assert torch.equal(read_vectors(table.slice(1, 1)["vectors"]).values, vectors[1])


def create_rows():
    from hf_optical.index import read_documents

    return read_documents(ROWS)


def test_newer_formats_and_other_datasets_are_refused(index, tmp_path):
    import lance
    import pyarrow as pa

    newer = {"hf_optical": json.dumps({**json.loads(index.settings.to_json()), "format_version": 2})}
    index.dataset.update_schema_metadata(newer)
    with pytest.raises(OSError, match="format version 1, got 2; open it with the version of hf_optical"):
        LanceIndex.open(index.uri)
    lance.write_dataset(pa.table({"x": [1]}), tmp_path / "other")
    with pytest.raises(OSError, match="must be an index of hf_optical"):
        open_index(tmp_path / "other")


def test_messages_hold_no_secrets():
    error = OSError("denied: access_key_id=AKIAEXAMPLE123 secret_access_key: wJalrXUtnFEMI/K7MD, /home/a/b.rs:1:2")
    reason = lance_reason(error)
    assert "AKIA" not in reason and "wJalr" not in reason and ".rs" not in reason and reason.startswith("denied")


def _add_forever(uri, started):
    index = LanceIndex.open(uri)
    vectors = corpus(5)
    for number in range(10_000):
        index.add([f"{number}-{i}" for i in range(5)], vectors)
        started.set()


@pytest.mark.promise("Stopping anywhere", "A Lance index opens after a process that was adding documents was killed.")
def test_killed_writer_leaves_whole_additions(tmp_path):
    uri = str(tmp_path / "index")
    LanceIndex.create(uri, SETTINGS).add(["first"], corpus(1))
    context = forking_context()
    started = context.Event()
    writer = context.Process(target=_add_forever, args=(uri, started))
    writer.start()
    assert started.wait(120)
    writer.join(0.5)
    writer.kill()
    writer.join()
    opened = LanceIndex.open(uri)
    assert len(opened) % 5 == 1 and len(opened) == len(set(opened.ids)) > 1
    opened.add(["last"], corpus(1))
    assert opened.search(corpus(1), 1)[0][0].score == pytest.approx(len(corpus(1)[0]), abs=1e-2)
