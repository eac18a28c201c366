from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import rel_entr, softmax
from torch.nn.functional import normalize

from hf_optical.losses import RankingLoss
from hf_optical.retrieval import maxsim


def some_texts(count: int, tokens: int, seed: int):
    generator = torch.Generator().manual_seed(seed)
    vectors = normalize(torch.randn(count, tokens, 8, generator=generator), dim=2)
    mask = torch.arange(tokens) < torch.randint(1, tokens + 1, (count, 1), generator=generator)
    return vectors, mask


# Counts, tokens and seeds of four queries and seven documents.
SIZES = (4, 7), (6, 9), (0, 1)


def test_scores_are_maxsim_divided_by_query_length():
    (queries, query_mask), (documents, document_mask) = map(some_texts, *SIZES)
    expected = maxsim(queries, documents, query_mask, document_mask) / query_mask.sum(1, keepdim=True)
    found = RankingLoss.scores(queries, documents, query_mask, document_mask)
    assert (found - expected).abs().max() <= 1e-6


def test_divergence_equals_scipy():
    (queries, query_mask), (documents, document_mask) = map(some_texts, *SIZES)
    target = torch.randn(4, 7, generator=torch.Generator().manual_seed(2))
    scores = RankingLoss.scores(queries, documents, query_mask, document_mask).double().numpy()
    expected = rel_entr(softmax(target.double().numpy() / 0.2, 1), softmax(scores / 0.2, 1)).sum(1)
    loss = RankingLoss(temperature=0.2, reduction="none")(queries, documents, query_mask, document_mask, target)
    assert loss.tolist() == pytest.approx(expected.tolist(), rel=1e-4)
    labels = torch.tensor([6, 0, 2, 2])
    loss = RankingLoss(temperature=0.2)(queries, documents, query_mask, document_mask, labels)
    assert loss.item() == pytest.approx(-np.log(softmax(scores / 0.2, 1)[range(4), labels]).mean(), rel=1e-5)


def test_loss_and_gradient_are_zero_for_equal_rankings():
    (queries, query_mask), (documents, document_mask) = some_texts(3, 5, 4), some_texts(3, 5, 5)
    queries.requires_grad_()
    target = RankingLoss.scores(queries, documents, query_mask, document_mask)
    loss = RankingLoss()(queries, documents, query_mask, document_mask, target)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-6) and queries.grad.abs().max() <= 1e-5


def test_padding_does_not_matter_when_all_products_are_negative():
    query, document = torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[-1.0, 0.0], [0.0, 0.0]]])
    one = torch.ones(1, 1)
    assert RankingLoss.scores(query, document, one, torch.tensor([[1, 0]])).item() == -1
    wide = torch.cat([query, torch.ones(1, 3, 2)], 1)
    found = RankingLoss.scores(wide, document, torch.tensor([[1, 0, 0, 0]]), torch.tensor([[1, 0]]))
    assert found.item() == -1


def test_content_of_padding_does_not_matter():
    results = []
    for padding in (0.0, torch.nan):
        sides = [(vectors.masked_fill(~mask.unsqueeze(2), padding), mask) for vectors, mask in map(some_texts, *SIZES)]
        (queries, query_mask), (documents, document_mask) = sides
        queries.requires_grad_()
        loss = RankingLoss()(queries, documents, query_mask, document_mask, torch.arange(4))
        results.append((loss.detach(), torch.autograd.grad(loss, queries)[0]))
    assert all(torch.equal(clean, dirty) and dirty.isfinite().all() for clean, dirty in zip(*results, strict=True))


def test_invalid_input_raises():
    (queries, mask), _ = some_texts(2, 3, 0), None
    with pytest.raises(ValueError, match="document_mask leaves no token.*batch entries \\[1\\]"):
        RankingLoss.scores(queries, queries, mask, torch.tensor([[1, 1, 1], [0, 0, 0]]))
    with pytest.raises(ValueError, match="query_embeddings are not finite.*\\[0\\]"):
        RankingLoss.scores(queries.index_fill(0, torch.tensor(0), torch.nan), queries, mask, mask)
    with pytest.raises(ValueError, match="temperature must be positive"):
        RankingLoss(temperature=0)
