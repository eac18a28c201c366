import math

import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_optical.retrieval.maxsim import maxsim
from hf_optical.retrieval.reranking import rerank
from hf_optical.retrieval.search import Hit, search
from hf_optical.retrieval.vectors import TokenVectors


def grid(lengths, seed):
    """Vectors of small integers, for which scores are exact and often equal."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(-1, 2, (length, 3), generator=generator).float() for length in lengths]


def naive(queries, documents, top_k):
    rankings = []
    for scores in maxsim(queries, documents).tolist():
        order = sorted(range(len(documents)), key=lambda i: (-scores[i], i))
        rankings.append([Hit(i, scores[i]) for i in order[:top_k]])
    return rankings


@settings(max_examples=40)
@given(
    query_lengths=st.lists(st.integers(1, 3), min_size=1, max_size=3),
    document_lengths=st.lists(st.integers(0, 4), min_size=1, max_size=25),
    top_k=st.integers(1, 30),
    block_tokens=st.integers(1, 20),
    seed=st.integers(0, 99),
)
def test_search_agrees_with_full_sort_including_ties(query_lengths, document_lengths, top_k, block_tokens, seed):
    queries, documents = grid(query_lengths, seed), grid(document_lengths, seed + 1)
    assert search(queries, documents, top_k, block_tokens=block_tokens) == naive(queries, documents, top_k)


def test_ids_replace_positions_and_empty_documents_come_last():
    documents = [torch.empty(0, 1), torch.tensor([[1.0]]), torch.tensor([[-3.0], [2.0]])]
    [hits] = search(torch.ones(1, 1, 1), documents, document_ids=["empty", "one", "two"])
    assert hits == [("two", 2.0), ("one", 1.0), ("empty", -math.inf)]
    assert hits[0].document == "two" and hits[0].score == 2.0


def test_ids_in_a_series_are_taken_by_position():
    vectors = [torch.eye(3)[:1], torch.eye(3)[1:2], torch.eye(3)[2:]]
    ids = pd.Series(["a", "b", "c"], index=[2, 0, 1])
    assert [hits[0].document for hits in search(vectors, vectors, 1, document_ids=ids)] == ["a", "b", "c"]
    candidates = [[Hit("b", 0.0), Hit("c", 0.0)]] * 3
    assert [hits[0].document for hits in rerank(vectors, vectors, candidates, document_ids=ids)] == ["b", "b", "c"]


def test_half_precision_documents_without_gradient():
    generator = torch.Generator().manual_seed(0)
    queries = torch.randn(3, 4, 8, generator=generator, requires_grad=True)
    documents = TokenVectors.from_padded(torch.randn(20, 5, 8, generator=generator)).to(torch.float16)
    assert search(queries, documents, 7, block_tokens=12) == naive(queries, documents, 7)


def test_no_queries_give_no_rankings():
    for queries in ([], torch.ones(0, 1, 2), TokenVectors(torch.ones(0, 2), torch.zeros(0))):
        assert search(queries, torch.ones(1, 1, 2)) == []
        assert rerank(queries, torch.ones(1, 1, 2), []) == []


def test_progress_counts_documents(capsys):
    search(torch.ones(1, 1, 2), torch.ones(5, 1, 2), block_tokens=2, show_progress=True)
    assert "5/5" in capsys.readouterr().err
    search(torch.ones(1, 1, 2), torch.ones(5, 1, 2))
    assert capsys.readouterr().err == ""


ONE = torch.ones(1, 1, 2)


@pytest.mark.parametrize(
    ("queries", "documents", "options", "message"),
    [
        (ONE, ONE, {"top_k": 0}, "top_k must be at least 1, got 0"),
        (ONE, torch.ones(2, 1, 2), {"document_ids": ["a"]}, "each of the 2 documents, got 1"),
        (ONE, ONE[:0], {}, "number of documents must be at least 1"),
        (ONE, ONE * math.nan, {}, "documents 0 to 0 hold NaN"),
    ],
)
def test_invalid_arguments_are_refused(queries, documents, options, message):
    with pytest.raises(ValueError, match=message):
        search(queries, documents, **options)
