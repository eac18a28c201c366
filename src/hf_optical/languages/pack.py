from __future__ import annotations

import copy
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

from peft import LoraConfig, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import save
from torch import Tensor

from ..errors import printable
from ..hub import write_card
from ..model import OpticalModel
from ..model.added_words import WORD_RULES
from ..model.spelling import KnownWords
from ..storage.fetching import local_folder, public_name
from ..storage.locking import shared_lock
from ..storage.names import PACKS_FOLDER, PROJECTION
from ..storage.publishing import PushToHub
from ..storage.staging import discard, staged_directory
from .adapters import (
    activate,
    active_language,
    adapter_name,
    add_adapter,
    check_not_added,
    languages,
    remove,
    set_strength,
    strength_of,
)
from .merging import unwrap
from .pack_files import (
    read_known_words,
    read_lora_config,
    read_pack_config,
    read_projection,
    read_weights,
    sha256,
    write_known_words,
    write_lora_config,
    write_pack_config,
)
from .strength import Strength, check_strength
from .vocabulary import LanguageEmbedding, Vocabulary, word_embedding


PACK_CONFIG = "language_pack.json"
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
VOCABULARY = "vocabulary.safetensors"
KNOWN_WORDS = "known_words.json"
PACK_FILES = (PACK_CONFIG, ADAPTER_CONFIG, ADAPTER_WEIGHTS, VOCABULARY, KNOWN_WORDS, PROJECTION)
# PEFT stores the names of weights relative to its own wrapper of the model.
_PEFT_PREFIX = "base_model.model."


@dataclass(frozen=True)
class Teacher:
    """The model that encodes the documents for a pack, if that is not its base. Not opened yet."""

    name_or_path: str
    revision: str | None
    digest: str

    def fingerprint(self) -> str:
        """As [`OpticalModel.fingerprint`]."""
        return self.digest


