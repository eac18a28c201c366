from __future__ import annotations

import math
import re
import sys
from collections import Counter

import bm25s
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import demo_pairs

from hf_optical.retrieval import BM25, Hit, english_stemmer


ENGLISH = [pair["en"] for pair in demo_pairs()]


def naive(documents, query, k1=1.5, b=0.75):
    """BM25 as Lucene has it, document by document; no word of these texts is a stop word."""
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


@given(documents=st.lists(TEXTS, min_size=1, max_size=8), query=TEXTS, top_k=st.integers(1, 9))
def test_it_is_bm25_without_documents_that_share_no_word(documents, query, top_k):
    if any(documents):
        [hits] = BM25(documents).search([query], top_k)
        expected = naive(documents, query)
        # Scores that are equal on paper may be summed otherwise, in single precision.
        assert [hit.score for hit in hits] == [hit.score for hit in expected[:top_k]]
        scores = dict(expected)
        assert all(hit.score == scores[hit.document] for hit in hits)
        assert all(a.score > b.score or a.document < b.document for a, b in zip(hits, hits[1:], strict=False))


def test_agrees_with_the_library_called_directly():
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
        # The library promises no order among equal scores, nor which of them come last.
        clear = [i for i, score in enumerate(expected[:-1]) if score > 0 and list(expected).count(score) == 1]
        assert [hits[i].document for i in clear] == [documents[i] for i in clear]
        compared += len(clear)
    assert compared > 50


def test_equal_scores_are_ranked_by_position_and_words_never_seen_find_nothing():
    index = BM25(["", "red fox", "blue fox", "red fox", "red fox"], list("abcde"))
    hits, *nothing = index.search(["the red", "green", "", "the and"], top_k=2)
    assert [hit.document for hit in hits] == ["b", "d"] and hits[0].score == hits[1].score
    assert nothing == [[], [], []]
    assert index.search([]) == []


def test_texts_and_ids_of_a_data_frame_or_a_generator():
    texts, ids = ["", "red fox", "blue hen"], list("abc")
    table = pd.DataFrame({"text": texts, "id": ids}, index=[2, 0, 1])
    for index in (BM25(table["text"], table["id"]), BM25(iter(texts), iter(ids))):
        assert [[hit.document for hit in hits] for hits in index.search(query for query in ("hen", "fox"))] == [
            ["c"],
            ["b"],
        ]


def test_a_stemmer_makes_words_one():
    documents = ["two foxes", "a hen"]
    assert BM25(documents).search(["fox"]) == [[]]
    [[hit]] = BM25(documents, stemmer=lambda words: [word.removesuffix("es") for word in words]).search(["fox"])
    assert hit.document == 0


def test_the_english_stemmer(monkeypatch):
    pytest.importorskip("Stemmer")
    [[hit]] = BM25(["running foxes", "a hen"], stemmer=english_stemmer()).search(["the fox runs"])
    assert hit.document == 0
    monkeypatch.setitem(sys.modules, "Stemmer", None)
    with pytest.raises(ImportError, match=r'PyStemmer; pip install "hf_optical\[rivals\]"'):
        english_stemmer()


def test_a_missing_library_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "bm25s", None)
    with pytest.raises(ImportError, match=r'pip install "hf_optical\[rivals\]"'):
        BM25(["a fox"])


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="document_ids has 1 entries for 2"):
        BM25(["a fox", "a hen"], ["a"])
    for empty in ([], [""], ["the", "of a"]):
        with pytest.raises(ValueError, match=f"document_texts has {len(empty)} texts and no word"):
            BM25(empty)
    with pytest.raises(TypeError, match="document_texts must be a list of strings, got one string"):
        BM25("a fox")
    with pytest.raises(TypeError, match="texts must be a list of strings, got one string"):
        BM25(["a fox"]).search("fox")
    with pytest.raises(ValueError, match="top_k is 0"):
        BM25(["a fox"]).search(["fox"], 0)
