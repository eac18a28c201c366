from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.nn.modules.module import register_module_module_registration_hook
from transformers import AutoConfig, AutoModel, PreTrainedConfig

from ..storage.json_files import read_json
from ..storage.names import ENCODER_CONFIG
from ..storage.safetensors_files import weight_sizes
from .layout import LinearLayer, load_projection, read_layout, write_modules, write_projection


# Modules that an encoder may have whatever the weights, some are used many times; and for each of the weights.
_MODULES, _MODULES_A_WEIGHT = 2**13, 16
# Values that an encoder may have whatever the weights, and for each value of the weights.
_VALUES, _TIMES = 2**24, 16


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

    def get_text_config(self, *args, **kwargs) -> PreTrainedConfig:
        # Where transformers notes what it changes, such as the number of word embeddings.
        return self.encoder_config.get_text_config(*args, **kwargs)

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
        encoder_config = _read_encoder_config(layout.folder)
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


def _read_encoder_config(folder: Path) -> PreTrainedConfig:
    """
    The encoder's configuration, if an encoder can be made of it whose size is somewhere near that of the weights.

    An encoder with more values than there are weights lacks some, and they would take memory before anyone noticed.
    """
    try:
        read_json(folder / ENCODER_CONFIG)
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        weights = weight_sizes(folder) if any(folder.glob("model*.safetensors")) else None
        with torch.device("meta"), _at_most(_MODULES + _MODULES_A_WEIGHT * len(weights or ())):
            encoder = AutoModel.from_config(config, trust_remote_code=False)
        values = sum(weight.numel() for name, weight in encoder.named_parameters() if "pooler." not in name)
    except OSError:
        raise
    # Of a damaged file any part of transformers and torch may be the first to complain.
    except Exception as error:
        reason = (str(error) or type(error).__name__).strip().split("\n")[0][:500]
        raise OSError(f"{folder}/config.json is of no encoder that transformers opens: {reason}") from error
    if weights is not None and values > _VALUES + _TIMES * sum(weights.values()):
        raise OSError(
            f"{folder}/config.json describes a {type(encoder).__name__} of {values} values, but the weights beside it "
            f"have {sum(weights.values())}: they do not belong together; fetch or save the checkpoint again"
        )
    return config


@contextmanager
def _at_most(modules: int) -> Iterator[None]:
    """Stops the making of a larger model by a `ValueError`: every architecture has another name for its layers."""
    thread, made = threading.get_ident(), itertools.count(1)

    def count(*_) -> None:
        # The hook is called for those that other threads make, too.
        if threading.get_ident() == thread and next(made) > modules:
            raise ValueError(f"more than {modules} modules")

    hook = register_module_module_registration_hook(count)
    try:
        yield
    finally:
        hook.remove()


def _shape(layers: list[LinearLayer]) -> dict:
    if not layers:
        return {}
    last = layers[-1]
    if last.shape is not None and not last.file.is_file():  # of a model that is yet to be made
        return {"projection_dim": last.shape[0], "projection_bias": any(layer.bias for layer in layers)}
    projection = load_projection(layers)
    # The identity stands for no projection.
    return {"projection_dim": len(projection["weight"]), "projection_bias": "bias" in projection} if projection else {}
