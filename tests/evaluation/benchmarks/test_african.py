import json
import re

import pytest

from hf_optical.evaluation.benchmarks import african, load_benchmark
from hf_optical.evaluation.datasets import Document, Query


LANGUAGES = ["bem", "fon", "hau", "ibo", "kin", "swa", "twi", "yor", "zul"]


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def gold(number, title, context, question, translation):
    """A row of AfriQA's gold passages, field for field."""
    return {
        "answer_pivot": {"answer_start": [0], "text": ["..."]},
        "context": context,
        "id": str(number),
        "question_lang": question,
        "question_translated": translation,
        "title": title,
        "answer_lang": "...",
    }


def write_gold(folder, language, split, rows):
    pivot = "fr" if language == "fon" else "en"
    name = f"gold_span_passages.afriqa.{language}.{pivot}.{split}.json"
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    write(folder / "data" / "gold_passages" / language / name, text)


@pytest.fixture
def afriqa(tmp_path):
    """The whole repository in small: a passage a file, of which one is in two files."""
    for language in LANGUAGES:
        for split in {"swa": ["test"], "yor": ["train", "test"]}.get(language, ["train", "dev", "test"]):
            row = gold(0, f"Title of {language}", f"Text of {language}, {split}.", f"{language}?", "What?")
            write_gold(tmp_path, language, split, [row])
    kano = ("Kano", "Kano is a city.")
    write_gold(
        tmp_path,
        "hau",
        "test",
        [
            gold(0, *kano, "Ina Kano?", "Where is Kano?"),
            gold(1, None, "A passage without a title.", "Me?", "What?"),
            gold(2, None, None, "Wa?", "Who?"),
            gold(3, "Kano", "", "Yaya?", "How?"),
            gold(4, "Kano", "Kano is old.", float("nan"), "When?"),
            gold(5, *kano, "Menene Kano?", "What is Kano?"),
        ],
    )
    write_gold(tmp_path, "zul", "dev", [gold(0, *kano, "Iphi iKano?", "Where is Kano?")])
    return tmp_path


def test_afriqa_reads_questions_with_a_passage(afriqa):
    dataset = load_benchmark("afriqa", language="ha", folder=afriqa)
    assert dataset.name == "afriqa/ha/test"
    # Without a passage, or with a question that is NaN, a row asks nothing.
    assert dataset.queries == {
        "test-0": Query("Ina Kano?", "Where is Kano?"),
        "test-1": Query("Me?", "What?"),
        "test-5": Query("Menene Kano?", "What is Kano?"),
    }
    found = {
        query: [dataset.corpus[document] for document in judgements] for query, judgements in dataset.qrels.items()
    }
    assert found == {
        "test-0": [Document("Kano", "Kano is a city.")],
        "test-1": [Document("", "A passage without a title.")],
        "test-5": [Document("Kano", "Kano is a city.")],
    }
    # Every English passage once: 6 languages with 3 files, one with 2, one with 1; of these one has two, one is known.
    assert len(dataset.corpus) == len(set(dataset.corpus.values())) == 6 * 3 + 2 + 1 + 1 - 1
    assert "Title of fon" not in {document.title for document in dataset.corpus.values()}


def test_afriqa_languages_share_one_corpus(afriqa):
    hausa = load_benchmark("afriqa", language="ha", folder=afriqa)
    for language, split in (("hau", "dev"), ("yo", "train"), ("sw", "test"), ("bem", None)):
        assert load_benchmark("afriqa", language=language, split=split, folder=afriqa).corpus == hausa.corpus
    fon = load_benchmark("afriqa", language="fon", split="dev", folder=afriqa)
    assert {document.title for document in fon.corpus.values()} == {"Title of fon"}
    assert len(fon.corpus) == 3
    assert load_benchmark("afriqa", language="ha", documents=5, folder=afriqa).name == "afriqa/ha/test (pool of 5)"


PASSAGES = [
    {"docid": "DailyTrust#1#0", "title": "Labarai", "text": "Kano birni ne.", "url": "https://a.example/1"},
    {"docid": "DailyTrust#1#1", "title": "", "text": "Ruwa.", "url": "https://a.example/1"},
    {"docid": "VOA#2#0", "title": None, "text": "Gida.", "url": "https://a.example/2"},
]


