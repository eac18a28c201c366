"""Rankings in the format of TREC: those of other programs, and ours."""

from __future__ import annotations

import gzip
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..errors import DataError, short_repr
from ..retrieval.search import Hit
from ..storage.staging import staged_directory


def read_run(file: Path) -> dict[str, list[Hit]]:
    """
    Read a run: lines of query id, `Q0`, document id, rank, score and name of the run, separated by white space.

    The file may be gzipped. Documents are ordered by score, as `trec_eval` does, and not by rank.

    Raises:
        DataError: a line has another form, or ranks a document twice for a query.
    """
    found: dict[str, dict[str, float]] = {}
    raw = file.read_bytes()
    text = (gzip.decompress(raw) if file.suffix == ".gz" else raw).decode("utf-8")
    for number, line in enumerate(text.splitlines(), start=1):
        fields = line.split()
        try:
            query, _, document, _, score, _ = fields
            value = float(score)
        except ValueError as error:
            raise DataError(
                f"{file}, line {number}: expected six fields with a score, got {short_repr(line)}"
            ) from error
        if not math.isfinite(value) or document in found.setdefault(query, {}):
            raise DataError(f"{file}, line {number}: the score is not finite, or {document!r} is ranked again")
        found[query][document] = value
    return {
        query: [Hit(document, score) for document, score in sorted(own.items(), key=lambda entry: -entry[1])]
        for query, own in found.items()
    }


def write_run(file: Path, rankings: Mapping[str, Sequence[Hit]], name: str) -> None:
    """
    Write the rankings of a system, gzipped, in one step.

    White space separates the fields, so that in ids and names becomes `_`. Programs that read a run order it by the
    score, and documents with equal scores in their own way.

    Args:
        file (`Path`): the file.
        rankings (mapping of `str` to sequence of [`Hit`]): query id -> hits, best first.
        name (`str`): name of the system.
    """
    lines = [
        " ".join([_field(query), "Q0", _field(str(hit.document)), str(rank), repr(float(hit.score)), _field(name)])
        + "\n"
        for query, hits in rankings.items()
        for rank, hit in enumerate(hits, start=1)
    ]
    with staged_directory(file.parent) as staged:
        # Without the time, equal rankings give equal files.
        (staged / file.name).write_bytes(gzip.compress("".join(lines).encode("utf-8"), mtime=0))


def _field(value: object) -> str:
    return re.sub(r"\s+", "_", str(value))
