from __future__ import annotations

import bz2
import csv
import gzip
import lzma

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hf_optical.bitext import reading
from hf_optical.bitext.reading import listed, read_lines, read_objects, read_parquet, read_table, shown, told
from hf_optical.errors import DataError


def write(path, content):
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("name", "compress"),
    [("a", bytes), ("a.gz", gzip.compress), ("a", gzip.compress), ("a.bz2", bz2.compress), ("A.XZ", lzma.compress)],
)
def test_lines_are_what_a_newline_ends(tmp_path, name, compress):
    file = write(tmp_path / name, compress("\ufeffa\r\n \n\r\nb\u2028c\x0bd\re\n\ufefff".encode()))
    assert list(read_lines(file)) == [
        (f"{file}, line 1", "a"),
        (f"{file}, line 4", "b\u2028c\x0bd\re"),
        (f"{file}, line 5", "\ufefff"),
    ]


@pytest.mark.parametrize("content", [b"BZhang\tman\n", b"PK\x03\x04 a\n"])
def test_a_text_that_begins_like_an_archive_is_a_text(tmp_path, content):
    assert [line for _, line in read_lines(write(tmp_path / "a.txt", content))] == [content.decode().rstrip("\n")]


@pytest.mark.promise(
    "Text",
    "A compressed file that unfolds to one endless line, or one endless list, stops being read at 256 MiB.",
)
def test_a_line_without_end_stops_being_read(tmp_path, monkeypatch):
    """Some hundred bytes unfold to a line of eight megabytes, and to a list as long."""
    monkeypatch.setattr(reading, "_LONGEST", 2**20)
    for content, problem in ((b"x" * 2**23, "line 2 is longer than 1 MiB"), (b"[" + b"\n" * 2**23, "a list of more")):
        file = write(tmp_path / "a.jsonl.gz", gzip.compress(b"\n" + content))
        with pytest.raises(DataError, match=f"a.jsonl.gz.*{problem}"):
            list(read_objects(file, lists=True))


@pytest.mark.promise(
    "Text",
    "A small file that unfolds to over 1 GiB, and over 300 times its size, is refused before that is in "
    "memory: many lines of an archive, a value that all rows of a Parquet file share, ten million values "
    "in a line of JSON.",
)
@pytest.mark.parametrize("content", [b"a\n" * 2**20, b"\n" * 2**21, (b"x" * 2**19 + b"\n") * 16])
def test_many_lines_of_a_small_file_stop_being_read(tmp_path, monkeypatch, content):
    """Some thousand bytes unfold to more than a thousand times as many, in lines that are each short enough."""
    monkeypatch.setattr(reading, "_UNFOLDED", 2**22)
    file = write(tmp_path / "a.bz2", bz2.compress(content))
    with pytest.raises(DataError, match="a.bz2 unfolds to over 4 MiB, far beyond its size"):
        list(read_lines(file))
    assert len(list(read_lines(write(tmp_path / "a", content)))) == len(content.split())


@pytest.mark.parametrize("content", [b'{"x": [' + b"{}," * 2000 + b"{}]}", b"[" + b"{},\n" * 2000 + b"{}]"])
def test_objects_of_too_many_values_are_not_parsed(tmp_path, monkeypatch, content):
    monkeypatch.setattr(reading, "_MOST_VALUES", 1000)
    with pytest.raises(DataError, match="a, line 1: over 1,000 values at once; write one flat object a line"):
        list(read_objects(write(tmp_path / "a", content), lists=True))


def test_rows_of_too_many_fields_are_no_table(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "_MOST_VALUES", 1000)
    assert len(list(read_table(write(tmp_path / "a", b"a,b\n" + b"c,d\n" * 2000), ","))) == 2000
    for content in (b"," * 2000, b"a,b\n" + b'1,"\n",' * 600):
        with pytest.raises(DataError, match="a, line .*: a row of over 1,000 fields; this is no table"):
            list(read_table(write(tmp_path / "a", content), ","))


def parquet(path, table, **more):
    pq.write_table(table, path, compression="zstd", **more)
    return path


