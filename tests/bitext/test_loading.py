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

from hf_optical.bitext import FilterCounts, filter_bitext, load_bitext, load_triples, loading
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


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.jsonl.xz", "a.json", "a.json.gz", "A.JSONL"])
def test_json(tmp_path, name):
    dataset = load_bitext(write(tmp_path / name.lower(), rows()).rename(tmp_path / name), "ha")
    assert isinstance(dataset, Dataset)
    assert dataset.to_list() == expected()


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz", "a.tsv", "a.tsv.gz"])
def test_two_columns_of_a_table(tmp_path, name):
    file = write(tmp_path / name, PAIRS)
    assert load_bitext(str(file), "ha", columns=("hausa", "english")).to_list() == expected()


def test_two_columns_of_json(tmp_path):
    file = write(tmp_path / "a.jsonl", [{"x": ha, "y": en} for ha, en in PAIRS])
    assert load_bitext(file, "ha", columns=("x", "y")).to_list() == expected()


@pytest.mark.parametrize("name", ["a.parquet", "a.parquet.gz"])
def test_parquet(tmp_path, name):
    (gzip.open if name.endswith("gz") else open)(tmp_path / name, "wb").close()
    with (gzip.open if name.endswith("gz") else open)(tmp_path / name, "wb") as file:
        pq.write_table(pa.Table.from_pylist(rows()), file)
    assert load_bitext(tmp_path / name, "ha").to_list() == expected()


def test_a_dataset_folder_is_opened_by_the_datasets_library(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "corpus").mkdir()
    write(tmp_path / "corpus" / "validation.jsonl", rows())
    assert load_bitext(tmp_path / "corpus", "ha", split="validation").to_list() == expected()
    with pytest.raises(DataError, match="check the name, config_name and split"):
        load_bitext(tmp_path / "corpus", "ha", split="nowhere")


READMES = {
    "configs: [1]": "could not be opened as a dataset .argument of type",
    "dataset_info: {features: 5}": "could not be opened as a dataset",
    "a: [": "while parsing a flow node",
    "configs: [{config_name: default, data_files: a.jsonl, encoding: rot13}]": "rot13",
    "configs: [{config_name: default, data_files: ../outside.jsonl}]": "names .*outside.jsonl', a file outside of it",
    "configs: [{config_name: default, data_files: OUTSIDE}]": "names .*outside.jsonl', a file outside of it",
}


@pytest.mark.promise(
    "Safety",
    "A dataset folder reads no file outside of it, whatever its README says, and a README that is wrong "
    "is told as such.",
)
@pytest.mark.parametrize("readme", READMES)
def test_a_dataset_folder_with_a_readme_that_is_wrong(tmp_path, monkeypatch, readme):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "corpus").mkdir()
    for file in (tmp_path / "corpus" / "a.jsonl", tmp_path / "outside.jsonl"):
        write(file, rows())
    text = readme.replace("OUTSIDE", str(tmp_path / "outside.jsonl"))
    (tmp_path / "corpus" / "README.md").write_text(f"---\n{text}\n---\n")
    with pytest.raises(DataError, match=f"{tmp_path}/corpus.*{READMES[readme]}") as error:
        load_bitext(tmp_path / "corpus", "ha")
    assert "\n" not in str(error.value)


def test_a_dataset_folder_behind_a_link_and_one_with_a_broken_archive(tmp_path, monkeypatch):
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


def test_long_rows_are_in_parts_that_arrow_can_hold(tmp_path, monkeypatch):
    parts = []
    monkeypatch.setattr(loading, "_CHARACTERS_AT_A_TIME", 100)
    monkeypatch.setattr(loading, "concatenate_datasets", lambda given: parts.extend(given) or given[0])
    pairs = [("x" * 60, "y" * 60), ("a", "b"), ("x" * 99, "y"), ("x" * 99, "y" * 9), ("", "")]
    load_bitext(write(tmp_path / "a.jsonl", rows(pairs)), "ha")
    assert [part["index"][:] for part in parts] == [[0], [1, 2], [3], [4]]
    parts.clear()
    triples = [{"query": "q", "positive": "p" * 60, "negatives": ["n" * 60]}, {"query": "q", "positive": "p"}]
    load_triples(write(tmp_path / "b.jsonl", triples))
    assert [part["negatives"][:] for part in parts] == [[["n" * 60]], [[]]]


