from __future__ import annotations

import copy
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from peft import LoraConfig, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import save
from torch import Tensor

from ..errors import printable
from ..hub import write_card
from ..model import OpticalModel
from ..storage.fetching import local_folder, public_name
from ..storage.names import PACKS_FOLDER
from ..storage.publishing import PushToHub
from ..storage.staging import discard, reading, staged_directory
from .adapters import activate, active_language, adapter_name, add_adapter, languages, remove
from .merging import unwrap
from .pack_files import (
    read_lora_config,
    read_pack_config,
    read_rows,
    read_weights,
    sha256,
    write_lora_config,
    write_pack_config,
)
from .vocabulary import LanguageEmbedding, Vocabulary, word_embedding


PACK_CONFIG = "language_pack.json"
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
VOCABULARY = "vocabulary.safetensors"
PACK_FILES = (PACK_CONFIG, ADAPTER_CONFIG, ADAPTER_WEIGHTS, VOCABULARY)
# PEFT names the weights of an adapter as seen from its own wrapper around the model.
_PEFT_PREFIX = "base_model.model."


@dataclass(eq=False, repr=False)
class LanguagePack(PushToHub):
    """
    What one language adds to a base model: a few megabytes, of no use without that base.

    On disk a pack is a PEFT adapter of the text encoder (`adapter_config.json`, `adapter_model.safetensors`), the rows
    of its new words, if there are any (`vocabulary.safetensors`), and `language_pack.json`, which names the language,
    the base, the new words and the hashes of the other files.

    Attributes:
        language (`str`): language code.
        base_model (`str`): Hub id or folder of the base.
        base_revision (`str`, *optional*): its commit, for a base from the Hub.
        base_fingerprint (`str`): [`~OpticalModel.fingerprint`] of the base.
        lora_config (`peft.LoraConfig`): the adapter's shape.
        weights (`dict[str, Tensor]`): the adapter's weights, named from the text encoder down.
        vocabulary ([`Vocabulary`], *optional*): the new words.
        roles (`dict`): [`~OpticalProcessor.roles`] that the language was trained with.
        details (`dict`):
            Where the pack comes from: teacher, bitext, settings, results. What [`write_card`] names is as it says
            there; the rest is free-form, JSON.
    """

    _optional_files = (VOCABULARY,)

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

        Raises:
            ValueError: `state_dict` lacks the rows of the new words.
        """
        name = adapter_name(language)
        if state_dict is not None:
            state_dict = {key.removeprefix("encoder."): value for key, value in state_dict.items()}
        # save_embedding_layers: the base's embedding is the base's; the default would ask the Hub about it.
        weights = get_peft_model_state_dict(
            model.encoder, state_dict=state_dict, adapter_name=name, save_embedding_layers=False
        )
        embedding = word_embedding(model)
        dtype = str(model.dtype).removeprefix("torch.")
        vocabulary = None
        if isinstance(embedding, LanguageEmbedding) and name in embedding.tokens:
            vocabulary = embedding.vocabulary(name, None if state_dict is None else _find_rows(state_dict, language))
        return cls(
            language=language,
            vocabulary=vocabulary,
            base_model=model.name_or_path,
            base_revision=model.revision,
            base_fingerprint=base_fingerprint or model.fingerprint(),
            lora_config=copy.deepcopy(model.encoder.peft_config[name]),
            weights={key: weight.detach().cpu().clone().contiguous() for key, weight in weights.items()},
            roles=dict(roles or {}),
            # What it opens on, where that is not the usual type.
            details={**(details or {}), **({"base_dtype": dtype} if dtype != "float32" else {})},
        )

    def attach(self, model: OpticalModel) -> None:
        """
        Adds the pack to its base and makes it the active language.

        Raises:
            ValueError: `model` is not the base that the pack was trained on, has a pack for this language, or has no
                place for the weights. The model is then as it was.
        """
        self.check_base(model)
        if self.language in languages(model):
            raise ValueError(f"the model has a pack for language {self.language!r} already; remove it first")
        with _all_or_nothing(model, self.language):
            try:
                add_adapter(model, self.language, self.lora_config, self.vocabulary)
            # PEFT has many ways to say that an adapter does not fit, none of which names it.
            except Exception as error:
                raise ValueError(
                    f"the pack for {self.language!r} does not fit its base: {str(error)[:1000]}"
                ) from error
            self.load_into(model)

    def check_base(self, model: OpticalModel) -> None:
        """Raises `ValueError`, which names both, if `model` is not the base that the pack was trained on."""
        found = model.fingerprint()
        if found != self.base_fingerprint:
            base, expected = printable(self.base_model), printable(self.base_fingerprint[:12])
            raise ValueError(
                f"the pack for {self.language!r} was trained on {base} (fingerprint {expected}), but the model is "
                f"{model.name_or_path or 'unnamed'} (fingerprint {found[:12]}); open it on the base that it "
                "names, in the same dtype (dtype=torch.bfloat16, say)"
            )

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

    @property
    def reads(self) -> list[str]:
        """Codes of the languages that it was trained on: of several where they share a pack."""
        return self.details.get("languages") or [self.language]

    def num_bytes(self) -> int:
        """Size of the weights in bytes."""
        rows = [self.vocabulary.rows] if self.vocabulary else []
        return sum(weight.numel() * weight.element_size() for weight in [*self.weights.values(), *rows])

    def __repr__(self) -> str:
        words = f", {len(self.vocabulary.tokens)} new words" if self.vocabulary else ""
        what = f"LoRA of rank {self.lora_config.r}{words}, {self.num_bytes() / 1e6:.1f} MB"
        return f"LanguagePack({self.language!r} on {self.base_model!r}: {what})"

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
        with nothing_saved_meanwhile(folder):
            for name in (PACK_CONFIG, ADAPTER_CONFIG, ADAPTER_WEIGHTS):
                if not (folder / name).is_file():
                    found = ", ".join(sorted(path.name for path in folder.iterdir())[:20]) or "nothing"
                    raise OSError(f"{folder} is no whole language pack: looked for {name}, found {found}")
            stored = read_pack_config(folder / PACK_CONFIG)
            tokens, first_id, digests = stored.pop("new_words"), stored.pop("first_new_id"), stored.pop("sha256")
            weights = read_weights(folder / ADAPTER_WEIGHTS, digests)
            rows = read_rows(folder / VOCABULARY, digests, len(tokens)) if tokens else None
            lora_config = read_lora_config(folder / ADAPTER_CONFIG, digests, weights)
        return cls(
            lora_config=lora_config,
            weights={name.removeprefix(_PEFT_PREFIX): weight for name, weight in weights.items()},
            vocabulary=Vocabulary(tokens, rows, first_id) if tokens else None,
            **stored,
        )

    def save_pretrained(self, save_directory: str | os.PathLike) -> None:
        """
        Writes the pack; a half-written one never replaces a whole one.

        Raises:
            ValueError: `roles`, `details` or the new words are such that the pack could not be opened again.
        """
        with staged_directory(save_directory) as folder:
            write_lora_config(folder / ADAPTER_CONFIG, self.lora_config, self.base_model, self.base_revision)
            weights = {_PEFT_PREFIX + name: weight for name, weight in self.weights.items()}
            (folder / ADAPTER_WEIGHTS).write_bytes(save(weights, metadata={"format": "pt"}))
            if self.vocabulary:
                rows = {"rows": self.vocabulary.rows.contiguous()}
                (folder / VOCABULARY).write_bytes(save(rows, metadata={"format": "pt"}))
            else:
                discard(folder / VOCABULARY)  # of another pack, saved here before
            written = [ADAPTER_CONFIG, ADAPTER_WEIGHTS, *([VOCABULARY] if self.vocabulary else [])]
            digests = {name: sha256((folder / name).read_bytes()) for name in written}
            write_pack_config(
                folder / PACK_CONFIG,
                {
                    "language": self.language,
                    "base_model": self.base_model,
                    "base_revision": self.base_revision,
                    "base_fingerprint": self.base_fingerprint,
                    "new_words": self.vocabulary.tokens if self.vocabulary else [],
                    "first_new_id": self.vocabulary.first_id if self.vocabulary else None,
                    "roles": self.roles,
                    "details": self.details,
                    "sha256": digests,
                },
            )

    def _save_for_hub(self, folder: Path, repo_id: str) -> None:
        self.without_local_paths().save_pretrained(folder)
        self.write_card(folder, repo_id)

    def write_card(self, folder: str | os.PathLike, repo_id: str | None = None) -> None:
        """
        Writes the card of the pack, `README.md`, into the folder that it was saved to.

        Args:
            folder (`str` or `os.PathLike`): the folder.
            repo_id (`str`, *optional*): where the pack will be found, for the code on the page.
        """
        write_card(
            folder,
            kind="language_pack",
            base_model=self.base_model,
            base_revision=self.base_revision,
            languages=self.reads,
            code=self.language,
            details=self.details,
            repo_id=repo_id,
        )

    def without_local_paths(self) -> LanguagePack:
        """The same pack, with the last part of a path wherever `base_model` and `details` name a local folder."""
        return replace(self, base_model=public_name(self.base_model), details=_shorten_paths(self.details))


def is_pack(folder: str | os.PathLike) -> bool:
    """Whether a folder on this machine holds a language pack."""
    return (Path(folder) / PACK_CONFIG).is_file()


def nothing_saved_meanwhile(folder: Path) -> AbstractContextManager[None]:
    """A block in which no other process writes over a pack, nor over the retriever in whose folder it lies."""
    around = folder.absolute().parent
    return reading(folder, *([around.parent] if around.name == PACKS_FOLDER else []))


@contextmanager
def _all_or_nothing(model: OpticalModel, language: str) -> Iterator[None]:
    """If adding `language` fails half-way, the model is as it was: its layers, what is at work, what is trainable."""
    others, active = languages(model), active_language(model)
    trainable = [(weight, weight.requires_grad) for weight in model.parameters()]
    try:
        yield
    except BaseException:
        if not others:
            unwrap(model)
        elif language in languages(model):
            remove(model, language)
        activate(model, active)
        for weight, flag in trainable:
            weight.requires_grad_(flag)
        raise
    finally:
        model.train(model.training)  # layers that are new begin in training mode, whatever the model is in


def _find_rows(state_dict: dict[str, Tensor], language: str) -> Tensor:
    found = [weight for key, weight in state_dict.items() if key.endswith(f".rows.{adapter_name(language)}")]
    if len(found) != 1:
        raise ValueError(
            f"state_dict has {len(found)} entries for the new words' rows of {language!r}; pass all weights"
        )
    return found[0]


def _shorten_paths(details: Any) -> Any:
    if isinstance(details, dict):
        return {key: _shorten_paths(value) for key, value in details.items()}
    if isinstance(details, (list, tuple)):
        return [_shorten_paths(value) for value in details]
    return Path(details).name if isinstance(details, str) and _is_path(details) else details


def _is_path(text: str) -> bool:
    return os.path.isabs(text) or text.startswith(("./", "../", "~/")) or os.path.exists(text)
