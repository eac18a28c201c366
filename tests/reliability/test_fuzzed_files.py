"""
Every loader of texts, given damaged and hostile files, returns complete data or raises an error that names the file.

The slow tests run for `HF_OPTICAL_FUZZ_SECONDS` of CPU time each (30 by default) on new data every time; a failure
prints the seed that reproduces it. The fast tests use the same examples every time.
"""

from __future__ import annotations

import bz2
import csv
import datetime
import gzip
import io
import json
import lzma
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import strategies as st
from reliability.fuzzing import SECONDS, examine, limited_memory, mutated_bytes, mutated_json, only_clear_errors
from reliability.texts import BLANK, TEXTS, for_csv
from tiny import demo_pairs

from hf_optical.bitext import load_bitext, load_triples, read_muse
from hf_optical.errors import DataError
from hf_optical.evaluation import RetrievalDataset, load_beir
from hf_optical.evaluation.benchmarks import load_benchmark


PAIRS = [{"translation": pair} for pair in demo_pairs()[:6]]
TRIPLES = [
    {"query": "who sells coffee", "positive": "the farmer", "negatives": ["the bus is late", "rain"]},
    {"query": "when does it come", "positive": "at noon", "negative": "never", "negatives": None},
]
CORPUS = [
    {"_id": f"d{i}", "title": "" if i % 2 else "A title", "text": pair["en"]}
    for i, pair in enumerate(demo_pairs()[:4])
]
QUERIES = [
    {"_id": f"q{i}", "text": pair["sw"], "metadata": {"translation": pair["en"]}}
    for i, pair in enumerate(demo_pairs()[:4])
]
QRELS = [
    ["query-id", "corpus-id", "score"],
    *([f"q{i}", f"d{j}", str(int(i == j))] for i in range(4) for j in range(4)),
]
GOLD = [
    {
        "id": str(i),
        "title": "A title",
        "context": pair["en"],
        "question_lang": pair["sw"],
        "question_translated": pair["en"],
    }
    for i, pair in enumerate(demo_pairs()[:3])
]
PASSAGES = [{"docid": f"d{i}", "title": "", "text": pair["sw"]} for i, pair in enumerate(demo_pairs()[:3])]
CELLS = [
    *BLANK.values(),
    *TEXTS.values(),
    '"',
    '"a',
    "a\tb",
    "a,b",
    "a\nb",
    "-1",
    "1e9",
    "9" * 5000,
    "nan",
    "１",
    "1_0",
    "x" * 200_000,
]
COMPRESSORS = {"": bytes, ".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}


def in_lines(rows: list[Any]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def in_table(rows: list[list[str]], separator: str) -> bytes:
    text = io.StringIO()
    csv.writer(text, delimiter=separator).writerows([[for_csv(cell) for cell in row] for row in rows])
    return text.getvalue().encode("utf-8", "surrogatepass")


def in_columns(rows: list[list[str]], separator: str) -> bytes:
    """The format of MUSE and of BEIR's judgements, without quotation marks."""
    return "".join(separator.join(row) + "\n" for row in rows).encode("utf-8", "surrogatepass")


def in_tmx(rows: list[Any]) -> bytes:
    units = (
        "".join(f'<tuv xml:lang="{code}"><seg>{escape(text)}</seg></tuv>' for code, text in row["translation"].items())
        for row in rows
    )
    return f"<tmx><body>{''.join(f'<tu>{unit}</tu>' for unit in units)}</body></tmx>".encode()


def in_zip(rows: list[Any]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.jsonl", in_lines(rows))
    return file.getvalue()


def in_parquet(rows: list[dict[str, Any]]) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), file)
    return file.getvalue()


@dataclass
class File:
    """
    A file that a loader reads.

    Attributes:
        name (`str`): path inside the folder.
        rows (`list`): valid content.
        write (function): rows -> bytes.
        draw_rows (function): draws damaged rows.
        endings (`tuple` of `str`): suffixes of supported compressions.
    """

    name: str
    rows: list[Any]
    write: Callable[[list[Any]], bytes]
    draw_rows: Callable[[st.DataObject, list[Any]], bytes | list[Any]]
    endings: tuple[str, ...] = ("",)


@dataclass
class Loader:
    """Files that belong together, the function that loads them, and a check of the result."""

    files: list[File]
    load: Callable[[Path], Any]
    check: Callable[[Any], None]


def objects(data: st.DataObject, rows: list[Any]) -> bytes:
    """JSON lines, some of them changed, removed, repeated or nested without end."""
    lines = [json.dumps(row) for row in rows]
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(lines) - 1))
        lines[at] = data.draw(
            st.one_of(
                mutated_json(rows[at % len(rows)]),
                st.sampled_from(
                    [lines[0], "", "\ufeff" + lines[at], lines[at] + "\r", f"[{lines[at]}", lines[at] * 2]
                ),
                st.sampled_from(["[" * 900, "[" * 900 + "]" * 900, '{"translation":' * 5000, "NaN", "\x00", "1e400"]),
            )
        )
    return "\n".join(lines).encode("utf-8", "surrogatepass")


