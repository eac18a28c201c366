"""How results of several languages are named: `eval_ha_map` is Hausa's, `eval_map` the mean over the languages."""

from __future__ import annotations

from statistics import fmean


# What may stand before the language in the name of a result.
_PREFIXES = ("", "eval_", "zero_shot_", "ceiling_")


def over_languages(results: dict[str, dict[str, float | None]], prefix: str = "") -> dict[str, float | None]:
    """
    One dictionary of the results of all languages.

    Args:
        results (`dict[str, dict[str, float]]`): language -> measure -> value, which may be `None`.
        prefix (`str`, defaults to `""`): stands before every name.

    Returns:
        `dict[str, float]`: the mean over the languages that have a measure, as `PREFIX_MEASURE`; and with several
        languages the value of each, as `PREFIX_LANGUAGE_MEASURE`.
    """
    flat: dict[str, float | None] = {}
    for name in dict.fromkeys(name for own in results.values() for name in own):
        values = [own[name] for own in results.values() if own.get(name) is not None]
        flat[prefix + name] = fmean(values) if values else None
    if len(results) > 1:
        for language, own in results.items():
            flat |= {f"{prefix}{language}_{name}": value for name, value in own.items()}
    return flat


def of_language(results: dict[str, float | None], language: str) -> dict[str, float | None]:
    """The results of one language out of what [`over_languages`] made, named as if there were no other."""
    own = {}
    for prefix in _PREFIXES:
        start = f"{prefix}{language}_"
        own |= {prefix + name.removeprefix(start): value for name, value in results.items() if name.startswith(start)}
    return own
