"""Linear layers after the encoder, combined into a single linear map."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...storage.json_files import read_json, read_optional_json
from ...storage.names import MODULES, WEIGHTS
from ...storage.safetensors_files import read_weights, weight_names
from ...storage.safety import inside


IDENTITY = "torch.nn.modules.linear.Identity"
_DENSE = {"in_features": int, "out_features": int, "bias": bool, "use_residual": bool, "activation_function": str}
_CURE = "fetch or save the checkpoint again"


@dataclass(frozen=True)
class LinearLayer:
    """
    A linear layer in a checkpoint, whose weights are not loaded yet.

    The shape is `(out, in)`, if it is known. `prefix` comes before the names of the weights. A `residual` layer adds
    its input to its output, through `residual.weight` if their sizes differ.
    """

    file: Path
    shape: tuple[int, int] | None = None
    bias: bool = False
    residual: bool = False
    prefix: str = "linear."

    @property
    def names(self) -> list[str]:
        """Names of the weights in `file`."""
        names = [f"{self.prefix}weight"]
        if self.bias:
            names.append(f"{self.prefix}bias")
        if self.residual and self.shape is not None and self.shape[0] != self.shape[1]:
            names.append("residual.weight")
        return names

    def load(self) -> tuple[Tensor, Tensor | None]:
        """Load the weight, `(out, in)`, and the bias, `(out,)`. The weight includes a residual connection."""
        weight_names(self.file.parent)  # explains what is wrong with pickled weights
        weights = read_weights(self.file, self.names)
        weight, bias = weights[f"{self.prefix}weight"], weights.get(f"{self.prefix}bias")
        shape = tuple(weight.shape)
        shapes = {tuple(values.shape) for name, values in weights.items() if name != f"{self.prefix}bias"}
        if len(shape) != 2 or shapes != {self.shape or shape} or (bias is not None and bias.shape != shape[:1]):
            expected = f"shape {self.shape}, which its config.json states" if self.shape else "two dimensions"
            raise OSError(f"{self.file} must hold a linear layer of {expected}, got {shape}; {_CURE}")
        if self.residual:
            residual = weights.get("residual.weight", torch.eye(len(weight)))
            weight = weight.double() + residual.double()
        return weight, bias


def read_modules(folder: Path) -> list[dict[str, Any]]:
    """Read the entries of `modules.json`, if there is one. Each has a `path` in the folder and a `type`."""
    modules = read_optional_json(folder / MODULES, [{"path": str, "type": str}])
    for module in modules:
        if module.get("path") is None or module.get("type") is None:
            raise OSError(f"{folder / MODULES} is damaged: an entry lacks path or type; {_CURE}")
        inside(folder, module["path"], folder / MODULES)
    return modules


def dense_layers(folder: Path, modules: list[dict[str, Any]]) -> list[LinearLayer]:
    """Find the `Dense` modules of sentence-transformers and PyLate."""
    layers = []
    for path in (folder / module["path"] for module in modules if module_kind(module) == "Dense"):
        dense = read_json(path / "config.json", _DENSE)
        activation = dense.get("activation_function") or IDENTITY
        if not activation.endswith("Identity"):
            raise ValueError(f"{path} must be a linear projection, got one with activation {activation[:200]}")
        shape = (dense.get("out_features"), dense.get("in_features"))
        if None in shape:
            raise OSError(f"{path}/config.json lacks in_features or out_features; {_CURE}")
        layers.append(LinearLayer(path / WEIGHTS, shape, dense.get("bias", True), dense.get("use_residual", False)))
    return layers


def module_kind(module: dict[str, Any]) -> str:
    """Return the class of an entry of `modules.json` without its module, which has changed between versions."""
    return module["type"].rsplit(".", 1)[-1]


def load_projection(layers: list[LinearLayer]) -> dict[str, Tensor] | None:
    """
    Load layers as one linear map, `weight` and perhaps `bias`; `None` if it is the identity, or without layers.

    A single layer is kept bit for bit; several are multiplied in float64.
    """
    if not layers:
        return None
    weight, bias = layers[0].load()
    for layer in layers[1:]:
        next_weight, next_bias = layer.load()
        if next_weight.shape[1] != len(weight):
            sizes = f"takes vectors of size {next_weight.shape[1]}, but the layer before it returns {len(weight)}"
            raise OSError(f"{layer.file} {sizes}; {_CURE}")
        weight = next_weight.double() @ weight.double()
        if bias is not None:
            bias = next_weight.double() @ bias.double()
        if next_bias is not None:
            bias = next_bias if bias is None else bias + next_bias
    if bias is not None:
        return {"weight": weight, "bias": bias}
    identity = weight.shape[0] == weight.shape[1] and torch.equal(weight, torch.eye(len(weight), dtype=weight.dtype))
    return None if identity else {"weight": weight}
