from __future__ import annotations

import hashlib
import json
import shutil

import pytest
import torch
from tiny import MINILM, tiny_checkpoint

from hf_optical import OpticalConfig, OpticalModel, OpticalProcessor
from hf_optical.model import layout
from hf_optical.model.layout import local_folder, packaged_copy, public_name, read_json, read_layout


@pytest.fixture(scope="module")
def projected(tmp_path_factory):
    return tiny_checkpoint(tmp_path_factory.mktemp("projected"), projection_dim=16)


@pytest.fixture
def checkpoint(projected, tmp_path):
    """A copy that a test may damage."""
    return shutil.copytree(projected, tmp_path / "checkpoint")


def edit(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


def test_what_is_found(projected):
    found = read_layout(projected)
    assert found.folder == projected
    assert found.dense == projected / "1_Dense"
    assert found.roles["query_length"] == 64
    assert found.max_length == 256


def test_a_plain_encoder_has_only_a_folder(checkpoint):
    for name in ("modules.json", "config_sentence_transformers.json", "sentence_bert_config.json"):
        (checkpoint / name).unlink()
    assert read_layout(checkpoint) == layout.Layout(checkpoint)


def test_a_dense_layer_behind_a_pooling_layer_is_left_alone(checkpoint):
    modules = read_json(checkpoint / "modules.json", list)
    modules.insert(1, {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"})
    (checkpoint / "modules.json").write_text(json.dumps(modules))
    assert read_layout(checkpoint).dense is None
    assert OpticalModel.from_pretrained(checkpoint).projection is None


def test_the_class_path_of_other_libraries(checkpoint):
    modules = read_json(checkpoint / "modules.json", list)
    modules[1]["type"] = "pylate.models.Dense.Dense"
    (checkpoint / "modules.json").write_text(json.dumps(modules))
    assert OpticalConfig.from_pretrained(checkpoint).projection_dim == 16


def test_two_dense_layers_are_refused(checkpoint):
    modules = read_json(checkpoint / "modules.json", list)
    (checkpoint / "modules.json").write_text(json.dumps([*modules, modules[1]]))
    with pytest.raises(ValueError, match="through 2 layers; one is read"):
        OpticalModel.from_pretrained(checkpoint)


def test_no_model_folder(tmp_path):
    (tmp_path / "notes.txt").write_text("")
    (tmp_path / "weights.bin").write_text("")
    with pytest.raises(OSError, match="looked for config.json, found notes.txt, weights.bin"):
        OpticalModel.from_pretrained(tmp_path)


def test_an_empty_folder(tmp_path):
    with pytest.raises(OSError, match="looked for config.json, found nothing"):
        OpticalProcessor.from_pretrained(tmp_path)


@pytest.mark.parametrize("name", ["no-such/model", "no-such-model"])
def test_an_id_that_cannot_be_fetched(name):
    with pytest.raises(OSError, match=f"{name}' is not a folder .* could not be fetched from the Hub; check the name"):
        OpticalModel.from_pretrained(name)


def test_a_revision_that_cannot_be_fetched_is_named():
    with pytest.raises(OSError, match="at revision 'v9'"):
        OpticalModel.from_pretrained(MINILM, revision="v9")


def test_a_path_that_is_neither_folder_nor_id(projected):
    with pytest.raises(OSError, match="neither a folder on this machine nor the id"):
        OpticalModel.from_pretrained(projected / "config.json")


@pytest.mark.parametrize(
    "name",
    ["config.json", "modules.json", "config_sentence_transformers.json", "1_Dense/config.json", "tokenizer.json"],
)
@pytest.mark.parametrize("content", ["{", '{"a": "\udc80"}'])
def test_damaged_json_is_named(checkpoint, name, content):
    (checkpoint / name).write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(OSError, match="the tokenizer in" if name.startswith("tokenizer") else f"checkpoint/{name}"):
        OpticalModel.from_pretrained(checkpoint)
        OpticalProcessor.from_pretrained(checkpoint)


@pytest.mark.parametrize("name", ["modules.json", "config_sentence_transformers.json"])
def test_json_of_another_kind_is_named(checkpoint, name):
    (checkpoint / name).write_text('"text"')
    with pytest.raises(OSError, match=f"{name} holds no JSON"):
        OpticalModel.from_pretrained(checkpoint)


@pytest.mark.parametrize("name", ["model.safetensors", "1_Dense/model.safetensors"])
def test_a_truncated_file_is_named(checkpoint, name):
    cut(checkpoint / name)
    with pytest.raises(OSError, match=f"checkpoint/{name} is cut short or damaged"):
        OpticalModel.from_pretrained(checkpoint)


@pytest.mark.parametrize("folder", ["", "1_Dense"])
def test_pickled_weights_are_refused(checkpoint, folder):
    (checkpoint / folder / "model.safetensors").unlink()
    torch.save({}, checkpoint / folder / "pytorch_model.bin")
    with pytest.raises(OSError, match="no safetensors weights. Pickled weights can run code"):
        OpticalModel.from_pretrained(checkpoint)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"activation_function": "torch.nn.modules.activation.Tanh"}, "Tanh"),
        ({"use_residual": True}, "a residual connection"),
    ],
)
def test_a_projection_that_is_not_linear_is_refused(checkpoint, changes, named):
    edit(checkpoint / "1_Dense" / "config.json", **changes)
    with pytest.raises(ValueError, match=f"{named}; only a linear projection is read"):
        OpticalModel.from_pretrained(checkpoint)


