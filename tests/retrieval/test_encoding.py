import pandas as pd
import pytest
import torch
from tiny import demo_pairs

from hf_optical.errors import DataError
from hf_optical.retrieval import encode_texts


TEXTS = [pair["en"] for pair in demo_pairs()[:12]] + ["", "a", "bus " * 90, "a", "..."]


@pytest.mark.parametrize("role", ["query", "document"])
@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_each_text_as_if_it_were_alone_and_in_its_place(tiny_model, tiny_processor, role, batch_size):
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
def test_a_batch_holds_no_more_than_asked_and_little_padding(
    tiny_model, tiny_processor, monkeypatch, tokens, batch_size
):
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


def test_tokens_that_take_no_part_are_left_out(tiny_model, tiny_processor):
    query, document = (
        encode_texts(tiny_model, tiny_processor, ["the bus, the bus."], role) for role in ("query", "document")
    )
    assert len(query[0]) - len(document[0]) == 2  # the comma and the full stop


@pytest.mark.parametrize("training", [True, False])
def test_dropout_is_off_and_the_mode_restored(tiny_model, tiny_processor, training):
    expected = encode_texts(tiny_model.eval(), tiny_processor, TEXTS, "query")
    tiny_model.train(training)
    found = encode_texts(tiny_model, tiny_processor, TEXTS, "query")
    assert torch.equal(found.values, expected.values)
    assert not found.values.requires_grad
    assert tiny_model.training == training
    assert all(module.training == training for module in tiny_model.modules())


def test_the_mode_is_restored_after_an_error(tiny_model, tiny_processor):
    with pytest.raises(ValueError, match="role='passage'"):
        encode_texts(tiny_model.train(), tiny_processor, TEXTS, "passage")
    assert tiny_model.training


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_the_type_asked_for(tiny_model, tiny_processor, dtype):
    vectors = encode_texts(tiny_model, tiny_processor, TEXTS, "query", dtype=dtype)
    assert vectors.values.dtype == dtype
    assert encode_texts(tiny_model, tiny_processor, [], "query", dtype=dtype).values.dtype == dtype
    exact = encode_texts(tiny_model, tiny_processor, TEXTS, "query")
    assert torch.equal(vectors.values, exact.values.to(dtype))


def test_no_texts(tiny_model, tiny_processor):
    vectors = encode_texts(tiny_model, tiny_processor, [], "document")
    assert (len(vectors), vectors.dim, vectors.to_list()) == (0, 32, [])


def test_progress_only_where_asked_for(tiny_model, tiny_processor, capfd):
    encode_texts(tiny_model, tiny_processor, TEXTS, "query")
    assert capfd.readouterr() == ("", "")
    encode_texts(tiny_model, tiny_processor, TEXTS, "query", show_progress=True)
    progress = capfd.readouterr().err
    assert "Encoding query texts: 100%" in progress
    assert f"{len(TEXTS)}/{len(TEXTS)}" in progress


def test_what_is_no_list_of_strings(tiny_model, tiny_processor):
    with pytest.raises(TypeError, match="list of strings, got one string"):
        encode_texts(tiny_model, tiny_processor, "the bus", "query")
    with pytest.raises(TypeError, match=r"texts\[1\] must be a string, got None"):
        encode_texts(tiny_model, tiny_processor, ["a", None], "query")
    with pytest.raises(ValueError, match="batch_size is 0"):
        encode_texts(tiny_model, tiny_processor, ["a"], "query", batch_size=0)


@pytest.mark.promise(
    "Text",
    "Texts are read in the order in which they come, from a list, a generator or a data frame's column alike.",
)
def test_texts_are_read_in_their_order_whatever_holds_them(tiny_model, tiny_processor):
    """A data frame's column counts by labels, in whatever order they are; of a filtered one some are missing."""
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
        with pytest.raises(TypeError, match="texts must be a list of strings, got "):
            encode_texts(tiny_model, tiny_processor, table, "document")


def test_half_a_character_is_refused_with_its_position(tiny_model, tiny_processor):
    with pytest.raises(DataError, match=r"texts\[300\] holds half"):
        encode_texts(tiny_model, tiny_processor, ["a"] * 300 + ["\ud800"], "query")
