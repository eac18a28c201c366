"""Linear layers behind the encoder, read as the one linear map that they are together."""

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


@dataclass(frozen=True)
class LinearLayer:
    """
    A linear layer in a checkpoint, not read yet.

    Args:
        file (`Path`): the safetensors with its `linear.weight`.
        shape (`tuple[int, int]`, *optional*): sizes of its output and input, where the checkpoint tells them.
        bias (`bool`, defaults to `False`): whether `linear.bias` is there too.
        residual (`bool`, defaults to `False`): whether the input is added to the output, by way of `residual.weight`
            where their sizes differ.
    """

    file: Path
    shape: tuple[int, int] | None = None
    bias: bool = False
    residual: bool = False

    @property
    def names(self) -> list[str]:
        """The names of its weights."""
        names = ["linear.weight"]
        if self.bias:
            names.append("linear.bias")
        if self.residual and self.shape[0] != self.shape[1]:
            names.append("residual.weight")
        return names

    def load(self) -> tuple[Tensor, Tensor | None]:
        """The weight, `(out, in)`, and the bias, `(out,)`. A residual connection is part of the weight."""
        weight_names(self.file.parent)  # says what is wrong with a folder of pickles
        weights = read_weights(self.file, self.names)
        weight, bias = weights["linear.weight"], weights.get("linear.bias")
        if self.shape not in (None, tuple(weight.shape)):
            raise OSError(
                f"{self.file} holds a layer of {tuple(weight.shape)}, but its config.json says {self.shape}; they do "
                "not belong together, fetch or save the checkpoint again"
            )
        same = {tuple(weights.get(name, weight).shape) for name in ("linear.weight", "residual.weight")}
        if weight.dim() != 2 or len(same) > 1 or (bias is not None and bias.shape != weight.shape[:1]):
            raise OSError(f"{self.file} holds no linear layer; fetch or save the checkpoint again")
        if self.residual:
            residual = weights.get("residual.weight", torch.eye(len(weight)))
            weight = weight.double() + residual.double()
        return weight, bias


def read_modules(folder: Path) -> list[dict[str, Any]]:
    """
    The entries of `modules.json`; none without that file. Each has its `path`, in the folder, and its `type`.

    Raises:
        OSError: the file is damaged, or a path leads out of the folder.
    """
    modules = read_optional_json(folder / MODULES, [{"path": str, "type": str}])
    for module in modules:
        if {"path", "type"} - {name for name, value in module.items() if value is not None}:
            raise OSError(f"{folder / MODULES} is damaged: an entry without path or type; fetch the checkpoint again")
        inside(folder, module["path"], folder / MODULES)
    return modules


def dense_layers(folder: Path, modules: list[dict[str, Any]]) -> list[LinearLayer]:
    """
    The `Dense` modules of sentence-transformers and PyLate.

    Raises:
        OSError: a configuration is missing or damaged.
        ValueError: a layer is not linear.
    """
    layers = []
    for module in modules:
        if module_kind(module) == "Dense":
            path = folder / module["path"]
            dense = read_json(path / "config.json", _DENSE)
            if not (dense.get("activation_function") or IDENTITY).endswith("Identity"):
                kind = dense["activation_function"][:200]
                raise ValueError(f"{path} projects tokens with {kind}; only a linear projection is read")
            shape = (dense.get("out_features"), dense.get("in_features"))
            if None in shape:
                raise OSError(f"{path}/config.json tells no in_features or out_features; fetch the checkpoint again")
            layers.append(
                LinearLayer(path / WEIGHTS, shape, dense.get("bias", True), dense.get("use_residual", False))
            )
    return layers


def module_kind(module: dict[str, Any]) -> str:
    """The class that an entry of `modules.json` names, without its module: the libraries have moved them about."""
    return module["type"].rsplit(".", 1)[-1]


def load_projection(layers: list[LinearLayer]) -> dict[str, Tensor] | None:
    """
    Reads the layers as one linear map.

    Returns:
        `dict`, *optional*: `weight`, of shape `(out, in)`, and `bias`, of shape `(out,)`, if there is one. A single
        layer is read to the bit; several are multiplied in float64. `None` without layers and for the identity, which
        stands for no projection: see [`write_projection`].
    """
    if not layers:
        return None
    weight, bias = layers[0].load()
    for layer in layers[1:]:
        after, shift = layer.load()
        if after.shape[1] != len(weight):
            raise OSError(
                f"{layer.file} takes vectors of size {after.shape[1]}, but the layer before it gives {len(weight)}; "
                "they do not belong together, fetch or save the checkpoint again"
            )
        weight = after.double() @ weight.double()
        if bias is not None:
            bias = after.double() @ bias.double()
        if shift is not None:
            bias = shift if bias is None else bias + shift
    if bias is not None:
        return {"weight": weight, "bias": bias}
    identity = weight.shape[0] == weight.shape[1] and torch.equal(weight, torch.eye(len(weight), dtype=weight.dtype))
    return None if identity else {"weight": weight}
