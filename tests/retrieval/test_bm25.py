from __future__ import annotations

import math
import re
import sys
from collections import Counter

import bm25s
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import demo_pairs

from hf_optical.retrieval import BM25, Hit, english_stemmer


ENGLISH = [pair["en"] for pair in demo_pairs()]


def naive(documents, query, k1=1.5, b=0.75):
    """BM25 as in Lucene, document by document, for texts without stop words."""
    bags = [Counter(re.findall(r"\w\w+", text.lower())) for text in documents]
    mean_length = sum(bag.total() for bag in bags) / len(bags)
    hits = []
    for position, bag in enumerate(bags):
        score = 0.0
        for word in re.findall(r"\w\w+", query.lower()):
            having = sum(word in other for other in bags)
            idf = math.log(1 + (len(bags) - having + 0.5) / (having + 0.5))
            score += idf * bag[word] / (bag[word] + k1 * (1 - b + b * bag.total() / mean_length))
        if score > 0:
            hits.append(Hit(position, pytest.approx(score, rel=1e-5)))
    return sorted(hits, key=lambda hit: -hit.score.expected)


TEXTS = st.lists(st.sampled_from("water Water, market child. drinks".split()), max_size=6).map(" ".join)


@settings(max_examples=40)
@given(documents=st.lists(TEXTS, min_size=1, max_size=8), query=TEXTS, top_k=st.integers(1, 9))
def test_scores_are_bm25_and_documents_sharing_no_word_are_left_out(documents, query, top_k):
    if any(documents):
        [hits] = BM25(documents).search([query], top_k)
        expected = naive(documents, query)
        # In single precision, scores that are equal in theory may differ by rounding.
        assert [hit.score for hit in hits] == [hit.score for hit in expected[:top_k]]
        scores = dict(expected)
        assert all(hit.score == scores[hit.document] for hit in hits)
        assert all(a.score > b.score or a.document < b.document for a, b in zip(hits, hits[1:], strict=False))


def test_search_agrees_with_bm25s():
    queries = [" ".join(text.split()[:4]) for text in ENGLISH[:40]]
    ids = [f"d{i}" for i in range(len(ENGLISH))]
    index = bm25s.BM25()
    index.index(bm25s.tokenize(ENGLISH, stopwords="en", show_progress=False), show_progress=False)
    found, scores = index.retrieve(
        bm25s.tokenize(queries, stopwords="en", show_progress=False), corpus=ids, k=6, show_progress=False
    )
    compared = 0
    for hits, documents, expected in zip(BM25(ENGLISH, ids).search(queries, 6), found, scores, strict=True):
        assert [hit.score for hit in hits] == pytest.approx([score for score in expected if score > 0], rel=1e-6)
        # bm25s promises no order among equal scores, nor which of them are cut off.
        clear = [i for i, score in enumerate(expected[:-1]) if score > 0 and list(expected).count(score) == 1]
        assert [hits[i].document for i in clear] == [documents[i] for i in clear]
        compared += len(clear)
    assert compared > 50


def test_ties_are_ranked_by_position_and_unknown_words_find_nothing():
    index = BM25(["", "red fox", "blue fox", "red fox", "red fox"], list("abcde"))
    hits, *nothing = index.search(["the red", "green", "", "the and"], top_k=2)
    assert [hit.document for hit in hits] == ["b", "d"] and hits[0].score == hits[1].score
    assert nothing == [[], [], []]
    assert index.search([]) == []


def test_texts_and_ids_may_be_series_or_generators():
    texts, ids = ["", "red fox", "blue hen"], list("abc")
    table = pd.DataFrame({"text": texts, "id": ids}, index=[2, 0, 1])
    for index in (BM25(table["text"], table["id"]), BM25(iter(texts), iter(ids))):
        assert [[hit.document for hit in hits] for hits in index.search(query for query in ("hen", "fox"))] == [
            ["c"],
            ["b"],
        ]


def test_stemmer_conflates_word_forms():
    documents = ["two foxes", "a hen"]
    assert BM25(documents).search(["fox"]) == [[]]
    [[hit]] = BM25(documents, stemmer=lambda words: [word.removesuffix("es") for word in words]).search(["fox"])
    assert hit.document == 0


def test_english_stemmer(monkeypatch):
    pytest.importorskip("Stemmer")
    [[hit]] = BM25(["running foxes", "a hen"], stemmer=english_stemmer()).search(["the fox runs"])
    assert hit.document == 0
    monkeypatch.setitem(sys.modules, "Stemmer", None)
    with pytest.raises(ImportError, match=r'Stemmer is not installed: pip install "hf_optical\[rivals\]"'):
        english_stemmer()


def test_missing_library_raises_import_error(monkeypatch):
    monkeypatch.setitem(sys.modules, "bm25s", None)
    with pytest.raises(ImportError, match=r'pip install "hf_optical\[rivals\]"'):
        BM25(["a fox"])


def test_invalid_arguments_are_refused():
    with pytest.raises(ValueError, match="document_ids must have one entry for each of the 2 documents, got 1"):
        BM25(["a fox", "a hen"], ["a"])
    for empty in ([], [""], ["the", "of a"]):
        with pytest.raises(ValueError, match=f"at least one word, got {len(empty)} texts"):
            BM25(empty)
    with pytest.raises(TypeError, match="document_texts .*one string"):
        BM25("a fox")
    with pytest.raises(TypeError, match="texts .*one string"):
        BM25(["a fox"]).search("fox")
    with pytest.raises(ValueError, match="top_k must be at least 1, got 0"):
        BM25(["a fox"]).search(["fox"], 0)
