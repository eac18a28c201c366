from __future__ import annotations

import copy
import hashlib
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from peft import LoraConfig, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load, save
from torch import Tensor
from transformers.utils import PushToHubMixin

from ..files import staged_directory
from ..model import OpticalModel
from ..model.layout import local_folder, read_json, write_json
from .adapters import adapter_name, add_adapter, remove
from .vocabulary import LanguageEmbedding, Vocabulary, word_embedding


PACK_CONFIG = "language_pack.json"
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
VOCABULARY = "vocabulary.safetensors"
_FORMAT = 1
# PEFT names the weights of an adapter as seen from its own wrapper around the model.
_PEFT_PREFIX = "base_model.model."


@dataclass(eq=False)
class LanguagePack(PushToHubMixin):
    """
    What one language adds to a base model: a few megabytes, of no use without that base.

    On disk a pack is a PEFT adapter of the text encoder (`adapter_config.json`, `adapter_model.safetensors`), the rows
    of its new words, if there are any (`vocabulary.safetensors`), and `language_pack.json`, which names the language,
    the base, the new words and the hashes of the weights.

    Attributes:
        language (`str`): language code.
        base_model (`str`): Hub id or folder of the base.
        base_revision (`str`, *optional*): its commit, for a base from the Hub.
        base_fingerprint (`str`): [`~OpticalModel.fingerprint`] of the base.
        lora_config (`peft.LoraConfig`): the adapter's shape.
        weights (`dict[str, Tensor]`): the adapter's weights, named from the text encoder down.
        vocabulary ([`Vocabulary`], *optional*): the new words.
        roles (`dict`): [`~OpticalProcessor.roles`] that the language was trained with.
        details (`dict`): where the pack comes from: teacher, bitext, settings, results. Free-form, JSON.
    """

    language: str
    base_model: str
    base_fingerprint: str
    lora_config: LoraConfig
    weights: dict[str, Tensor]
    vocabulary: Vocabulary | None = None
    base_revision: str | None = None
    roles: dict[str, Any] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def from_model(
        cls,
        model: OpticalModel,
        language: str,
        *,
        roles: dict[str, Any] | None = None,
        details: dict[str, Any] | None = None,
        base_fingerprint: str | None = None,
        state_dict: dict[str, Tensor] | None = None,
    ) -> LanguagePack:
        """
        Takes a copy of what `language` added to `model`.

        Args:
            model ([`OpticalModel`]): the base, with an adapter for `language`.
            language (`str`): language code.
            roles (`dict`, *optional*), details (`dict`, *optional*): as the attributes of the same name.
            base_fingerprint (`str`, *optional*):
                Of the base, where it is known already.
            state_dict (`dict`, *optional*):
                Weights of the whole model to read from in place of the model's own, as gathered from processes.
        """
        name = adapter_name(language)
        if state_dict is not None:
            state_dict = {key.removeprefix("encoder."): value for key, value in state_dict.items()}
        # save_embedding_layers: the base's embedding is the base's; the default would ask the Hub about it.
        weights = get_peft_model_state_dict(
            model.encoder, state_dict=state_dict, adapter_name=name, save_embedding_layers=False
        )
        embedding = word_embedding(model)
        vocabulary = None
        if isinstance(embedding, LanguageEmbedding) and name in embedding.tokens:
            vocabulary = Vocabulary(list(embedding.tokens[name]), embedding.rows[name].detach().cpu().clone())
        return cls(
            language=language,
            vocabulary=vocabulary,
            base_model=model.name_or_path,
            base_fingerprint=base_fingerprint or model.fingerprint(),
            lora_config=copy.deepcopy(model.encoder.peft_config[name]),
            weights={key: weight.detach().cpu().clone().contiguous() for key, weight in weights.items()},
            roles=dict(roles or {}),
            details=dict(details or {}),
        )

    def attach(self, model: OpticalModel) -> None:
        """
        Adds the pack to its base and makes it the active language.

        Raises:
            ValueError: `model` is not the base that the pack was trained on, has a pack for this language, or has no
                place for the weights. The model is then as it was.
        """
        found = model.fingerprint()
        if found != self.base_fingerprint:
            raise ValueError(
                f"the pack for {self.language!r} was trained on {self.base_model} (fingerprint "
                f"{self.base_fingerprint[:12]}), but the model is {model.name_or_path or 'unnamed'} (fingerprint "
                f"{found[:12]}); open it on the base that it names, in the same dtype"
            )
        add_adapter(model, self.language, self.lora_config, self.vocabulary)
        try:
            self.load_into(model)
        except ValueError:
            remove(model, self.language)
            raise
        model.train(model.training)  # what was added begins in training mode, whatever the model is in

    def load_into(self, model: OpticalModel) -> None:
        """
        Sets the weights of an adapter that `model` already has for this language.

        Raises:
            ValueError: a weight is missing, too many, or of another shape.
        """
        name = adapter_name(self.language)
        places = get_peft_model_state_dict(model.encoder, adapter_name=name, save_embedding_layers=False)
        shapes = {key: tuple(weight.shape) for key, weight in self.weights.items()}
        wrong = shapes.items() ^ {key: tuple(weight.shape) for key, weight in places.items()}.items()
        if wrong:
            names = ", ".join(sorted({key for key, _ in wrong})[:3])
            raise ValueError(
                f"the pack for {self.language!r} does not fit its adapter: {names} missing, too many, or of another "
                "shape; fetch or save the pack again"
            )
        embedding = word_embedding(model)
        known = embedding.tokens.get(name) if isinstance(embedding, LanguageEmbedding) else None
        if known != (self.vocabulary.tokens if self.vocabulary else None):
            raise ValueError(
                f"the pack for {self.language!r} has other new words than its place in the model; if it is a "
                "checkpoint, go on with the same sentence pairs and settings"
            )
        set_peft_model_state_dict(model.encoder, dict(self.weights), adapter_name=name)
        if self.vocabulary is not None:
            embedding.rows[name].data.copy_(self.vocabulary.rows)

    def num_bytes(self) -> int:
        """Size of the weights in bytes."""
        rows = [self.vocabulary.rows] if self.vocabulary else []
        return sum(weight.numel() * weight.element_size() for weight in [*self.weights.values(), *rows])

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike, *, revision: str | None = None
    ) -> LanguagePack:
        """
        Reads a pack from a folder or a Hub id; the base is not needed for it.

        Raises:
            OSError: no pack there, its files are damaged, cut short or changed, or a newer library wrote them.
        """
        folder = local_folder(pretrained_model_name_or_path, revision)
        for name in (PACK_CONFIG, ADAPTER_CONFIG, ADAPTER_WEIGHTS):
            if not (folder / name).is_file():
                found = ", ".join(sorted(path.name for path in folder.iterdir())[:20]) or "nothing"
                raise OSError(f"{folder} is no whole language pack: looked for {name}, found {found}")
        stored = _read_pack_config(folder / PACK_CONFIG)
        weights = _read_weights(folder / ADAPTER_WEIGHTS, stored.pop("weights_sha256"))
        tokens, digest = stored.pop("new_words"), stored.pop("vocabulary_sha256")
        vocabulary = Vocabulary(tokens, _read_weights(folder / VOCABULARY, digest)["rows"]) if tokens else None
        return cls(
            lora_config=_read_lora_config(folder),
            weights={name.removeprefix(_PEFT_PREFIX): weight for name, weight in weights.items()},
            vocabulary=vocabulary,
            **stored,
        )

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs) -> None:
        """Writes the pack; a half-written one never replaces a whole one."""
        content = save(
            {_PEFT_PREFIX + name: weight for name, weight in self.weights.items()}, metadata={"format": "pt"}
        )
        rows = save({"rows": self.vocabulary.rows.contiguous()}, metadata={"format": "pt"}) if self.vocabulary else b""
        with staged_directory(save_directory) as folder:
            (folder / ADAPTER_WEIGHTS).write_bytes(content)
            if rows:
                (folder / VOCABULARY).write_bytes(rows)
            _write_lora_config(self.lora_config, self.base_model, folder)
            write_json(
                folder / PACK_CONFIG,
                {
                    "format": _FORMAT,
                    "language": self.language,
                    "base_model": self.base_model,
                    "base_revision": self.base_revision,
                    "base_fingerprint": self.base_fingerprint,
                    "weights_sha256": hashlib.sha256(content).hexdigest(),
                    "vocabulary_sha256": hashlib.sha256(rows).hexdigest(),
                    "new_words": self.vocabulary.tokens if self.vocabulary else [],
                    "roles": self.roles,
                    "details": self.details,
                },
            )


