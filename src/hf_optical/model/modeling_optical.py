from __future__ import annotations

import copy
import hashlib
import inspect
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import MODEL_MAPPING, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.utils import ModelOutput

from ..checks import check_choice, check_shape
from ..storage.names import DENSE_FOLDER, WEIGHTS
from ..storage.publishing import PushToHub
from ..storage.safetensors_files import weight_names
from ..storage.staging import staged_directory
from .configuration_optical import OpticalConfig
from .layout import Layout, load_projection, read_layout, write_projection
from .linear import faster_linear
from .parts import parts_of


@dataclass
class OpticalOutput(ModelOutput):
    """
    Token vectors of a batch of texts.

    Args:
        embeddings (`torch.FloatTensor` of shape `(batch, tokens, dim)`): Unit vectors in float32.
        mask (`torch.BoolTensor` of shape `(batch, tokens)`):
            The tokens that take part in matching. Other vectors have no meaning.
        weights (`torch.FloatTensor` of shape `(batch, tokens)`, *optional*):
            Weight of each token in distillation. Not set by the model itself.
    """

    # `ModelOutput` asks for defaults.
    embeddings: Tensor = None  # type: ignore[assignment]
    mask: Tensor = None  # type: ignore[assignment]
    weights: Tensor | None = None

    def rows(self, start: int, stop: int) -> OpticalOutput:
        """Return the texts `start` to `stop` of the batch."""
        return OpticalOutput(**{name: tensor[start:stop] for name, tensor in self.items()})


