from __future__ import annotations

import pytest
import torch
from filelock import Timeout

from hf_optical.retrieval import TokenVectors
from hf_optical.studies import Record, Store
from hf_optical.studies.store import key_of


def test_record_mean():
    record = Record("m", "ot", "t", "sw", {"AP": {"a": 0.5, "b": 0.0}})
    assert record.mean("AP") == 0.25 and record.corpus is None and record.seconds == 0


def test_keys_depend_on_content_not_order():
    assert key_of({"a": 1, "b": [1, 2]}) == key_of({"b": [1, 2], "a": 1})
    assert len({key_of(content) for content in ({"a": 1}, {"a": 2}, {"a": "1"}, {"a": None}, {})}) == 5


def test_cells_are_finished_once_written(store):
    key = key_of({"a": 1})
    assert store.read(key) is None
    store.folder_of(key).mkdir(parents=True)
    assert store.read(key) is None
    store.write(key, {"values": {"é": 1.0}})
    assert store.read(key) == {"values": {"é": 1.0}} == Store(store.folder).read(key)


def test_damaged_cells_count_as_unfinished(store):
    store.write("abcd", {"values": {}})
    (store.folder / "ab" / "abcd.json").write_text('{"values": {', encoding="utf-8")
    assert store.read("abcd") is None


def test_settle_removes_files_of_killed_processes(store):
    store.write("abcd", {"values": {}})
    left = store.folder / "ab" / ".saving-x" / "new" / "abcd.json"
    left.parent.mkdir(parents=True)
    left.write_text('{"values', encoding="utf-8")
    store.settle()
    assert [path.name for path in (store.folder / "ab").iterdir()] == ["abcd.json"]


def test_locks_exclude_others(store):
    with store.lock("abcd").acquire(blocking=False):
        with pytest.raises(Timeout):
            Store(store.folder).lock("abcd").acquire(blocking=False)
        with store.lock("other").acquire(blocking=False):
            pass
    with store.lock("abcd").acquire(blocking=False):
        pass


def test_document_vectors_are_encoded_once(store):
    vectors, calls = TokenVectors.from_list([torch.randn(3, 4), torch.randn(1, 4)]), []

    def encode() -> TokenVectors:
        calls.append(1)
        return vectors

    for _ in range(2):
        found = store.vectors("key", encode)
        assert torch.equal(found.values, vectors.values.half()) and torch.equal(found.lengths, vectors.lengths)
    assert len(calls) == 1
