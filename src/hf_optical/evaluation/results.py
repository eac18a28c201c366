"""Names for results in several languages: `eval_ha_map` for Hausa, `eval_map` for the mean over languages."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean


# Prefixes that may precede the language in the name of a result.
_PREFIXES = ("", "eval_", "zero_shot_", "ceiling_")


def over_languages(
    results: Mapping[str, Mapping[str, float | None]], prefix: str = "", *, several: bool
) -> dict[str, float | None]:
    """
    Merge results, language -> measure -> value, into one flat dictionary.

    It has `PREFIX_MEASURE`, the mean over languages, and if the run is of `several` languages, also
    `PREFIX_LANGUAGE_MEASURE`, even where only one of them has results.
    """
    flat: dict[str, float | None] = {}
    for name in dict.fromkeys(name for own in results.values() for name in own):
        values = [value for own in results.values() if (value := own.get(name)) is not None]
        flat[prefix + name] = fmean(values) if values else None
    if several:
        for language, own in results.items():
            flat |= {f"{prefix}{language}_{name}": value for name, value in own.items()}
    return flat


def of_language(results: dict[str, float | None], language: str) -> dict[str, float | None]:
    """Extract the results of one language from the output of [`over_languages`], under their plain names."""
    own: dict[str, float | None] = {}
    for prefix in _PREFIXES:
        start = f"{prefix}{language}_"
        own |= {prefix + name.removeprefix(start): value for name, value in results.items() if name.startswith(start)}
    return own