def test_a_projection_of_another_size_than_it_says(checkpoint):
    edit(checkpoint / "1_Dense" / "config.json", out_features=8)
    with pytest.raises(OSError, match="1_Dense are not those of Linear.in_features=32, out_features=8"):
        OpticalModel.from_pretrained(checkpoint)


def test_weights_of_another_architecture_are_refused(checkpoint):
    edit(checkpoint / "config.json", num_hidden_layers=3)
    with pytest.raises(OSError, match="lacks 16 weights of a BertModel, encoder.layer.2.*do not belong together"):
        OpticalModel.from_pretrained(checkpoint)


def test_a_folder_without_tokenizer(checkpoint):
    for path in checkpoint.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(OSError, match="no tokenizer files"):
        OpticalProcessor.from_pretrained(checkpoint)


@pytest.fixture
def package(tmp_path, monkeypatch, projected):
    """An installed package that carries a model under a Hub id."""
    root = tmp_path / "site" / "optical_test_package"
    shutil.copytree(projected, root / "model")
    (root / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(root.parent)
    digest = hashlib.sha256((root / "model" / "model.safetensors").read_bytes()).hexdigest()
    monkeypatch.setitem(layout._PACKAGED, "some/model", ("optical_test_package", "model", digest))
    monkeypatch.setitem(layout._PACKAGED, "not/installed", ("optical_test_absent", "model", digest))
    return root


def test_a_package_stands_in_for_the_hub(package):
    assert local_folder("some/model") == package / "model"
    model = OpticalModel.from_pretrained("some/model")
    # Without a commit: whoever opens a pack of it may have the package, or what is newest on the Hub.
    assert (model.name_or_path, model.revision) == ("some/model", None)


def test_a_package_with_other_weights_does_not(package):
    weights = package / "model" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert packaged_copy("some/model") is None
    with pytest.raises(OSError, match="could not be fetched"):
        local_folder("some/model")


def test_a_package_without_the_weights_does_not(package):
    (package / "model" / "model.safetensors").unlink()
    assert packaged_copy("some/model") is None


def test_a_package_that_is_not_installed_and_an_id_without_package(package):
    assert packaged_copy("not/installed") is None
    assert packaged_copy("other/model") is None


def test_a_revision_is_asked_of_the_hub(package):
    with pytest.raises(OSError, match="at revision 'main'"):
        local_folder("some/model", revision="main")


@pytest.mark.parametrize(
    ("name", "told"),
    [("org/model", "org/model"), ("model", "model"), ("/home/me/runs/ha", "ha"), ("../base/", "base"), ("", "")],
)
def test_of_a_path_others_are_told_the_last_part(name, told):
    assert public_name(name) == told


def test_a_folder_that_is_named_like_an_id(tmp_path, monkeypatch):
    (tmp_path / "outputs" / "ha").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert public_name("outputs/ha") == "ha"
    assert public_name(str(tmp_path)) == tmp_path.name


def test_minilm_is_installed_with_the_published_weights():
    folder = packaged_copy(MINILM)
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    assert digest == "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