def a_list(data: st.DataObject, rows: list[Any]) -> bytes:
    """A JSON list, changed at any depth."""
    return data.draw(mutated_json(rows)).encode()


def cells(data: st.DataObject, rows: list[list[str]]) -> list[list[str]]:
    """A table with cells, columns and rows changed, removed and repeated."""
    rows = [list(row) for row in rows]
    for _ in range(data.draw(st.integers(1, 4))):
        row = rows[data.draw(st.integers(0, len(rows) - 1))]
        at = data.draw(st.integers(0, max(0, len(row) - 1)))
        edit = data.draw(st.sampled_from(["put", "put", "put", "insert", "delete", "double"]))
        if edit == "double":
            rows.append(row[:])
        elif edit == "delete":
            del row[at : at + 1]
        else:
            row[at : at + (edit == "put")] = [data.draw(st.sampled_from(CELLS))]
    return rows


def columns(data: st.DataObject, rows: list[dict[str, Any]]) -> bytes:
    """A Parquet file with columns of any type and text that is not UTF-8."""
    count = len(rows)
    odd = {
        "numbers": pa.array([3] * count),
        "bytes": pa.array([b"\xff"] * count),
        "not utf-8": pa.Array.from_buffers(
            pa.string(),
            count,
            [
                None,
                pa.py_buffer(b"".join(i.to_bytes(4, "little") for i in range(count + 1))),
                pa.py_buffer(b"\xff" * count),
            ],
        ),
        "nulls": pa.nulls(count),
        "lists": pa.array([["a"]] * count),
        "structs": pa.array([{"en": {"a": 1}, "sw": None}] * count),
        "maps": pa.array([[("en", "a"), ("sw", "b")]] * count, pa.map_(pa.string(), pa.string())),
        "dates": pa.array([2**60] * count, pa.timestamp("ms")),
        "nanoseconds": pa.array([2**62 + 1] * count, pa.timestamp("ns")),
        "zones": pa.array([0] * count, pa.timestamp("s", "Nowhere/Nothing")),
        "durations": pa.array([2**60] * count, pa.duration("ms")),
        "times": pa.array([datetime.time(1)] * count),
        "dictionary": pa.array(["a"] * count).dictionary_encode(),
        "large": pa.array(["a"] * count, pa.large_string()),
        "text": pa.array(["a"] * count),
    }
    names = data.draw(st.lists(st.sampled_from(["translation", "en", "sw", "", "\x00", "x"]), min_size=1, max_size=3))
    file = io.BytesIO()
    pq.write_table(pa.table([odd[data.draw(st.sampled_from(list(odd)))] for _ in names], names=names), file)
    return file.getvalue()


def check_pairs(dataset: Any) -> None:
    for row in dataset:
        assert set(row) == {"translation", "index", "length"}
        assert all(isinstance(text, str) and text.encode() is not None for text in row["translation"].values())
        assert row["length"] == sum(map(len, row["translation"].values()))


def check_triples(dataset: Any) -> None:
    for row in dataset:
        assert all(text.strip() for text in (row["query"], row["positive"], *row["negatives"]))


