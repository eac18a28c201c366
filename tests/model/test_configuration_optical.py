from __future__ import annotations

import json

import pytest
from transformers import DistilBertConfig

from hf_optical import OpticalConfig


ENCODER = DistilBertConfig(vocab_size=50, dim=32, n_layers=1, n_heads=2, hidden_dim=64)


def test_embedding_dim_is_the_size_of_the_projection():
    assert OpticalConfig(encoder_config=ENCODER).embedding_dim == 32
    assert OpticalConfig(encoder_config=ENCODER, projection_dim=8).embedding_dim == 8


@pytest.mark.parametrize("settings", [{}, {"projection_dim": 8, "projection_bias": True}])
def test_config_survives_saving(tmp_path, settings):
    config = OpticalConfig(encoder_config=ENCODER, **settings)
    config.save_pretrained(tmp_path)
    for copy in (
        OpticalConfig.from_pretrained(tmp_path),
        OpticalConfig(**config.to_dict()),
        OpticalConfig.from_dict(json.loads(config.to_json_string(use_diff=False))),
    ):
        assert isinstance(copy.encoder_config, DistilBertConfig)
        assert copy.encoder_config.n_layers == 1
        for name in ("projection_dim", "projection_bias"):
            assert getattr(copy, name) == getattr(config, name)


def test_saved_config_consists_of_encoder_and_projection(tmp_path):
    OpticalConfig(encoder_config=ENCODER, projection_dim=8).save_pretrained(tmp_path)
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.json")) == [
        "1_Dense/config.json",
        "config.json",
        "modules.json",
    ]
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "distilbert"
    assert json.loads((tmp_path / "1_Dense" / "config.json").read_text()) == {
        "in_features": 32,
        "out_features": 8,
        "bias": False,
        "activation_function": "torch.nn.modules.linear.Identity",
    }
    # Other libraries would ask for `trust_remote_code` if it named a class of this library.
    assert [module["type"] for module in json.loads((tmp_path / "modules.json").read_text())] == [
        "sentence_transformers.models.Transformer",
        "sentence_transformers.models.Dense",
    ]


def test_saving_without_projection_replaces_an_old_one(tmp_path):
    OpticalConfig(encoder_config=ENCODER, projection_dim=8).save_pretrained(tmp_path)
    OpticalConfig(encoder_config=ENCODER).save_pretrained(tmp_path)
    assert OpticalConfig.from_pretrained(tmp_path).projection_dim is None


def test_arguments_take_precedence(tmp_path):
    OpticalConfig(encoder_config=ENCODER).save_pretrained(tmp_path)
    assert OpticalConfig.from_pretrained(tmp_path, projection_dim=4).projection_dim == 4


def test_saved_config_refers_to_no_remote_code(tmp_path):
    OpticalConfig(encoder_config=ENCODER).save_pretrained(tmp_path)
    stored = json.loads((tmp_path / "config.json").read_text())
    stored["auto_map"] = {"AutoModel": "someone/repository--modeling.Model"}
    (tmp_path / "config.json").write_text(json.dumps(stored))
    OpticalConfig.from_pretrained(tmp_path).save_pretrained(tmp_path / "again")
    assert "auto_map" not in json.loads((tmp_path / "again" / "config.json").read_text())
