from __future__ import annotations

import json
import shutil
import string
from pathlib import Path

import pytest
import torch
from model.layout.checkpoints import PYLATE_SETTINGS, pylate_checkpoint
from peers import embed, largest_difference, open_both, peer_difference
from safetensors.torch import load_file
from tiny import tiny_checkpoint
from transformers import AutoTokenizer

from hf_optical import OpticalConfig, OpticalModel, OpticalProcessor


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    return pylate_checkpoint(tmp_path_factory.mktemp("pylate"))


@pytest.fixture
def checkpoint(written, tmp_path) -> Path:
    """A copy for the test to change."""
    return shutil.copytree(written, tmp_path / "checkpoint")


def settings(folder: Path, without: tuple[str, ...] = (), **changes) -> None:
    path = folder / "config_sentence_transformers.json"
    stored = {name: value for name, value in json.loads(path.read_text()).items() if name not in without}
    path.write_text(json.dumps({**stored, **changes}))


# Reading.


@pytest.mark.parametrize(
    ("architecture", "changes"),
    [
        ("bert", {}),
        ("modernbert", {"attend_to_expansion_tokens": True}),
        ("xlm-roberta", {"do_query_expansion": False, "prompts": {"query": "query: ", "document": "passage: "}}),
        ("bert", {"query_prefix": "", "document_prefix": "", "prompts": {"query": "search for ", "document": ""}}),
    ],
    ids=str,
)
def test_ids_masks_and_vectors_equal_sentence_transformers(tmp_path, architecture, changes):
    pylate_checkpoint(tmp_path, architecture, **changes)
    assert peer_difference(tmp_path) <= 1e-6


@pytest.mark.parametrize("architecture", ["bert", "modernbert"])
def test_saving_preserves_the_checkpoint(tmp_path, architecture, quiet):
    changes = {"prompts": {"query": "query: ", "document": ""}, "do_query_expansion": False}
    pylate_checkpoint(tmp_path / "pylate", architecture, **changes)
    model, processor = open_both(tmp_path / "pylate")
    model.save_pretrained(tmp_path / "ours")
    processor.save_pretrained(tmp_path / "ours")
    assert OpticalProcessor.from_pretrained(tmp_path / "ours").roles == processor.roles
    assert largest_difference(embed(tmp_path / "pylate"), embed(tmp_path / "ours")) == 0.0


def test_marker_follows_the_opening_token(written):
    processor = OpticalProcessor.from_pretrained(written)
    assert (processor.query_marker, processor.document_marker) == ("[Q] ", "[D] ")
    tokenizer = AutoTokenizer.from_pretrained(written)
    for role, marker in (("query", "[Q] "), ("document", "[D] ")):
        ids = tokenizer("the river", add_special_tokens=False)["input_ids"]
        expected = [tokenizer.cls_token_id, tokenizer.convert_tokens_to_ids(marker), *ids, tokenizer.sep_token_id]
        assert processor([("the river")], role)["input_ids"][0].tolist()[: len(expected)] == expected


def test_prompt_follows_the_marker(checkpoint):
    settings(checkpoint, prompts={"query": "find the ", "document": "[D] a "}, do_query_expansion=False)
    processor = OpticalProcessor.from_pretrained(checkpoint)
    tokenizer = processor.tokenizer
    words = tokenizer("find the river", add_special_tokens=False)["input_ids"]
    marker = tokenizer.convert_tokens_to_ids("[Q] ")
    expected = [tokenizer.cls_token_id, marker, *words, tokenizer.sep_token_id]
    assert processor.queries(["river"])["input_ids"].tolist() == [expected]
    # sentence-transformers adds no marker to a prompt that starts with it.
    assert (processor.document_marker, processor.document_prompt) == ("[D] ", "a ")
    assert peer_difference(checkpoint) <= 1e-6


def test_missing_settings_have_the_defaults_of_pylate(checkpoint):
    settings(checkpoint, without=tuple(set(PYLATE_SETTINGS) - {"query_prefix", "document_prefix"}))
    processor = OpticalProcessor.from_pretrained(checkpoint)
    assert processor.roles == {
        "query_marker": "[Q] ",
        "document_marker": "[D] ",
        "query_prompt": "",
        "document_prompt": "",
        "query_length": 32,
        "document_length": 180,
        "query_expansion": True,
        "attend_to_expansion": False,
        "skip_tokens": [symbol for symbol in string.punctuation if symbol in processor.tokenizer.get_vocab()],
    }
    assert OpticalModel.from_pretrained(checkpoint).embedding_dim == 16


