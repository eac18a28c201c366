from __future__ import annotations

import hashlib
import shutil

import pytest
import torch
from safetensors.torch import save_file
from tiny import MINILM, tiny_checkpoint

from hf_optical import OpticalModel
from hf_optical.storage import fetching
from hf_optical.storage.fetching import local_folder, packaged_copy, public_name
from hf_optical.storage.json_files import read_json, read_optional_json
from hf_optical.storage.safetensors_files import read_weights, weight_names


@pytest.fixture(scope="module")
def projected(tmp_path_factory):
    return tiny_checkpoint(tmp_path_factory.mktemp("projected"), projection_dim=16)


def test_what_cannot_be_fetched_is_error(projected):
    name = "no-such/model"
    with pytest.raises(OSError, match=f"{name}' is not a folder .* could not be fetched from the Hub; check the name"):
        OpticalModel.from_pretrained(name)
    with pytest.raises(OSError, match="at revision 'v9'"):
        OpticalModel.from_pretrained(MINILM, revision="v9")
    with pytest.raises(OSError, match="neither a folder on this machine nor the id"):
        OpticalModel.from_pretrained(projected / "config.json")


@pytest.fixture
def package(tmp_path, monkeypatch, projected):
    """An installed package that contains the model of a Hub id."""
    root = tmp_path / "site" / "optical_test_package"
    shutil.copytree(projected, root / "model")
    (root / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(root.parent)
    digest = hashlib.sha256((root / "model" / "model.safetensors").read_bytes()).hexdigest()
    monkeypatch.setitem(fetching._PACKAGED, "some/model", ("optical_test_package", "model", digest))
    monkeypatch.setitem(fetching._PACKAGED, "not/installed", ("optical_test_absent", "model", digest))
    return root


def test_model_of_installed_package_is_used(package):
    assert local_folder("some/model") == package / "model"
    model = OpticalModel.from_pretrained("some/model")
    # No commit: a pack of this base may be opened with the package or with the newest version on the Hub.
    assert (model.name_or_path, model.revision) == ("some/model", None)
    with pytest.raises(OSError, match="at revision 'main'"):
        local_folder("some/model", revision="main")
    assert packaged_copy("not/installed") is None
    assert packaged_copy("other/model") is None


def test_package_with_other_weights_or_none_is_not_used(package):
    weights = package / "model" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert packaged_copy("some/model") is None
    with pytest.raises(OSError, match="could not be fetched"):
        local_folder("some/model")
    weights.unlink()
    assert packaged_copy("some/model") is None


def test_public_name_of_path_is_its_last_part(tmp_path, monkeypatch):
    assert [public_name(name) for name in ("org/model", "model", "/home/me/runs/ha", "../base/", "")] == [
        *("org/model", "model", "ha", "base", "")
    ]
    (tmp_path / "outputs" / "ha").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert public_name("outputs/ha") == "ha"
    assert public_name(str(tmp_path)) == tmp_path.name


def test_installed_minilm_has_published_weights():
    folder = packaged_copy(MINILM)
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    assert digest == "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


def test_missing_optional_file_reads_as_empty(tmp_path):
    assert read_optional_json(tmp_path / "a.json") == {}
    assert read_optional_json(tmp_path / "a.json", list) == []
    (tmp_path / "a.json").write_text('{"a": 1}')
    assert read_optional_json(tmp_path / "a.json") == read_json(tmp_path / "a.json") == {"a": 1}
    with pytest.raises(OSError, match="a.json must hold a JSON list"):
        read_optional_json(tmp_path / "a.json", list)


def test_weights_are_read_by_name(tmp_path):
    save_file({"a": torch.zeros(2), "b": torch.ones(3)}, tmp_path / "model.safetensors")
    assert weight_names(tmp_path) == {"a", "b"}
    (read,) = read_weights(tmp_path / "model.safetensors", ["b"]).values()
    assert torch.equal(read, torch.ones(3))
    with pytest.raises(OSError, match="model.safetensors has no weights c, d; fetch or save"):
        read_weights(tmp_path / "model.safetensors", ["b", "d", "c"])


def test_patterns_select_files_to_download():
    from fnmatch import fnmatch

    fetched = [
        *("config.json", "modules.json", "tokenizer.json", "vocab.txt", "sentencepiece.bpe.model"),
        *("model.safetensors", "model-00001-of-00002.safetensors", "model.safetensors.index.json"),
        *("1_Dense/config.json", "2_Dense/model.safetensors", "2_MultiVectorMask/config.json", "artifact.metadata"),
        *("language_pack.json", "adapter_model.safetensors", "language_packs/sw/adapter_model.safetensors"),
    ]
    ignored = ["pytorch_model.bin", "onnx/model.onnx", "tf_model.h5", "README.md", "1_Pooling/weights.bin"]
    for name in [*fetched, *ignored]:
        assert any(fnmatch(name, pattern) for pattern in fetching._PATTERNS) == (name in fetched), name