@pytest.fixture
def ciral(tmp_path):
    """Both repositories of CIRAL in one folder."""
    own = tmp_path / "ciral-hausa"
    write(own / "topics" / "topics.ciral-v1.0-ha-test-a.tsv", "14\tWhere is Kano?\n3\tWhat is water?\n9\tUnjudged?\n")
    write(own / "topics" / "topics.ciral-v1.0-ha-dev.tsv", "1\tIs Kano a city?\n")
    write(
        own / "qrels" / "qrels.ciral-v1.0-ha-test-a.tsv",
        "14 Q0 DailyTrust#1#0 1\n14 Q0 VOA#2#0 0\n3\tQ0\tVOA#2#0\t1\n",
    )
    write(own / "qrels" / "qrels.ciral-v1.0-ha-test-a-pools.tsv", "14 Q0 DailyTrust#1#1 1\n")
    write(own / "qrels" / "qrels.ciral-v1.0-ha-dev.tsv", "1 Q0 DailyTrust#1#0 1\n")
    text = "".join(json.dumps(row) + "\n" for row in PASSAGES)
    write(tmp_path / "passages-v1.0" / "hausa_passages.jsonl", text)
    return tmp_path


def test_ciral_reads_topics_judgements_and_passages(ciral):
    dataset = load_benchmark("ciral", language="hausa", folder=ciral)
    assert dataset.name == "ciral/ha/test-a"
    assert dataset.queries == {"14": Query("Where is Kano?"), "3": Query("What is water?")}
    assert dataset.qrels == {"14": {"DailyTrust#1#0": 1, "VOA#2#0": 0}, "3": {"VOA#2#0": 1}}
    assert dataset.corpus == {
        "DailyTrust#1#0": Document("Labarai", "Kano birni ne."),
        "DailyTrust#1#1": Document("", "Ruwa."),
        "VOA#2#0": Document("", "Gida."),
    }


def test_ciral_splits(ciral):
    assert load_benchmark("ciral", language="ha", split="dev", folder=ciral).qrels == {"1": {"DailyTrust#1#0": 1}}
    pools = load_benchmark("ciral", language="ha", split="test-a-pools", folder=ciral)
    assert (pools.queries, pools.qrels) == ({"14": Query("Where is Kano?")}, {"14": {"DailyTrust#1#1": 1}})


def fails(message, *arguments, **options):
    with pytest.raises(ValueError) as caught:
        load_benchmark(*arguments, **options)
    assert re.search(message, str(caught.value)), str(caught.value)


def test_unknown_languages_and_splits_raise(afriqa, ciral):
    fails("language of afriqa must be one of .*'hau'.*'ha'.*, got None", "afriqa")
    fails("language of afriqa must be one of .*, got 'wo'", "afriqa", language="wo")
    fails("split of afriqa in sw must be 'test', got 'dev'", "afriqa", language="sw", split="dev")
    fails("language of ciral must be one of 'hausa', .*, got 'ig'", "ciral", language="ig")
    fails(
        "split of ciral must be one of 'dev', 'test-a', 'test-a-pools', 'test-b', got 'test'",
        "ciral",
        language="ha",
        split="test",
    )
    fails("ciral takes the options language, split, folder, not document_language", "ciral", document_language="en")


def test_malformed_files_raise(afriqa, ciral, tmp_path):
    fails(
        "nowhere.data.*bem.en.train.json cannot be read .*No such file",
        "afriqa",
        language="ha",
        folder=tmp_path / "nowhere",
    )
    write(ciral / "ciral-hausa" / "qrels" / "qrels.ciral-v1.0-ha-dev.tsv", "1 Q0 VOA#2#0 yes\n")
    fails(
        "-dev.tsv, line 1: a judgement must have .*an integer score .*, got '1 Q0 VOA#2#0 yes'",
        "ciral",
        language="ha",
        split="dev",
        folder=ciral,
    )
    write(ciral / "passages-v1.0" / "hausa_passages.jsonl", json.dumps(PASSAGES[0]) + '\n{"docid": "x"}\n')
    fails(
        "hausa_passages.jsonl, line 2: 'text' must be str, got None",
        "ciral",
        language="ha",
        split="test-a-pools",
        folder=ciral,
    )
    write(ciral / "ciral-hausa" / "topics" / "topics.ciral-v1.0-ha-test-a.tsv", "14 Where is Kano?\n")
    fails(
        "topics.ciral-v1.0-ha-test-a.tsv, line 1: a topic must have an id and a text separated by a tab",
        "ciral",
        language="ha",
        folder=ciral,
    )


def test_failed_download_raises(monkeypatch, tmp_path):
    monkeypatch.setattr(african, "_CIRAL", f"file://{tmp_path}")
    with pytest.raises(ConnectionError, match="cannot download .*topics.ciral-v1.0-ha-test-a.tsv .*folder="):
        load_benchmark("ciral", language="ha")


def test_downloaded_files_are_read_like_local_ones(monkeypatch, ciral):
    monkeypatch.setattr(african, "_CIRAL", f"file://{ciral}")
    monkeypatch.setattr(african, "_CIRAL_CORPUS", f"file://{ciral}")
    downloaded = load_benchmark("ciral", language="ha")
    assert downloaded == load_benchmark("ciral", language="ha", folder=ciral)
