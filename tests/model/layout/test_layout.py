from __future__ import annotations

import json
import shutil

import pytest
import torch
from packs import make_pack
from tiny import tiny_checkpoint

from hf_optical import LanguagePack, OpticalModel, OpticalProcessor
from hf_optical.model.layout import LinearLayer, read_layout


@pytest.fixture(scope="module")
def projected(tmp_path_factory):
    return tiny_checkpoint(tmp_path_factory.mktemp("projected"), projection_dim=16)


@pytest.fixture
def checkpoint(projected, tmp_path):
    """A copy for the test to damage."""
    return shutil.copytree(projected, tmp_path / "checkpoint")


def edit(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


def test_layout_of_a_checkpoint(projected):
    found = read_layout(projected)
    assert (found.folder, found.revision, found.lower_case) == (projected, None, False)
    assert found.projection == [LinearLayer(projected / "1_Dense" / "model.safetensors", (16, 32))]
    processor = OpticalProcessor.from_pretrained(projected)
    assert found.roles(processor.tokenizer) == processor.roles


def test_revision_is_the_commit_of_the_hub(projected, tmp_path, monkeypatch):
    snapshot = shutil.copytree(projected, tmp_path / "models--some--model" / "snapshots" / "0a1b2c")
    monkeypatch.setattr("hf_optical.storage.fetching.snapshot_download", lambda *_, **__: str(snapshot))
    assert read_layout("some/model").revision == "0a1b2c"
    assert read_layout(snapshot).revision is None


def test_folder_without_config_raises(tmp_path):
    (tmp_path / "notes.txt").write_text("")
    (tmp_path / "weights.bin").write_text("")
    with pytest.raises(OSError, match="looked for config.json, found notes.txt, weights.bin"):
        OpticalModel.from_pretrained(tmp_path)


def test_empty_folder_raises(tmp_path):
    with pytest.raises(OSError, match="looked for config.json, found nothing"):
        OpticalProcessor.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    "name",
    ["config.json", "modules.json", "config_sentence_transformers.json", "1_Dense/config.json", "tokenizer.json"],
)
def test_damaged_json_raises_with_its_name(checkpoint, name):
    (checkpoint / name).write_bytes(b'{"a": "\x80"}' if name == "config.json" else b"{")
    with pytest.raises(OSError, match="the tokenizer in" if name.startswith("tokenizer") else f"checkpoint/{name}"):
        OpticalModel.from_pretrained(checkpoint)
        OpticalProcessor.from_pretrained(checkpoint)


@pytest.mark.parametrize("name", ["modules.json", "config_sentence_transformers.json"])
def test_json_of_the_wrong_type_raises_with_its_name(checkpoint, name):
    (checkpoint / name).write_text('"text"')
    with pytest.raises(OSError, match=f"{name} must hold a JSON"):
        OpticalModel.from_pretrained(checkpoint)


@pytest.mark.parametrize("name", ["model.safetensors", "1_Dense/model.safetensors"])
def test_truncated_file_raises_with_its_name(checkpoint, name):
    cut(checkpoint / name)
    with pytest.raises(OSError, match=f"checkpoint/{name} is cut short or damaged"):
        OpticalModel.from_pretrained(checkpoint)


@pytest.mark.parametrize("folder", ["", "1_Dense"])
def test_pickled_weights_raise(checkpoint, folder):
    (checkpoint / folder / "model.safetensors").unlink()
    torch.save({}, checkpoint / folder / "pytorch_model.bin")
    with pytest.raises(OSError, match="no safetensors weights. Pickled weights can run code"):
        OpticalModel.from_pretrained(checkpoint)


def test_weights_of_another_architecture_raise(checkpoint):
    edit(checkpoint / "config.json", num_hidden_layers=3)
    with pytest.raises(
        OSError, match="lacks 16 weights of a BertModel, such as encoder.layer.2.*do not belong together"
    ):
        OpticalModel.from_pretrained(checkpoint)


def test_folder_without_tokenizer_raises(checkpoint):
    for path in checkpoint.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(OSError, match="no tokenizer files"):
        OpticalProcessor.from_pretrained(checkpoint)


@pytest.mark.parametrize("content", ['{"model_type": "no-such-model"}', '{"_class_name": "UNet2DModel"}'])
def test_config_without_encoder_raises(checkpoint, content):
    (checkpoint / "config.json").write_text(content)
    with pytest.raises(OSError, match="transformers cannot open the encoder of .*checkpoint/config.json: "):
        OpticalModel.from_pretrained(checkpoint)


def test_language_pack_raises_with_how_to_open_it(tiny, tmp_path):
    make_pack(tiny, "sw", 3).save_pretrained(tmp_path)
    for one in (OpticalModel, OpticalProcessor):
        with pytest.raises(OSError, match="is a language pack; open it with OpticalRetriever.from_pretrained"):
            one.from_pretrained(tmp_path)
    assert LanguagePack.from_pretrained(tmp_path).language == "sw"


def test_peft_adapter_raises_with_how_to_open_it(tiny, tmp_path):
    make_pack(tiny, "sw", 3).save_pretrained(tmp_path)
    (tmp_path / "language_pack.json").unlink()
    with pytest.raises(OSError, match="is a PEFT adapter without its base; open the base"):
        OpticalModel.from_pretrained(tmp_path)
