from __future__ import annotations

import json

import pytest

from hf_optical.bitext import load_triples
from hf_optical.errors import DataError


TRIPLES = [
    {"query": "who sells coffee", "positive": "the farmer", "negatives": ["the bus is late", "rain"]},
    {"query": "when does it come", "positive": "at noon", "negatives": []},
]


def test_triples_with_lists_single_negatives_and_tables(tmp_path):
    file = tmp_path / "triples.jsonl"
    file.write_text("\n".join(json.dumps(row) for row in TRIPLES), encoding="utf-8")
    assert load_triples(file).to_list() == TRIPLES
    file.write_text('{"query": "a", "positive": "b", "negative": "c"}', encoding="utf-8")
    assert load_triples(file)["negatives"][0] == ["c"]
    table = tmp_path / "triples.csv"
    table.write_text("query,positive,negative\na,b,c\nd,e,\n", encoding="utf-8")
    assert load_triples(table)["negatives"][:] == [["c"], []]


def test_negatives_in_several_columns(tmp_path):
    rows = [{"query": "a", "positive": "b"} | {f"negative_{i}": f"n{i}" for i in (2, 10, 1)} | {"negative_3": " "}]
    assert load_triples(rows)[0]["negatives"] == ["n1", "n2", "n10"]
    file = tmp_path / "a.tsv"
    file.write_text("query\tpositive\tnegative_1\tnegative_2\na\tb\tc\td\n", encoding="utf-8")
    assert load_triples(file)[0]["negatives"] == ["c", "d"]


def test_triples_of_ids_are_refused(tmp_path):
    for name, message in (("a.tsv", "row 0 has no column 'query'.*not ids"), ("a.jsonl", "line 1 .*got .1, 5, 7.")):
        (tmp_path / name).write_text("[1, 5, 7]\n[2, 6, 8]\n", encoding="utf-8")
        with pytest.raises(DataError, match=f"{name}.*{message}"):
            load_triples(tmp_path / name)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"query": "a"}', "row 0 has no column 'positive', only query; rows must hold texts, not ids"),
        ('{"query": "a", "positive": 3}', "row 0: 'positive' must be text and not blank, got 3"),
        ('{"query": "a", "positive": "b", "negatives": ["c", null]}', "row 0: 'negatives' .*, got None"),
    ],
)
def test_errors_name_the_faulty_row(tmp_path, text, message):
    file = tmp_path / "triples.jsonl"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=f"triples.jsonl.*{message}"):
        load_triples(file)


def test_missing_configuration_of_a_dataset_folder(tmp_path):
    with pytest.raises(DataError, match="check the name, config_name and split"):
        load_triples(tmp_path, config_name="hard")
