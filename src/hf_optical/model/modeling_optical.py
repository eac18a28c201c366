from __future__ import annotations

import hashlib
import inspect
import os
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import MODEL_MAPPING, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.utils import ModelOutput

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
        embeddings (`torch.FloatTensor` of shape `(batch, tokens, dim)`):
            Unit vectors in float32.
        mask (`torch.BoolTensor` of shape `(batch, tokens)`):
            The tokens that take part in matching. Vectors elsewhere have no meaning.
        weights (`torch.FloatTensor` of shape `(batch, tokens)`, *optional*):
            What each token counts for while a student learns. The model itself gives none.
    """

    embeddings: Tensor | None = None
    mask: Tensor | None = None
    weights: Tensor | None = None

    def rows(self, start: int, stop: int) -> OpticalOutput:
        """The texts `start` to `stop` of the batch."""
        return OpticalOutput(**{name: tensor[start:stop] for name, tensor in self.items()})


class OpticalModel(PushToHub, PreTrainedModel):
    """
    A late-interaction encoder (ColBERT, Khattab & Zaharia 2020): one unit vector for every token of a text.

    Any text encoder that `AutoModel` opens can serve, with or without a linear projection of its last hidden states.
    `save_pretrained` writes the layout of `layout/pylate.py`, which sentence-transformers and PyLate open too.

    Args:
        config ([`OpticalConfig`]):
            The shape of the model.
        encoder (`PreTrainedModel`, *optional*):
            The text encoder. By default one with random weights is made from `config.encoder_config`.

    Attributes:
        revision (`str`, *optional*): the commit that the model was opened at, if it came from the Hub.

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
        self.encoder = AutoModel.from_config(config.encoder_config) if encoder is None else encoder
        self.projection = None
        if config.projection_dim is not None:
            self.projection = nn.Linear(
                config.encoder_config.hidden_size, config.projection_dim, bias=config.projection_bias
            )
            # Orthonormal rows keep the angles between token vectors as well as a linear map to fewer sizes can.
            nn.init.orthogonal_(self.projection.weight)
            if config.projection_bias:
                nn.init.zeros_(self.projection.bias)
        self._positions = _position_limit(self.encoder)
        # The pooler answers for a sentence vector that late interaction never asks for: without gradients it would
        # stop distributed training, which waits for every trainable weight.
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
            input_ids (`torch.LongTensor` of shape `(batch, tokens)`):
                Token ids from [`OpticalProcessor`].
            attention_mask (`torch.LongTensor` of shape `(batch, tokens)`):
                1 where the encoder attends.
            token_mask (`torch.BoolTensor` of shape `(batch, tokens)`, *optional*):
                The tokens that take part in matching. Defaults to `attention_mask`.

        Raises:
            ValueError: there are more tokens than the encoder has positions for.
            IndexError: on a CPU, a token id has no word embedding.
        """
        if self._positions is not None and input_ids.shape[1] > self._positions:
            raise ValueError(
                f"a text of {input_ids.shape[1]} tokens, but the encoder has positions for {self._positions}; give "
                f"OpticalProcessor.from_pretrained document_length={self._positions} or less, and query_length if "
                "queries are that long"
            )
        mask = (attention_mask if token_mask is None else token_mask).bool()
        embeddings = torch.zeros(*input_ids.shape, self.embedding_dim, dtype=torch.float32, device=input_ids.device)
        for rows, tokens in parts_of(attention_mask.bool() | mask):
            try:
                embeddings[rows, :tokens] = self._read(input_ids[rows, :tokens], attention_mask[rows, :tokens])
            except IndexError as error:
                if "index out of range" not in str(error):
                    raise
                raise IndexError(
                    f"token id {int(input_ids.max())} has no word embedding ({error}); read the texts with the "
                    "processor of this model, and words of a language pack with the pack at work"
                ) from error
        return OpticalOutput(embeddings=embeddings, mask=mask)

    def _read(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        # Layers whose activations are computed once more in the backward are so outside of the context.
        twice = self.training and any(getattr(module, "gradient_checkpointing", False) for module in self.modules())
        with nullcontext() if twice else faster_linear(input_ids.numel()):
            hidden = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
            if self.projection is not None:
                hidden = self.projection(hidden)
        # Half precision unit vectors are off by 1e-3, more than the differences that rank passages.
        return nn.functional.normalize(hidden.float(), dim=-1)

    def fingerprint(self) -> str:
        """SHA-256 over names, shapes, types and values of the base weights: adapters do not change it."""
        digest = hashlib.sha256()
        for name, weight in sorted(base_state_dict(self).items()):
            digest.update(f"{name}{tuple(weight.shape)}{weight.dtype}".encode())
            digest.update(weight.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
        return digest.hexdigest()

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike,
        *,
        revision: str | None = None,
        dtype: torch.dtype | str = torch.float32,
        projection_dim: int | None = None,
        **encoder_kwargs,
    ) -> OpticalModel:
        """
        Opens a checkpoint folder or Hub id: of this library, PyLate, sentence-transformers or Stanford's ColBERT, or
        any text encoder. See `layout/` for how they are told apart.

        Args:
            pretrained_model_name_or_path (`str` or `os.PathLike`):
                Folder or Hub id.
            revision (`str`, *optional*):
                Branch, tag or commit on the Hub.
            dtype (`torch.dtype` or `str`, *optional*, defaults to `torch.float32`):
                Type of the weights, or its name, such as `"bfloat16"`; `"auto"` is that of the files. Training wants
                float32 (mixed precision is the Trainer's `bf16`).
            projection_dim (`int`, *optional*):
                Adds an orthogonal projection to this size, untrained, to a checkpoint that has none.
            encoder_kwargs:
                Passed to `AutoModel.from_pretrained`, e.g. `attn_implementation`.

        Raises:
            OSError: no such model; or one without safetensors weights, since pickled weights are not read; or one
                whose weights are damaged, or are not those of the architecture in its `config.json`.
            ValueError: `dtype` is no floating type; `projection_dim` differs from the projection that the checkpoint
                already has; or that one is not linear, or the checkpoint does something else that an [`OpticalModel`]
                does not.
        """
        dtype = _floating_type(dtype)
        layout = read_layout(pretrained_model_name_or_path, revision)
        config = OpticalConfig.from_pretrained(layout.folder)
        if projection_dim is not None and config.projection_dim not in (None, projection_dim):
            raise ValueError(
                f"projection_dim={projection_dim}, but {pretrained_model_name_or_path} already projects to "
                f"{config.projection_dim}; leave projection_dim out"
            )
        config.projection_dim = config.projection_dim or projection_dim
        encoder = _open_encoder(layout, config.encoder_config, dtype, encoder_kwargs)
        config.encoder_config = encoder.config
        model = cls(config, encoder).to(encoder.dtype if dtype == "auto" else dtype)
        projection = load_projection(layout.projection)
        if projection is not None:
            _load(model.projection, projection, layout.folder)
        model.name_or_path = str(pretrained_model_name_or_path)
        model.revision = layout.revision
        return model.eval()

    def save_pretrained(
        self, save_directory: str | os.PathLike, state_dict: dict[str, Tensor] | None = None, **kwargs
    ) -> None:
        """
        Writes the whole model, without its adapters, so that a half-written file is never taken for a whole one.

        Args:
            save_directory (`str` or `os.PathLike`):
                The folder. The processor's files belong beside it: `processor.save_pretrained(save_directory)`.
            state_dict (`dict`, *optional*):
                Weights to write in place of the model's own, as gathered from several processes.
        """
        weights = base_state_dict(self, state_dict)
        encoder_weights = {
            name.removeprefix("encoder."): weight for name, weight in weights.items() if name.startswith("encoder.")
        }
        with staged_directory(save_directory) as folder:
            self.config.encoder_config.architectures = [type(self.encoder).__name__]
            self.config.encoder_config.dtype = self.dtype
            self.config.save_pretrained(folder)
            save_file(_contiguous(encoder_weights), folder / WEIGHTS, metadata={"format": "pt"})
            if self.projection is not None:
                projection = {
                    name.removeprefix("projection."): weight
                    for name, weight in weights.items()
                    if name.startswith("projection.")
                }
                write_projection(folder, _contiguous(projection))


def base_state_dict(model: OpticalModel, state_dict: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
    """The weights of the base alone, named as if no language had ever been added (PEFT wraps what it adapts)."""
    state_dict = model.state_dict() if state_dict is None else state_dict
    return {
        name.replace(".base_layer.", "."): weight
        for name, weight in state_dict.items()
        if ".lora_" not in name and ".rows.language_" not in name
    }


def _floating_type(dtype: torch.dtype | str) -> torch.dtype | str:
    """The type of a name, as transformers takes them; `"auto"` stays."""
    found = getattr(torch, dtype.removeprefix("torch."), None) if isinstance(dtype, str) else dtype
    if dtype != "auto" and not (isinstance(found, torch.dtype) and found.is_floating_point):
        raise ValueError(
            f"dtype is {dtype!r}; pass a floating type of torch, such as torch.bfloat16, its name, or 'auto' for that "
            "of the files"
        )
    return dtype if dtype == "auto" else found


def _open_encoder(
    layout: Layout, config: PreTrainedConfig, dtype: torch.dtype | str, options: dict
) -> PreTrainedModel:
    folder, names = layout.folder, weight_names(layout.folder)
    encoder_class = MODEL_MAPPING.get(type(config), None)
    if inspect.isclass(encoder_class) and "add_pooling_layer" in inspect.signature(encoder_class).parameters:
        # A pooler that the checkpoint lacks would get random weights, and the base another fingerprint every time.
        options = {"add_pooling_layer": any("pooler." in name for name in names), **options}
    options = {"dtype": dtype, "output_loading_info": True, **options}
    others = {name for layer in layout.projection if layer.file == folder / WEIGHTS for name in layer.names}
    try:
        if others:
            weights = {name: weight for name, weight in load_file(folder / WEIGHTS).items() if name not in others}
            encoder, report = encoder_class.from_pretrained(None, config=config, state_dict=weights, **options)
        else:
            encoder, report = AutoModel.from_pretrained(
                folder, use_safetensors=True, trust_remote_code=False, **options
            )
    except RuntimeError as error:
        raise OSError(
            f"{folder} has weights of other shapes than its config.json says, or of none; fetch or save the "
            "checkpoint again"
        ) from error
    if report["missing_keys"]:
        missing = sorted(report["missing_keys"])
        raise OSError(
            f"{folder} lacks {len(missing)} weights of a {type(encoder).__name__}, {missing[0]} among them: "
            "config.json and the weights do not belong together; fetch or save the checkpoint again"
        )
    return encoder


def _load(projection: nn.Linear, weights: dict[str, Tensor], folder: Path) -> None:
    try:
        projection.load_state_dict(weights)
    except RuntimeError as error:
        raise OSError(f"the projection in {folder} is not {projection}: {error}") from error


def _position_limit(encoder: nn.Module) -> int | None:
    """How many tokens there are learned positions for; `None` where positions are computed (RoPE, relative ones)."""
    for name, module in encoder.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding):
            # RoBERTa and its kin count from behind the padding's position.
            return module.num_embeddings - (0 if module.padding_idx is None else module.padding_idx + 1)
    return None


def _contiguous(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: weight.detach().cpu().contiguous().clone() for name, weight in weights.items()}
