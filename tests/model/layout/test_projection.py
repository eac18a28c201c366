from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from hf_optical.model.layout import load_projection
from hf_optical.model.layout.projection import LinearLayer, dense_layers


def write_layer(folder, layer: nn.Linear, residual: nn.Linear | None = None, **config) -> dict:
    """Save a `Dense` module of sentence-transformers and return its entry in `modules.json`."""
    folder.mkdir()
    weights = {f"linear.{name}": weight.detach() for name, weight in layer.named_parameters()}
    if residual is not None:
        weights["residual.weight"] = residual.weight.detach()
    save_file(weights, folder / "model.safetensors")
    shape = {"in_features": layer.in_features, "out_features": layer.out_features, "bias": layer.bias is not None}
    (folder / "config.json").write_text(json.dumps(shape | config))
    return {"path": folder.name, "type": "sentence_transformers.models.Dense"}


def test_no_layers_give_no_projection():
    assert load_projection([]) is None


@pytest.mark.parametrize(("bias", "dtype"), [(False, torch.float32), (True, torch.bfloat16)])
def test_single_layer_is_read_bit_for_bit(tmp_path, bias, dtype):
    layer = nn.Linear(6, 4, bias=bias, dtype=dtype)
    found = load_projection(dense_layers(tmp_path, [write_layer(tmp_path / "1_Dense", layer)]))
    assert found.keys() == dict(layer.named_parameters()).keys()
    for name, weight in layer.named_parameters():
        assert found[name].dtype == dtype and torch.equal(found[name], weight)


@pytest.mark.parametrize("biases", [(False, False, False), (True, False, False)])
def test_several_layers_are_combined(tmp_path, biases):
    """PyLate and sentence-transformers apply the layers one after the other."""
    sizes = (6, 6, 9, 4)
    layers = [nn.Linear(a, b, bias=bias) for a, b, bias in zip(sizes, sizes[1:], biases, strict=False)]
    through = nn.Linear(6, 9, bias=False)
    modules = [
        {"path": "", "type": "sentence_transformers.models.Transformer"},
        write_layer(tmp_path / "1_Dense", layers[0], use_residual=True),
        write_layer(tmp_path / "2_Dense", layers[1], through, use_residual=True),
        write_layer(tmp_path / "3_Dense", layers[2], use_residual=False),
    ]
    found = load_projection(dense_layers(tmp_path, modules))
    assert ("bias" in found) == any(biases)
    vectors = torch.randn(50, 6)
    with torch.no_grad():
        hidden = layers[0](vectors) + vectors
        hidden = layers[1](hidden) + through(hidden)
        expected = layers[2](hidden)
    weight, bias = found["weight"].float(), found.get("bias", torch.zeros(4)).float()
    assert (nn.functional.linear(vectors, weight, bias) - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_identity_is_no_projection(tmp_path, dtype):
    layer = nn.Linear(5, 5, bias=False, dtype=dtype)
    nn.init.eye_(layer.weight)
    assert load_projection(dense_layers(tmp_path, [write_layer(tmp_path / "1_Dense", layer)])) is None


def test_near_identity_is_a_projection(tmp_path):
    layer = nn.Linear(5, 5, bias=False)
    nn.init.eye_(layer.weight)
    with torch.no_grad():
        layer.weight[1, 2] = 1e-30
    assert load_projection(dense_layers(tmp_path, [write_layer(tmp_path / "1_Dense", layer)])) is not None


def test_identity_with_bias_is_a_projection(tmp_path):
    layer = nn.Linear(5, 5)
    nn.init.eye_(layer.weight)
    assert load_projection(dense_layers(tmp_path, [write_layer(tmp_path / "1_Dense", layer)])) is not None


def test_activation_raises(tmp_path):
    entry = write_layer(tmp_path / "1_Dense", nn.Linear(6, 4), activation_function="torch.nn.modules.activation.Tanh")
    with pytest.raises(ValueError, match="1_Dense must be a linear projection, got .* torch.nn.*Tanh"):
        dense_layers(tmp_path, [entry])


def test_shape_other_than_configured_raises(tmp_path):
    entry = write_layer(tmp_path / "1_Dense", nn.Linear(6, 4), out_features=8)
    with pytest.raises(OSError, match=r"1_Dense/model.safetensors must .* \(8, 6\), .* got \(4, 6\)"):
        load_projection(dense_layers(tmp_path, [entry]))


def test_missing_bias_raises(tmp_path):
    entry = write_layer(tmp_path / "1_Dense", nn.Linear(6, 4, bias=False), bias=True)
    with pytest.raises(OSError, match="has no weights linear.bias"):
        load_projection(dense_layers(tmp_path, [entry]))


def test_incompatible_layers_raise(tmp_path):
    entries = [write_layer(tmp_path / f"{i}_Dense", nn.Linear(6, 4)) for i in (1, 2)]
    with pytest.raises(OSError, match="2_Dense/model.safetensors takes vectors of size 6, but .* before it returns 4"):
        load_projection(dense_layers(tmp_path, entries))


def test_missing_layer_raises(tmp_path):
    (tmp_path / "1_Dense").mkdir()
    torch.save({}, tmp_path / "1_Dense" / "pytorch_model.bin")
    with pytest.raises(OSError, match="1_Dense has no safetensors weights. Pickled weights can run code"):
        LinearLayer(tmp_path / "1_Dense" / "model.safetensors", (4, 6)).load()