@dataclass(eq=False, repr=False)
class LanguagePack(PushToHub):
    """
    Adapter and new words of one language, to be opened on the base model that it was trained on.

    A pack is saved as a PEFT adapter of the text encoder (`adapter_config.json`, `adapter_model.safetensors`), the
    embeddings of new words and the counts of known ones, if there are any (`vocabulary.safetensors`,
    `known_words.json`), the projection that was fitted for the base, if there is one (`projection.safetensors`), and
    `language_pack.json`, which contains the language, the base, the new words and the hashes of the other files.

    Attributes:
        language (`str`): language code.
        base_model (`str`): Hub id or folder of the base.
        base_revision (`str`, *optional*): commit of a base from the Hub.
        base_fingerprint (`str`): [`~OpticalModel.fingerprint`] of the base, with its projection.
        lora_config (`peft.LoraConfig`): configuration of the adapter.
        weights (`dict[str, Tensor]`): weights of the adapter, with names relative to the text encoder.
        vocabulary ([`Vocabulary`], *optional*): the new words.
        strength (`float` or `tuple[float, float]`, defaults to 1.0):
            Share of the adapter to apply when the pack is opened, 0 to 2, or those of the first and the last layer
            ([`set_strength`]). The weights stay as they were trained.
        known_words (`dict`, *optional*):
            The words by which typing errors are repaired, from [`count_words`]. Packs without them, such as those of
            older versions, read every word as it is typed.
        projection (`dict[str, Tensor]`, *optional*):
            `weight` and `bias` of a projection into the space of the teacher, which the base lacks by itself
            ([`~hf_optical.model.mapping.fit_map`]). The base gets it when the pack is opened.
        roles (`dict`): [`~OpticalProcessor.roles`] that the language was trained with.
        details (`dict`):
            Origin of the pack: teacher, bitext, settings, results. See [`write_card`] for the entries with a fixed
            type. Any other JSON may be added.
    """

    _optional_files = (VOCABULARY, KNOWN_WORDS, PROJECTION)

    language: str
    base_model: str
    base_fingerprint: str
    lora_config: LoraConfig
    weights: dict[str, Tensor]
    vocabulary: Vocabulary | None = None
    projection: dict[str, Tensor] | None = None
    base_revision: str | None = None
    strength: Strength = 1.0
    known_words: KnownWords | None = None
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
        known_words: KnownWords | None = None,
        state_dict: dict[str, Tensor] | None = None,
    ) -> LanguagePack:
        """
        Copy the adapter and the new words of a language from a model.

        Args:
            model ([`OpticalModel`]): the base, with an adapter for `language`.
            language (`str`): language code.
            roles (`dict`, *optional*), details (`dict`, *optional*): see the attributes of this class.
            base_fingerprint (`str`, *optional*): Fingerprint of the base, if it is known already.
            known_words (*optional*): see the attributes of this class.
            state_dict (`dict`, *optional*):
                Weights of the whole model to use instead of the model's own, such as those gathered from several
                processes.

        Raises:
            ValueError: `state_dict` lacks the embeddings of the new words.
        """
        name = adapter_name(language)
        if state_dict is not None:
            state_dict = {key.removeprefix("encoder."): value for key, value in state_dict.items()}
        # By default PEFT asks the Hub whether to save the word embeddings.
        weights = get_peft_model_state_dict(
            model.encoder, state_dict=state_dict, adapter_name=name, save_embedding_layers=False
        )
        embedding = word_embedding(model)
        dtype = str(model.dtype).removeprefix("torch.")
        vocabulary = None
        if isinstance(embedding, LanguageEmbedding) and name in embedding.tokens:
            vocabulary = embedding.vocabulary(name, None if state_dict is None else _find_rows(state_dict, language))
        projection = model.projection.state_dict() if model.fitted and model.projection else None
        return cls(
            language=language,
            vocabulary=vocabulary,
            projection=projection and {name: weight.detach().cpu().clone() for name, weight in projection.items()},
            base_model=model.name_or_path or "",
            base_revision=model.revision,
            base_fingerprint=base_fingerprint or model.fingerprint(),
            known_words=known_words,
            lora_config=cast(LoraConfig, copy.deepcopy(model.encoder.peft_config[name])),
            weights={key: weight.detach().cpu().clone().contiguous() for key, weight in weights.items()},
            strength=strength_of(model, language),
            roles=dict(roles or {}),
            # Recorded only if it is not the default.
            details={**(details or {}), **({"base_dtype": dtype} if dtype != "float32" else {})},
        )

    def attach(self, model: OpticalModel) -> None:
        """
        Add the pack to its base and activate it.

        Raises:
            ValueError: `model` is not the base that the pack was trained on, has a pack for this language already, or
                does not fit the weights; or the strength is invalid. The model is then unchanged.
        """
        self.check_base(model)
        check_not_added(model, self.language)
        with _all_or_nothing(model, self.language):
            try:
                add_adapter(model, self.language, self.lora_config, self.vocabulary)
            # PEFT raises errors of many types, none of which names the pack.
            except Exception as error:
                raise ValueError(f"the pack for {self.language!r} does not fit its base: {error!s:.1000}") from error
            self.load_into(model)
            set_strength(model, self.language, self.strength)

    def check_base(self, model: OpticalModel) -> None:
        """Raise `ValueError` if `model` is not the base that the pack was trained on."""
        fingerprint = model.fingerprint()
        if fingerprint != self.base_fingerprint:
            expected = f"{printable(self.base_model)} (fingerprint {printable(self.base_fingerprint[:12])})"
            got = f"{model.name_or_path or 'unnamed'} (fingerprint {fingerprint[:12]})"
            cure = "open that base, in the same dtype, such as dtype=torch.bfloat16"
            if self.projection and not model.fitted:
                cure = (
                    "open the pack itself with OpticalRetriever.from_pretrained, which gives the base its projection"
                )
            raise ValueError(f"the base of the pack for {self.language!r} must be {expected}, got {got}; {cure}")

    def load_into(self, model: OpticalModel) -> None:
        """
        Load the weights into the adapter that `model` already has for this language.

        Raises:
            ValueError: names or shapes of the weights, or the new words, differ from those in the model.
        """
        name = adapter_name(self.language)
        places = get_peft_model_state_dict(model.encoder, adapter_name=name, save_embedding_layers=False)
        shapes = {key: tuple(weight.shape) for key, weight in self.weights.items()}
        wrong = shapes.items() ^ {key: tuple(weight.shape) for key, weight in places.items()}.items()
        if wrong:
            names = ", ".join(sorted({key for key, _ in wrong})[:3])
            reason = f"{names} are missing, unexpected or of another shape; fetch or save the pack again"
            raise ValueError(f"the pack for {self.language!r} does not fit its adapter: {reason}")
        embedding = word_embedding(model)
        known = embedding.tokens.get(name) if isinstance(embedding, LanguageEmbedding) else None
        if known != (self.vocabulary.tokens if self.vocabulary else None):
            cure = "resume a checkpoint with the same sentence pairs and settings"
            raise ValueError(f"the pack for {self.language!r} has other new words than the model; {cure}")
        set_peft_model_state_dict(model.encoder, dict(self.weights), adapter_name=name)
        if isinstance(embedding, LanguageEmbedding) and self.vocabulary is not None:
            embedding.rows[name].data.copy_(self.vocabulary.rows)

    @property
    def reads(self) -> list[str]:
        """Codes of the languages that it was trained on, of which there may be several."""
        return self.details.get("languages") or [self.language]

    @property
    def teacher(self) -> Teacher | None:
        """The model whose index the queries search; `None` if that is the base, or unknown."""
        known = {name: self.details.get(f"teacher{name}") for name in ("", "_revision", "_fingerprint")}
        if not known["_fingerprint"] or known["_fingerprint"] == self.base_fingerprint:
            return None
        return Teacher(known[""] or "", known["_revision"], known["_fingerprint"])

    def num_bytes(self) -> int:
        """Return the size of the weights in bytes."""
        rows = [self.vocabulary.rows] if self.vocabulary else []
        others = [*rows, *(self.projection or {}).values()]
        return sum(weight.numel() * weight.element_size() for weight in [*self.weights.values(), *others])

    def __repr__(self) -> str:
        words = f", {len(self.vocabulary.tokens)} new words" if self.vocabulary else ""
        contents = f"LoRA of rank {self.lora_config.r}{words}, {self.num_bytes() / 1e6:.1f} MB"
        return f"LanguagePack({self.language!r} on {self.base_model!r}: {contents})"

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike, *, revision: str | None = None
    ) -> LanguagePack:
        """
        Load a pack from a folder or Hub id, without its base.

        Raises:
            OSError: there is no pack, its files are missing, damaged or changed, or a newer version wrote them.
        """
        folder = local_folder(pretrained_model_name_or_path, revision)
        with pack_lock(folder):
            files = sorted(path.name for path in folder.iterdir() if path.is_file())
            missing = [name for name in (PACK_CONFIG, ADAPTER_CONFIG, ADAPTER_WEIGHTS) if name not in files]
            if missing:
                found = ", ".join(files[:20]) or "nothing"
                raise OSError(f"{folder} is not a language pack: looked for {missing[0]}, found {found}")
            stored = read_pack_config(folder / PACK_CONFIG)
            tokens, first_id, rules = stored.pop("new_words"), stored.pop("first_new_id"), stored.pop("word_rules")
            digests = stored.pop("sha256")
            weights = read_weights(folder / ADAPTER_WEIGHTS, digests)
            vocabulary = None
            if tokens:
                rows = read_weights(folder / VOCABULARY, digests, ["rows"])["rows"]
                vocabulary = Vocabulary(tokens, rows, first_id, rules)
            projection = read_projection(folder / PROJECTION, digests) if PROJECTION in digests else None
            lora_config = read_lora_config(folder / ADAPTER_CONFIG, digests, weights)
            known_words = read_known_words(folder / KNOWN_WORDS, digests) if KNOWN_WORDS in digests else None
        return cls(
            lora_config=lora_config,
            weights={name.removeprefix(_PEFT_PREFIX): weight for name, weight in weights.items()},
            vocabulary=vocabulary,
            known_words=known_words,
            projection=projection,
            **stored,
        )

    def save_pretrained(self, save_directory: str | os.PathLike) -> None:
        """
        Save the pack. An interrupted save leaves the old files in place.

        Raises:
            ValueError: `roles`, `details` or the new words are invalid, so the pack could not be opened again.
        """
        with staged_directory(save_directory) as folder:
            write_lora_config(folder / ADAPTER_CONFIG, self.lora_config, self.base_model, self.base_revision)
            weights = {_PEFT_PREFIX + name: weight for name, weight in self.weights.items()}
            (folder / ADAPTER_WEIGHTS).write_bytes(save(weights, metadata={"format": "pt"}))
            if self.vocabulary:
                rows = {"rows": self.vocabulary.rows.contiguous()}
                (folder / VOCABULARY).write_bytes(save(rows, metadata={"format": "pt"}))
            else:
                discard(folder / VOCABULARY)  # left by another pack
            if self.known_words:
                write_known_words(folder / KNOWN_WORDS, self.known_words)
            else:
                discard(folder / KNOWN_WORDS)
            if self.projection:
                (folder / PROJECTION).write_bytes(save(self.projection, metadata={"format": "pt"}))
            else:
                discard(folder / PROJECTION)
            optional = {VOCABULARY: self.vocabulary, KNOWN_WORDS: self.known_words, PROJECTION: self.projection}
            written = [ADAPTER_CONFIG, ADAPTER_WEIGHTS, *(name for name, content in optional.items() if content)]
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
                    "word_rules": self.vocabulary.rules if self.vocabulary else WORD_RULES,
                    "strength": check_strength(self.strength),
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
        Write the pack's model card, `README.md`, into the folder that it was saved to.

        The example code of the card opens `repo_id`, or else the folder.
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
        """Return a copy in which local paths in `base_model` and `details` are reduced to their last part."""
        return replace(self, base_model=public_name(self.base_model), details=_shorten_paths(self.details))


