from __future__ import annotations

import gzip
import zipfile

import pandas as pd
import pytest
from datasets import Dataset, DatasetDict, Features, Translation, TranslationVariableLanguages

from hf_optical.bitext import load_bitext
from hf_optical.errors import DataError


ENGLISH = ["The market opens.", '"Rain fell," he said.', "", "Bread\u2028is baked."]
SWAHILI = ["Soko linafunguliwa.", 'Mvua "ilinyesha.', "x", "Mkate huokwa."]
PAIRS = [{"en": en, "sw": sw} for en, sw in zip(ENGLISH, SWAHILI, strict=True)]


def translations(source, **settings):
    return [row["translation"] for row in load_bitext(source, "sw", **settings)]


def lines(texts):
    return "".join(f"{text}\n" for text in texts)


@pytest.mark.parametrize("ending", ["", ".gz"])
def test_aligned_text_files(tmp_path, ending):
    for code, texts in (("en", ENGLISH), ("sw", SWAHILI)):
        write = gzip.open if ending else open
        with write(tmp_path / f"train.en-sw.{code}{ending}", "wt", encoding="utf-8") as file:
            file.write(lines(texts))
    base = tmp_path / "train.en-sw"
    for source in (base, f"{base}.sw{ending}", f"{base}.en{ending}", (f"{base}.sw{ending}", f"{base}.en{ending}")):
        assert translations(source) == PAIRS


def test_faulty_aligned_text_files(tmp_path):
    with pytest.raises(DataError, match="one aligned file for each of sw, en, got 1; pass a single file by its name"):
        translations([tmp_path / "a.jsonl"])
    (tmp_path / "a.en").write_text(lines(ENGLISH), encoding="utf-8")
    with pytest.raises(DataError, match="a.en must be an existing .* two aligned files NAME.sw and NAME.en"):
        translations(tmp_path / "a.en")
    (tmp_path / "a.sw").write_text(lines(SWAHILI[1:]), encoding="utf-8")
    with pytest.raises(DataError, match="a.sw and .*a.en must have the same number of lines"):
        translations(tmp_path / "a.en")
    (tmp_path / "a.sw").write_bytes(b"a\nb\xff\n")
    with pytest.raises(DataError, match="a.sw, line 2 cannot be read"):
        translations(tmp_path / "a.en")


TMX = """<?xml version="1.0" encoding="utf-8"?>
<!DOCTYPE tmx SYSTEM "tmx14.dtd">
<tmx version="1.4"><header srclang="en"/><body>
<tu><tuv xml:lang="EN-US"><seg>Water &amp; <bpt i="1">&lt;b&gt;</bpt>bread<ept i="1"/> <hi>now</hi>.</seg></tuv>
<tuv xml:lang="sw"><seg>Maji.</seg></tuv></tu>
<tu><tuv lang="en"><seg>Rain.</seg></tuv><tuv lang="sw"><seg>Mvua.</seg></tuv></tu>
</body></tmx>
"""
TMX_PAIRS = [{"en": "Water & bread now.", "sw": "Maji."}, {"en": "Rain.", "sw": "Mvua."}]


def test_tmx_files(tmp_path):
    (tmp_path / "a.tmx").write_text(TMX, encoding="utf-8")
    (tmp_path / "b.tmx.gz").write_bytes(gzip.compress(TMX.encode()))
    assert translations(tmp_path / "a.tmx") == translations(tmp_path / "b.tmx.gz") == TMX_PAIRS
    (tmp_path / "a.tmx").write_text(TMX.replace("</tu>", ""), encoding="utf-8")
    with pytest.raises(DataError, match="a.tmx cannot be read .mismatched tag: line 7.*; it must be a TMX file"):
        translations(tmp_path / "a.tmx")


@pytest.mark.promise("Text", "An XML file whose entities expand to gigabytes, or name other files, is refused.")
def test_tmx_entities(tmp_path):
    bomb = '<!DOCTYPE tmx [<!ENTITY a0 "aaaaaaaaaa">' + "".join(
        f'<!ENTITY a{i + 1} "{f"&a{i};" * 10}">' for i in range(12)
    )
    for declared, entity in ((bomb, "&a12;"), ('<!DOCTYPE tmx [<!ENTITY x SYSTEM "file:///etc/passwd">', "&x;")):
        text = f"{declared}]><tmx><body><tu><tuv lang='en'><seg>{entity}</seg></tuv></tu></body></tmx>"
        (tmp_path / "a.tmx").write_text(text, encoding="utf-8")
        with pytest.raises(DataError, match="a.tmx.* cannot be read"):
            translations(tmp_path / "a.tmx")