def test_null_settings_count_as_missing(checkpoint):
    settings(checkpoint, query_length=None, skiplist_words=None, do_query_expansion=None, query_prefix=None)
    processor = OpticalProcessor.from_pretrained(checkpoint)
    assert (processor.query_length, processor.query_expansion, processor.query_marker) == (32, True, None)
    assert {",", ";", "?"} < set(processor.skip_tokens) <= set(string.punctuation)


def test_skip_list_with_special_tokens_raises(checkpoint):
    settings(checkpoint, skiplist_words=[".", "[SEP]"])
    with pytest.raises(ValueError, match=r"must not contain special tokens, got \[SEP\]"):
        OpticalProcessor.from_pretrained(checkpoint)


# Writing.


@pytest.mark.parametrize(("architecture", "dtype"), [("bert", torch.float32), ("modernbert", torch.bfloat16)])
def test_model_without_projection_writes_the_identity(tmp_path, architecture, dtype, quiet):
    tiny_checkpoint(tmp_path / "first", architecture)
    model, processor = (one.from_pretrained(tmp_path / "first") for one in (OpticalModel, OpticalProcessor))
    model.to(dtype).save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    (weight,) = load_file(tmp_path / "1_Dense" / "model.safetensors").values()
    assert torch.equal(weight, torch.eye(32, dtype=dtype))
    copy = OpticalModel.from_pretrained(tmp_path, dtype=dtype)
    assert copy.projection is None and copy.config.projection_dim is None
    assert copy.fingerprint() == model.fingerprint()
    batch = processor.documents(["the river"])
    with torch.no_grad():
        assert torch.equal(copy(**batch).embeddings, model(**batch).embeddings)


def test_identity_projection_works_in_sentence_transformers(tmp_path):
    tiny_checkpoint(tmp_path, "xlm-roberta")
    assert peer_difference(tmp_path) <= 1e-6


def test_half_precision_works_in_sentence_transformers(tmp_path):
    """Differences are those of bfloat16, the data type of the model."""
    for size in (None, 16):
        folder = tiny_checkpoint(tmp_path / str(size), projection_dim=size)
        OpticalModel.from_pretrained(folder, dtype=torch.bfloat16).save_pretrained(folder)
        from sentence_transformers import MultiVectorEncoder

        peer = MultiVectorEncoder(str(folder), device="cpu")
        (found,) = peer.encode_document(["the river rises in the hills"])
        processor, model = OpticalProcessor.from_pretrained(folder), OpticalModel.from_pretrained(folder)
        with torch.no_grad():
            expected = model(**processor.documents(["the river rises in the hills"])).embeddings[0]
        assert found.shape == expected.shape
        assert (found.float() - expected).abs().max() <= 0.05


def test_square_projection_other_than_the_identity_is_kept(tmp_path):
    tiny_checkpoint(tmp_path, projection_dim=32)
    assert OpticalModel.from_pretrained(tmp_path).projection is not None
    config = OpticalConfig.from_pretrained(tmp_path)
    assert (config.projection_dim, config.projection_bias) == (32, False)


def test_saved_files_name_no_class_of_this_library(tmp_path):
    tiny_checkpoint(tmp_path, projection_dim=16)
    modules = json.loads((tmp_path / "modules.json").read_text())
    assert [(module["path"], module["type"]) for module in modules] == [
        ("", "sentence_transformers.models.Transformer"),
        ("1_Dense", "sentence_transformers.models.Dense"),
    ]
    stored = json.loads((tmp_path / "config_sentence_transformers.json").read_text())
    assert stored.keys() == PYLATE_SETTINGS.keys() - {"__version__"}
    assert stored["prompts"] == {}


def test_prompts_survive_saving(tiny, tmp_path):
    OpticalModel.from_pretrained(tiny).save_pretrained(tmp_path)
    OpticalProcessor.from_pretrained(tiny, query_prompt="the question: ").save_pretrained(tmp_path)
    stored = json.loads((tmp_path / "config_sentence_transformers.json").read_text())
    assert stored["prompts"] == {"query": "the question: ", "document": ""}
    assert OpticalProcessor.from_pretrained(tmp_path).query_prompt == "the question: "
    assert peer_difference(tmp_path) <= 1e-6
