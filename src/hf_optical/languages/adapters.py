"""What languages add to one base model: at most one is at work, and the base's own weights never change."""

from __future__ import annotations

import copy
import re
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

from peft import LoraConfig, LoraModel
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from ..model import OpticalModel
from .lora_settings import unfit_settings
from .vocabulary import LanguageEmbedding, Vocabulary, language_embedding, word_embedding


# PEFT looks for an adapter's name inside its own parameter names: "lo", "or" and "ra" are inside "lora_".
_PREFIX = "language_"
_LANGUAGE = re.compile(r"[A-Za-z0-9]+([-_][A-Za-z0-9]+)*")
# Beside the models and not in them, so that these can still be copied and pickled.
_LOCKS: WeakKeyDictionary[OpticalModel, threading.RLock] = WeakKeyDictionary()
_FINDING_LOCK = threading.Lock()


def adapter_name(language: str) -> str:
    """
    The name of a language's adapter inside the model.

    Raises:
        ValueError: `language` is not made like a language code.
    """
    if not isinstance(language, str) or not _LANGUAGE.fullmatch(language):
        raise ValueError(f"language={language!r} is no language code; pass one such as 'ha', 'sw' or 'zh-Hant'")
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
    A LoRA (arXiv 2106.09685) over every linear layer that the token vectors pass through, and the word embeddings.

    Args:
        model ([`OpticalModel`]):
            The base.
        rank (`int`, defaults to 32), alpha (`float`, defaults to `rank`), dropout (`float`, defaults to 0):
            As in [`peft.LoraConfig`].
        targets (`list[str]`, *optional*):
            Names of the modules to adapt, in place of every linear layer.
        embeddings (`bool`, defaults to `True`):
            Whether the word embeddings are adapted too: a new language uses the old pieces of words in a new sense.
    """
    encoder = model.encoder
    names = set(targets or ())
    unused = []
    for path, module in encoder.named_modules():
        # Where another language's adapter is open, what it wraps counts and what it added does not.
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
        lora_alpha=rank if alpha is None else alpha,
        lora_dropout=dropout,
        target_modules=sorted(names),
        exclude_modules=sorted(unused) or None,
    )


def add_adapter(model: OpticalModel, language: str, config: LoraConfig, vocabulary: Vocabulary | None = None) -> None:
    """
    Adds a fresh adapter and new words, makes them the active ones, and leaves nothing else of the model trainable.

    Args:
        model ([`OpticalModel`]): the base, with or without adapters of other languages.
        language (`str`): language code.
        config (`peft.LoraConfig`): the adapter's shape. Copied, so one config may serve several models.
        vocabulary ([`Vocabulary`], *optional*): words to add. `config` must then leave the word embeddings out.

    Raises:
        ValueError: `language` is no language code, the model has an adapter for it already, `config` has settings that
            a pack may not have or adapts the word embeddings beside new words, or the base's word embeddings are of a
            kind that no rows can be added to.
    """
    name, others = adapter_name(language), languages(model)
    if language in others:
        raise ValueError(f"the model has a pack for language {language!r} already; remove it first")
    if unfit := unfit_settings(config):
        raise ValueError(
            f"the LoRA config sets {', '.join(unfit)}, as no pack that is opened may; leave that as LoraConfig has it"
        )
    added = vocabulary is not None and vocabulary.tokens
    if added:
        language_embedding(model)  # refuses some bases: before PEFT wraps their layers
    if others:
        _FurtherLora(model.encoder, copy.deepcopy(config), name)
    else:
        model.encoder.add_adapter(copy.deepcopy(config), name)
    try:
        if added:
            if name in getattr(model.encoder.get_input_embeddings(), "lora_embedding_A", {}):
                raise ValueError("new words have rows of their own; leave the word embeddings out of the LoRA config")
            language_embedding(model).add(name, vocabulary)
    except ValueError:
        remove(model, language)
        raise
    activate(model, language)
    make_trainable(model, [language])


def languages(model: OpticalModel) -> list[str]:
    """The languages that the model has adapters for, in the order in which they were added."""
    adapters = list(getattr(model.encoder, "peft_config", {}))  # another thread may add one
    return [name.removeprefix(_PREFIX) for name in adapters if name.startswith(_PREFIX)]


def lock_of(model: OpticalModel) -> threading.RLock:
    """What a thread holds while it reads with a model in a language of its own, or changes its languages."""
    with _FINDING_LOCK:
        return _LOCKS.setdefault(model, threading.RLock())


def activate(model: OpticalModel, language: str | None) -> None:
    """
    Puts one language's adapter to work; `None` gives the bare base. What is trainable stays so: [`make_trainable`].

    Raises:
        KeyError: there is no adapter for `language`.
    """
    with lock_of(model):
        require(model, language)
        _put_to_work(model, language)
        embedding = word_embedding(model)
        if isinstance(embedding, LanguageEmbedding):
            embedding.activate(None if language is None else adapter_name(language))


@contextmanager
def at_work(model: OpticalModel, language: str | None) -> Iterator[None]:
    """
    A block with one language at work, `None` for the bare base, in which no other thread changes that; behind it, the
    one before is at work again.

    Raises:
        KeyError: there is no adapter for `language`.
    """
    with lock_of(model):
        before = active_language(model)
        if language != before:
            activate(model, language)
        try:
            yield
        finally:
            if language != before:
                activate(model, before)


def make_trainable(model: OpticalModel, codes: Iterable[str]) -> None:
    """
    Leaves the adapters and new words of these languages trainable, at work or not, and nothing else of the model.

    Raises:
        KeyError: there is no adapter for one of them.
    """
    codes = list(codes)
    for language in codes:
        require(model, language)
    names = {adapter_name(language) for language in codes}
    for path, weight in model.named_parameters():
        weight.requires_grad_(not names.isdisjoint(path.split(".")))


def active_language(model: OpticalModel) -> str | None:
    """The language whose adapter is at work, or `None`."""
    layer = next(_tuner_layers(model.encoder), None)
    if layer is None or layer.disable_adapters or not layer.active_adapters:
        return None
    return layer.active_adapters[0].removeprefix(_PREFIX)


def remove(model: OpticalModel, language: str) -> None:
    """
    Takes a language's adapter out of the model. If it was at work, the bare base is afterwards.

    Raises:
        KeyError: there is no adapter for `language`.
    """
    require(model, language)
    active = active_language(model)
    # PEFT replaces an adapter that it deletes at work by another one, whichever comes first.
    _put_to_work(model, None)
    model.encoder.delete_adapter(adapter_name(language))
    embedding = word_embedding(model)
    if isinstance(embedding, LanguageEmbedding):
        embedding.discard(adapter_name(language))
    activate(model, None if active == language else active)


class _FurtherLora(LoraModel):
    """
    Injects an adapter beside others without PEFT's warning that there are others: to silence a warning for a moment is
    to silence it in all threads, and sometimes for good.
    """

    def __getattr__(self, name: str) -> Any:
        if name == "peft_config":  # PEFT looks for the model's through itself
            raise AttributeError(name)
        return super().__getattr__(name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "peft_config":
            value = {**self.model.peft_config, **value}
        super().__setattr__(name, value)


def _put_to_work(model: OpticalModel, language: str | None) -> None:
    # PEFT's own way visits every weight of every adapter, tens of milliseconds with ten packs open, and freezes those
    # that it takes off work: trained in turns, they would silently never learn.
    for layer in _tuner_layers(model.encoder):
        layer._disable_adapters = language is None
        layer._active_adapter = [] if language is None else [adapter_name(language)]


def _tuner_layers(module: nn.Module) -> Iterator[BaseTunerLayer]:
    """PEFT's wrappers. What they hold, an adapter a language, is not looked at."""
    for child in module.children():
        if isinstance(child, BaseTunerLayer):
            yield child
        else:
            yield from _tuner_layers(child)


def require(model: OpticalModel, language: str | None) -> None:
    """Raises `KeyError`, which says what there is, if there is no adapter for `language`."""
    known = languages(model)
    if language is not None and language not in known:
        raise KeyError(f"no pack for language {language!r} is open (open: {', '.join(known) or 'none'}); add it first")
