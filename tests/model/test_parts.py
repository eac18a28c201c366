from __future__ import annotations

from itertools import combinations

import pytest
import torch
from peers import open_both
from tiny import ARCHITECTURES, CHECKPOINTING, tiny_checkpoint

from hf_optical.model import linear, parts
from hf_optical.model.parts import parts_of


@pytest.fixture
def whole(monkeypatch):
    """Keep every batch whole."""

    def read_whole():
        monkeypatch.setattr(parts, "_MOST_TOKENS", 10**9)
        monkeypatch.setattr(parts, "_COST", 10**9)

    return read_whole


def right_padded(lengths: list[int]) -> torch.Tensor:
    return torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]


def cost(lengths: list[int]) -> int:
    """The cost of one part by definition; infinite for too many tokens."""
    tokens = len(lengths) * max(lengths)
    return float("inf") if len(lengths) > 1 and tokens > parts._MOST_TOKENS else tokens + parts._COST


@pytest.mark.parametrize("seed", range(9))
def test_split_is_the_cheapest_of_all(seed):
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, (30, 200, 600)[seed % 3], (7,), generator=generator).tolist()
    found = list(parts_of(right_padded(lengths)))
    assert sorted(torch.cat([rows for rows, _ in found]).tolist()) == list(range(7))
    for rows, tokens in found:
        assert max(lengths[row] for row in rows) == tokens
    ordered = sorted(lengths, reverse=True)
    every = [
        sum(cost(ordered[start:stop]) for start, stop in zip((0, *cuts), (*cuts, 7), strict=True))
        for size in range(7)
        for cuts in combinations(range(1, 7), size)
    ]
    assert sum(cost([lengths[row] for row in rows]) for rows, _ in found) == min(every)


def test_left_padding_counts_towards_the_length():
    ((rows, tokens),) = parts_of(right_padded([3, 9]).flip(1))
    assert (sorted(rows.tolist()), tokens) == ([0, 1], 9)


def test_empty_text_has_one_position():
    ((_, tokens),) = parts_of(torch.zeros(2, 5, dtype=torch.bool))
    assert tokens == 1


def test_batches_on_other_devices_stay_whole():
    assert list(parts_of(torch.zeros(8, 600, dtype=torch.bool, device="meta"))) == [(slice(None), 600)]


@pytest.mark.parametrize(("architecture", "wide"), [(name, name in ("bert", "modernbert")) for name in ARCHITECTURES])
def test_vectors_and_gradients_equal_those_of_the_whole_batch(architecture, wide, tmp_path, whole, monkeypatch):
    monkeypatch.setattr(linear, "_WIDE", wide)
    model, processor = open_both(tiny_checkpoint(tmp_path, architecture, query_length=90, query_expansion=True))
    texts = [" ".join(["The river rises in the hills."] * number) for number in (12, 1, 2, 11, 1, 3)]
    # The mask tokens of an expanded query are read although no token attends to them.
    batches = [processor.documents(texts), processor.queries(texts)]
    target = torch.randn(6, 512, model.embedding_dim)
    seen = []
    model.encoder.register_forward_pre_hook(
        lambda module, args, inputs: seen.append(inputs["input_ids"].numel()), with_kwargs=True
    )

    def read(batch):
        seen.clear()
        model.zero_grad()
        output = model(**batch)
        vectors = output.embeddings * output.mask[..., None]
        (vectors * target[:, : vectors.shape[1]]).sum().backward()
        return vectors.detach(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    in_parts = [(*read(batch), list(seen)) for batch in batches]
    whole()
    for batch, (vectors, gradients, tokens) in zip(batches, in_parts, strict=True):
        expected, expected_gradients = read(batch)
        assert (vectors - expected).abs().max() <= 1e-6
        assert gradients.keys() == expected_gradients.keys()
        for name, gradient in gradients.items():
            torch.testing.assert_close(gradient, expected_gradients[name], rtol=1e-4, atol=1e-5, msg=name)
        assert seen == [batch["input_ids"].numel()]
        assert sum(tokens) <= seen[0] and (len(tokens) > 1 or sum(tokens) == seen[0])
    assert len(in_parts[0][2]) > 1


def test_gradient_checkpointing_works_with_fast_linear_maps(tiny, monkeypatch):
    monkeypatch.setattr(linear, "_WIDE", True)
    model, processor = open_both(tiny)
    getattr(model.train(), f"{CHECKPOINTING}_enable")()
    batch = processor.documents([" ".join(["river"] * 100)] * 4)
    model(**batch).embeddings.sum().backward()
    assert all(p.grad is not None for p in model.encoder.encoder.parameters())
