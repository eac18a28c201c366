import gzip
import json
import os
import re

import pytest

from hf_optical.errors import DataError
from hf_optical.evaluation.datasets import Document, Query, build_dataset, load_beir


CORPUS = [
    {"_id": "d1", "title": "Kano", "text": "Kano is a city."},
    {"_id": "d2", "title": "", "text": " No title here. "},
    {"_id": "d3", "text": "A line separator \u2028 is not a new line."},
]
QUERIES = [
    {"_id": "q2", "text": "Ina Kano?", "metadata": {"translation": "Where is Kano?"}},
    {"_id": "q1", "text": "Wane ne?", "metadata": {}},
    {"_id": "q3", "text": "Ba a tambaya ba."},
]
QRELS = "query-id\tcorpus-id\tscore\nq1\td2\t2\nq1\td3\t0\nq2\td1\t1\n"


def lines(rows):
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def write(path, content, zipped=False):
    content = content if isinstance(content, bytes) else content.encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    if zipped:
        path = path.with_name(path.name + ".gz")
        content = gzip.compress(content)
    path.write_bytes(content)
    return path


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "ha"
    write(folder / "corpus.jsonl", lines(CORPUS))
    write(folder / "queries.jsonl", lines(QUERIES))
    write(folder / "qrels" / "test.tsv", QRELS)
    return folder


def check(dataset, name="ha/test"):
    assert dataset.name == name
    assert dataset.corpus == {
        "d1": Document("Kano", "Kano is a city."),
        "d2": Document("", " No title here. "),
        "d3": Document("", "A line separator \u2028 is not a new line."),
    }
    assert dataset.queries == {"q2": Query("Ina Kano?", "Where is Kano?"), "q1": Query("Wane ne?", None)}
    assert dataset.qrels == {"q1": {"d2": 2, "d3": 0}, "q2": {"d1": 1}}
    assert list(dataset.queries) == list(dataset.qrels) == ["q2", "q1"]
    assert dataset.document_texts() == [
        "Kano Kano is a city.",
        "No title here.",
        "A line separator \u2028 is not a new line.",
    ]


def test_plain_files_are_read(folder):
    check(load_beir(folder))
    check(load_beir(str(folder)))


def test_gzipped_files_are_found(tmp_path):
    folder = tmp_path / "yo"
    write(folder / "corpus.jsonl", lines(CORPUS), zipped=True)
    write(folder / "queries.jsonl", lines(QUERIES), zipped=True)
    write(folder / "qrels" / "dev.tsv", QRELS, zipped=True)
    check(load_beir(folder, "dev"), "yo/dev")


def test_corpus_file_can_be_elsewhere(folder, tmp_path):
    (folder / "corpus.jsonl").unlink()
    shared = write(tmp_path / "shared" / "passages.jsonl", lines(CORPUS), zipped=True)
    check(load_beir(folder, corpus=shared))
    check(load_beir(folder, corpus=shared.with_suffix("")))


def test_relative_folder_has_its_real_name(folder, monkeypatch):
    monkeypatch.chdir(folder)
    assert load_beir(".").name == "ha/test"


def test_line_ends_byte_order_mark_blank_lines_and_repetitions_are_ignored(folder):
    write(folder / "corpus.jsonl", b"\xef\xbb\xbf" + lines(CORPUS).replace("\n", "\r\n\r\n").encode())
    judged = QRELS + "q2\td1\t1\n"
    write(folder / "qrels" / "test.tsv", b"\xef\xbb\xbf" + judged.replace("\n", "\r\n").rstrip().encode())
    check(load_beir(folder))


def test_gzipped_file_with_a_plain_name_is_read(folder):
    write(folder / "corpus.jsonl", gzip.compress(lines(CORPUS).encode()))
    check(load_beir(folder))


def fails(message, *arguments, **options):
    with pytest.raises(DataError) as caught:
        load_beir(*arguments, **options)
    assert re.search(message, str(caught.value)), str(caught.value)


def test_missing_files_raise(folder, tmp_path):
    fails("nowhere must be a folder in BEIR layout", tmp_path / "nowhere")
    fails("xxx must be a folder in BEIR layout", "x" * 5000)
    fails("with qrels/xxx.*; splits found: test", folder, split="x" * 5000)
    fails("else.jsonl cannot be read .*No such file", folder, corpus=tmp_path / "else.jsonl")
    (folder / "corpus.jsonl").unlink()
    fails("corpus.jsonl cannot be read .*No such file", folder)
    (folder / "queries.jsonl").unlink()
    fails("queries.jsonl cannot be read .*No such file", folder)


def test_missing_split_lists_available_splits(folder):
    write(folder / "qrels" / "train.tsv", QRELS, zipped=True)
    fails(r"with qrels/dev.tsv\[.gz\]; splits found: (train, test|test, train)$", folder, "dev")
    for path in (folder / "qrels").iterdir():
        path.unlink()
    fails("splits found: none", folder)
    (folder / "qrels").rmdir()
    fails("splits found: none", folder)


