"""Encoding a corpus shard by shard in processes of this machine."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from encoding_runs import corpus_ids, finished_shards, ids_of, start_run, wait_for, write_corpus
from packs import make_pack
from tiny import tiny_checkpoint

from hf_optical import OpticalModel, OpticalProcessor, OpticalRetriever
from hf_optical.errors import DataError
from hf_optical.index import open_index
from hf_optical.index.encoding_run import ShardsFailed, encode_corpus
from hf_optical.index.lance_rows import open_dataset, read_vectors
from hf_optical.index.tasks import Workers
from hf_optical.retrieval import search


pytest.importorskip("lance")
ONE = Workers(processes=1)


ALL = corpus_ids()


def test_rows_are_those_of_the_corpus_in_its_order(tiny, tmp_path):
    write_corpus(tmp_path / "corpus")
    count = encode_corpus(tmp_path / "corpus" / "*.jsonl.gz", tmp_path / "out", tiny, shards=4, workers=ONE)
    dataset = open_dataset(str(tmp_path / "out"))
    assert count == 20 and ids_of(tmp_path / "out") == ALL
    assert [fragment.count_rows() for fragment in dataset.get_fragments()] == [5, 5, 5, 5]
    rows = dataset.to_table().to_pylist()
    assert rows[8]["text"] == "The water in 0 is c." and rows[8]["year"] == 1900
    retriever = OpticalRetriever.from_pretrained(tiny, device="cpu")
    expected = retriever.encode_documents([f"{row['title']} {row['text']}" for row in rows])
    found = read_vectors(dataset.to_table(columns=["vectors"])["vectors"]).to_list()
    for own, other in zip(found, expected, strict=True):
        assert (own.float() - other).abs().max() < 1e-3
    assert not list((tmp_path / "out.encoding").rglob("*.json"))


def test_encoded_dataset_is_an_index(tiny, tmp_path):
    files = write_corpus(tmp_path / "corpus")
    encode_corpus(files, tmp_path / "out", tiny, shards=4, workers=ONE, dtype="float32")
    retriever = OpticalRetriever.from_pretrained(tiny, device="cpu")
    texts = [f"Rain The water in {key[1:]} is {key[0]}." for key in ALL]
    expected = search(retriever.encode_queries(["water in 3"]), retriever.encode_documents(texts), document_ids=ALL)
    with open_index(tmp_path / "out") as index:
        found = retriever.search(["water in 3"], index)
        assert [hit.document for hit in found[0]] == [hit.document for hit in expected[0]]
        assert index.document("c5").columns == {"year": 1905}
    with pytest.raises(ValueError, match="dtype must be that of the index"):
        encode_corpus(files, tmp_path / "out", tiny, workers=ONE, add=True)


def test_teacher_of_a_pack_encodes_the_corpus(tiny, tmp_path):
    teacher = OpticalRetriever.from_pretrained(tiny_checkpoint(tmp_path / "teacher", seed=5), device="cpu")
    details = {"teacher": str(tmp_path / "teacher"), "teacher_fingerprint": teacher.model.fingerprint()}
    replace(make_pack(tiny, "sw", seed=1), details=details).save_pretrained(tmp_path / "pack")
    encode_corpus(write_corpus(tmp_path / "corpus"), tmp_path / "out", tmp_path / "pack", shards=2, workers=ONE)
    rows = open_dataset(str(tmp_path / "out")).to_table()
    expected = teacher.encode_documents([f"Rain {text}" for text in rows["text"].to_pylist()])
    for own, other in zip(read_vectors(rows["vectors"]).to_list(), expected, strict=True):
        assert (own.float() - other).abs().max() < 1e-3


def test_documents_without_ids_are_numbered_through_all_files(tiny, tmp_path):
    for name in ("a", "b"):
        (tmp_path / f"{name}.csv").write_text(
            "text,year\nWater.,\nRain.,\n" if name == "a" else "text,year\nRice.,7\n"
        )
    encode_corpus(tmp_path / "*.csv", tmp_path / "out", tiny, shards=2, workers=ONE)
    rows = open_dataset(str(tmp_path / "out")).to_table(columns=["id", "text", "year"]).to_pylist()
    assert [tuple(row.values()) for row in rows] == [("0", "Water.", ""), ("1", "Rain.", ""), ("2", "Rice.", "7")]
    open_index(tmp_path / "out").delete(["0"])
    encode_corpus(tmp_path / "b.csv", tmp_path / "out", tiny, workers=ONE, add=True)
    assert ids_of(tmp_path / "out") == ["1", "2", "3"]


def test_added_documents_follow_those_that_are_there(tiny, tmp_path, monkeypatch):
    first, *others = write_corpus(tmp_path / "corpus")
    encode_corpus(first, tmp_path / "out", tiny, workers=ONE)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileExistsError, match=f"^{tmp_path}/out already holds a dataset"):
        encode_corpus(others, "out", tiny, workers=ONE)
    (tmp_path / "exact").mkdir()
    (tmp_path / "exact" / "index.json").touch()
    with pytest.raises(FileExistsError, match="already holds an index of another engine"):
        encode_corpus(others, "exact", tiny, workers=ONE)
    encode_corpus(others, tmp_path / "out", tiny, workers=ONE, add=True)
    assert ids_of(tmp_path / "out") == ALL
    with pytest.raises(DataError, match=r"must be unique in an index, got 'a0' again in .*a\.jsonl\.gz, line 1"):
        encode_corpus(first, tmp_path / "out", tiny, workers=ONE, add=True)
    other = tiny_checkpoint(tmp_path / "other", seed=5)
    with pytest.raises(ValueError, match="must be the base of the index"):
        encode_corpus(first, tmp_path / "out", other, workers=ONE, add=True)
    assert ids_of(tmp_path / "out") == ALL


def test_bad_corpora_are_refused_before_anything_is_written(tiny, tmp_path):
    for line, message in (
        ('{"_id": "a2", "text": "Again."}', r"got 'a2' in .*a.jsonl.gz, line 3 and in .*c.jsonl.gz, line 4"),
        ('{"_id": "c3", "text": ', r"c.jsonl.gz, line 4 cannot be read"),
        ('{"_id": "c3", "text": 4}', r"c.jsonl.gz, row 3: 'text' must be text"),
        ('{"_id": "c3", "text": "Rain.", "year": "old"}', r"'?year'? must have values of one type"),
    ):
        files = write_corpus(tmp_path / "corpus", c3=line)
        with pytest.raises(DataError, match=message):
            encode_corpus(files, tmp_path / "out", tiny, workers=ONE)
        assert not (tmp_path / "out").exists() and not list(tmp_path.rglob("*.encoding/*"))
    with pytest.raises(DataError, match="must be files that exist"):
        encode_corpus(tmp_path / "*.jsonl", tmp_path / "out", tiny, workers=ONE)
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(DataError, match="corpus must not be empty"):
        encode_corpus(tmp_path / "*.jsonl", tmp_path / "out", tiny, workers=ONE)


def test_failing_shard_is_reported_by_file_and_line_and_the_others_are_kept(tmp_path):
    # Longer than the encoder has positions for.
    broken = tiny_checkpoint(tmp_path / "broken", document_length=600)
    long = json.dumps({"_id": "c5", "text": "water " * 600})
    files = write_corpus(tmp_path / "corpus", c5=long)
    with pytest.raises(ShardsFailed, match=r"(?s)1 of 5 shards failed at every.*c\.jsonl\.gz, line 6: "):
        encode_corpus(files, tmp_path / "out", broken, shards=5, workers=ONE)
    assert not (tmp_path / "out" / "_versions").exists()
    assert len(list((tmp_path / "out.encoding").rglob("000*.json"))) == 4
    with pytest.raises(ValueError, match="unfinished run that began with another shards; pass the same"):
        encode_corpus(files, tmp_path / "out", broken, shards=4, workers=ONE)
    encode_corpus(files, tmp_path / "out", tiny_checkpoint(tmp_path / "tiny"), shards=5, workers=ONE, restart=True)
    assert ids_of(tmp_path / "out") == ALL


def test_vectors_that_are_no_numbers_are_reported_by_their_line(tiny, tmp_path):
    write_corpus(tmp_path / "corpus")
    model = OpticalModel.from_pretrained(tiny)
    word = OpticalProcessor.from_pretrained(tiny).tokenizer("c", add_special_tokens=False)["input_ids"][0]
    with torch.no_grad():
        model.get_input_embeddings().weight[word] = torch.nan
    model.save_pretrained(tmp_path / "broken")
    OpticalProcessor.from_pretrained(tiny).save_pretrained(tmp_path / "broken")
    with pytest.raises(ShardsFailed, match=r"c\.jsonl\.gz, line 1: the base gives vectors that are not finite"):
        encode_corpus(tmp_path / "corpus" / "*.jsonl.gz", tmp_path / "out", tmp_path / "broken", shards=4, workers=ONE)
    assert not (tmp_path / "out" / "_versions").exists()


@pytest.mark.promise("Stopping anywhere", "An encoding run that was killed continues with the shards that are left.")
def test_killed_run_continues_with_the_shards_that_are_left(tiny, tmp_path):
    sizes = (120, 120)
    arguments = (write_corpus(tmp_path / "corpus", sizes), tmp_path / "out", tiny)
    run = start_run(*arguments, shards=60)
    wait_for(lambda: finished_shards(tmp_path / "out") >= 3, run.is_alive)
    run.kill()
    run.join()
    files = sorted((tmp_path / "out.encoding").glob("*/*.json"))[:3]
    kept = [json.loads(file.read_text())["fragments"][0]["files"][0]["path"] for file in files]
    assert finished_shards(tmp_path / "out") < 60 and not (tmp_path / "out" / "_versions").exists()
    encode_corpus(*arguments, shards=60, workers=ONE)
    assert ids_of(tmp_path / "out") == corpus_ids(sizes)
    fragments = open_dataset(str(tmp_path / "out")).get_fragments()
    assert [each.path for fragment in fragments[:3] for each in fragment.data_files()] == kept


@pytest.mark.parametrize(("moment", "add"), [("before commit", False), ("after commit", True), ("within clear", True)])
def test_run_killed_around_its_commit_adds_every_row_once(tiny, tmp_path, moment, add):
    first, *others = write_corpus(tmp_path / "corpus")
    if add:
        encode_corpus(first, tmp_path / "out", tiny, workers=ONE)
    arguments = (others if add else [first, *others], tmp_path / "out", tiny)
    run = start_run(*arguments, shards=5, add=add, killed_at=moment)
    run.join(300)
    assert run.exitcode == -9
    assert encode_corpus(*arguments, shards=5, add=add, workers=ONE) == (13 if add else 20)
    assert ids_of(tmp_path / "out") == ALL
    assert not list((tmp_path / "out.encoding").rglob("*.json"))
