import bz2
import csv
import gzip
import json
import lzma
import time

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset

from hf_optical.bitext import FilterCounts, filter_bitext, load_bitext, load_triples, sources
from hf_optical.errors import DataError


PAIRS = [
    ("Wane ne, 'shi'?", 'Who is "he"?'),
    ("NA", "null"),
    ("ƙofa 門 🐫", "door\u2028gate"),
    ("", "12"),
    ("ruwa", ""),
]


def rows(pairs=PAIRS):
    return [{"translation": {"ha": ha, "en": en}} for ha, en in pairs]


def expected(pairs=PAIRS):
    return [
        {"translation": {"en": en, "ha": ha}, "index": index, "length": len(en) + len(ha)}
        for index, (ha, en) in enumerate(pairs)
    ]


def write(path, content):
    opener = {".gz": gzip.open, ".xz": lzma.open}.get(path.suffix, open)
    with opener(path, "wt", encoding="utf-8", newline="") as file:
        if ".jsonl" in path.name:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in content)
        elif ".json" in path.name:
            json.dump(content, file, indent=1)
        else:
            writer = csv.writer(file, delimiter="\t" if ".tsv" in path.name else ",")
            writer.writerows([("id", "english", "hausa"), *((7, en, ha) for ha, en in content)])
    return path


@pytest.mark.parametrize("name", ["A.JSONL", "a.jsonl.gz", "a.json.xz"])
def test_json_files(tmp_path, name):
    dataset = load_bitext(write(tmp_path / name.lower(), rows()).rename(tmp_path / name), "ha")
    assert isinstance(dataset, Dataset)
    assert dataset.to_list() == expected()


@pytest.mark.parametrize("name", ["a.csv", "a.tsv.gz"])
def test_columns_of_a_table(tmp_path, name):
    file = write(tmp_path / name, PAIRS)
    assert load_bitext(str(file), "ha", columns=("hausa", "english")).to_list() == expected()


def test_columns_of_json(tmp_path):
    file = write(tmp_path / "a.jsonl", [{"x": ha, "y": en} for ha, en in PAIRS])
    assert load_bitext(file, "ha", columns=("x", "y")).to_list() == expected()


def test_compressed_parquet_files(tmp_path):
    with gzip.open(tmp_path / "a.parquet.gz", "wb") as file:
        pq.write_table(pa.Table.from_pylist(rows()), file)
    assert load_bitext(tmp_path / "a.parquet.gz", "ha").to_list() == expected()


def test_dataset_folders(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "corpus").mkdir()
    write(tmp_path / "corpus" / "validation.jsonl", rows())
    assert load_bitext(tmp_path / "corpus", "ha", split="validation").to_list() == expected()
    with pytest.raises(DataError, match="check the name, config_name and split"):
        load_bitext(tmp_path / "corpus", "ha", split="nowhere")


READMES = {
    "configs: [1]": "cannot be opened as a dataset .argument of type",
    "a: [": "while parsing a flow node",
    "configs: [{config_name: default, data_files: ../outside.jsonl}]": "names .*outside.jsonl', a file outside its",
    "configs: [{config_name: default, data_files: OUTSIDE}]": "names .*outside.jsonl', a file outside its",
}


@pytest.mark.promise(
    "Safety",
    "Loading a dataset folder never reads files outside the folder, whatever its README says. A faulty README raises "
    "an error that names the folder.",
)
@pytest.mark.parametrize("readme", READMES)
def test_dataset_folders_with_a_faulty_readme(tmp_path, monkeypatch, readme):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "corpus").mkdir()
    for file in (tmp_path / "corpus" / "a.jsonl", tmp_path / "outside.jsonl"):
        write(file, rows())
    text = readme.replace("OUTSIDE", str(tmp_path / "outside.jsonl"))
    (tmp_path / "corpus" / "README.md").write_text(f"---\n{text}\n---\n")
    with pytest.raises(DataError, match=f"{tmp_path}/corpus.*{READMES[readme]}") as error:
        load_bitext(tmp_path / "corpus", "ha")
    assert "\n" not in str(error.value)


