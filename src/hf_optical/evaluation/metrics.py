from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence
from typing import Any

import ir_measures

from ..checks import check_not_empty
from ..retrieval.search import Hit


DEFAULT_MEASURES = ("map", "mrr@10", "ndcg@10", "recall@100")
"""Measures of an evaluation that names no others."""

_FAMILIES = {"map": "AP", "mrr": "RR", "ndcg": "nDCG", "recall": "R", "p": "P"}
_MEASURE = re.compile(r"(\w+)(\([^()]*\))?(?:@([1-9][0-9]*))?")
# pytrec_eval allocates one 32-bit counter per grade up to the highest judgement.
_HIGHEST_GRADE = 9999

Qrels = Mapping[str, Mapping[str, int]]
Run = Mapping[str, Mapping[str, float]]


def retrieval_metrics(qrels: Qrels, run: Run, measures: Sequence[str] = DEFAULT_MEASURES) -> dict[str, float]:
    """
    Compute retrieval measures with `ir_measures`.

    Queries of `qrels` that `run` lacks count as 0. Queries of `run` that `qrels` lacks are ignored.

    Args:
        qrels (mapping of query id to mapping of document id to `int`):
            Judgements, 9999 at most. Above 0 is relevant; negative ones, such as TREC Web's -2 for spam, count as 0.
            A query without a relevant document, or without any judgement, scores 0.
        run (mapping of query id to mapping of document id to `float`):
            Retrieved documents; the best has the highest score. Measures disagree on how to rank equal scores, and
            some compare them in float32 only, so pass the output of [`run_from_hits`] rather than similarities.
        measures (sequence of `str`):
            `"map"`, `"mrr"`, `"ndcg"` with or without a cut-off (`"ndcg@10"`), `"recall@k"`, `"p@k"`, or a name of
            `ir_measures` itself, such as `"AP"`, `"RR@10"`, `"nDCG@10"`, `"R@100"`, `"P@5"` or `"AP(rel=2)"`.

    Returns:
        `dict[str, float]`: the mean over the queries of `qrels`, under the names passed in `measures`.

    Raises:
        ValueError: `qrels` is empty, a judgement is not a whole number or is above 9999, or a measure is unknown.
    """
    return {name: _aggregate(_measure(name), each) for name, each in per_query_metrics(qrels, run, measures).items()}


def per_query_metrics(
    qrels: Qrels, run: Run, measures: Sequence[str] = DEFAULT_MEASURES
) -> dict[str, dict[str, float]]:
    """As [`retrieval_metrics`], per query: measure -> query id, in the order of `qrels` -> value."""
    check_not_empty("qrels", qrels)
    parsed = {name: _measure(name) for name in measures}
    values = {measure: dict.fromkeys(qrels, 0.0) for measure in parsed.values()}
    grades = {query: _grades(query, judgements) for query, judgements in qrels.items()}
    for query, measure, value in ir_measures.iter_calc(list(values), grades, run):
        values[measure][query] = float(value)
    return {name: dict(values[measure]) for name, measure in parsed.items()}


def run_from_hits(hits: Mapping[str, Sequence[Hit]]) -> dict[str, dict[str, float]]:
    """
    Convert the results of [`~retrieval.search`] to a run.

    Scores are ranks (0 for the best, then -1, -2, ...) instead of similarities, so that measures see the order that
    was retrieved, also among documents with equal or nearly equal similarity.

    Args:
        hits (mapping of query id to sequence of [`Hit`]): Hits with document ids, best first.

    Raises:
        ValueError: a hit carries a position instead of a document id, or a document appears twice for one query.
    """
    run: dict[str, dict[str, float]] = {}
    for query, ranking in hits.items():
        ids = [hit.document for hit in ranking if isinstance(hit.document, str)]
        run[query] = {document: -float(rank) for rank, document in enumerate(ids)}
        if len(run[query]) < len(ranking):
            raise ValueError(f"hits of query {query!r} must have unique document ids; pass `document_ids` to `search`")
    return run


def measure_name(name: str) -> str:
    """
    Return the `ir_measures` name of a measure, for reports.

    `"map"` becomes `"AP"`, and `"mrr@10"` becomes `"RR@10"`.

    Raises:
        ValueError: the measure is unknown.
    """
    return str(_measure(name))


def _grades(query: str, judgements: Mapping[str, int]) -> dict[str, int]:
    """Judgements that are safe for pytrec_eval, which corrupts memory or hangs on negative ones."""
    grades = {}
    for document, value in judgements.items():
        if value % 1 or value > _HIGHEST_GRADE:
            raise ValueError(f"{query!r}, {document!r}: a judgement must be a whole number up to 9999, got {value!r}")
        grades[document] = max(int(value), 0)
    return grades


def _aggregate(measure: ir_measures.Measure, values: Mapping[str, float]) -> float:
    total = measure.aggregator()
    for value in values.values():
        total.add(value)
    return float(total.result())


def _measure(name: str) -> ir_measures.Measure:
    # `ir_measures.parse_measure` warns on Python 3.12 and fails on 3.14.
    match = _MEASURE.fullmatch(name)
    family, parameters, cutoff = match.groups() if match else ("", None, None)
    try:
        call = ast.parse(f"dict{parameters or '()'}", mode="eval").body
        assert isinstance(call, ast.Call)
        given = {str(each.arg): ast.literal_eval(each.value) for each in call.keywords}
        measure = ir_measures.measures.registry[_FAMILIES.get(family.lower(), family)](**given)
        measure = measure @ int(cutoff) if cutoff else measure
        supported = not call.args and _is_safe(given) and ir_measures.DefaultPipeline.supports(measure)
    except (AttributeError, LookupError, SyntaxError, TypeError, ValueError, AssertionError):
        supported = False
    if not supported:
        known = ", ".join(sorted(ir_measures.measures.registry))
        raise ValueError(f"unknown measure {name!r}; use map, mrr, ndcg (or ndcg@10), recall@k, p@k or one of {known}")
    return measure


def _is_safe(parameters: Mapping[str, Any]) -> bool:
    """Whether pytrec_eval can take the parameters: a cut-off below 1 or a negative gain aborts the process."""
    grades = range(_HIGHEST_GRADE + 1)
    return (
        parameters.get("cutoff", 1) >= 1
        and parameters.get("rel", 1) in grades[1:]
        and all(gain in grades for gain in parameters.get("gains", {}).values())
    )
