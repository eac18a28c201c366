from __future__ import annotations

import json
import shutil
import string
from pathlib import Path

import pytest
import torch
from model.layout.checkpoints import STANFORD_METADATA, stanford_checkpoint
from peers import TEXTS, embed, largest_difference, open_both, peer_difference
from safetensors.torch import load_file, save_file

from hf_optical import OpticalModel, OpticalProcessor


@pytest.fixture(scope="module")
def bert(tmp_path_factory) -> Path:
    return stanford_checkpoint(tmp_path_factory.mktemp("stanford"), "bert", STANFORD_METADATA)


@pytest.fixture
def checkpoint(bert, tmp_path) -> Path:
    """A copy for the test to change."""
    return shutil.copytree(bert, tmp_path / "checkpoint")


@pytest.mark.parametrize("changes", [{}, {"attend_to_mask_tokens": True, "mask_punctuation": False}], ids=str)
def test_ids_masks_and_vectors_equal_sentence_transformers(checkpoint, changes):
    (checkpoint / "artifact.metadata").write_text(json.dumps({**STANFORD_METADATA, **changes}))
    assert peer_difference(checkpoint) <= 1e-6


@pytest.mark.parametrize("architecture", ["xlm-roberta", "modernbert"])
def test_other_architectures_equal_sentence_transformers(tmp_path, architecture):
    # The skipped punctuation differs there, see below.
    stanford_checkpoint(tmp_path, architecture, {**STANFORD_METADATA, "mask_punctuation": False})
    assert peer_difference(tmp_path) <= 1e-6


@pytest.mark.parametrize("architecture", ["bert", "modernbert"])
def test_saving_writes_the_layout_of_pylate(tmp_path, architecture, quiet):
    stanford_checkpoint(tmp_path / "stanford", architecture, STANFORD_METADATA)
    model, processor = open_both(tmp_path / "stanford")
    model.save_pretrained(tmp_path / "ours")
    processor.save_pretrained(tmp_path / "ours")
    assert largest_difference(embed(tmp_path / "stanford"), embed(tmp_path / "ours")) == 0.0
    copy, again = open_both(tmp_path / "ours")
    assert again.roles == processor.roles
    assert copy.fingerprint() == model.fingerprint()
    assert not any(
        name.startswith(("bert.", "linear.")) for name in load_file(tmp_path / "ours" / "model.safetensors")
    )
    assert "HF_ColBERT" not in (tmp_path / "ours" / "config.json").read_text()
    if architecture == "bert":
        assert peer_difference(tmp_path / "ours") <= 1e-6


def test_settings_are_kept(bert):
    roles = OpticalProcessor.from_pretrained(bert).roles
    assert roles.pop("skip_tokens") == list(string.punctuation)
    assert roles == {
        "query_marker": "[unused0]",
        "document_marker": "[unused1]",
        "query_prompt": "",
        "document_prompt": "",
        "query_length": 16,
        "document_length": 30,
        "query_expansion": True,
        "attend_to_expansion": False,
    }


@pytest.mark.parametrize("content", [None, '{"query_maxlen": null, "doc_token_id": null}'])
def test_missing_settings_have_defaults(checkpoint, content):
    (checkpoint / "artifact.metadata").unlink()
    if content is not None:
        (checkpoint / "artifact.metadata").write_text(content)
    processor = OpticalProcessor.from_pretrained(checkpoint)
    assert (processor.query_length, processor.document_length) == (32, 220)
    assert (processor.query_marker, processor.document_marker) == ("[unused0]", "[unused1]")
    assert processor.query_expansion and not processor.attend_to_expansion
    assert processor.skip_tokens == list(string.punctuation)


def test_vectors_equal_those_computed_by_hand(bert):
    """Without another library: marker as second id, queries filled with masks, punctuation left out."""
    model, processor = open_both(bert)
    tokenizer, weights = processor.tokenizer, load_file(bert / "model.safetensors")
    ids = tokenizer(TEXTS[0], return_tensors="pt", truncation=True, max_length=29)["input_ids"]
    ids = torch.cat([ids[:, :1], torch.tensor([[tokenizer.convert_tokens_to_ids("[unused1]")]]), ids[:, 1:]], dim=1)
    with torch.no_grad():
        hidden = model.encoder(ids, torch.ones_like(ids)).last_hidden_state @ weights["linear.weight"].T
        output = model(**processor.documents([TEXTS[0]]))
    kept = [token not in tokenizer.convert_tokens_to_ids(list(string.punctuation)) for token in ids[0].tolist()]
    assert output.mask[0].tolist() == kept and not all(kept)
    assert (output.embeddings - torch.nn.functional.normalize(hidden, dim=-1)).abs().max() <= 1e-6


