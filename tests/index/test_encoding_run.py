"""Encoding a corpus shard by shard in processes of this machine."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny import tiny_checkpoint

from hf_optical import OpticalRetriever
from hf_optical.errors import DataError
from hf_optical.index.encoding_run import ShardsFailed, encode_corpus
from hf_optical.index.lance_rows import open_dataset, read_vectors
from hf_optical.index.tasks import Workers


pytest.importorskip("lance")
ONE = Workers(processes=1)


def write_corpus(folder: Path, sizes=(7, 1, 12), **changes) -> list[Path]:
    """Compressed JSON lines, with ids a0, a1, ..., b0, ...; `changes` replace rows by their ids."""
    folder.mkdir(exist_ok=True)
    files = []
    for letter, size in zip("abcdefgh", sizes, strict=False):
        files.append(folder / f"{letter}.jsonl.gz")
        rows = [
            {"_id": f"{letter}{i}", "title": "Rain", "text": f"The water in {i} is {letter}.", "year": 1900 + i}
            for i in range(size)
        ]
        lines = [changes.get(row["_id"], json.dumps(row)) for row in rows]
        with gzip.open(files[-1], "wt", encoding="utf-8") as file:
            file.write("\n".join(lines) + "\n")
    return files


def ids_of(uri) -> list[str]:
    return open_dataset(str(uri)).to_table(columns=["id"])["id"].to_pylist()


ALL = [f"{letter}{i}" for letter, size in zip("abc", (7, 1, 12), strict=True) for i in range(size)]


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
