from __future__ import annotations

import json
import shutil

import pytest
from peers import TEXTS, peer_difference
from tiny import tiny_checkpoint

from hf_optical import OpticalConfig, OpticalModel, OpticalProcessor
from hf_optical.model.layout import read_layout
from hf_optical.storage.json_files import read_json


@pytest.fixture(scope="module")
def projected(tmp_path_factory):
    return tiny_checkpoint(tmp_path_factory.mktemp("projected"), projection_dim=16)


@pytest.fixture
def checkpoint(projected, tmp_path):
    """A copy without what says how texts are read."""
    shutil.copytree(projected, tmp_path / "checkpoint")
    (tmp_path / "checkpoint" / "config_sentence_transformers.json").unlink()
    return tmp_path / "checkpoint"


def test_plain_encoder_needs_no_other_files(checkpoint):
    for name in ("modules.json", "sentence_bert_config.json"):
        (checkpoint / name).unlink()
    found = read_layout(checkpoint)
    tokenizer = OpticalProcessor.from_pretrained(checkpoint).tokenizer
    assert (found.folder, found.projection, found.lower_case) == (checkpoint, [], False)
    assert found.roles(tokenizer) == {"document_length": 256, "query_prompt": "", "document_prompt": ""}


def test_dense_layer_after_pooling_is_ignored(checkpoint):
    modules = read_json(checkpoint / "modules.json", list)
    modules.insert(1, {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"})
    (checkpoint / "modules.json").write_text(json.dumps(modules))
    assert read_layout(checkpoint).projection == []
    assert OpticalModel.from_pretrained(checkpoint).projection is None


@pytest.mark.parametrize("kind", ["pylate.models.Dense.Dense", "sentence_transformers.base.modules.dense.Dense"])
def test_class_paths_of_other_libraries_are_recognised(checkpoint, kind):
    modules = read_json(checkpoint / "modules.json", list)
    modules[1]["type"] = kind
    (checkpoint / "modules.json").write_text(json.dumps(modules))
    assert OpticalConfig.from_pretrained(checkpoint).projection_dim == 16


def test_prompts_of_a_sentence_encoder_are_kept(checkpoint):
    stored = {"prompts": {"query": "the question: ", "passage": "the text: "}, "similarity_fn_name": "cosine"}
    (checkpoint / "config_sentence_transformers.json").write_text(json.dumps(stored))
    processor = OpticalProcessor.from_pretrained(checkpoint)
    assert (processor.query_prompt, processor.document_prompt) == ("the question: ", "")
    assert (processor.query_length, processor.query_expansion) == (64, False)
    without = OpticalProcessor.from_pretrained(checkpoint, query_prompt="")
    asked = [f"the question: {text}" for text in TEXTS]
    assert processor.queries(TEXTS)["input_ids"].tolist() == without.queries(asked)["input_ids"].tolist()


def test_sentence_encoder_equals_sentence_transformers(checkpoint):
    """Made a `MultiVectorEncoder` of there, it skips nothing and is as long as the encoder."""
    stored = {"model_type": "SentenceTransformer", "prompts": {"query": "the question: ", "document": "the text: "}}
    (checkpoint / "config_sentence_transformers.json").write_text(json.dumps(stored))
    processor = OpticalProcessor.from_pretrained(checkpoint, skip_tokens=[], query_length=256)
    processor.save_pretrained(checkpoint / "ours")
    OpticalModel.from_pretrained(checkpoint).save_pretrained(checkpoint / "ours")
    assert peer_difference(checkpoint / "ours") <= 1e-6