@pytest.mark.parametrize("architecture", ["bert", "modernbert"])  # the tiny XLM-R splits ". " into two tokens
def test_ids_equal_those_of_colbert(tmp_path, architecture):
    """ColBERT puts ". " before texts, replaces the dot by a marker, and fills queries with masks."""
    processor = OpticalProcessor.from_pretrained(stanford_checkpoint(tmp_path, architecture, STANFORD_METADATA))
    tokenizer = processor.tokenizer
    expected = tokenizer([f". {text}" for text in TEXTS], truncation=True, max_length=16, padding="max_length")
    ids = torch.tensor(expected["input_ids"])
    ids[:, 1] = tokenizer.convert_tokens_to_ids("[unused0]")
    ids[ids == tokenizer.pad_token_id] = tokenizer.mask_token_id
    batch = processor.queries(TEXTS)
    assert torch.equal(batch["input_ids"], ids)
    assert batch["attention_mask"].tolist() == expected["attention_mask"]
    assert batch["token_mask"].all()


@pytest.mark.parametrize("architecture", ["xlm-roberta", "modernbert"])
def test_first_token_of_each_symbol_is_skipped(tmp_path, architecture):
    processor = OpticalProcessor.from_pretrained(stanford_checkpoint(tmp_path, architecture, STANFORD_METADATA))
    tokenizer = processor.tokenizer
    first = {tokenizer(symbol, add_special_tokens=False)["input_ids"][0] for symbol in string.punctuation}
    batch = processor.documents(TEXTS)
    known = first - {tokenizer.unk_token_id}
    expected = [[i not in known for i in row] for row in batch["input_ids"].tolist()]
    assert batch["token_mask"].tolist() == (torch.tensor(expected) & batch["attention_mask"].bool()).tolist()


def test_half_precision_opens(bert, tmp_path):
    model = OpticalModel.from_pretrained(bert, dtype=torch.bfloat16)
    assert {weight.dtype for weight in model.parameters()} == {torch.bfloat16}
    model.save_pretrained(tmp_path)
    assert OpticalModel.from_pretrained(tmp_path, dtype=torch.bfloat16).fingerprint() == model.fingerprint()


def test_damaged_metadata_raises(checkpoint):
    (checkpoint / "artifact.metadata").write_text("{")
    with pytest.raises(OSError, match="artifact.metadata is not valid JSON"):
        OpticalModel.from_pretrained(checkpoint)


def test_weights_without_projection_raise(checkpoint):
    weights = load_file(checkpoint / "model.safetensors")
    del weights["linear.weight"]
    save_file(weights, checkpoint / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(OSError, match="model.safetensors has no weights linear.weight"):
        OpticalModel.from_pretrained(checkpoint)


def test_other_interactions_raise(checkpoint):
    (checkpoint / "artifact.metadata").write_text(json.dumps({**STANFORD_METADATA, "interaction": "flipr"}))
    with pytest.raises(ValueError, match="must be 'colbert', got 'flipr'"):
        OpticalModel.from_pretrained(checkpoint)


def test_marker_outside_the_vocabulary_raises(checkpoint):
    (checkpoint / "artifact.metadata").write_text(json.dumps({**STANFORD_METADATA, "query_token_id": "[Q]"}))
    with pytest.raises(ValueError, match=r"query_marker must be a token .* got '\[Q\]'"):
        OpticalProcessor.from_pretrained(checkpoint)


def test_pickled_weights_raise_with_a_cure_that_works(checkpoint):
    torch.save(load_file(checkpoint / "model.safetensors"), checkpoint / "pytorch_model.bin")
    (checkpoint / "model.safetensors").unlink()
    with pytest.raises(OSError, match="no safetensors weights. Pickled weights can run code .*pytorch_model.bin"):
        OpticalModel.from_pretrained(checkpoint)
    # The cure in the message.
    there = torch.load(checkpoint / "pytorch_model.bin", weights_only=True)
    save_file(there, checkpoint / "model.safetensors")
    assert OpticalModel.from_pretrained(checkpoint).embedding_dim == 16