def check_retrieval(dataset: RetrievalDataset) -> None:
    assert list(dataset.queries) == list(dataset.qrels)
    for text in (*dataset.document_texts(), *(query.text for query in dataset.queries.values())):
        assert text.encode() is not None
    judgements = [score for own in dataset.qrels.values() for score in own.values()]
    assert any(score > 0 for score in judgements) and all(abs(score) < 10_000 for score in judgements)


def check_dictionary(dictionary: Any) -> None:
    for translations in dictionary.values():
        assert abs(sum(share for _, share in translations) - 1) < 1e-9


def bitext_table(ending: str, separator: str) -> Loader:
    rows = [["en", "sw"], *([row["translation"]["en"], row["translation"]["sw"]] for row in PAIRS)]
    file = File(f"a{ending}", rows, lambda rows: in_table(rows, separator), cells, tuple(COMPRESSORS))
    return Loader([file], lambda folder: load_bitext(only(folder), "sw", columns=("sw", "en")), check_pairs)


def only(folder: Path) -> Path:
    (file,) = (path for path in folder.iterdir() if path.is_file())
    return file


def bitext(name: str, write: Callable, draw_rows: Callable) -> Loader:
    file = File(name, PAIRS, write, draw_rows, tuple(COMPRESSORS))
    return Loader([file], lambda folder: load_bitext(only(folder), "sw"), check_pairs)


def afriqa_files() -> list[File]:
    splits = {"yor": ("train", "test"), "swa": ("test",)}
    return [
        File(f"data/gold_passages/{own}/gold_span_passages.afriqa.{own}.en.{split}.json", GOLD, in_lines, objects)
        for own in ("yor", "bem", "hau", "ibo", "kin", "swa", "twi", "zul")
        for split in splits.get(own, ("train", "dev", "test"))
    ]


LOADERS = {
    "jsonl": bitext("a.jsonl", in_lines, objects),
    "json": bitext("a.json", lambda rows: json.dumps(rows, indent=1).encode(), a_list),
    "csv": bitext_table(".csv", ","),
    "tsv": bitext_table(".tsv", "\t"),
    "parquet": bitext("a.parquet", in_parquet, columns),
    "tmx": Loader(
        [File("a.tmx", PAIRS, in_tmx, lambda data, rows: data.draw(mutated_bytes(in_tmx(rows))), tuple(COMPRESSORS))],
        lambda folder: load_bitext(only(folder), "sw"),
        check_pairs,
    ),
    "aligned": Loader(
        [
            File(f"a.{code}", [[row["translation"][code]] for row in PAIRS], lambda rows: in_columns(rows, " "), cells)
            for code in ("en", "sw")
        ],
        lambda folder: load_bitext(folder / "a", "sw"),
        check_pairs,
    ),
    "zip": Loader(
        [File("a.zip", PAIRS, in_zip, lambda data, rows: data.draw(mutated_bytes(in_zip(rows))))],
        lambda folder: load_bitext(only(folder), "sw"),
        check_pairs,
    ),
    "triples": Loader(
        [File("a.jsonl", TRIPLES, in_lines, objects, tuple(COMPRESSORS))],
        lambda folder: load_triples(only(folder)),
        check_triples,
    ),
    "muse": Loader(
        [
            File(
                "en-sw.txt",
                [["the", "la"], ["water", "maji"], ["Water", "maji ya"]],
                lambda rows: in_columns(rows, "\t"),
                cells,
            )
        ],
        lambda folder: read_muse(folder / "en-sw.txt"),
        check_dictionary,
    ),
    "beir": Loader(
        [
            File("corpus.jsonl", CORPUS, in_lines, objects, ("", ".gz")),
            File("queries.jsonl", QUERIES, in_lines, objects, ("", ".gz")),
            File("qrels/test.tsv", QRELS, lambda rows: in_columns(rows, "\t"), cells, ("", ".gz")),
        ],
        lambda folder: load_beir(folder),
        check_retrieval,
    ),
    "afriqa": Loader(
        afriqa_files(), lambda folder: load_benchmark("afriqa", language="yo", folder=folder), check_retrieval
    ),
    "ciral": Loader(
        [
            File(
                "ciral-hausa/topics/topics.ciral-v1.0-ha-test-a.tsv",
                [[str(i), pair["en"]] for i, pair in enumerate(demo_pairs()[:3])],
                lambda rows: in_columns(rows, "\t"),
                cells,
            ),
            File(
                "ciral-hausa/qrels/qrels.ciral-v1.0-ha-test-a.tsv",
                [[str(i), "Q0", f"d{i}", "1"] for i in range(3)],
                lambda rows: in_columns(rows, " "),
                cells,
            ),
            File("passages-v1.0/hausa_passages.jsonl", PASSAGES, in_lines, objects),
        ],
        lambda folder: load_benchmark("ciral", language="ha", folder=folder, documents=10),
        check_retrieval,
    ),
}


