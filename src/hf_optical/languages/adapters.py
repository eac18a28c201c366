"""Adapters of languages on one base model. At most one is active, and the base's weights never change."""

from __future__ import annotations

import copy
import re
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

from peft import LoraConfig, LoraModel
from peft.functional import delete_adapter
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from ..model import OpticalModel
from .lora_settings import unsupported_settings
from .strength import Strength, check_strength, strength_of_layers
from .vocabulary import LanguageEmbedding, Vocabulary, language_embedding, word_embedding


# PEFT searches for adapter names inside parameter names, and "lo", "or" and "ra" are inside "lora_".
_PREFIX = "language_"
_LANGUAGE = re.compile(r"[A-Za-z0-9]+([-_][A-Za-z0-9]+)*")
# Not attributes of the models, so that these can be copied and pickled.
_LOCKS: WeakKeyDictionary[OpticalModel, threading.RLock] = WeakKeyDictionary()
_LOCKS_LOCK = threading.Lock()


def is_language_code(code: Any) -> bool:
    """Return whether `code` is made like a language code: letters and digits, joined by hyphens or underscores."""
    return isinstance(code, str) and _LANGUAGE.fullmatch(code) is not None


def adapter_name(language: str) -> str:
    """Return the name of a language's adapter in the model."""
    if not is_language_code(language):
        raise ValueError(f"language must be a code such as 'ha', 'sw' or 'zh-Hant', got {language!r}")
    return _PREFIX + language


def default_lora_config(
    model: OpticalModel,
    *,
    rank: int = 32,
    alpha: float | None = None,
    dropout: float = 0.0,
    targets: list[str] | None = None,
    embeddings: bool = True,
) -> LoraConfig:
    """
    Create a LoRA configuration (arXiv 2106.09685) for the word embeddings and all linear layers before the pooler.

    Args:
        model ([`OpticalModel`]): The base.
        rank (`int`, defaults to 32), alpha (`float`, defaults to `rank`), dropout (`float`, defaults to 0):
            As in [`peft.LoraConfig`].
        targets (`list[str]`, *optional*): Names of the modules to adapt. Defaults to all linear layers.
        embeddings (`bool`, defaults to `True`):
            Whether to adapt the word embeddings, since a new language uses known subwords with other meanings.
    """
    encoder = model.encoder
    names = set(targets or ())
    unused = []
    for path, module in encoder.named_modules():
        # Layers that another language's adapter wraps count, the layers of that adapter do not.
        path = path.removesuffix(".base_layer")
        name = path.rsplit(".", 1)[-1]
        if path.split(".")[0] == "pooler":
            unused += [path] if isinstance(module, nn.Linear) else []
        elif module is encoder.get_input_embeddings():
            names |= {name} if embeddings else set()
        elif isinstance(module, nn.Linear) and targets is None and ".lora_" not in path:
            names.add(name)
    return LoraConfig(
        task_type="FEATURE_EXTRACTION",
        r=rank,
        lora_alpha=rank if alpha is None else alpha,  # type: ignore[arg-type]  # PEFT only multiplies by it
        lora_dropout=dropout,
        target_modules=sorted(names),
        exclude_modules=sorted(unused) or None,
    )


