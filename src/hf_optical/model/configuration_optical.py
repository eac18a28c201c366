from __future__ import annotations

import os
from pathlib import Path

import torch
from transformers import AutoConfig, PreTrainedConfig

from .layout import LinearLayer, load_projection, read_layout, write_modules, write_projection


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
        Reads the shape of a checkpoint folder or Hub id (see `layout/` for what is understood).

        Raises:
            OSError: no such checkpoint, or one with damaged files, or of no encoder that transformers knows.
            ValueError: the checkpoint does what an [`OpticalModel`] does not; its token projection is not linear.
        """
        layout = read_layout(pretrained_model_name_or_path, revision)
        try:
            encoder_config = AutoConfig.from_pretrained(layout.folder)
        except ValueError as error:
            reason = str(error).strip().split("\n")[0]
            raise OSError(f"{layout.folder}/config.json is of no encoder that transformers opens: {reason}") from error
        return cls(encoder_config=encoder_config, **{**_shape(layout.projection), **kwargs})

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs) -> None:
        # Code in the repository that a checkpoint came from: transformers opened it without, and so may others.
        vars(self.encoder_config).pop("auto_map", None)
        self.encoder_config.save_pretrained(save_directory, **kwargs)
        projection = {
            "in_features": self.encoder_config.hidden_size,
            "out_features": self.embedding_dim,
            "bias": self.projection_bias and self.projection_dim is not None,
        }
        write_modules(Path(save_directory), projection)
        if self.projection_dim is None:
            identity = torch.eye(self.embedding_dim, dtype=self.encoder_config.dtype)
            write_projection(Path(save_directory), {"weight": identity})


def _shape(layers: list[LinearLayer]) -> dict:
    if not layers:
        return {}
    last = layers[-1]
    if last.shape is not None and not last.file.is_file():  # of a model that is yet to be made
        return {"projection_dim": last.shape[0], "projection_bias": any(layer.bias for layer in layers)}
    projection = load_projection(layers)
    # The identity stands for no projection.
    return {"projection_dim": len(projection["weight"]), "projection_bias": "bias" in projection} if projection else {}
