from __future__ import annotations

import json
import shutil
import string
from pathlib import Path

import pytest
import torch
from peers import embed, largest_difference, open_both, peer_difference
from safetensors.torch import load_file, save_file
from tiny import ARCHITECTURES, tiny_checkpoint, tiny_tokenizer
from transformers import AutoConfig, AutoModel, AutoTokenizer, set_seed

from hf_optical import OpticalConfig, OpticalModel, OpticalProcessor


LATE = ("bert", "xlm-roberta", "modernbert")
# As PyLate writes it.
SETTINGS = {
    "model_type": "ColBERT",
    "__version__": {"sentence_transformers": "5.3.0", "transformers": "5.3.0", "pytorch": "2.13.0"},
    "prompts": {"query": "", "document": ""},
    "default_prompt_name": None,
    "similarity_fn_name": "MaxSim",
    "query_prefix": "[Q] ",
    "document_prefix": "[D] ",
    "query_length": 24,
    "document_length": 40,
    "attend_to_expansion_tokens": False,
    "skiplist_words": [",", ".", "?"],
    "do_query_expansion": True,
}


def pylate_checkpoint(folder: Path, architecture: str = "bert", **changes) -> Path:
    """A checkpoint as PyLate writes it: markers with their space in the vocabulary, [MASK] for padding."""
    settings, kind = ARCHITECTURES[architecture]
    tokenizer = tiny_tokenizer(kind)
    padding = tokenizer.pad_token_id
    tokenizer.add_tokens(["[Q] ", "[D] "])
    tokenizer.pad_token = tokenizer.mask_token
    set_seed(2)
    config = AutoConfig.for_model(architecture, **settings, vocab_size=len(tokenizer), pad_token_id=padding)
    AutoModel.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    kinds = {"": "sentence_transformers.models.Transformer", "1_Dense": "pylate.models.Dense.Dense"}
    modules = [{"idx": i, "name": str(i), "path": path, "type": kinds[path]} for i, path in enumerate(kinds)]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Dense").mkdir()
    dense = {"in_features": 32, "out_features": 16, "bias": False, "use_residual": False}
    dense["activation_function"] = "torch.nn.modules.linear.Identity"
    (folder / "1_Dense" / "config.json").write_text(json.dumps(dense))
    save_file({"linear.weight": torch.randn(16, 32)}, folder / "1_Dense" / "model.safetensors")
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 39, "do_lower_case": false}')
    (folder / "config_sentence_transformers.json").write_text(json.dumps({**SETTINGS, **changes}))
    return folder


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    return pylate_checkpoint(tmp_path_factory.mktemp("pylate"))


@pytest.fixture
def checkpoint(written, tmp_path) -> Path:
    """A copy that a test may change."""
    return shutil.copytree(written, tmp_path / "checkpoint")


def settings(folder: Path, without: tuple[str, ...] = (), **changes) -> None:
    path = folder / "config_sentence_transformers.json"
    stored = {name: value for name, value in json.loads(path.read_text()).items() if name not in without}
    path.write_text(json.dumps({**stored, **changes}))


# Reading.


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"attend_to_expansion_tokens": True},
        {"do_query_expansion": False, "prompts": {"query": "query: ", "document": "passage: "}},
        {"query_prefix": "", "document_prefix": "", "prompts": {"query": "search for ", "document": ""}},
    ],
    ids=str,
)
@pytest.mark.parametrize("architecture", LATE)
def test_ids_masks_and_vectors_are_those_of_sentence_transformers(tmp_path, architecture, changes):
    pylate_checkpoint(tmp_path, architecture, **changes)
    assert peer_difference(tmp_path) <= 1e-6


@pytest.mark.parametrize("architecture", LATE)
def test_saved_again_it_is_the_same(tmp_path, architecture, quiet):
    changes = {"prompts": {"query": "query: ", "document": ""}, "do_query_expansion": False}
    pylate_checkpoint(tmp_path / "pylate", architecture, **changes)
    model, processor = open_both(tmp_path / "pylate")
    model.save_pretrained(tmp_path / "ours")
    processor.save_pretrained(tmp_path / "ours")
    assert OpticalProcessor.from_pretrained(tmp_path / "ours").roles == processor.roles
    assert largest_difference(embed(tmp_path / "pylate"), embed(tmp_path / "ours")) == 0.0


