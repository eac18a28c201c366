"""Compacting an index of many additions and deletions."""

from __future__ import annotations

import errno
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from reliability.killed_run import Kill, Runs

from hf_optical.index import IndexSettings, RetrievalIndex, retrieval_index
from hf_optical.retrieval import TokenVectors


CHUNK, DIM = 20, 32
CONDITIONS = (None, "year >= 2000", "source = 'news' AND id <> '3'")


def halves(texts: int, seed: int) -> TokenVectors:
    """
    Unit vectors of four numbers 0.5 or -0.5 in the first eight places.

    Their scores are sums without rounding, the same in blocks of any size, and many are equal.
    """
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(0, 5, (texts,), generator=generator)
    tokens = int(lengths.sum())
    places = torch.rand(tokens, 8, generator=generator).argsort(1)[:, :4]
    signs = torch.randint(2, places.shape, generator=generator) - 0.5
    return TokenVectors(torch.zeros(tokens, DIM).scatter(1, places, signs), lengths)


def rows(first: int, count: int) -> list[dict[str, object]]:
    return [
        {"title": f"Title {i}", "text": f"word{chr(97 + i % 26)} rain", "year": 1990 + i, "source": "news" * (i % 2)}
        for i in range(first, first + count)
    ]


def add(index: RetrievalIndex, first: int, count: int) -> None:
    index.add([str(i) for i in range(first, first + count)], halves(count, seed=first), rows(first, count))


def make(folder: Path, dtype: str = "float16", sizes: tuple[int, ...] = (3, 1, 4, 30, 2, 15, 5, 8)) -> RetrievalIndex:
    """An index of several parts, three of whose documents were deleted."""
    index = RetrievalIndex.create(folder, IndexSettings("base", "f" * 64, {}, DIM, dtype))
    for number, size in enumerate(sizes):
        add(index, sum(sizes[:number]), size)
    index.delete(["2", "3", "40"])
    return index


def answers(index: RetrievalIndex) -> list[object]:
    """Everything that an index gives out: rankings with scores, texts and metadata, and vectors."""
    rankings = [index.search(halves(6, seed=7), top_k, where=where) for top_k in (5, 99) for where in CONDITIONS]
    vectors = {
        key: own.view(torch.uint8).tolist()
        for ids, block in index._blocks()
        for key, own in zip(ids, block.to_list(), strict=True)
    }
    return [rankings, index.documents(index.ids), vectors]


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(retrieval_index, "CHUNK", CHUNK)


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_compacted_index_gives_the_same_answers_from_fewer_parts(tmp_path, dtype):
    index = make(tmp_path / "index", dtype)
    before, size = answers(index), sum(map(len, files(index.folder).values()))
    reader = RetrievalIndex.open(index.folder)
    freed = index.compact()
    # Three documents in 8, 30 without deletions, and the others.
    assert [(each.name, len(each.ids)) for each in index.parts] == [
        ("part-00008", 6),
        ("part-00003", 30),
        ("part-00009", 20),
        ("part-00010", 9),
    ]
    assert 0 < freed and sum(map(len, files(index.folder).values())) < size - freed // 2
    assert {path.name for path in index.folder.glob("part-*")} == {each.name for each in index.parts}
    for current in (index, RetrievalIndex.open(index.folder), reader):
        assert answers(current) == before and "40" not in current
        # Words of deleted documents are not counted.
        assert current.word_counts()["rain"] == len(index) == 65
    # There is nothing left to do, and documents that are added later get a part of their own.
    after = files(index.folder)
    assert index.compact() == 0 and files(index.folder) == after
    add(reader, 68, 2)
    assert [each.name for each in reader.parts][-1] == "part-00011" and reader.ids[-2:] == ["68", "69"]