def is_pack(folder: str | os.PathLike) -> bool:
    """Return whether a local folder contains a language pack."""
    return (Path(folder) / PACK_CONFIG).is_file()


def pack_lock(folder: Path) -> AbstractContextManager[None]:
    """Hold shared locks so that writers cannot replace a pack, or the retriever that contains it, while it is read."""
    around = folder.absolute().parent
    return shared_lock(folder, *([around.parent] if around.name == PACKS_FOLDER else []))


@contextmanager
def _all_or_nothing(model: OpticalModel, language: str) -> Iterator[None]:
    """If adding `language` fails, restore the model: its layers, active language and trainable weights."""
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
        model.train(model.training)  # new layers start in training mode


def _find_rows(state_dict: dict[str, Tensor], language: str) -> Tensor:
    found = [weight for key, weight in state_dict.items() if key.endswith(f".rows.{adapter_name(language)}")]
    if len(found) != 1:
        raise ValueError(f"state_dict must have the embeddings of the new words of {language!r}; pass all weights")
    return found[0]


def _shorten_paths(details: Any) -> Any:
    if isinstance(details, dict):
        return {key: _shorten_paths(value) for key, value in details.items()}
    if isinstance(details, (list, tuple)):
        return [_shorten_paths(value) for value in details]
    return Path(details).name if isinstance(details, str) and _is_path(details) else details


def _is_path(text: str) -> bool:
    return os.path.isabs(text) or text.startswith(("./", "../", "~/")) or os.path.exists(text)