def add_adapter(model: OpticalModel, language: str, config: LoraConfig, vocabulary: Vocabulary | None = None) -> None:
    """
    Add a new adapter and new words, activate them, and make everything else untrainable.

    Args:
        model ([`OpticalModel`]), language (`str`): the base, and the code of a language that it has no adapter for.
        config (`peft.LoraConfig`): configuration of the adapter. It is copied, so several models may share it.
        vocabulary ([`Vocabulary`], *optional*): new words. `config` must then not adapt the word embeddings.

    Raises:
        ValueError: `language` is not a language code or has an adapter already; `config` has unsupported settings, or
            adapts the word embeddings while there are new words; or the base's word embeddings cannot be extended.
    """
    name = adapter_name(language)
    check_not_added(model, language)
    if unsupported := unsupported_settings(config):
        raise ValueError(f"language packs need PEFT's defaults for {', '.join(unsupported)}; change the LoRA config")
    words = vocabulary if vocabulary is not None and vocabulary.tokens else None
    if words is not None:
        language_embedding(model)  # fails for some bases, so before PEFT wraps their layers
    _LanguageLora(model.encoder, copy.deepcopy(config), name)
    model.encoder._hf_peft_config_loaded = True  # the flag by which transformers knows of adapters
    try:
        if words is not None:
            if name in getattr(model.encoder.get_input_embeddings(), "lora_embedding_A", {}):
                raise ValueError("the LoRA config must leave the word embeddings out if there are new words")
            language_embedding(model).add(name, words)
    except ValueError:
        remove(model, language)
        raise
    activate(model, language)
    make_trainable(model, [language])


def languages(model: OpticalModel) -> list[str]:
    """Return the languages with an adapter, in the order in which they were added."""
    adapters = list(getattr(model.encoder, "peft_config", {}))  # a copy, since another thread may add one
    return [name.removeprefix(_PREFIX) for name in adapters if name.startswith(_PREFIX)]


def lock_of(model: OpticalModel) -> threading.RLock:
    """Return the lock to hold while using a model in some language, or changing its languages."""
    with _LOCKS_LOCK:
        return _LOCKS.setdefault(model, threading.RLock())


def activate(model: OpticalModel, language: str | None) -> None:
    """
    Activate a language's adapter, or none of them for `None`. This does not change what [`make_trainable`] set.

    Raises:
        KeyError: there is no adapter for `language`.
    """
    with lock_of(model):
        check_added(model, language)
        _activate_adapter(model, language)
        embedding = word_embedding(model)
        if isinstance(embedding, LanguageEmbedding):
            embedding.activate(None if language is None else adapter_name(language))


@contextmanager
def use_language(model: OpticalModel, language: str | None) -> Iterator[None]:
    """Activate a language, or `None` for the base, for a block in which no other thread can change it."""
    with lock_of(model):
        before = active_language(model)
        if language != before:
            activate(model, language)
        try:
            yield
        finally:
            if language != before:
                activate(model, before)


def strength_of(model: OpticalModel, language: str) -> Strength:
    """
    Return the strength of a language's adapter: 1 unless [`set_strength`] has changed it.

    Raises:
        KeyError: there is no adapter for `language`.
    """
    check_added(model, language)
    return _strengths(model).get(language, 1.0)


def set_strength(model: OpticalModel, language: str, strength: Strength) -> None:
    """
    Set the share of a language's adapter that is applied. New words keep their embeddings.

    Args:
        model ([`OpticalModel`]), language (`str`): the base, and the code of a language with an adapter.
        strength (`float` or `tuple[float, float]`):
            0 to 2: a factor for the change that the adapter makes to each layer. 1 is the adapter as it was trained,
            0 leaves the layers of the base. A pair gives the factors of the first and of the last layer; those of the
            layers between are linear in the depth (LiNeS, arXiv 2410.17146).

    Raises:
        KeyError: there is no adapter for `language`.
        ValueError: `strength` is not from 0 to 2, or is not 1 for an adapter with DoRA, which has no such factor.
    """
    strength = check_strength(strength)
    name = adapter_name(language)
    with lock_of(model):
        check_added(model, language)
        config: Any = model.encoder.peft_config[name]
        if strength != 1.0 and config.use_dora:
            raise ValueError(f"strength must be 1 for {language!r}, whose adapter uses DoRA, got {strength}")
        layers = {path: layer for path, layer in _adapted_layers(model) if name in layer.scaling}
        for path, own in strength_of_layers(strength, layers).items():
            layers[path].set_scale(name, own)
        _strengths(model)[language] = strength


