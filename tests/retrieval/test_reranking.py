from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_optical.retrieval import BM25, Hit, TokenVectors, encode_texts, rerank, search


def grid(lengths, seed):
    """Vectors of small integers, for which scores are exact and often equal."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(-1, 2, (length, 3), generator=generator).float() for length in lengths]


@settings(max_examples=40)
@given(
    document_lengths=st.lists(st.integers(0, 4), min_size=1, max_size=12),
    picked=st.lists(st.lists(st.integers(0, 11), max_size=15), min_size=1, max_size=3),
    top_k=st.none() | st.integers(1, 6),
    named=st.booleans(),
    seed=st.integers(0, 99),
)
def test_reranking_equals_full_search_restricted_to_candidates(document_lengths, picked, top_k, named, seed):
    queries, documents = grid([2] * len(picked), seed), grid(document_lengths, seed + 1)
    ids = [f"d{i}" for i in range(len(documents))] if named else list(range(len(documents)))
    candidates = [[Hit(ids[i], 0.0) for i in found if i < len(documents)] for found in picked]
    full = search(queries, documents, len(documents), document_ids=ids)
    expected = [
        [hit for hit in ranking if hit.document in {candidate.document for candidate in allowed}][:top_k]
        for ranking, allowed in zip(full, candidates, strict=True)
    ]
    assert rerank(queries, documents, candidates, document_ids=ids if named else None, top_k=top_k) == expected


def test_reranking_after_bm25(tiny_model, tiny_processor):
    texts, ids = ["the water", "the market", "water in the market", "the child"], list("abcd")
    questions = ["market water", "unheard"]
    queries = encode_texts(tiny_model, tiny_processor, questions, "query")
    documents = encode_texts(tiny_model, tiny_processor, texts, "document", dtype=torch.float16)
    ranking, nothing = rerank(queries, documents, BM25(texts, ids).search(questions), document_ids=ids)
    assert sorted(hit.document for hit in ranking) == ["a", "b", "c"] and nothing == []
    scores = dict(search(queries, documents, document_ids=ids)[0])
    assert [hit.score for hit in ranking] == pytest.approx([scores[hit.document] for hit in ranking])


def test_progress_counts_queries(capsys):
    rerank(torch.ones(2, 1, 2), torch.ones(1, 1, 2), [[Hit(0, 0.0)], []], show_progress=True)
    assert "2/2" in capsys.readouterr().err
    rerank(torch.ones(1, 1, 2), torch.ones(1, 1, 2), [[]])
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("candidates", "options", "message"),
    [
        ([[]], {}, "candidates must have one entry for each of the 2 queries, got 1"),
        ([[], [Hit("x", 1.0)]], {}, r"candidates\[1\] holds 'x'"),
        ([[], []], {"document_ids": list("aab")}, "distinct document_ids must have .*, got 2"),
    ],
)
def test_invalid_arguments_are_refused(candidates, options, message):
    with pytest.raises(ValueError, match=message):
        rerank(torch.ones(2, 1, 2), TokenVectors.from_padded(torch.ones(3, 1, 2)), candidates, **options)
