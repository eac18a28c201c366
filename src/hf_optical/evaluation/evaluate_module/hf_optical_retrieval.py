"""Retrieval measures for `evaluate.load`, which copies this file, so imports must be absolute."""

from __future__ import annotations

import datasets
import evaluate

from hf_optical.evaluation.metrics import DEFAULT_MEASURES, retrieval_metrics, run_from_hits
from hf_optical.retrieval.search import Hit


_DESCRIPTION = """
Retrieval measures computed with `ir_measures`: average precision, reciprocal rank, nDCG, recall, precision and its
other measures, with or without cut-offs, averaged over the queries.
"""

_INPUTS = """
Args:
    predictions: retrieved documents, one row per query: {"documents": ["d1", "d7"], "scores": [0.9, 0.3]}. They are
        ranked by score; equal scores keep their order. A query without results has empty lists, and counts as 0.
    references: judgements of the same queries in the same order: {"documents": ["d7"], "judgements": [1]}. Above 0 is
        relevant.
    measures: names such as "AP", "RR@10", "nDCG@10", "R@100", "P@5".

Returns:
    measure -> mean over the queries, under the names passed in `measures`.

Examples:
    >>> found = [{"documents": ["d1", "d7"], "scores": [0.9, 0.3]}]
    >>> judged = [{"documents": ["d7"], "judgements": [1]}]
    >>> module.compute(predictions=found, references=judged, measures=["RR@10"])
    {'RR@10': 0.5}
"""

_CITATION = """
@inproceedings{macavaney2022ir_measures,
  title = {Streamlining Evaluation with ir-measures},
  author = {MacAvaney, Sean and Macdonald, Craig and Ounis, Iadh},
  booktitle = {ECIR},
  year = {2022}
}
"""


class HfOpticalRetrieval(evaluate.Metric):
    """Measures of `ir_measures` on rows of `evaluate`, one per query."""

    def _info(self) -> evaluate.MetricInfo:
        document_ids = datasets.Sequence(datasets.Value("string"))
        features = {
            "predictions": {"documents": document_ids, "scores": datasets.Sequence(datasets.Value("float64"))},
            "references": {"documents": document_ids, "judgements": datasets.Sequence(datasets.Value("int64"))},
        }
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features(features),
            reference_urls=["https://ir-measur.es"],
        )

    def _compute(self, predictions, references, measures=DEFAULT_MEASURES) -> dict[str, float]:
        hits, qrels = {}, {}
        for row, (found, judged) in enumerate(zip(predictions, references, strict=True)):
            ranking = [Hit(*pair) for pair in _pairs(found, "scores", f"predictions[{row}]")]
            hits[str(row)] = sorted(ranking, key=lambda hit: -hit.score)
            qrels[str(row)] = dict(_pairs(judged, "judgements", f"references[{row}]"))
        return retrieval_metrics(qrels, run_from_hits(hits), measures)


def _pairs(row: dict[str, list], name: str, where: str) -> list[tuple]:
    documents, values = row["documents"], row[name]
    if not len(set(documents)) == len(documents) == len(values):
        raise ValueError(f"{where} must have unique documents, and as many {name}, got {documents} and {values}")
    return list(zip(documents, values, strict=True))
