"""The names of the training methods, and what they stand for."""

from __future__ import annotations

from typing import Any

from torch import nn

from ..checks import check_choice, check_number
from .alignment import Alignment
from .anchor import Anchor
from .base import Method
from .code_switch import CodeSwitch
from .pair_ranking import PairRanking


# Names that stand for several methods at once.
RECIPES = {"hybrid": ("ot", CodeSwitch.name), "ot_ranking": ("ot", PairRanking.name)}


def method_names() -> list[str]:
    """The names that `method` may have."""
    return [*Method.registered, *RECIPES]


def method_classes(name: str) -> list[type[Method]]:
    """The methods that a name stands for; none for an unknown name."""
    parts = RECIPES.get(name) or name.split(", ")
    return [Method.registered[part] for part in parts if part in Method.registered]


def name_of(methods: list[Method]) -> str:
    """The name that stands for methods; those without a registered name are left out."""
    parts = tuple(method.name for method in methods if method.name)
    return next((name for name, recipe in RECIPES.items() if recipe == parts), ", ".join(parts))


def make_methods(
    settings: Any, method: Method | type[Method] | list[Method] | None = None, loss: nn.Module | None = None
) -> list[Method]:
    """
    Make the methods of a run.

    Args:
        settings ([`OTDistillationConfig`]): the settings; `settings.method` is the name.
        method ([`Method`], its class, or a list of methods, *optional*): used in place of the name.
        loss (`nn.Module`, *optional*): used in place of the alignment loss.

    Raises:
        ValueError: there is no such method, a `loss` comes without a method that aligns, or several methods align.
    """
    if method is None:
        check_choice("method", settings.method, method_names())
        method = [each(settings) for each in method_classes(settings.method)]
    methods = [each(settings) if isinstance(each, type) else each for each in _listed(method)]
    aligning = [each for each in methods if isinstance(each, Alignment)]
    check_number("number of methods that align sentences", len(aligning), at_most=1)
    if loss is not None and not aligning:
        raise ValueError(f"loss must come with a method that aligns sentences, got method={name_of(methods)!r}")
    if loss is not None:
        aligning[0].use_loss(loss)
    if settings.anchor_weight:
        methods.insert(len(aligning), Anchor(settings))
    return methods


def turns(methods: list[Method], alternate: bool) -> list[list[Method]]:
    """The methods of each step, in turns; the anchor goes with the first."""
    if not alternate:
        return [methods]
    anchors = [method for method in methods if isinstance(method, Anchor)]
    first, *others = (method for method in methods if method not in anchors)
    return [[first, *anchors], *([method] for method in others)]


def _listed(method: Any) -> list[Any]:
    return list(method) if isinstance(method, (list, tuple)) else [method]
