from __future__ import annotations

import bz2
import csv
import gzip
import lzma

import pytest

from hf_optical.bitext import reading
from hf_optical.bitext.reading import listed, read_lines, read_objects, read_parquet, read_table, shown
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


def test_a_line_without_end_stops_being_read(tmp_path, monkeypatch):
    """Some hundred bytes unfold to a line of eight megabytes, and to a list as long."""
    monkeypatch.setattr(reading, "_LONGEST", 2**20)
    for content, problem in ((b"x" * 2**23, "line 2 is longer than 1 MiB"), (b"[" + b"\n" * 2**23, "a list of more")):
        file = write(tmp_path / "a.jsonl.gz", gzip.compress(b"\n" + content))
        with pytest.raises(DataError, match=f"a.jsonl.gz.*{problem}"):
            list(read_objects(file, lists=True))


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
