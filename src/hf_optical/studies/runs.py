"""Rankings of other programs in the format of TREC."""

from __future__ import annotations

import math
from pathlib import Path

from ..errors import DataError, short_repr
from ..retrieval.search import Hit


def read_run(file: Path) -> dict[str, list[Hit]]:
    """
    Read a run: lines of query id, `Q0`, document id, rank, score and name of the run, separated by white space.

    Documents are ordered by score, as `trec_eval` does, and not by rank.

    Raises:
        DataError: a line has another form, or ranks a document twice for a query.
    """
    found: dict[str, dict[str, float]] = {}
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
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