def test_what_is_null_or_absent_is_empty(tmp_path):
    content = [
        {"translation": None},
        {"translation": {"ha": None, "en": "a", "yo": "b"}},
        {"translation": {"en": "c"}},
        {"translation": {"ha": "d", "en": "e"}, "topic": 3},
    ]
    dataset = load_bitext(write(tmp_path / "a.jsonl", content), "ha")
    assert dataset.to_list() == expected([("", ""), ("", "a"), ("", "c"), ("d", "e")])
    assert list(dataset.column_names) == ["translation", "index", "length"]


def test_another_language_for_the_teacher(tmp_path):
    file = write(tmp_path / "a.jsonl", [{"translation": {"fr": "oui", "yo": "bẹẹni"}}])
    (row,) = load_bitext(file, "yo", "fr").to_list()
    assert row["translation"] == {"fr": "oui", "yo": "bẹẹni"}


def test_a_byte_order_mark_is_no_text(tmp_path):
    (tmp_path / "a.csv").write_text("ha,en\na,b\n", encoding="utf-8-sig")
    assert load_bitext(tmp_path / "a.csv", "ha", columns=("ha", "en")).to_list() == expected([("a", "b")])


def test_nothing_is_written_printed_or_cached(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    file = write(tmp_path / "a.jsonl", rows())
    filter_bitext(load_bitext(file, "ha"), "ha")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jsonl"]
    assert capfd.readouterr() == ("", "")


BROKEN = {
    "empty.jsonl": (b"", "holds no sentence pairs"),
    "blank.jsonl": (b"\n \n", "holds no sentence pairs"),
    "list.json": (b"[]", "holds no sentence pairs"),
    "header.csv": (b"ha,en\n", "holds no sentence pairs"),
    "text.jsonl": (b"hello", "line 1: not JSON"),
    "cut.jsonl": (b'{"translation": {"ha": "a", "en": "b"}}\n\n{"transl', "line 3: not JSON"),
    "cut.json": (b'[{"translation":\n {"ha": "a",', "line 2: not JSON"),
    "number.json": (b"3", "line 1: 3 in place of an object"),
    "strings.json": (b'["a"]', "in place of an object"),
    "binary.jsonl": (bytes(range(128, 256)), "not text in UTF-8"),
    "latin.csv": ("ha,en\nñ,b\n".encode("latin-1"), "not text in UTF-8"),
    "plain.jsonl.gz": (b'{"translation": {}}', "is not a gz file though"),
    "plain.csv.xz": (b"ha,en", "is not a xz file though"),
    "cut.csv.bz2": (bz2.compress(b"ha,en\na,b\n" * 500)[:-20], "cannot be read"),
    "deep.jsonl": (b'{"translation": null}\n' + b"[" * 20_000, "line 2: nested too deeply"),
    "long.jsonl": (b'{"translation": {"ha": ' + b"9" * 5000, "line 1: not JSON that can be read"),
    "half.jsonl": (b'{"translation": null}\n{"translation": {"ha": "\\uDC00"}}', "line 2: half a character .*U.DC00"),
    "half.json": (b'[{"\\ud83d": 1}]', "line 1: half a character .*U.D83D"),
    "cut.jsonl.gz": (gzip.compress(json.dumps(rows() * 50).encode())[:-20], "cannot be read"),
    "damaged.jsonl.gz": (gzip.compress(b"x" * 999)[:12] + b"\xff" * 40, "cannot be read"),
    "binary.parquet": (b"PAR1" + bytes(100), "cannot be read"),
    "ragged.csv": (b"ha,en\na,b\nc,d,e\n", "line 3: more fields"),
    "quote.tsv": (b'ha\ten\n"a\tb\nc\td\n', "must be quoted"),
    "pairs.txt": (b"a b", "ends in '.txt'; rows are read from .csv"),
    "number.jsonl": (b'{"translation": {"ha": 3, "en": "b"}}', "row 0: 'ha' is 3; it must be text"),
    "flat.jsonl": (b'{"ha": "a", "en": "b"}', "row 0: no `translation` .it has ha, en.*`columns`"),
    "word.jsonl": (b'{"translation": "a"}', "`translation` is 'a'"),
    "other.jsonl": (b'{"translation": {"yo": "a", "en": "b"}}', "no language 'ha'; it has yo, en"),
    "null.jsonl": (b'{"translation": null}', "no language 'ha'; it has none"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_named_with_the_reason(tmp_path, name, capfd):
    content, reason = BROKEN[name]
    (tmp_path / name).write_bytes(content)
    columns = ("ha", "en") if name.endswith("sv") else None
    with pytest.raises(DataError, match=f"{name}.*{reason}"):
        load_bitext(tmp_path / name, "ha", columns=columns)
    assert capfd.readouterr() == ("", "")


def test_a_folder_in_place_of_a_file_and_a_file_that_is_not_there(tmp_path):
    for name in (tmp_path / "none.jsonl.gz", tmp_path / "none", "none.csv"):
        with pytest.raises(DataError, match="there is no file .*none"):
            load_bitext(name, "ha")


def test_a_dataset_that_cannot_be_reached():
    begun = time.monotonic()
    with pytest.raises(DataError, match="'nobody/nothing' is no file .* connection"):
        load_bitext("nobody/nothing", "ha")
    assert time.monotonic() - begun < 5


def test_arguments_that_contradict_each_other(tmp_path):
    file = write(tmp_path / "a.csv", PAIRS)
    with pytest.raises(DataError, match="both 'en'"):
        load_bitext(file, "en")
    with pytest.raises(DataError, match="columns names 'hausa' twice"):
        load_bitext(file, "ha", columns=("hausa", "hausa"))
    for columns in (("hausa",), ("hausa", "english", "id"), "ab"):
        with pytest.raises(DataError, match="columns is .*; name that of 'ha' and that of 'en'"):
            load_bitext(file, "ha", columns=columns)
    with pytest.raises(DataError, match="name of the file or dataset is empty"):
        load_bitext("", "ha")
    with pytest.raises(DataError, match="there is no file xxx"):
        load_bitext("x" * 5000 + ".csv", "ha")
    with pytest.raises(DataError, match="'xxx.* is no file on this machine"):
        load_bitext("x" * 5000, "ha")
    with pytest.raises(DataError, match="a.csv has no column 'igbo'; it has id, english, hausa"):
        load_bitext(file, "ha", columns=("igbo", "english"))


def test_filter_counts_by_hand(tmp_path):
    pairs = [
        ("a", "b"),  # 0 kept
        (" a\n", "b "),  # duplicate, once stripped
        ("a", "c"),  # 2 kept: only the whole pair counts as repeated
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


def test_a_side_that_is_null_is_empty_and_a_language_that_is_not_there_is_named():
    dataset = Dataset.from_list([{"translation": {"ha": None, "en": "a"}}, {"translation": {"ha": "b", "en": "a"}}])
    kept, counts = filter_bitext(dataset, "ha")
    assert len(kept) == 1 and (counts.kept, counts.empty) == (1, 1)
    with pytest.raises(DataError, match="pairs hold no language 'yo' but ha, en; name the languages"):
        filter_bitext(dataset, "yo")


def test_nothing_left_to_train_on(tmp_path):
    dataset = load_bitext(write(tmp_path / "a.jsonl", rows([("", "a"), ("b", "")])), "ha")
    with pytest.raises(DataError, match="no sentence pair is left of 2 .0 kept, 2 empty"):
        filter_bitext(dataset, "ha")