def test_compacted_index_equals_a_new_one(tmp_path):
    """Scores of any vectors then have the same bits."""
    vectors = torch.nn.functional.normalize(torch.randn(400, DIM, generator=torch.Generator().manual_seed(0)), dim=1)
    texts, settings = TokenVectors(vectors, torch.full((50,), 8)), IndexSettings("base", "f" * 64, {}, DIM, "int8")
    new, compacted = (RetrievalIndex.create(tmp_path / name, settings) for name in ("new", "compacted"))
    for start in range(0, 50, 5):
        compacted.add([str(i) for i in range(start, start + 5)], texts[start : start + 5], rows(start, 5))
    compacted.delete([str(i) for i in range(20, 30)])
    compacted.compact()
    for start in (0, 30):
        new.add([str(i) for i in range(start, start + 20)], texts[start : start + 20], rows(start, 20))
    assert [each.ids for each in compacted.parts] == [each.ids for each in new.parts]
    assert answers(compacted) == answers(new) and compacted.word_counts() == new.word_counts()


def test_index_without_documents_is_compacted(tmp_path):
    index = RetrievalIndex.create(tmp_path / "index", IndexSettings("base", "f" * 64, {}, DIM, "float16"))
    assert index.compact() == 0 and not index.folder.exists()
    add(index, 0, 2)
    index.delete(["0", "1"])
    index.compact()
    assert len(index) == 0 and not list(index.folder.glob("part-*")) and index.search(halves(2, seed=1)) == [[], []]
    add(index, 0, 2)
    assert index.ids == ["0", "1"]


def _compact(inputs: Path, folder: Path) -> None:
    retrieval_index.CHUNK = CHUNK
    RetrievalIndex.open(folder).compact()


def test_index_killed_while_it_is_compacted_is_the_old_or_the_new_one(tmp_path):
    expected = answers(make(tmp_path / "old"))
    runs = Runs(tmp_path)
    changes, seconds = runs.whole(_compact, shutil.copytree(tmp_path / "old", tmp_path / "whole"))
    states = {"old": files(tmp_path / "old"), "new": files(tmp_path / "whole")}
    places, seen = [changes * share // 100 for share in (40, 65, 90)], []
    for place in places:
        folder = shutil.copytree(tmp_path / "old", tmp_path / str(place))
        assert runs.kill(_compact, folder, Kill("change", (place + 0.5) / changes, 0), changes, seconds)
        assert answers(RetrievalIndex.open(folder)) == expected
        seen += [name for name, state in states.items() if files(folder) == state]
    assert len(seen) == len(places) and seen == sorted(seen, reverse=True) and set(seen) == set(states)


def test_documents_are_added_while_others_compact(tmp_path):
    folder = make(tmp_path / "index").folder

    def add_some() -> None:
        index = RetrievalIndex.open(folder)
        for first in range(100, 115, 3):
            add(index, first, 3)

    with ThreadPoolExecutor(1) as pool:
        adding = pool.submit(add_some)
        while not adding.done():
            RetrievalIndex.open(folder).compact()
        adding.result()
    index = RetrievalIndex.open(folder)
    index.compact()
    assert index.ids[-15:] == [str(i) for i in range(100, 115)] and len(index) == 80
    assert [index.document(key).columns["year"] for key in ("5", "114")] == [1995, 2104]
    assert {path.name for path in folder.glob("part-*")} == {each.name for each in index.parts}


def test_error_at_the_limit_of_open_files_says_to_compact(tmp_path, monkeypatch):
    folder = make(tmp_path / "index").folder

    def refuse(path):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), str(path))

    monkeypatch.setattr(TokenVectors, "open", refuse)
    with pytest.raises(OSError, match="has 8 parts, too many for the limit of open files; .*compact") as caught:
        RetrievalIndex.open(folder)
    assert caught.value.errno == errno.EMFILE


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs Linux to list open files")
def test_open_index_holds_no_files_open(tmp_path):
    def opened() -> list[str]:
        paths = [os.path.realpath(each) for each in Path("/proc/self/fd").glob("*")]
        return [path for path in paths if path.startswith(str(index.folder.resolve()))]

    index = make(tmp_path / "index")
    assert opened() == []