def test_zip_archives(tmp_path):
    def pack(**members):
        with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in members.items():
                archive.writestr(name.replace("_", "."), content)
        return tmp_path / "a.zip"

    aligned = {"README": "a", "a/train_en": lines(ENGLISH), "a/train_sw": lines(SWAHILI)}
    assert translations(pack(**aligned, **{"a/train_ids": "1"})) == PAIRS
    assert translations(pack(a_tmx=TMX, LICENSE="b")) == TMX_PAIRS
    assert translations(pack(a_csv="en,sw\na,b\n")) == [{"en": "a", "sw": "b"}]
    with pytest.raises(DataError, match="a.zip must hold a single .*, got README, a.csv, b.csv"):
        translations(pack(README="", a_csv="", b_csv=""))
    with pytest.raises(DataError, match="a.zip/a.jsonl, line 1 cannot be read"):
        translations(pack(a_jsonl="{"))
    content = (tmp_path / "a.zip").read_bytes()
    for damaged in (b"", content[:30], content[:-9]):
        (tmp_path / "a.zip").write_bytes(damaged)
        with pytest.raises(DataError, match="a.zip cannot be read .*; it must be a ZIP archive"):
            translations(tmp_path / "a.zip")


def test_small_zip_archives_with_large_content_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("hf_optical.storage.data_files._MOST_BYTES", 2**20)
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.tmx", "<tmx>" + " " * 2**23)
    with pytest.raises(DataError, match="a.zip/a.tmx.* bytes once decompressed"):
        translations(tmp_path / "a.zip")


def test_columns_named_by_language_codes(tmp_path):
    (tmp_path / "a.csv").write_text("id,en,sw\n1,Rain fell.,Mvua.\n", encoding="utf-8")
    assert translations(tmp_path / "a.csv") == [{"en": "Rain fell.", "sw": "Mvua."}]
    Dataset.from_list(PAIRS).to_parquet(tmp_path / "a.parquet")
    assert translations(tmp_path / "a.parquet") == PAIRS


@pytest.mark.parametrize("codes", [["en", "sw"], ["sw", "en", "en"]])
def test_translation_variable_languages(codes):
    texts = {"en": "Rain.", "sw": "Mvua."}
    row = {"translation": {"language": codes, "translation": [texts[code] for code in codes]}}
    assert translations([row]) == [texts]


def test_rows_in_memory():
    dataset = Dataset.from_list([{"translation": pair} for pair in PAIRS])
    feature = Dataset.from_list(dataset.to_list(), Features(translation=Translation(["en", "sw"])))
    variable = Features(translation=TranslationVariableLanguages(languages=["en", "sw"]))
    sources = {
        "dataset": dataset,
        "translation feature": feature,
        "variable languages": Dataset.from_list([variable.encode_example({"translation": pair}) for pair in PAIRS]),
        "splits": DatasetDict(train=dataset),
        "stream": dataset.to_iterable_dataset(),
        "list": dataset.to_list(),
        "columns": Dataset.from_list(PAIRS),
        "data frame": pd.DataFrame(PAIRS),
        "data frame of translations": dataset.to_pandas(),
        "generator": (pair for pair in PAIRS),
    }
    for name, source in sources.items():
        assert translations(source) == PAIRS, name
    holes = pd.DataFrame({"en": ["a", None, float("nan")], "sw": ["b", "c", "d"]})
    assert translations(holes) == [{"en": "a", "sw": "b"}, {"en": "", "sw": "c"}, {"en": "", "sw": "d"}]
    assert translations(DatasetDict(test=dataset), split="test") == PAIRS


def test_faulty_rows_in_memory():
    with pytest.raises(DataError, match="the datasets have no split 'train', only test"):
        translations(DatasetDict(test=Dataset.from_list(PAIRS)))
    with pytest.raises(DataError, match="list, row 1: `translation` must map language codes to text, got 3"):
        translations([PAIRS[0], 3])
    with pytest.raises(DataError, match="list has no rows"):
        translations([])
    with pytest.raises(DataError, match="Dataset has no language 'ha', only en, sw"):
        load_bitext(Dataset.from_list(PAIRS), "ha")


def test_tsv_files_without_quoting_rules(tmp_path):
    file = tmp_path / "a.tsv"
    rows = [("Go!", '"Nenda.'), ('"Hi," he said.', "Alisema."), ('He said "stop.', '"Simama"')]
    file.write_text("en\tsw\n" + "".join(f"{en}\t{sw}\r\n" for en, sw in rows), encoding="utf-8")
    expected = [*rows[:2], (rows[2][0], "Simama")]
    assert [tuple(pair.values()) for pair in translations(file)] == expected
    file.write_text(f'en\tsw\n"{"a" * 200_000}"\tb\n', encoding="utf-8")
    assert translations(file) == [{"en": "a" * 200_000, "sw": "b"}]
    file.write_text("en\tsw\nCome here.\tNjoo hapa.\nEat.\n", encoding="utf-8")
    with pytest.raises(DataError, match="a.tsv, line 3 cannot be read .fewer fields than the header"):
        translations(file)
