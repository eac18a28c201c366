import math
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_optical.retrieval.maxsim import _segment_max, maxsim
from hf_optical.retrieval.vectors import TokenVectors


def unit(lengths, dim=16, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.nn.functional.normalize(torch.randn(n, dim, generator=generator), dim=1) for n in lengths]


def naive(queries, documents):
    scores = torch.full((len(queries), len(documents)), -math.inf)
    for i, query in enumerate(queries):
        for j, document in enumerate(documents):
            if len(query) and len(document):
                scores[i, j] = sum(max(float(token @ other) for other in document) for token in query)
    return scores


lengths = st.lists(st.integers(0, 9), min_size=1, max_size=6)


@settings(max_examples=30)
@given(query_lengths=lengths, document_lengths=lengths, seed=st.integers(0, 99))
def test_scores_agree_with_nested_loops(query_lengths, document_lengths, seed):
    queries, documents = unit(query_lengths, seed=seed), unit(document_lengths, seed=seed + 1)
    torch.testing.assert_close(maxsim(queries, documents), naive(queries, documents), rtol=0, atol=2e-6)


@pytest.mark.parametrize("block", [(1, 1), (7, 5), (10_000, 10_000)])
def test_block_size_does_not_change_scores(monkeypatch, block):
    # `hf_optical.retrieval.maxsim` is the function, which shadows its module.
    monkeypatch.setattr(sys.modules[maxsim.__module__], "_CPU_BLOCK", block)
    queries, documents = unit([3, 70, 0, 9, 1]), unit([4, 8, 0, 2, 30, 1], seed=1)
    scores = maxsim(queries, documents)
    torch.testing.assert_close(scores, naive(queries, documents), rtol=0, atol=1e-5)
    assert scores[2].tolist() == [-math.inf] * 6 and scores[:, 2].tolist() == [-math.inf] * 5


def test_several_blocks_of_default_size():
    queries, documents = unit([500] * 5, dim=4), unit([900] * 12, dim=4, seed=1)
    expected = torch.stack(
        [torch.stack([(query @ document.T).amax(1).sum() for document in documents]) for query in queries]
    )
    torch.testing.assert_close(maxsim(queries, documents), expected, rtol=1e-6, atol=0)


def test_long_queries_are_summed_in_double_precision():
    queries, documents = unit([400] * 3, dim=8), unit([50] * 4, dim=8, seed=1)
    exact = torch.stack([torch.stack([(q.double() @ d.double().T).amax(1).sum() for d in documents]) for q in queries])
    scores = maxsim(queries, documents)
    assert (scores - exact).abs().max() <= 1e-7 * exact.max()


def test_segment_max_handles_width_and_empty_runs():
    rows = torch.randn(20, 80, generator=torch.Generator().manual_seed(0))
    wide = _segment_max(rows, torch.tensor([3, 10, 7]))
    narrow = torch.cat([_segment_max(rows[:, :40], torch.tensor([3, 10, 7])), wide[:, 40:]], 1)
    with_empty = _segment_max(rows, torch.tensor([3, 0, 10, 7]))
    assert torch.equal(wide, narrow) and torch.equal(wide, with_empty[[0, 2, 3]])
    assert (with_empty[1] == -math.inf).all()


def test_packed_listed_and_padded_vectors_give_equal_scores():
    queries, documents = unit([2, 5, 1]), unit([6, 3, 4, 6], seed=1)
    expected = maxsim(queries, documents)

    def padded(vectors):
        batch = torch.nn.utils.rnn.pad_sequence(vectors, batch_first=True, padding_value=99.0)
        return batch, (batch != 99.0).all(2)

    (query_batch, query_mask), (document_batch, document_mask) = padded(queries), padded(documents)
    for query_form, mask in ((TokenVectors.from_list(queries), None), (query_batch, query_mask)):
        torch.testing.assert_close(maxsim(query_form, documents, query_mask=mask), expected, rtol=0, atol=1e-6)
    scores = maxsim(query_batch, document_batch, query_mask.long(), document_mask.long())
    torch.testing.assert_close(scores, expected, rtol=0, atol=1e-6)
    assert maxsim(query_batch, document_batch).isfinite().all()


def test_padding_never_exceeds_negative_similarity():
    query, document = torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[-1.0, 0.0], [0.0, 0.0], [-0.5, 0.0]]])
    scores = maxsim(query, document, document_mask=torch.tensor([[1, 0, 0]]))
    assert scores.tolist() == [[-1.0]]


@settings(max_examples=30)
@given(lengths=st.lists(st.integers(1, 40), min_size=2, max_size=8), seed=st.integers(0, 99))
def test_score_is_independent_of_other_texts(lengths, seed):
    queries, documents = unit(lengths, dim=64, seed=seed), unit(lengths[::-1], dim=64, seed=seed + 1)
    together = maxsim(queries, documents)
    alone = torch.cat([maxsim([query], [documents[0]]) for query in queries])
    torch.testing.assert_close(together[:, :1], alone, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_scores_are_computed_in_float32(dtype):
    queries = TokenVectors.from_list(unit([4, 7])).to(dtype)
    documents = TokenVectors.from_list(unit([5, 9, 3], seed=1)).to(dtype)
    expected = naive(queries.to(torch.float32).to_list(), documents.to(torch.float32).to_list())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        scores = maxsim(queries, documents)
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores, expected, rtol=0, atol=2e-6)


def test_gradient_equals_that_of_padded_maxsim():
    queries = [query.requires_grad_() for query in unit([2, 70])]
    documents = [document.requires_grad_() for document in unit([4, 2, 5], seed=1)]
    weights = torch.tensor([[1.0, -2.0, 0.5], [0.0, 3.0, 1.0]])
    expected = torch.stack([torch.stack([(q @ d.T).amax(1).sum() for d in documents]) for q in queries])
    leaves = queries + documents
    theirs = torch.autograd.grad((expected * weights).sum(), leaves)
    ours = torch.autograd.grad((maxsim(queries, documents) * weights).sum(), leaves)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.zeros(1, 2, 3), torch.zeros(1, 2, 4)), "query_vectors have dim 3 and document_vectors 4"),
        (([], torch.zeros(1, 2, 4)), "query_vectors is empty"),
        ((torch.zeros(1, 2, 3), torch.zeros(2, 3)), "document_vectors must have shape"),
        ((torch.zeros(1, 2, 3), torch.zeros(1, 2, 3), torch.ones(1, 3)), "the mask of query_vectors must"),
        ((torch.zeros(1, 2, 3), [torch.zeros(2, 3)], None, torch.ones(1, 2)), "leave out the mask of document"),
    ],
)
def test_invalid_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        maxsim(*arguments)