@contextmanager
def use_strength(model: OpticalModel, language: str | None, strength: Strength) -> Iterator[None]:
    """Give a language a strength for a block in which no other thread can change it; nothing for `None`."""
    with lock_of(model):
        before = strength if language is None else strength_of(model, language)
        if language is not None and before != strength:
            set_strength(model, language, strength)
        try:
            yield
        finally:
            if language is not None and before != strength:
                set_strength(model, language, before)


def make_trainable(model: OpticalModel, codes: Iterable[str]) -> None:
    """
    Make the adapters and new words of these languages trainable, active or not, and nothing else of the model.

    Raises:
        KeyError: there is no adapter for one of them.
    """
    codes = list(codes)
    for language in codes:
        check_added(model, language)
    names = {adapter_name(language) for language in codes}
    for path, weight in model.named_parameters():
        weight.requires_grad_(not names.isdisjoint(path.split(".")))


def active_language(model: OpticalModel) -> str | None:
    """Return the language whose adapter is active, or `None`."""
    layer = next(_tuner_layers(model.encoder), None)
    if layer is None or layer.disable_adapters or not layer.active_adapters:
        return None
    return layer.active_adapters[0].removeprefix(_PREFIX)


def remove(model: OpticalModel, language: str) -> None:
    """
    Remove a language's adapter. If it was active, none is afterwards.

    Raises:
        KeyError: there is no adapter for `language`.
    """
    check_added(model, language)
    name, encoder, active = adapter_name(language), model.encoder, active_language(model)
    # PEFT would replace an active adapter that is deleted by any other one.
    _activate_adapter(model, None)
    delete_adapter(encoder, name, prefix="lora_")
    del encoder.peft_config[name]
    _strengths(model).pop(language, None)
    if not encoder.peft_config:
        del encoder.peft_config
        encoder._hf_peft_config_loaded = False
    embedding = word_embedding(model)
    if isinstance(embedding, LanguageEmbedding):
        embedding.discard(name)
    activate(model, None if active == language else active)


class _LanguageLora(LoraModel):
    """Inject an adapter next to others without PEFT's warning, which no filter could silence for one thread alone."""

    def __getattr__(self, name: str) -> Any:
        if name == "peft_config":  # PEFT would find the model's, and warn
            raise AttributeError(name)
        return super().__getattr__(name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "peft_config":
            value = {**getattr(self.model, "peft_config", {}), **value}
        super().__setattr__(name, value)


def _activate_adapter(model: OpticalModel, language: str | None) -> None:
    # PEFT's `set_adapter` visits all weights of all adapters, which takes tens of milliseconds with ten packs, and
    # makes inactive ones untrainable, so that adapters trained in turns would never learn.
    for layer in _tuner_layers(model.encoder):
        layer._disable_adapters = language is None
        layer._active_adapter = [] if language is None else [adapter_name(language)]


def _tuner_layers(module: nn.Module) -> Iterator[BaseTunerLayer]:
    """PEFT's wrappers of layers, without a search inside them."""
    for child in module.children():
        if isinstance(child, BaseTunerLayer):
            yield child
        else:
            yield from _tuner_layers(child)


def _adapted_layers(model: OpticalModel) -> Iterator[tuple[str, Any]]:
    """PEFT's wrappers of layers and their paths, in the order of the model."""
    for path, module in model.encoder.named_modules():
        if isinstance(module, BaseTunerLayer):
            yield path, module


def _strengths(model: OpticalModel) -> dict[str, Strength]:
    """Strengths by language, other than 1. An attribute of the model, so that they are copied with it."""
    return vars(model).setdefault("_strengths", {})


def check_added(model: OpticalModel, language: str | None) -> None:
    """Raise `KeyError` with the languages of the model if there is no adapter for `language`; `None` always passes."""
    known = languages(model)
    if language is not None and language not in known:
        raise KeyError(f"no pack for language {language!r} is open (open: {', '.join(known) or 'none'}); add it first")


def check_not_added(model: OpticalModel, language: str) -> None:
    """Raise `ValueError` if there is an adapter for `language`."""
    if language in languages(model):
        raise ValueError(f"the model has a pack for language {language!r} already; remove it first")