def lay_out(loader: Loader, folder: Path, chosen: File | None = None, ending: str = "", content: bytes = b"") -> None:
    """Write all files with valid content, except for `chosen`, which gets `content`."""
    for file in loader.files:
        path = folder / file.name
        path.parent.mkdir(parents=True, exist_ok=True)
        for old in path.parent.glob(f"{path.name}*"):
            old.unlink()
        if file is chosen:
            path.with_name(path.name + ending).write_bytes(content)
        else:
            path.write_bytes(file.write(file.rows))


def draw_content(data: st.DataObject, file: File) -> tuple[str, bytes]:
    """Draw the suffix of a compression and a file with damaged rows, bytes or compressed bytes."""
    ending = data.draw(st.sampled_from(file.endings))
    kind = data.draw(st.sampled_from(["rows", "rows", "bytes", "compressed"]))
    if kind == "rows":
        rows = file.draw_rows(data, file.rows)
        content = rows if isinstance(rows, bytes) else file.write(rows)
    else:
        content = file.write(file.rows)
    if kind == "bytes":
        content = data.draw(mutated_bytes(content))
    content = COMPRESSORS[ending](content)
    return ending, data.draw(mutated_bytes(content)) if kind == "compressed" else content


def checked(name: str, folder: Path) -> tuple[Callable[[st.DataObject], None], dict[str, int]]:
    loader, outcomes = LOADERS[name], {"read": 0, "refused": 0}

    def check(data: st.DataObject) -> None:
        file = data.draw(st.sampled_from(loader.files))
        ending, content = draw_content(data, file)
        lay_out(loader, folder, file, ending, content)
        outcomes["refused"] += 1
        with only_clear_errors(folder, (DataError,)), limited_memory(2**32):
            try:
                found = loader.load(folder)
            except DataError as error:
                error.args[0].encode()  # it can be printed
                raise
            loader.check(found)
            outcomes["read"] += 1
            outcomes["refused"] -= 1

    return check, outcomes


@pytest.mark.promise(
    "Text",
    "Damaged or hostile files of sentence pairs, triples, dictionaries, BEIR folders, AfriQA and CIRAL are either "
    "read completely or raise an error that names the file, and take no more than 4 GB of memory.",
)
@pytest.mark.filterwarnings("ignore:.* judgements are for missing:UserWarning")
@pytest.mark.parametrize("name", [name for name in LOADERS if name != "tsv"])
def test_whole_files_are_loaded_and_damaged_ones_raise_clear_errors(name, tmp_path):
    loader = LOADERS[name]
    for file in loader.files:
        for ending in file.endings:
            lay_out(loader, tmp_path, file, ending, COMPRESSORS[ending](file.write(file.rows)))
            loader.check(loader.load(tmp_path))
    check, outcomes = checked(name, tmp_path)
    examine(check, examples=15)
    assert outcomes["refused"] > 0


@pytest.mark.slow
@pytest.mark.timeout(0)
@pytest.mark.filterwarnings("ignore:.* judgements are for missing:UserWarning")
@pytest.mark.parametrize("name", LOADERS)
def test_long_fuzzing_of_files(name, tmp_path, record_property):
    check, outcomes = checked(name, tmp_path)
    examine(check, seconds=SECONDS)
    for outcome, count in outcomes.items():
        record_property(outcome, count)
    print(f"{name}: {outcomes}")
    # A changed text is still a text; any other damage must be refused.
    assert outcomes["refused"] > outcomes["read"] / 10 and outcomes["read"] > 0
