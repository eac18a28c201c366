"""The LoRA adapters of one base model: one a language, at most one at work. The base's own weights never change."""

from __future__ import annotations

import re

from peft import LoraConfig
from torch import nn

from ..model import OpticalModel


# PEFT looks for an adapter's name inside its own parameter names: "lo", "or" and "ra" are inside "lora_".
_PREFIX = "language_"
_LANGUAGE = re.compile(r"[A-Za-z0-9]+([-_][A-Za-z0-9]+)*")


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
    linear = {name for name, module in encoder.named_modules() if isinstance(module, nn.Linear)}
    unused = sorted(name for name in linear if name.split(".")[0] == "pooler")
    names = {name.rsplit(".", 1)[-1] for name in linear.difference(unused)} if targets is None else set(targets)
    if embeddings:
        names |= {
            name.rsplit(".", 1)[-1]
            for name, module in encoder.named_modules()
            if module is encoder.get_input_embeddings()
        }
    return LoraConfig(
        task_type="FEATURE_EXTRACTION",
        r=rank,
        lora_alpha=rank if alpha is None else alpha,
        lora_dropout=dropout,
        target_modules=sorted(names),
        exclude_modules=unused or None,
    )


def add_adapter(model: OpticalModel, language: str, config: LoraConfig) -> None:
    """
    Adds a fresh adapter, makes it the active one, and leaves nothing else of the model trainable.

    Raises:
        ValueError: the model has an adapter for `language` already.
    """
    if language in languages(model):
        raise ValueError(f"the model has a pack for language {language!r} already; remove it first")
    model.encoder.add_adapter(config, adapter_name(language))
    if model.projection is not None:
        model.projection.requires_grad_(False)


def languages(model: OpticalModel) -> list[str]:
    """The languages that the model has adapters for, in the order in which they were added."""
    return [name.removeprefix(_PREFIX) for name in getattr(model.encoder, "peft_config", {})]


def activate(model: OpticalModel, language: str | None) -> None:
    """
    Puts one language's adapter to work; `None` gives the bare base.

    Raises:
        KeyError: there is no adapter for `language`.
    """
    known = languages(model)
    if language is None:
        if known:
            model.encoder.disable_adapters()
        return
    if language not in known:
        raise KeyError(f"no pack for language {language!r} is open (open: {', '.join(known) or 'none'}); add it first")
    model.encoder.enable_adapters()
    model.encoder.set_adapter(adapter_name(language))


def active_language(model: OpticalModel) -> str | None:
    """The language whose adapter is at work, or `None`."""
    layers = (module for module in model.encoder.modules() if hasattr(module, "disable_adapters"))
    layer = next(layers, None)
    if layer is None or layer.disable_adapters:
        return None
    return layer.active_adapters[0].removeprefix(_PREFIX)


def remove(model: OpticalModel, language: str) -> None:
    """Takes a language's adapter out of the model and leaves the bare base at work."""
    activate(model, language)
    model.encoder.delete_adapter(adapter_name(language))
    activate(model, None)