def is_pack(folder: str | os.PathLike) -> bool:
    """Whether a folder on this machine holds a language pack."""
    return (Path(folder) / PACK_CONFIG).is_file()


def _read_pack_config(path: Path) -> dict[str, Any]:
    """The entries of `language_pack.json`, all of them there and of the right kind."""
    stored = read_json(path)
    if not isinstance(stored, dict) or not isinstance(stored.get("format"), int):
        raise OSError(f"{path} does not describe a language pack; fetch or save the pack again")
    if stored.pop("format") > _FORMAT:
        raise OSError(f"{path} was written by a newer hf_optical; update the library to open it")
    kinds = {
        "language": str,
        "base_model": str,
        "base_revision": (str, type(None)),
        "base_fingerprint": str,
        "weights_sha256": str,
        "vocabulary_sha256": str,
        "new_words": list,
        "roles": dict,
        "details": dict,
    }
    wrong = [name for name, kind in kinds.items() if name not in stored or not isinstance(stored[name], kind)]
    if wrong:
        raise OSError(
            f"{path} is damaged ({', '.join(wrong)} missing or of the wrong kind); fetch or save the pack again"
        )
    try:
        adapter_name(stored["language"])
    except ValueError as error:
        raise OSError(f"{path} is damaged: {error}") from error
    return {name: stored[name] for name in kinds}


def _read_weights(path: Path, digest: str) -> dict[str, Tensor]:
    content = path.read_bytes() if path.is_file() else b""
    if hashlib.sha256(content).hexdigest() != digest:
        raise OSError(f"{path} is missing, cut short or changed; fetch or save the pack again")
    return load(content)


def _read_lora_config(folder: Path) -> LoraConfig:
    path = folder / ADAPTER_CONFIG
    settings = read_json(path)
    if not isinstance(settings, dict) or settings.get("peft_type") != "LORA":
        raise OSError(f"{path} describes no LoRA adapter; fetch or save the pack again")
    try:
        return LoraConfig.from_pretrained(str(folder))
    except (ValueError, TypeError) as error:
        raise OSError(f"{path} is damaged ({error}); fetch or save the pack again") from error


def _write_lora_config(config: LoraConfig, base_model: str, folder: Path) -> None:
    config = copy.deepcopy(config)
    config.base_model_name_or_path = base_model
    config.inference_mode = True
    config.save_pretrained(str(folder))
    # PEFT writes sets in an order that changes from run to run.
    path = folder / ADAPTER_CONFIG
    settings = read_json(path)
    write_json(path, {key: sorted(v) if isinstance(v, list) else v for key, v in sorted(settings.items())})
