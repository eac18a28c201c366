"""What is told of where weights come from, and what each entry of it must be before a page is made of it."""

from __future__ import annotations

from collections.abc import Iterator
from numbers import Integral, Real
from typing import Any

from ..model.texts import unwritable
from ..storage.json_files import misfits


# The types that a base can be opened in.
_DTYPES = ("float16", "bfloat16", "float32", "float64")
_NAMES = ("teacher", "teacher_revision", "teacher_language", "bitext", "bitext_license")
_KINDS: dict[str, Any] = {
    **dict.fromkeys((*_NAMES, "hardware", "base_dtype", "license", "note"), str),
    **{"languages": [str], "scripts": [str], "pairs": Integral, "seconds": Real},
    **{"settings": {"method": str}, "results": dict},
}
_RESULT = {"dataset": str, "queries": Integral, "level": Real, "measures": dict, "gap_closed": Real}
_MEASURE = {"trained": Real, "interval": [Real], "zero_shot": Real, "ceiling": Real}
# Far above what is counted, far below where arithmetic ends.
_LARGEST = 1e300


def unfit_details(details: Any) -> list[str]:
    """
    The places in `details` that are missing or not what [`write_card`] says of them; entries that it does not name may
    be anything that a file can hold.
    """
    wrong = unwritable(details, "details") or misfits(details, _KINDS, "details") or list(_unfit_results(details))
    if wrong:
        return wrong
    if details.get("base_dtype") not in (None, *_DTYPES):
        return ["details.base_dtype"]
    counted = {name: details.get(name) for name in ("seconds", "pairs", "results")}
    return list(_endless(counted, "details"))


def _unfit_results(details: dict[str, Any]) -> Iterator[str]:
    for language, own in (details.get("results") or {}).items():
        place = f"details.results.{language}"
        yield from _unfit(own, _RESULT, ("dataset", "queries", "measures"), place)
        measures = own.get("measures") if isinstance(own, dict) else None
        for measure, known in measures.items() if isinstance(measures, dict) else ():
            yield from _unfit(known, _MEASURE, ("trained",), f"{place}.measures.{measure}")
            interval = known.get("interval") if isinstance(known, dict) else None
            if isinstance(interval, list) and len(interval) not in (0, 2):
                yield f"{place}.measures.{measure}.interval"


def _unfit(value: Any, kinds: dict[str, Any], required: tuple[str, ...], place: str) -> Iterator[str]:
    wrong = misfits(value, kinds, place)
    yield from wrong
    if not wrong:
        yield from (f"{place}.{name}" for name in required if value.get(name) is None)


def _endless(value: Any, place: str) -> Iterator[str]:
    """Numbers that are not finite, or that would not be after a step of arithmetic."""
    if isinstance(value, Real) and not abs(value) <= _LARGEST:
        yield place
    elif isinstance(value, dict):
        for name, own in value.items():
            yield from _endless(own, f"{place}.{name}")
    elif isinstance(value, list):
        for own in value:
            yield from _endless(own, place)