@pytest.mark.parametrize("more", [{}, {"use_dictionary": False}], ids=["a value for all rows", "a value for each row"])
def test_rows_of_a_small_parquet_file_stop_being_unpacked(tmp_path, monkeypatch, more):
    monkeypatch.setattr(reading, "_UNFOLDED", 2**22)
    monkeypatch.setattr(reading, "_BATCH_BYTES", 2**18)
    text = pa.DictionaryArray.from_arrays(pa.array([0] * 1000, pa.int32()), ["x" * 20_000]).dictionary_decode()
    file = parquet(tmp_path / "a.parquet", pa.table({"a": text}), **more)
    assert file.stat().st_size < 9000
    longest = []
    with pytest.raises(DataError, match="a.parquet unfolds to over 4 MiB"):
        longest.extend(len(row["a"]) for row in read_parquet(file))
    # What was never to be held is not unpacked to be measured.
    assert len(longest) < 250


@pytest.mark.promise("Text", "A few long rows are unpacked few at a time, and kept in parts that Arrow can hold.")
def test_long_rows_of_parquet_are_unpacked_few_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "_BATCH_BYTES", 2**20)
    texts = [f"{i % 3}" * 100_000 for i in range(200)]
    for column in (pa.array(texts), pa.array(texts).dictionary_encode()):
        table = pa.table({"a": column, "b": [{"c": text, "d": [text, None]} for text in texts]})
        file = parquet(tmp_path / "a.parquet", table, row_group_size=70)
        with open(file, "rb") as opened:
            batches = list(reading._batches(opened, lambda size: None))
        assert max(map(len, batches)) <= 10 and sum(map(len, batches)) == 200
        assert [row["a"] for row in read_parquet(file)] == texts
        assert list(read_parquet(file))[7]["b"] == {"c": texts[7], "d": [texts[7], None]}


def test_objects_stand_where_they_say(tmp_path):
    file = write(tmp_path / "a", b'\n{"a": "\\ud83d\\ude00"}\n\n{"b": NaN}')
    (first, where), (_, other) = read_objects(file)
    assert (first, where, other) == ({"a": "😀"}, f"{file}, line 2", f"{file}, line 4")
    file = write(tmp_path / "a", b'\n[\n{"a": 1},\n{"b": 2}]\n')
    assert list(read_objects(file, lists=True)) == [({"a": 1}, f"{file}, row 0"), ({"b": 2}, f"{file}, row 1")]
    with pytest.raises(DataError, match="a, line 2: not JSON"):
        list(read_objects(file))
    file = write(tmp_path / "a", b'\n[\n{"a": 1},\n{"b": 2}, x]\n')
    with pytest.raises(DataError, match="a, line 4: not JSON .*column 11"):
        list(read_objects(file, lists=True))
    with pytest.raises(DataError, match=r"a, row 1: 3 in place of an object such as \{'a'\}"):
        list(read_objects(write(tmp_path / "a", b"[{}, 3]"), lists=True, example="{'a'}"))


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_tables_with_long_fields_and_any_line_ends(tmp_path, end):
    before = csv.field_size_limit(1000)
    long = "x" * 300_000
    file = write(tmp_path / "a.csv", end.join(["a,b", f"{long},'", '"c ""d"", ', f' {end}",e', ""]).encode())
    try:
        assert list(read_table(file, ",")) == [{"a": long, "b": "'"}, {"a": f'c "d", {end} {end}', "b": "e"}]
    finally:
        csv.field_size_limit(before)


def test_a_damaged_parquet_file_is_named(tmp_path):
    for content in (b"", b"PAR1" + bytes(50) + b"PAR1"):
        with pytest.raises(DataError, match="a.parquet cannot be read .*; fetch or write it again"):
            list(read_parquet(write(tmp_path / "a.parquet", content)))


@pytest.mark.promise("Text", "Whatever a file holds, the message about it is short and can be printed.")
def test_whatever_a_value_is_it_is_shown_on_one_short_line():
    deep: list = []
    for _ in range(5000):
        deep = [deep]
    for value in (
        deep,
        "x" * 10**6,
        "\ud800\n\u202e",
        {"a" * 999: deep} | dict.fromkeys(range(999)),
        None,
        float("nan"),
    ):
        text = shown(value)
        assert len(text) <= 200 and text.isprintable() and text.encode()
    assert shown("it's") == '"it\'s"' and shown({"a": [1]}) == "{'a': [1]}"
    assert listed(["en", "\ud800", 3]) == "en, \\ud800, 3" and len(listed(["x" * 200] * 999)) == 300
    assert listed(["\x1b[2Ja\nb", "it's", "ƙ"]) == "\\x1b[2Ja\\nb, it's, ƙ"
    assert told(ValueError("a\n  b")) == "a b" and told(MemoryError()) == "MemoryError"
    assert told(ValueError("\x1b[2J")) == "\\x1b[2J" and len(told(ValueError("x" * 9999))) == 500
