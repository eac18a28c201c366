from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from hf_optical.index.muvera import Muvera
from hf_optical.retrieval import TokenVectors, maxsim


def texts(count: int, dim: int, seed: int, most: int = 12) -> TokenVectors:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(0, most, (count,), generator=generator)
    values = torch.randn(int(lengths.sum()), dim, generator=generator)
    return TokenVectors(torch.nn.functional.normalize(values, dim=1), lengths)


def by_the_paper(muvera: Muvera, tokens: np.ndarray, is_query: bool) -> np.ndarray:
    """Section 2 of arXiv 2405.19504, a loop over repetitions, clusters and tokens."""
    planes, signs = (each.numpy().astype(float) for each in muvera._random)
    parts = []
    for repetition in range(muvera.repetitions):
        own = planes[:, repetition * muvera.planes : (repetition + 1) * muvera.planes]
        sides = [tuple(int(token @ plane > 0) for plane in own.T) for token in tokens]
        for cluster in itertools.product((0, 1), repeat=muvera.planes):
            cluster = cluster[::-1]  # the first plane is the lowest bit
            inside = [token for token, side in zip(tokens, sides, strict=True) if side == cluster]
            if inside:
                center = np.sum(inside, 0) if is_query else np.mean(inside, 0)
            elif is_query or not len(tokens):
                center = np.zeros(muvera.dim)
            else:
                differing = [sum(a != b for a, b in zip(side, cluster, strict=True)) for side in sides]
                center = tokens[int(np.argmin(differing))]
            parts.append(center @ signs[repetition])
    return np.concatenate(parts)


def test_encodings_are_those_of_the_paper():
    muvera = Muvera(dim=6, planes=3, projected=4, repetitions=5, seed=3)
    vectors = texts(20, 6, seed=0)
    for is_query, encode in ((True, muvera.queries), (False, muvera.documents)):
        found = encode(vectors)
        expected = np.stack([by_the_paper(muvera, vectors[i].double().numpy(), is_query) for i in range(20)])
        assert found.shape == (20, muvera.size) and found.numpy() == pytest.approx(expected, abs=1e-5)


def test_inner_products_follow_maxsim_and_weights_of_query_tokens():
    muvera = Muvera(dim=16, repetitions=60)
    # Documents that share tokens with the queries, some more than others.
    documents = texts(40, 16, seed=1, most=20)
    queries = TokenVectors.from_list([documents[i][:5] for i in range(40) if len(documents[i]) > 4])
    approximate = muvera.queries(queries) @ muvera.documents(documents).T / muvera.repetitions
    exact = maxsim(queries, documents)
    kept = exact.isfinite()
    assert np.corrcoef(approximate[kept], exact[kept])[0, 1] > 0.8
    assert (approximate.argmax(1) == exact.argmax(1)).float().mean() > 0.95
    doubled = TokenVectors(queries.values * 2, queries.lengths)
    assert torch.allclose(muvera.queries(doubled), 2 * muvera.queries(queries))


def test_encodings_do_not_depend_on_other_texts_and_stay_the_same():
    muvera = Muvera(dim=8, planes=2, projected=3, repetitions=2)
    vectors = texts(600, 8, seed=2)
    together = muvera.documents(vectors)
    alone = torch.cat([muvera.documents(vectors[i : i + 1]) for i in range(0, 600, 50)])
    assert torch.allclose(together[::50], alone, atol=1e-6)
    assert muvera.documents(vectors[:0]).shape == (0, muvera.size)
    # An index is searched by other versions of torch and numpy than those that made it.
    planes, signs = Muvera(dim=3, planes=1, projected=1, repetitions=1)._random
    assert planes[:, 0].tolist() == pytest.approx([1.76405235, 0.40015721, 0.97873798])  # of numpy.random.seed(0)
    assert signs[0, :, 0].tolist() == [1.0, 1.0, 1.0]
