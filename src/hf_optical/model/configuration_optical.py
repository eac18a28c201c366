from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.modules.module import register_module_module_registration_hook
from transformers import AutoConfig, AutoModel, PreTrainedConfig

from ..storage.json_files import read_json
from ..storage.names import ENCODER_CONFIG
from ..storage.safetensors_files import weight_sizes
from .layout import LinearLayer, load_projection, read_layout, write_modules, write_projection


# Limit for the modules of an encoder: a constant, and a number per weight since a weight may be shared.
_MODULES, _MODULES_A_WEIGHT = 2**13, 16
# Limit for the parameters of an encoder: a constant, and a number per parameter in the files.
_VALUES, _TIMES = 2**24, 16


class OpticalConfig(PreTrainedConfig):
    r"""
    Configuration of an [`OpticalModel`]: a text encoder and an optional linear projection of its token vectors.

    Tokenization (markers, lengths, expansion, skip list) is configured in [`OpticalProcessor`].

    The configuration has no file of its own. It is saved as the encoder's `config.json` and the projection's
    `1_Dense/config.json`, so that other libraries can open the folder.

    Args:
        encoder_config (`PreTrainedConfig` or `dict`, *optional*):
            Configuration of the text encoder. Defaults to BERT's.
        projection_dim (`int`, *optional*):
            Size of the projected token vectors. `None` for no projection, which gives the encoder's hidden size.
        projection_bias (`bool`, *optional*, defaults to `False`): Whether the projection has a bias.
    """

    model_type = "optical"
    sub_configs = {"encoder_config": AutoConfig}

    if TYPE_CHECKING:
        encoder_config: Any  # once made, a PreTrainedConfig
    else:
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
        # transformers records changes here, such as the number of word embeddings.
        return self.encoder_config.get_text_config(*args, **kwargs)

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls, pretrained_model_name_or_path: str | os.PathLike, *, revision: str | None = None, **kwargs
    ) -> OpticalConfig:
        """
        Load the configuration of a checkpoint folder or Hub id in one of the layouts of `layout/`.

        Raises:
            OSError: the checkpoint does not exist, is damaged, or contains no encoder that transformers knows.
            ValueError: the checkpoint needs something that an [`OpticalModel`] does not support, such as a projection
                that is not linear.
        """
        layout = read_layout(pretrained_model_name_or_path, revision)
        encoder_config = _read_encoder_config(layout.folder)
        return cls(encoder_config=encoder_config, **{**_shape(layout.projection), **kwargs})

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs) -> None:  # type: ignore[override]
        # Refers to code in the original repository, which was not needed to open the encoder.
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
    """Read the encoder's configuration, and check on the meta device that it is not much larger than its weights."""
    try:
        read_json(folder / ENCODER_CONFIG)
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        weights = weight_sizes(folder) if any(folder.glob("model*.safetensors")) else None
        with torch.device("meta"), _module_limit(_MODULES + _MODULES_A_WEIGHT * len(weights or ())):
            encoder = AutoModel.from_config(config, trust_remote_code=False)
        values = sum(weight.numel() for name, weight in encoder.named_parameters() if "pooler." not in name)
    except OSError:
        raise
    # A damaged configuration causes errors of any type, anywhere in transformers and PyTorch.
    except Exception as error:
        reason = (str(error) or type(error).__name__).strip().split("\n")[0][:500]
        raise OSError(f"transformers cannot open the encoder of {folder}/config.json: {reason}") from error
    if weights is not None and values > _VALUES + _TIMES * sum(weights.values()):
        raise OSError(
            f"{folder}/config.json describes a {type(encoder).__name__} with {values} parameters, but its weights "
            f"have {sum(weights.values())}: they do not belong together; fetch or save the checkpoint again"
        )
    return config


@contextmanager
def _module_limit(modules: int) -> Iterator[None]:
    """Raise `ValueError` when a model with more modules is built, whatever its configuration calls them."""
    thread, created = threading.get_ident(), itertools.count(1)

    def count(*_) -> None:
        # The hook is also called for models built by other threads.
        if threading.get_ident() == thread and next(created) > modules:
            raise ValueError(f"more than {modules} modules")

    hook = register_module_module_registration_hook(count)
    try:
        yield
    finally:
        hook.remove()


def _shape(layers: list[LinearLayer]) -> dict:
    """The arguments of [`OpticalConfig`] for the projection."""
    if not layers:
        return {}
    last = layers[-1]
    if last.shape is not None and not last.file.is_file():  # a model without weights yet
        return {"projection_dim": last.shape[0], "projection_bias": any(layer.bias for layer in layers)}
    projection = load_projection(layers)
    return {"projection_dim": len(projection["weight"]), "projection_bias": "bias" in projection} if projection else {}