def test_damaged_gzip_files_raise(folder):
    (folder / "corpus.jsonl").unlink()
    packed = gzip.compress(lines(CORPUS).encode())
    for damaged in (packed[: len(packed) // 2], packed[:-8] + bytes(8), b"not gzip"):
        write(folder / "corpus.jsonl.gz", damaged)
        fails(r"corpus.jsonl.gz(, line \d+)? cannot be read", folder)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_file_without_permission_raises(folder):
    (folder / "corpus.jsonl").chmod(0)
    fails("corpus.jsonl cannot be read .*Permission", folder)


@pytest.mark.parametrize(
    ("file", "row", "message"),
    [
        ("corpus.jsonl", '["a list"]', r"line 4 cannot be read .expected an object, got \['a list'\]"),
        ("corpus.jsonl", '{"text": "no id"}', "line 4: '_id' must be str, got None"),
        ("queries.jsonl", '{"_id": "", "text": "empty id"}', "line 4: '_id' must be unique and not empty, got ''"),
        ("corpus.jsonl", '{"_id": "d1", "text": "again"}', "line 4: '_id' must be unique and not empty, got 'd1'"),
        ("queries.jsonl", '{"_id": "q3", "text": "again"}', "line 4: '_id' must be unique and not empty, got 'q3'"),
        ("corpus.jsonl", '{"_id": "d4"}', "line 4: 'text' must be str, got None"),
        ("corpus.jsonl", '{"_id": "d4", "text": "", "title": []}', r"line 4: 'title' must be str, got \[\]"),
    ],
)
def test_malformed_row_raises_with_its_line(folder, file, row, message):
    write(folder / file, (folder / file).read_text(encoding="utf-8") + row + "\n")
    fails(f"{file}, {message}", folder)


def test_malformed_translation_raises(folder):
    write(folder / "queries.jsonl", lines([{"_id": "q1", "text": "", "metadata": 1}]))
    fails("queries.jsonl, line 1: 'metadata' must be dict, got 1", folder)
    write(folder / "queries.jsonl", lines([{"_id": "q1", "text": "", "metadata": {"translation": 1}}]))
    fails("line 1: 'translation' must be str, got 1", folder)


@pytest.mark.parametrize(
    ("qrels", "message"),
    [
        ("q1 d2\n", "test.tsv, line 1: a judgement must have a query id, a document id and an integer score"),
        (QRELS + "q1\t0\td1\t1\n", "test.tsv, line 5: a judgement must have"),
        (QRELS + "q1\td1\t1.5\n", "test.tsv, line 5: a judgement must have"),
        # The measures would overflow.
        (QRELS + "q1\td1\t3000000000\n", "test.tsv, line 5: a judgement must have .* at most four digits"),
        (QRELS + "q2\td1\t0\n", "test.tsv, line 5: query 'q2' and document 'd1' have two different scores"),
        ("", "test.tsv.* has 0 relevant judgements, 0 for missing queries or documents .none.; choose"),
    ],
)
def test_malformed_judgements_raise(folder, qrels, message):
    write(folder / "qrels" / "test.tsv", qrels)
    fails(message, folder)


@pytest.mark.promise(
    "Numbers",
    "A test set with a few judgements of missing queries or documents opens with one warning that counts them; one "
    "that is cut short raises an error.",
)
def test_few_missing_judgements_warn_and_many_raise():
    corpus, queries = {f"d{i}": Document("", "x") for i in range(40)}, {f"q{i}": Query("x") for i in range(40)}
    qrels = {f"q{i}": {f"d{i}": 1} for i in range(40)}
    faulty = {**qrels, "q0": {"d0": 1, "gone": 1, "absent": 0}, "lost": {"d1": 1}}
    with pytest.warns(UserWarning) as caught:
        dataset = build_dataset("set", corpus, queries, faulty, origin="a file")
    (warning,) = caught
    expected = (
        r"set .read from a file.: 3 of 43 judgements .* .such as 'gone', 'absent', 'lost'.. The queries are left"
    )
    assert re.match(expected, str(warning.message))
    assert list(dataset.queries) == list(queries) and dataset.qrels == {**qrels, "q0": faulty["q0"]}
    for cut in ({"corpus": dict(list(corpus.items())[:37])}, {"queries": dict(list(queries.items())[:37])}):
        parts = {"corpus": corpus, "queries": queries} | cut
        with pytest.raises(
            DataError,
            match="set has 40 relevant judgements, 3 for missing .* .such as '.37', .* check that no file is cut",
        ):
            build_dataset("set", parts["corpus"], parts["queries"], qrels)


def test_judgements_in_other_formats_are_read(folder):
    spaced = QRELS.replace("\t", "  \t").replace("\n", "\r\n")
    trec = "q1 0 d2 2\nq1 0 d3 0\nq2 0 d1 1\n"
    for qrels in (spaced, trec, trec.replace(" 0 ", " Q0 ").replace(" ", "\t"), QRELS[QRELS.index("q1") :]):
        write(folder / "qrels" / "test.tsv", qrels)
        check(load_beir(folder))
    # Whole numbers that a data frame wrote as floats.
    write(folder / "qrels" / "test.tsv", QRELS.replace("\t2\n", "\t2.0\n").replace("\t0\n", "\t0.00\n"))
    check(load_beir(folder))
    (folder / "qrels" / "test.tsv").unlink()
    write(folder / "qrels" / "test.txt", trec)
    check(load_beir(folder))
