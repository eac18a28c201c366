"""The strength of a pack: the share of its adapter's change that is applied, in all layers or by depth."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, TypeAlias

from ..checks import check_number


# One for all layers, or that of the first and of the last layer.
Strength: TypeAlias = float | tuple[float, float]
STRONGEST = 2.0
# The number of a layer in the path of a module: `encoder.layer.3.attention.self.query`.
_LAYER = re.compile(r"(?:^|\.)(\d+)(?:\.|$)")


def check_strength(strength: Any) -> Strength:
    """
    Return a strength as a float, or as a pair of floats for the first and the last layer.

    Raises:
        ValueError: `strength` is neither a number from 0 to 2 nor a pair of such numbers.
    """
    pair = isinstance(strength, (tuple, list))
    values = list(strength) if pair else [strength]
    if len(values) != (2 if pair else 1) or any(type(value) not in (int, float) for value in values):
        expected = "a number from 0 to 2, or a pair of them for the first and the last layer"
        raise ValueError(f"strength must be {expected}, got {strength!r:.100}")
    for value in values:
        check_number("strength", value, at_least=0, at_most=STRONGEST, cure="1 applies the adapter as it was trained")
    first, last = float(values[0]), float(values[-1])
    return (first, last) if pair and first != last else first


def strength_of_layers(strength: Strength, paths: Iterable[str]) -> dict[str, float]:
    """
    Compute the strength of each adapted module, linear in the number of its layer (LiNeS, arXiv 2410.17146).

    Modules before the numbered layers, such as the word embeddings, have the strength of the first layer; others
    without a number have that of the layer before them.

    Args:
        strength (`float` or `tuple[float, float]`): one for all modules, or those of the first and the last layer.
        paths (iterable of `str`): paths of the adapted modules, in the order of the model.
    """
    paths = list(paths)
    if isinstance(strength, float):
        return dict.fromkeys(paths, strength)
    found = {path: int(number[1]) for path in paths if (number := _LAYER.search(path))}
    lowest, highest = min(found.values(), default=0), max(found.values(), default=0)
    (first, last), layer, strengths = strength, lowest, {}
    for path in paths:
        layer = found.get(path, layer)
        depth = (layer - lowest) / max(highest - lowest, 1)
        strengths[path] = (1 - depth) * first + depth * last
    return strengths
