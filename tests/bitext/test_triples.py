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


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"query": "a"}', "row 0: 'positive' must be text and not blank, got None"),
        ('{"query": "a", "positive": 3}', "row 0: 'positive' must be text and not blank, got 3"),
        ("[]", "has no rows"),
        ("3", "expected an object, got 3"),
        ('{"query": "a", "positive": "b", "negatives": 3}', "row 0: 'negatives' must be text and not blank, got 3"),
        ('{"query": "a", "positive": "b", "negatives": [4]}', "row 0: 'negatives' must be text and not blank, got 4"),
        ('{"query": "a", "positive": "b", "negatives": ["c", null]}', "row 0: 'negatives' .*, got None"),
        ('{"query": "a", "positive": "b", "negatives": [" "]}', "row 0: 'negatives' .*, got ' '"),
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
