from __future__ import annotations

import ast
import operator
import re
from collections.abc import Mapping, Sequence

import ir_measures

from ..retrieval.search import Hit


DEFAULT_MEASURES = ("map", "mrr@10", "ndcg@10", "recall@100")

_FAMILIES = {"map": "AP", "mrr": "RR", "ndcg": "nDCG", "recall": "R", "p": "P"}
# pytrec_eval keeps a count for every judgement up to the highest, in 32 bits, and at a place that is the judgement.
_HIGHEST = 9999

Qrels = Mapping[str, Mapping[str, int]]
Run = Mapping[str, Mapping[str, float]]


def retrieval_metrics(qrels: Qrels, run: Run, measures: Sequence[str] = DEFAULT_MEASURES) -> dict[str, float]:
    """
    Retrieval quality, as `ir_measures` computes it.

    A query of `qrels` that `run` lacks counts as 0, and a query of `run` that `qrels` lacks is ignored.

    Args:
        qrels (mapping of query id to mapping of document id to `int`):
            Judgements, 9999 at most. Above 0 is relevant; what is below, such as TREC Web's -2 for spam, counts as 0.
            A query without a relevant document, or without any judgement, scores 0.
        run (mapping of query id to mapping of document id to `float`):
            What was found, the best with the highest score. The measures disagree on how to rank equal scores, and
            some tell them apart in float32 only, so rather than similarities give what [`run_from_hits`] makes.
        measures (sequence of `str`):
            `"map"`, `"mrr"`, `"ndcg"` with or without a cut-off (`"ndcg@10"`), `"recall@k"`, `"p@k"`, or a name of
            `ir_measures` itself, such as `"AP"`, `"RR@10"`, `"nDCG@10"`, `"R@100"`, `"P@5"` or `"AP(rel=2)"`.

    Returns:
        `dict[str, float]`: the mean over the queries of `qrels`, under the names asked for.

    Raises:
        ValueError: `qrels` is empty, a judgement is above 9999, or a measure is unknown.
        TypeError: a judgement is no whole number.
    """
    return {name: _aggregate(_measure(name), each) for name, each in per_query_metrics(qrels, run, measures).items()}


def per_query_metrics(
    qrels: Qrels, run: Run, measures: Sequence[str] = DEFAULT_MEASURES
) -> dict[str, dict[str, float]]:
    """As [`retrieval_metrics`], before the mean: measure -> query id, in the order of `qrels` -> value."""
    if not qrels:
        raise ValueError("qrels is empty; a measure needs at least one judged query")
    parsed = {name: _measure(name) for name in measures}
    values = {measure: dict.fromkeys(qrels, 0.0) for measure in parsed.values()}
    judged = {
        query: {document: _judgement(value, query, document) for document, value in judgements.items()}
        for query, judgements in qrels.items()
    }
    for query, measure, value in ir_measures.iter_calc(list(values), judged, run):
        values[measure][query] = float(value)
    return {name: dict(values[measure]) for name, measure in parsed.items()}


def run_from_hits(hits: Mapping[str, Sequence[Hit]]) -> dict[str, dict[str, float]]:
    """
    Makes a run of what [`~retrieval.search`] found.

    Its scores are ranks, 0 for the best and then -1, -2, ..., and not similarities: what is measured is then the order
    that was found, also among documents of equal or nearly equal score.

    Args:
        hits (mapping of query id to sequence of [`Hit`]):
            Hits, best first, that carry document ids.

    Raises:
        ValueError: a hit carries a position in place of an id, or a query finds a document twice.
    """
    run = {}
    for query, ranking in hits.items():
        run[query] = {hit.document: -float(rank) for rank, hit in enumerate(ranking)}
        if not all(isinstance(document, str) for document in run[query]):
            raise ValueError(f"the hits of query {query!r} carry positions; pass document_ids to `search`")
        if len(run[query]) != len(ranking):
            raise ValueError(f"query {query!r} finds a document twice; the document_ids of `search` must be unique")
    return run


def measure_name(name: str) -> str:
    """
    How `ir_measures` writes a measure, for reports: `"map"` is `"AP"`, `"mrr@10"` is `"RR@10"`.

    Raises:
        ValueError: the measure is unknown.
    """
    return str(_measure(name))


def _judgement(value: int, query: str, document: str) -> int:
    """What pytrec_eval may be given: anything below 0 makes it write outside of its memory, or never return."""
    try:
        judgement = operator.index(value)
    except TypeError:
        raise TypeError(
            f"the judgement of query {query!r} and document {document!r} is {value!r}; it must be a whole number"
        ) from None
    if judgement > _HIGHEST:
        raise ValueError(
            f"the judgement of query {query!r} and document {document!r} is {judgement}; judge by grades of at most "
            f"{_HIGHEST}"
        )
    return max(judgement, 0)


def _aggregate(measure: ir_measures.Measure, values: Mapping[str, float]) -> float:
    total = measure.aggregator()
    for value in values.values():
        total.add(value)
    return float(total.result())


def _measure(name: str) -> ir_measures.Measure:
    # `ir_measures.parse_measure` warns on Python 3.12 and fails on 3.14. A cut-off below 1 makes pytrec_eval abort the
    # whole process, and so may a gain below 0.
    written = re.fullmatch(r"(\w+)(\([^()]*\))?(?:@([1-9][0-9]*))?", name)
    try:
        if written is None:
            raise ValueError("neither a name nor a name with parameters")
        family, parameters, cutoff = written.groups()
        call = ast.parse(f"f{parameters or '()'}").body[0].value
        if call.args:
            raise ValueError("parameters are named")
        given = {each.arg: ast.literal_eval(each.value) for each in call.keywords}
        grades = range(_HIGHEST + 1)
        if given.get("cutoff", 1) < 1 or given.get("rel", 1) not in grades[1:]:
            raise ValueError("a cut-off or a grade that cannot be counted")
        if any(gain not in grades for gain in given.get("gains", {}).values()):
            raise ValueError("a gain that cannot be counted")
        measure = ir_measures.measures.registry[_FAMILIES.get(family.lower(), family)](**given)
        measure = measure @ int(cutoff) if cutoff else measure
        if not ir_measures.DefaultPipeline.supports(measure):
            raise ValueError("no provider")
    except (AttributeError, LookupError, SyntaxError, TypeError, ValueError, AssertionError) as error:
        raise ValueError(
            f"unknown measure {name!r}; use map, mrr or ndcg, with or without a cut-off (ndcg@10), recall@k, p@k, or "
            f"a name of ir_measures with its parameters: {', '.join(sorted(ir_measures.measures.registry))}"
        ) from error
    return measure