def test_dataset_folders_with_links_and_broken_archives(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    for name in ("corpus", "broken"):
        (tmp_path / name).mkdir()
    write(tmp_path / "a.jsonl", rows())
    (tmp_path / "corpus" / "a.jsonl").symlink_to(tmp_path / "a.jsonl")
    (tmp_path / "link").symlink_to(tmp_path / "corpus")
    assert load_bitext(tmp_path / "link", "ha").to_list() == expected()
    (tmp_path / "broken" / "a.zip").write_bytes(b"PK")
    with pytest.raises(DataError, match="broken.*not a zip file"):
        load_bitext(tmp_path / "broken", "ha")


def test_long_rows_are_split_into_batches(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "_BATCH_CHARACTERS", 100)
    pairs = [("x" * 60, "y" * 60), ("a", "b"), ("x" * 99, "y"), ("x" * 99, "y" * 9), ("", "")]
    bitext = load_bitext(write(tmp_path / "a.jsonl", rows(pairs)), "ha")
    assert [chunk.to_pylist() for chunk in bitext.data["index"].chunks] == [[0], [1, 2], [3], [4]]
    triples = [{"query": "q", "positive": "p" * 60, "negatives": ["n" * 60]}, {"query": "q", "positive": "p"}]
    negatives = load_triples(write(tmp_path / "b.jsonl", triples)).data["negatives"]
    assert [chunk.to_pylist() for chunk in negatives.chunks] == [[["n" * 60]], [[]]]


def test_missing_sentences_are_empty_and_languages_are_chosen(tmp_path):
    content = [
        {"translation": None},
        {"translation": {"ha": None, "en": "a", "yo": "b"}},
        {"translation": {"en": "c"}},
        {"translation": {"ha": "d", "en": "e"}, "topic": 3},
    ]
    dataset = load_bitext(write(tmp_path / "a.jsonl", content), "ha")
    assert dataset.to_list() == expected([("", ""), ("", "a"), ("", "c"), ("d", "e")])
    assert list(dataset.column_names) == ["translation", "index", "length"]
    (row,) = load_bitext([{"translation": {"fr": "oui", "yo": "bẹẹni"}}], "yo", "fr").to_list()
    assert row["translation"] == {"fr": "oui", "yo": "bẹẹni"}


def test_byte_order_mark_is_skipped(tmp_path):
    (tmp_path / "a.csv").write_text("ha,en\na,b\n", encoding="utf-8-sig")
    assert load_bitext(tmp_path / "a.csv", "ha", columns=("ha", "en")).to_list() == expected([("a", "b")])


def test_loading_writes_and_prints_nothing(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    file = write(tmp_path / "a.jsonl", rows())
    filter_bitext(load_bitext(file, "ha"), "ha")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jsonl"]
    assert capfd.readouterr() == ("", "")


BROKEN = {
    "empty.jsonl": (b"", "has no rows"),
    "cut.jsonl": (
        b'{"translation": {"ha": "a", "en": "b"}}\n\n{"transl',
        "line 3 .*Unterminated string",
    ),
    "cut.json": (b'[{"translation":\n {"ha": "a",', "line 2 cannot be read .Expecting property name"),
    "number.json": (b"3", "line 1 cannot be read .expected an object, got 3"),
    "binary.jsonl": (bytes(range(128, 256)), "utf-8. codec can't decode"),
    "plain.jsonl.gz": (b'{"translation": {}}', "cannot be read .Not a gzipped file"),
    "plain.csv.xz": (b"ha,en", "cannot be read .Input format not supported"),
    "cut.csv.bz2": (bz2.compress(b"ha,en\na,b\n" * 500)[:-20], "cannot be read"),
    "deep.jsonl": (b'{"translation": null}\n' + b"[" * 20_000, "line 2 cannot be read .*recursion"),
    "half.jsonl": (
        b'{"translation": null}\n{"translation": {"ha": "\\uDC00"}}',
        "line 2 .*surrogates not",
    ),
    "damaged.jsonl.gz": (gzip.compress(b"x" * 999)[:12] + b"\xff" * 40, "cannot be read"),
    "binary.parquet": (b"PAR1" + bytes(100), "cannot be read"),
    "ragged.csv": (b"ha,en\na,b\nc,d,e\n", "line 3 cannot be read .more fields"),
    "quote.csv": (b'ha,en\n"a,b\nc,d\n', "unexpected end of data.; fields .* must be quoted"),
    "pairs.txt": (b"a b", "must be an existing .csv, .*, two aligned files NAME.ha and NAME.en, or"),
    "number.jsonl": (b'{"translation": {"ha": 3, "en": "b"}}', "row 0: 'ha' must be text, got 3"),
    "flat.jsonl": (b'{"a": "a", "en": "b"}', "has no language 'ha', only a, en; name the two text columns with"),
    "word.jsonl": (b'{"translation": "a"}', "`translation` must map language codes to text, got 'a'"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_errors_name_the_broken_file_and_the_reason(tmp_path, name, capfd):
    content, reason = BROKEN[name]
    (tmp_path / name).write_bytes(content)
    columns = ("ha", "en") if name.endswith("sv") else None
    with pytest.raises(DataError, match=f"{name}.*{reason}"):
        load_bitext(tmp_path / name, "ha", columns=columns)
    assert capfd.readouterr() == ("", "")


def test_missing_files(tmp_path):
    for name in (tmp_path / "none.jsonl.gz", "none.csv", "x" * 5000 + ".csv"):
        with pytest.raises(DataError, match="cannot be read .(No such file|File name too long)"):
            load_bitext(name, "ha")
    with pytest.raises(DataError, match="none must be an existing .csv"):
        load_bitext(tmp_path / "none", "ha")


def test_unreachable_datasets():
    begun = time.monotonic()
    with pytest.raises(DataError, match="'nobody/nothing' is not a file .* connection"):
        load_bitext("nobody/nothing", "ha")
    assert time.monotonic() - begun < 5


def test_contradictory_arguments(tmp_path):
    file = write(tmp_path / "a.csv", PAIRS)
    with pytest.raises(DataError, match="must differ, and so must their two columns, got 'en', 'en'"):
        load_bitext(file, "en")
    for columns in (("hausa", "hausa"), ("hausa",), ("hausa", "english", "id")):
        with pytest.raises(DataError, match="must differ, .*columns=.'hausa'"):
            load_bitext(file, "ha", columns=columns)
    for name in ("", "x" * 5000):
        with pytest.raises(DataError, match=f"'{name[:9]}.* is not a file and cannot be opened as a dataset"):
            load_bitext(name, "ha")
    with pytest.raises(DataError, match="a.csv has no column 'igbo', only id, english, hausa"):
        load_bitext(file, "ha", columns=("igbo", "english"))


def test_filter_counts(tmp_path):
    pairs = [
        ("a", "b"),  # 0 kept
        (" a\n", "b "),  # duplicate after stripping
        ("a", "c"),  # 2 kept: a duplicate repeats both sides
        ("  ", "b"),  # empty
        ("b", "\t"),  # empty
        ("  ", "b"),  # empty, not duplicate
        ("x", "y" * 106),  # 6 kept: 126 is six times 21
        ("x", "y" * 107),  # unequal
        ("y" * 107, "x"),  # unequal
        ("ƙofa", "door"),  # 9 kept
    ]
    kept, counts = filter_bitext(load_bitext(write(tmp_path / "a.jsonl", rows(pairs)), "ha"), "ha")
    assert kept["index"][:] == [0, 2, 6, 9]
    assert counts == FilterCounts(kept=4, empty=3, duplicate=1, unequal=2)
    assert str(counts) == "4 kept, 3 empty, 1 duplicate, 2 unequal"
    assert kept[3]["translation"] == {"en": "door", "ha": "ƙofa"}
    _, strict = filter_bitext(kept, "ha", max_length_ratio=1.0)
    assert (strict.kept, strict.unequal) == (3, 1)


def test_filter_with_missing_sentences_and_languages():
    dataset = Dataset.from_list([{"translation": {"ha": None, "en": "a"}}, {"translation": {"ha": "b", "en": "a"}}])
    kept, counts = filter_bitext(dataset, "ha")
    assert len(kept) == 1 and (counts.kept, counts.empty) == (1, 1)
    with pytest.raises(DataError, match="the pairs have no language 'yo', only ha, en"):
        filter_bitext(dataset, "yo")


def test_filter_that_drops_every_pair(tmp_path):
    dataset = load_bitext(write(tmp_path / "a.jsonl", rows([("", "a"), ("b", "")])), "ha")
    with pytest.raises(DataError, match="no sentence pair is left of 2 .0 kept, 2 empty"):
        filter_bitext(dataset, "ha")
