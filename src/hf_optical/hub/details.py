"""Validation of the details of a pack: what its card says about where the weights come from."""

from __future__ import annotations

from collections.abc import Iterator
from numbers import Integral, Real
from typing import Any, cast

from ..model.texts import unwritable
from ..storage.json_files import mismatches


# The types that a base can be opened in.
_DTYPES = ("float16", "bfloat16", "float32", "float64")
_NAMES = ("teacher", "teacher_revision", "teacher_fingerprint", "teacher_language", "bitext", "bitext_license")
# What a pack without sentence pairs was made of.
_SOURCES = ("dictionary_license", "english", "english_license", "monolingual", "monolingual_license")
_KINDS: dict[str, Any] = {
    **dict.fromkeys((*_NAMES, *_SOURCES, "hardware", "base_dtype", "projection", "init_pack", "license", "note"), str),
    **{"languages": [str], "scripts": [str], "seconds": Real, "from_dictionary": bool},
    **dict.fromkeys(("pairs", "entries", "sentences", "text_words"), Integral),
    **{"settings": {"method": str}, "results": dict},
}
_RESULT = {"dataset": str, "queries": Integral, "level": Real, "measures": dict, "gap_closed": Real}
_MEASURE = {"trained": Real, "interval": [Real], "zero_shot": Real, "ceiling": Real}
# Far above any count, and far below the largest float.
_LARGEST = 1e300


def invalid_details(details: Any) -> list[str]:
    """Find the places in `details` that are missing or not of the kind that [`write_card`] documents."""
    wrong = unwritable(details, "details") or mismatches(details, _KINDS, "details")
    if wrong:
        return wrong
    if details.get("base_dtype") not in (None, *_DTYPES):
        return ["details.base_dtype"]
    numbers = {
        name: details.get(name) for name in ("seconds", "pairs", "entries", "sentences", "text_words", "results")
    }
    return list(_invalid_results(details.get("results") or {})) or list(_not_finite(numbers, "details"))


def _invalid_results(results: dict[str, Any]) -> Iterator[str]:
    for language, result in results.items():
        place = f"details.results.{language}"
        wrong = _missing_or_invalid(result, _RESULT, ("dataset", "queries", "measures"), place)
        yield from wrong
        for measure, values in result["measures"].items() if not wrong else ():
            measure_place = f"{place}.measures.{measure}"
            wrong_values = _missing_or_invalid(values, _MEASURE, ("trained",), measure_place)
            yield from wrong_values
            if not wrong_values and len(values.get("interval") or ()) not in (0, 2):
                yield f"{measure_place}.interval"


def _missing_or_invalid(value: Any, kinds: dict[str, Any], required: tuple[str, ...], place: str) -> list[str]:
    return mismatches(value, kinds, place) or [f"{place}.{name}" for name in required if value.get(name) is None]


def _not_finite(value: Any, place: str) -> Iterator[str]:
    """Numbers that are not finite, or so large that arithmetic with them is not."""
    if isinstance(value, Real):
        if not abs(cast(float, value)) <= _LARGEST:
            yield place
    elif isinstance(value, dict):
        for name, child in value.items():
            yield from _not_finite(child, f"{place}.{name}")
    elif isinstance(value, list):
        for child in value:
            yield from _not_finite(child, place)
