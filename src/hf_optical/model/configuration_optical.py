from __future__ import annotations

import os
from pathlib import Path

from transformers import AutoConfig, PreTrainedConfig

from .layout import read_json, read_layout, write_modules


_LINEAR = "torch.nn.modules.linear.Identity"


class OpticalConfig(PreTrainedConfig):
    r"""
    The shape of an [`OpticalModel`]: a text encoder and an optional linear projection of its token vectors.

    How texts are cut into tokens (markers, lengths, expansion, skip list) belongs to [`OpticalProcessor`].

    On disk the configuration has no file of its own: it is the encoder's `config.json` and, with a projection, the
    `1_Dense/config.json` beside it, so that other libraries open the same folder.

    Args:
        encoder_config (`PreTrainedConfig` or `dict`, *optional*):
            Configuration of the text encoder. Defaults to BERT's.
        projection_dim (`int`, *optional*):
            Size of the token vectors after the projection. `None` means no projection: the encoder's hidden size.
        projection_bias (`bool`, *optional*, defaults to `False`):
            Whether the projection has a bias.
    """

    model_type = "optical"
    sub_configs = {"encoder_config": AutoConfig}

    encoder_config: dict | PreTrainedConfig | None = None
    projection_dim: int | None = None
    projection_bias: bool = False

    def __post_init__(self, **kwargs):
        if self.encoder_config is None:
            self.encoder_config = AutoConfig.for_model("bert")
        elif isinstance(self.encoder_config, dict):
            self.encoder_config = AutoConfig.for_model(**self.encoder_config)
        super().__post_init__(**kwargs)

    @property
    def embedding_dim(self) -> int:
        """Size of a token vector."""
        return self.projection_dim or self.encoder_config.hidden_size

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike, *, revision: str | None = None, **kwargs
    ) -> OpticalConfig:
        """
        Reads the shape of a checkpoint folder or Hub id (see `layout.py` for what is understood).

        Raises:
            OSError: no such checkpoint, or one with damaged files.
            ValueError: its token projection is not linear.
        """
        layout = read_layout(pretrained_model_name_or_path, revision)
        projection = {}
        if layout.dense is not None:
            projection = _read_projection(layout.dense)
        return cls(encoder_config=AutoConfig.from_pretrained(layout.folder), **{**projection, **kwargs})

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs) -> None:
        self.encoder_config.save_pretrained(save_directory, **kwargs)
        write_modules(Path(save_directory), self.dense_config())

    def dense_config(self) -> dict | None:
        """The projection as sentence-transformers' `Dense` describes it; `None` without a projection."""
        if self.projection_dim is None:
            return None
        return {
            "in_features": self.encoder_config.hidden_size,
            "out_features": self.projection_dim,
            "bias": self.projection_bias,
            "activation_function": _LINEAR,
        }


def _read_projection(folder: Path) -> dict:
    dense = read_json(folder / "config.json")
    activation = "a residual connection" if dense.get("use_residual") else dense.get("activation_function", _LINEAR)
    if not activation.endswith("Identity"):
        raise ValueError(f"{folder} projects tokens with {activation}; only a linear projection is read")
    return {"projection_dim": dense["out_features"], "projection_bias": dense.get("bias", True)}
