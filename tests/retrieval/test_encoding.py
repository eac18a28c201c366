import pandas as pd
import pytest
import torch
from tiny import demo_pairs

from hf_optical.errors import DataError
from hf_optical.retrieval import encode_texts


TEXTS = [pair["en"] for pair in demo_pairs()[:12]] + ["", "a", "bus " * 90, "a", "..."]


@pytest.mark.parametrize(("role", "batch_size"), [("query", 3), ("document", 3), ("document", 100)])
def test_texts_are_encoded_as_if_alone_and_kept_in_order(tiny_model, tiny_processor, role, batch_size):
    vectors = encode_texts(tiny_model, tiny_processor, TEXTS, role, batch_size=batch_size)
    assert len(vectors) == len(TEXTS)
    for text, found in zip(TEXTS, vectors.to_list(), strict=True):
        with torch.no_grad():
            output = tiny_model(**tiny_processor([text], role))
        alone = output.embeddings[0][output.mask[0]]
        assert found.shape == alone.shape
        assert (found - alone).abs().max() <= 1e-6
        assert torch.allclose(found.norm(dim=-1), torch.ones(len(found)), atol=1e-5)


@pytest.mark.parametrize(("tokens", "batch_size"), [(1024, 4), (64, 32)])
def test_batches_respect_limits_and_are_sorted_by_length(tiny_model, tiny_processor, monkeypatch, tokens, batch_size):
    monkeypatch.setattr("hf_optical.model.parts._MOST_TOKENS", tokens)
    masks = []
    tiny_model.encoder.register_forward_pre_hook(
        lambda encoder, args, kwargs: masks.append(kwargs["attention_mask"]), with_kwargs=True
    )
    encode_texts(tiny_model, tiny_processor, TEXTS, "document", batch_size=batch_size)
    assert sum(len(mask) for mask in masks) == len(TEXTS)
    assert all(len(mask) <= batch_size and (mask.numel() <= tokens or len(mask) == 1) for mask in masks)
    lengths = [length for mask in masks for length in mask.sum(1).tolist()]
    assert lengths == sorted(lengths, reverse=True) and all(mask[0].all() for mask in masks)


def test_skipped_tokens_are_left_out(tiny_model, tiny_processor):
    query, document = (
        encode_texts(tiny_model, tiny_processor, ["the bus, the bus."], role) for role in ("query", "document")
    )
    assert len(query[0]) - len(document[0]) == 2  # the comma and the full stop


@pytest.mark.parametrize("training", [True, False])
def test_dropout_is_off_and_mode_is_restored(tiny_model, tiny_processor, training):
    expected = encode_texts(tiny_model.eval(), tiny_processor, TEXTS, "query")
    tiny_model.train(training)
    found = encode_texts(tiny_model, tiny_processor, TEXTS, "query")
    assert torch.equal(found.values, expected.values)
    assert not found.values.requires_grad
    assert tiny_model.training == training
    assert all(module.training == training for module in tiny_model.modules())


def interrupted(batches):
    raise RuntimeError("interrupted")


def test_mode_is_restored_after_an_error(tiny_model, tiny_processor, monkeypatch):
    tiny_model.train()
    with pytest.raises(ValueError, match="role must be one of 'query', 'document', got 'passage'"):
        encode_texts(tiny_model, tiny_processor, TEXTS, "passage")
    assert tiny_model.training
    with pytest.raises(RuntimeError, match="interrupted"), monkeypatch.context() as patch:
        patch.setattr(tiny_processor, "pad", interrupted)
        encode_texts(tiny_model, tiny_processor, TEXTS, "query")
    assert tiny_model.training


def test_vectors_have_the_requested_dtype(tiny_model, tiny_processor):
    vectors = encode_texts(tiny_model, tiny_processor, TEXTS, "query", dtype=torch.float16)
    exact = encode_texts(tiny_model, tiny_processor, TEXTS, "query")
    assert vectors.values.dtype == torch.float16 and exact.values.dtype == torch.float32
    assert torch.equal(vectors.values, exact.values.half())
    assert encode_texts(tiny_model, tiny_processor, [], "query", dtype=torch.float16).values.dtype == torch.float16
    vectors = encode_texts(tiny_model, tiny_processor, [], "document")
    assert (len(vectors), vectors.dim, vectors.to_list()) == (0, 32, [])


def test_progress_bar_is_off_by_default(tiny_model, tiny_processor, capfd):
    encode_texts(tiny_model, tiny_processor, TEXTS, "query")
    assert capfd.readouterr() == ("", "")
    encode_texts(tiny_model, tiny_processor, TEXTS, "query", show_progress=True)
    progress = capfd.readouterr().err
    assert "Encoding query texts: 100%" in progress
    assert f"{len(TEXTS)}/{len(TEXTS)}" in progress


def test_invalid_arguments_are_refused(tiny_model, tiny_processor):
    with pytest.raises(TypeError, match="texts .*one string"):
        encode_texts(tiny_model, tiny_processor, "the bus", "query")
    with pytest.raises(TypeError, match=r"texts\[1\] .*None"):
        encode_texts(tiny_model, tiny_processor, ["a", None], "query")
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        encode_texts(tiny_model, tiny_processor, ["a"], "query", batch_size=0)


@pytest.mark.promise(
    "Text",
    "Texts keep their order, whether they come from a list, a generator or a data frame's column.",
)
def test_texts_are_encoded_in_order_from_any_iterable(tiny_model, tiny_processor):
    """The index of a data frame's column holds labels in any order, and gaps after filtering."""
    texts = ["the bus, the bus.", "a market " * 30, "water"]
    column = pd.Series(texts, index=[2, 0, 1])
    filtered = pd.Series(["a", *texts])[1:]
    expected = encode_texts(tiny_model, tiny_processor, texts, "document")
    for given in (column, filtered, (text for text in texts), dict.fromkeys(texts).keys(), column.to_numpy()):
        found = encode_texts(tiny_model, tiny_processor, given, "document")
        assert torch.equal(found.values, expected.values) and torch.equal(found.lengths, expected.lengths)
    long = pd.Series(["a " * 5000, "water"], index=[1, 0])
    assert torch.equal(
        tiny_processor(long, "document")["input_ids"], tiny_processor(list(long), "document")["input_ids"]
    )
    for table in (pd.DataFrame({"text": texts}), dict.fromkeys(texts), None, 3):
        with pytest.raises(TypeError, match="texts .*list of strings"):
            encode_texts(tiny_model, tiny_processor, table, "document")


def test_unpaired_surrogates_are_refused_with_their_position(tiny_model, tiny_processor):
    with pytest.raises(DataError, match=r"texts\[300\]"):
        encode_texts(tiny_model, tiny_processor, ["a"] * 300 + ["\ud800"], "query")
