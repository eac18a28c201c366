"""Simulated records of studies, with scores drawn around a given level."""

from __future__ import annotations

import zlib
from collections.abc import Iterable

import numpy as np

from hf_optical.studies.store import Record


MEASURE = "AP"


def record(
    method: str,
    level: float,
    language: str = "ha",
    test: str = "questions",
    *,
    kind: str | None = None,
    queries: int = 40,
    noise: float = 0.1,
    corpus: str | None = "news",
    **more,
) -> Record:
    """
    A record with values around `level`.

    The difficulty of a query is the same for all methods. The `noise` depends on the arguments.
    """
    difficulty = np.random.default_rng(zlib.crc32(f"{test} {language}".encode())).normal(0, 0.1, queries)
    own = np.random.default_rng(zlib.crc32(repr((method, language, test, corpus, sorted(more.items()))).encode()))
    values = np.clip(level + difficulty + own.normal(0, noise, queries), 0, 1)
    return Record(
        method=method,
        kind=kind or method,
        test=test,
        language=language,
        values={MEASURE: {f"q{number}": float(value) for number, value in enumerate(values)}},
        corpus=corpus,
        **({"languages": (language,), "pairs": 1000} | more),
    )


def references(languages: Iterable[str], test: str = "questions", low: float = 0.1, high: float = 0.7) -> list[Record]:
    """The untrained student and the ceiling."""
    return [
        record(kind, level, language, test, corpus=None, pairs=0)
        for kind, level in (("zero_shot", low), ("ceiling", high))
        for language in languages
    ]