class OpticalModel(PushToHub, PreTrainedModel):  # type: ignore[misc]
    """
    Late-interaction encoder (ColBERT, Khattab & Zaharia 2020), with one unit vector for every token of a text.

    It consists of any text encoder that `AutoModel` can open and an optional linear projection of the last hidden
    states. `save_pretrained` writes the layout of `layout/pylate.py`, which sentence-transformers and PyLate can open.

    Args:
        config ([`OpticalConfig`]): Configuration of the model.
        encoder (`PreTrainedModel`, *optional*):
            The text encoder. By default it is created from `config.encoder_config`, with random weights.

    Attributes:
        revision (`str`, *optional*): commit of the checkpoint, if it came from the Hub.
        fitted (`bool`): whether its projection was fitted here and is not part of the checkpoint.

    Example:

    ```python
    >>> from hf_optical import OpticalModel, OpticalProcessor

    >>> model = OpticalModel.from_pretrained("sentence-transformers/all-MiniLM-L6-v2")
    >>> processor = OpticalProcessor.from_pretrained("sentence-transformers/all-MiniLM-L6-v2")
    >>> output = model(**processor.queries(["Where does the Nile begin?"]))
    >>> output.embeddings.shape
    torch.Size([1, 8, 384])
    ```
    """

    _optional_files = (f"{DENSE_FOLDER}/*",)

    to: Any  # the wrapper of transformers has no useful type
    config_class = OpticalConfig
    base_model_prefix = "encoder"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    def __init__(self, config: OpticalConfig, encoder: PreTrainedModel | None = None):
        super().__init__(config)
        self.revision: str | None = None
        self.fitted = False
        self.encoder = AutoModel.from_config(config.encoder_config) if encoder is None else encoder
        self.projection = None
        if config.projection_dim is not None:
            self.projection = nn.Linear(
                config.encoder_config.hidden_size, config.projection_dim, bias=config.projection_bias
            )
            # Orthonormal rows preserve the angles between token vectors as well as any projection can.
            nn.init.orthogonal_(self.projection.weight)
            if config.projection_bias:
                nn.init.zeros_(self.projection.bias)
        self._positions = _position_limit(self.encoder)
        # The pooler's sentence vector is not used. Distributed training would wait for its gradients forever.
        if getattr(self.encoder, "pooler", None) is not None:
            self.encoder.pooler.requires_grad_(False)

    def get_input_embeddings(self) -> nn.Module:
        return self.encoder.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.encoder.set_input_embeddings(value)

    @property
    def embedding_dim(self) -> int:
        """Size of a token vector."""
        return self.config.embedding_dim

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_mask: Tensor | None = None) -> OpticalOutput:
        """
        Args:
            input_ids (`torch.LongTensor` of shape `(batch, tokens)`): Token ids from [`OpticalProcessor`].
            attention_mask (`torch.LongTensor` of shape `(batch, tokens)`): 1 where the encoder attends.
            token_mask (`torch.BoolTensor` of shape `(batch, tokens)`, *optional*):
                The tokens that take part in matching. Defaults to `attention_mask`.

        Raises:
            ValueError: a text has more tokens than the encoder has positions.
            IndexError: a token id has no word embedding (on a CPU).
        """
        if self._positions is not None and input_ids.shape[1] > self._positions:
            raise ValueError(
                f"texts must have at most {self._positions} tokens, for which the encoder has positions, got "
                f"{input_ids.shape[1]}; open the processor with document_length={self._positions}, and query_length"
            )
        mask = (attention_mask if token_mask is None else token_mask).bool()
        embeddings = torch.zeros(*input_ids.shape, self.embedding_dim, dtype=torch.float32, device=input_ids.device)
        for rows, tokens in parts_of(attention_mask.bool() | mask):
            try:
                embeddings[rows, :tokens] = self._read(input_ids[rows, :tokens], attention_mask[rows, :tokens])
            except IndexError as error:
                cure = "use the processor of this model, and activate the language pack that the processor belongs to"
                raise IndexError(f"token id {int(input_ids.max())} has no word embedding; {cure}") from error
        return OpticalOutput(embeddings=embeddings, mask=mask)

    def _read(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        # Gradient checkpointing computes activations again in the backward pass, outside of this context.
        recomputed = any(getattr(module, "gradient_checkpointing", False) for module in self.modules())
        with nullcontext() if self.training and recomputed else faster_linear(input_ids.numel()):
            hidden = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
            if self.projection is not None:
                hidden = self.projection(hidden)
        # Unit vectors in half precision have errors of 1e-3, larger than the score differences of passages.
        return nn.functional.normalize(hidden.float(), dim=-1)

    def with_projection(self, weight: Tensor, bias: Tensor | None = None) -> OpticalModel:
        """
        Make a model with the same encoder, which it shares with this one, and another projection.

        Args:
            weight (`torch.Tensor` of shape `(dim, hidden)`), bias (`torch.Tensor` of shape `(dim,)`, *optional*):
                The projection of the encoder's hidden states, as of [`torch.nn.Linear`].
        """
        hidden = self.config.encoder_config.hidden_size
        check_shape("the weight of the projection", weight, ("dim", hidden), "it belongs to another base")
        config: Any = copy.copy(
            self.config
        )  # a new one would reset the attention of the encoder, whose config it holds
        config.projection_dim, config.projection_bias = len(weight), bias is not None
        model = OpticalModel(config, self.encoder)
        model.projection = nn.Linear(hidden, len(weight), bias=bias is not None, device=self.device, dtype=self.dtype)
        model.projection.load_state_dict({"weight": weight} | ({} if bias is None else {"bias": bias}))
        model.name_or_path, model.revision, model.fitted = self.name_or_path, self.revision, True
        return model.train(self.training)

    def fingerprint(self) -> str:
        """Return the SHA-256 of names, shapes, types and values of the base weights. Adapters do not change it."""
        digest = hashlib.sha256()
        for name, weight in sorted(base_state_dict(self).items()):
            digest.update(f"{name}{tuple(weight.shape)}{weight.dtype}".encode())
            digest.update(weight.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls,
        pretrained_model_name_or_path: str | os.PathLike,
        *,
        revision: str | None = None,
        dtype: torch.dtype | str = torch.float32,
        projection_dim: int | None = None,
        **encoder_kwargs,
    ) -> OpticalModel:
        """
        Load a checkpoint of this library, PyLate, sentence-transformers, Stanford's ColBERT, or any text encoder.

        See `layout/` for how they are recognised.

        Args:
            pretrained_model_name_or_path (`str` or `os.PathLike`): Folder or Hub id.
            revision (`str`, *optional*): Branch, tag or commit on the Hub.
            dtype (`torch.dtype` or `str`, *optional*, defaults to `torch.float32`):
                Data type of the weights, or its name, such as `"bfloat16"`. `"auto"` keeps the type in the files. Use
                float32 for training, with the Trainer's `bf16` for mixed precision. `torch_dtype` is an alias, as in
                transformers.
            projection_dim (`int`, *optional*):
                Adds an untrained orthogonal projection to this size, if the checkpoint has none.
            encoder_kwargs:
                Passed to `AutoModel.from_pretrained`, e.g. `attn_implementation`.

        Raises:
            OSError: the model does not exist, has no safetensors weights (pickled weights are not read), or its
                weights are damaged or do not belong to the architecture in its `config.json`.
            ValueError: `dtype` is not a floating-point type, `projection_dim` differs from the projection of the
                checkpoint, or the checkpoint needs something that an [`OpticalModel`] does not support.
        """
        alias = encoder_kwargs.pop("torch_dtype", None)
        dtype = _floating_type(dtype if alias is None else alias)
        layout = read_layout(pretrained_model_name_or_path, revision)
        config = OpticalConfig.from_pretrained(layout.folder)
        if projection_dim is not None and config.projection_dim not in (None, projection_dim):
            raise ValueError(
                f"projection_dim must be {config.projection_dim} or None, since {pretrained_model_name_or_path} has a "
                f"projection to that size, got {projection_dim}"
            )
        config.projection_dim = config.projection_dim or projection_dim
        encoder = _open_encoder(layout, config.encoder_config, dtype, encoder_kwargs)
        config.encoder_config = encoder.config
        model = cls(config, encoder).to(encoder.dtype if dtype == "auto" else dtype)
        projection = load_projection(layout.projection)
        if projection is not None:
            with _shape_errors(layout.folder):
                model.projection.load_state_dict(projection)
        # A relative path would lead elsewhere from another working directory, such as for a pack that names its base.
        local = os.path.isdir(pretrained_model_name_or_path)
        model.name_or_path = (os.path.abspath if local else str)(pretrained_model_name_or_path)
        model.revision = layout.revision
        return model.eval()

    def save_pretrained(  # type: ignore[override]
        self, save_directory: str | os.PathLike, state_dict: dict[str, Tensor] | None = None, **kwargs
    ) -> None:
        """
        Save the base model, without adapters. An interrupted save leaves the old files in place.

        Args:
            save_directory (`str` or `os.PathLike`):
                The folder. Save the processor to the same folder: `processor.save_pretrained(save_directory)`.
            state_dict (`dict`, *optional*):
                Weights to save instead of the model's own, such as those gathered from several processes.
        """
        weights = base_state_dict(self, state_dict)
        with staged_directory(save_directory) as folder:
            self.config.encoder_config.architectures = [type(self.encoder).__name__]
            self.config.encoder_config.dtype = self.dtype
            self.config.save_pretrained(folder)
            save_file(_part(weights, "encoder."), folder / WEIGHTS, metadata={"format": "pt"})
            if self.projection is not None:
                write_projection(folder, _part(weights, "projection."))


def base_state_dict(model: OpticalModel, state_dict: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
    """Return the weights of the base alone, under their names without adapters (PEFT wraps adapted layers)."""
    state_dict = model.state_dict() if state_dict is None else state_dict
    return {
        name.replace(".base_layer.", "."): weight
        for name, weight in state_dict.items()
        if ".lora_" not in name and ".rows.language_" not in name
    }


def _floating_type(dtype: torch.dtype | str) -> torch.dtype | str:
    """Convert the name of a floating-point type as transformers does. `"auto"` stays."""
    if dtype == "auto":
        return dtype
    found = getattr(torch, dtype.removeprefix("torch."), None) if isinstance(dtype, str) else dtype
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise ValueError(f"dtype must be a floating-point type of torch, its name or 'auto', got {dtype!r}")
    return found


def _open_encoder(
    layout: Layout, config: PreTrainedConfig, dtype: torch.dtype | str, options: dict
) -> PreTrainedModel:
    folder, names = layout.folder, weight_names(layout.folder)
    check_choice("use_safetensors", options.pop("use_safetensors", True), [True])  # pickled weights can run code
    encoder_class: Any = MODEL_MAPPING.get(type(config), None)
    if inspect.isclass(encoder_class) and "add_pooling_layer" in inspect.signature(encoder_class).parameters:
        # A pooler missing from the checkpoint would get random weights, which change the fingerprint each time.
        options = {"add_pooling_layer": any("pooler." in name for name in names), **options}
    options = {"dtype": dtype, "output_loading_info": True, **options}
    others = {name for layer in layout.projection if layer.file == folder / WEIGHTS for name in layer.names}
    with _shape_errors(folder):
        if others:
            weights = {name: weight for name, weight in load_file(folder / WEIGHTS).items() if name not in others}
            encoder, report = encoder_class.from_pretrained(None, config=config, state_dict=weights, **options)
        else:
            encoder, report = AutoModel.from_pretrained(
                folder, use_safetensors=True, trust_remote_code=False, **options
            )
    if report["missing_keys"]:
        missing = sorted(report["missing_keys"])
        raise OSError(
            f"{folder} lacks {len(missing)} weights of a {type(encoder).__name__}, such as {missing[0]}: config.json "
            "and the weights do not belong together; fetch or save the checkpoint again"
        )
    return encoder


@contextmanager
def _shape_errors(folder: Path) -> Iterator[None]:
    """Raise `OSError` for weights that PyTorch cannot load because of their shapes."""
    try:
        yield
    except RuntimeError as error:
        reason = f"the shapes of the weights in {folder} do not match its config.json"
        raise OSError(f"{reason}; fetch or save the checkpoint again") from error


def _position_limit(encoder: nn.Module) -> int | None:
    """Return the number of learned positions; `None` if positions are computed (RoPE, relative positions)."""
    for name, module in encoder.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding):
            # RoBERTa and similar models start counting after the padding's position.
            return module.num_embeddings - (0 if module.padding_idx is None else module.padding_idx + 1)
    return None


def _part(weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Copy the weights of a part of the model for a file, under their names without the prefix."""
    own = {name.removeprefix(prefix): weight for name, weight in weights.items() if name.startswith(prefix)}
    return {name: weight.detach().cpu().contiguous().clone() for name, weight in own.items()}


@contextmanager
def evaluating(*models: nn.Module) -> Iterator[None]:
    """Turn dropout off in models while the context is open."""
    training = [model for model in models if model.training]
    for model in training:
        model.eval()
    try:
        yield
    finally:
        for model in training:
            model.train()
