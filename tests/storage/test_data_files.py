from __future__ import annotations

import bz2
import csv
import gzip
import lzma

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hf_optical.errors import DataError
from hf_optical.storage import data_files
from hf_optical.storage.data_files import read_lines, read_objects, read_parquet, read_table


def write(path, content):
    path.write_bytes(content)
    return path


def test_only_newlines_end_lines(tmp_path):
    compressed = (("a.gz", gzip.compress), ("a", gzip.compress), ("a.bz2", bz2.compress), ("A.XZ", lzma.compress))
    for name, compress in (("a", bytes), *compressed):
        file = write(tmp_path / name, compress("\ufeffa\r\n \n\r\nb\u2028c\x0bd\re\n\ufefff".encode()))
        assert list(read_lines(file)) == [
            (f"{file}, line 1", "a"),
            (f"{file}, line 4", "b\u2028c\x0bd\re"),
            (f"{file}, line 5", "\ufefff"),
        ]


def test_text_that_begins_like_an_archive(tmp_path):
    for content in (b"BZhang\tman\n", b"PK\x03\x04 a\n"):
        assert [line for _, line in read_lines(write(tmp_path / "a.txt", content))] == [content.decode().rstrip("\n")]


@pytest.mark.promise(
    "Text",
    "Reading a compressed file stops when a line or a JSON list exceeds 256 MiB.",
)
def test_endless_lines_are_refused(tmp_path, monkeypatch):
    """A few hundred bytes decompress to a line, and to a list, of eight megabytes."""
    monkeypatch.setattr(data_files, "_LONGEST", 2**20)
    for content, problem in (
        (b"x" * 2**23, "line 2 .*more than 1,048,576 bytes in"),
        (b"[" + b"\n" * 2**23, "in one list"),
    ):
        file = write(tmp_path / "a.jsonl.gz", gzip.compress(b"\n" + content))
        with pytest.raises(DataError, match=f"a.jsonl.gz.*{problem}"):
            list(read_objects(file, lists=True))


@pytest.mark.promise(
    "Text",
    "A file that decompresses to more than 1 GiB and more than 300 times its size is refused before it fills the "
    "memory. So is a line of JSON with more than ten million values.",
)
@pytest.mark.parametrize("content", [b"\n" * 2**21, (b"x" * 2**19 + b"\n") * 16])
def test_many_lines_of_a_small_archive_are_refused(tmp_path, monkeypatch, content):
    """A few thousand bytes decompress to more than a thousand times as many, in short lines."""
    monkeypatch.setattr(data_files, "_MOST_BYTES", 2**22)
    file = write(tmp_path / "a.bz2", bz2.compress(content))
    with pytest.raises(DataError, match="a.bz2, line .*more than 4,194,304 bytes once decompressed"):
        list(read_lines(file))
    assert len(list(read_lines(write(tmp_path / "a", content)))) == len(content.split())


def test_json_and_table_rows_with_too_many_values_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(data_files, "_MOST_VALUES", 1000)
    for content in (b'{"x": [' + b"{}," * 2000 + b"{}]}", b"[" + b"{},\n" * 2000 + b"{}]"):
        with pytest.raises(DataError, match="a, line 1 cannot be read .more than 1,000 values at once"):
            list(read_objects(write(tmp_path / "a", content), lists=True))
    assert len(list(read_table(write(tmp_path / "a", b"a,b\n" + b"c,d\n" * 2000), ","))) == 2000
    for content in (b"," * 2000, b"a,b\n" + b'1,"\n",' * 600):
        with pytest.raises(DataError, match="a, line .* cannot be read .more than 1,000 fields in one row"):
            list(read_table(write(tmp_path / "a", content), ","))


def parquet(path, table, **more):
    pq.write_table(table, path, compression="zstd", **more)
    return path


def test_small_parquet_files_with_large_content_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(data_files, "_MOST_BYTES", 2**22)
    monkeypatch.setattr(data_files, "_BATCH_BYTES", 2**18)
    text = pa.DictionaryArray.from_arrays(pa.array([0] * 1000, pa.int32()), ["x" * 20_000]).dictionary_decode()
    for use_dictionary in (True, False):
        file = parquet(tmp_path / "a.parquet", pa.table({"a": text}), use_dictionary=use_dictionary)
        assert file.stat().st_size < 9000
        longest = []
        with pytest.raises(DataError, match="a.parquet cannot be read .more than 4,194,304 bytes once decompressed"):
            longest.extend(len(row["a"]) for row in read_parquet(file))
        # The file is refused before all of it is decoded.
        assert len(longest) < 250


@pytest.mark.promise("Text", "Long rows are decoded in small batches, each of a size that Arrow can hold.")
def test_long_parquet_rows_are_decoded_in_small_batches(tmp_path, monkeypatch):
    monkeypatch.setattr(data_files, "_BATCH_BYTES", 2**20)
    texts = [f"{i % 3}" * 100_000 for i in range(200)]
    for column in (pa.array(texts), pa.array(texts).dictionary_encode()):
        table = pa.table({"a": column, "b": [{"c": text, "d": [text, None]} for text in texts]})
        file = parquet(tmp_path / "a.parquet", table, row_group_size=70)
        with open(file, "rb") as opened:
            batches = list(data_files._batches(opened, lambda size: None))
        assert max(map(len, batches)) <= 10 and sum(map(len, batches)) == 200
        assert [row["a"] for row in read_parquet(file)] == texts
        assert list(read_parquet(file))[7]["b"] == {"c": texts[7], "d": [texts[7], None]}


def test_objects_are_read_with_their_places(tmp_path):
    file = write(tmp_path / "a", b'\n{"a": "\\ud83d\\ude00"}\n\n{"b": NaN}')
    (first, where), (_, other) = read_objects(file)
    assert (first, where, other) == ({"a": "😀"}, f"{file}, line 2", f"{file}, line 4")
    file = write(tmp_path / "a", b'\n[\n{"a": 1},\n{"b": 2}]\n')
    assert list(read_objects(file, lists=True)) == [({"a": 1}, f"{file}, row 0"), ({"b": 2}, f"{file}, row 1")]
    with pytest.raises(DataError, match="a, line 2 cannot be read .Expecting"):
        list(read_objects(file))
    file = write(tmp_path / "a", b'\n[\n{"a": 1},\n{"b": 2}, x]\n')
    with pytest.raises(DataError, match="a, line 4 cannot be read .Expecting"):
        list(read_objects(file, lists=True))
    with pytest.raises(DataError, match="a, line 1 cannot be read .expected an object, got .{}, 3."):
        list(read_objects(write(tmp_path / "a", b"[{}, 3]"), lists=True))


@pytest.mark.parametrize("end", ["\n", "\r"])
def test_tables_with_long_fields_and_all_line_ends(tmp_path, end):
    before = csv.field_size_limit(1000)
    long = "x" * 300_000
    file = write(tmp_path / "a.csv", end.join(["a,b", f"{long},'", '"c ""d"", ', f' {end}",e', ""]).encode())
    try:
        assert list(read_table(file, ",")) == [{"a": long, "b": "'"}, {"a": f'c "d", {end} {end}', "b": "e"}]
    finally:
        csv.field_size_limit(before)


def test_errors_name_the_damaged_parquet_file(tmp_path):
    for content in (b"", b"PAR1" + bytes(50) + b"PAR1"):
        with pytest.raises(DataError, match="a.parquet cannot be read .*; it must be a Parquet file"):
            list(read_parquet(write(tmp_path / "a.parquet", content)))