def test_a_marker_is_inserted_behind_the_opening_token(written):
    processor = OpticalProcessor.from_pretrained(written)
    assert (processor.query_marker, processor.document_marker) == ("[Q] ", "[D] ")
    tokenizer = AutoTokenizer.from_pretrained(written)
    for role, marker in (("query", "[Q] "), ("document", "[D] ")):
        ids = tokenizer("the river", add_special_tokens=False)["input_ids"]
        expected = [tokenizer.cls_token_id, tokenizer.convert_tokens_to_ids(marker), *ids, tokenizer.sep_token_id]
        assert processor([("the river")], role)["input_ids"][0].tolist()[: len(expected)] == expected


def test_a_prefix_and_a_prompt_stand_in_this_order(checkpoint):
    settings(checkpoint, prompts={"query": "find the ", "document": "[D] a "}, do_query_expansion=False)
    processor = OpticalProcessor.from_pretrained(checkpoint)
    tokenizer = processor.tokenizer
    words = tokenizer("find the river", add_special_tokens=False)["input_ids"]
    marker = tokenizer.convert_tokens_to_ids("[Q] ")
    expected = [tokenizer.cls_token_id, marker, *words, tokenizer.sep_token_id]
    assert processor.queries(["river"])["input_ids"].tolist() == [expected]
    # sentence-transformers takes a prompt that begins with the marker for the whole of it.
    assert (processor.document_marker, processor.document_prompt) == ("[D] ", "a ")
    assert peer_difference(checkpoint) <= 1e-6


def test_what_is_missing_is_as_in_pylate(checkpoint):
    settings(checkpoint, without=tuple(set(SETTINGS) - {"query_prefix", "document_prefix"}))
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


def test_null_is_as_missing(checkpoint):
    settings(checkpoint, query_length=None, skiplist_words=None, do_query_expansion=None, query_prefix=None)
    processor = OpticalProcessor.from_pretrained(checkpoint)
    assert (processor.query_length, processor.query_expansion, processor.query_marker) == (32, True, None)
    assert {",", ";", "?"} < set(processor.skip_tokens) <= set(string.punctuation)


def test_a_skip_list_with_special_tokens_is_refused(checkpoint):
    settings(checkpoint, skiplist_words=[".", "[SEP]"])
    with pytest.raises(ValueError, match=r"names \[SEP\]; special tokens are never skipped"):
        OpticalProcessor.from_pretrained(checkpoint)


# Writing.


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("architecture", LATE)
def test_without_projection_the_identity_is_written(tmp_path, architecture, dtype, quiet):
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


@pytest.mark.parametrize("architecture", LATE)
def test_the_identity_in_sentence_transformers(tmp_path, architecture):
    tiny_checkpoint(tmp_path, architecture)
    assert peer_difference(tmp_path) <= 1e-6


def test_half_precision_in_sentence_transformers(tmp_path):
    """In their own type: the largest difference is that of bfloat16."""
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


def test_a_square_projection_that_is_not_the_identity_stays(tmp_path):
    tiny_checkpoint(tmp_path, projection_dim=32)
    assert OpticalModel.from_pretrained(tmp_path).projection is not None
    config = OpticalConfig.from_pretrained(tmp_path)
    assert (config.projection_dim, config.projection_bias) == (32, False)


def test_no_class_of_ours_is_named(tmp_path):
    tiny_checkpoint(tmp_path, projection_dim=16)
    modules = json.loads((tmp_path / "modules.json").read_text())
    assert [(module["path"], module["type"]) for module in modules] == [
        ("", "sentence_transformers.models.Transformer"),
        ("1_Dense", "sentence_transformers.models.Dense"),
    ]
    stored = json.loads((tmp_path / "config_sentence_transformers.json").read_text())
    assert stored.keys() == SETTINGS.keys() - {"__version__"}
    assert stored["prompts"] == {}


def test_prompts_are_written(tiny, tmp_path):
    OpticalModel.from_pretrained(tiny).save_pretrained(tmp_path)
    OpticalProcessor.from_pretrained(tiny, query_prompt="the question: ").save_pretrained(tmp_path)
    stored = json.loads((tmp_path / "config_sentence_transformers.json").read_text())
    assert stored["prompts"] == {"query": "the question: ", "document": ""}
    assert OpticalProcessor.from_pretrained(tmp_path).query_prompt == "the question: "
    assert peer_difference(tmp_path) <= 1e-6
