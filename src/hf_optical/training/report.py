"""The report of a run: results before and after training, gaps closed, questions whose answer changed."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from ..evaluation import gap_closed
from ..evaluation.results import of_language, over_languages
from ..retrieval.search import Hit
from .distributed import from_main_process
from .setup import HELD_OUT


if TYPE_CHECKING:
    from .trainer import OTDistillationTrainer

_ROWS = (("before", "zero_shot_"), ("after", "eval_"), ("human translation, teacher", "ceiling_"))


def measure_references(trainer: OTDistillationTrainer) -> dict[str, dict[str, list[Hit]]]:
    """
    Search with the untrained student, and with the teacher on human translations; to be called before `train`.

    The measures go into `trainer.references`. Returns language -> query id -> the hits of the untrained student.
    """
    trainer.set_language(None)
    found, zero_shot, ceiling = {}, {}, {}
    for language, evaluator in trainer.retrieval_evaluators.items():
        found[language] = from_main_process(partial(evaluator.search, trainer.model, trainer.base_processor))
        zero_shot[language] = evaluator.measure(found[language])
        # The translation of a held-out sentence is the document itself.
        if evaluator.has_translations and evaluator.dataset.name != HELD_OUT:
            evaluate = partial(evaluator, trainer.teacher, trainer.teacher_processor, translated=True)
            ceiling[language] = from_main_process(evaluate)
    trainer.references = {"zero_shot": zero_shot, "ceiling": ceiling}
    return found


def with_references(
    metrics: dict[str, float], references: dict[str, dict[str, dict[str, float]]], languages: list[str]
) -> dict[str, float | None]:
    """
    Add the references of a run, such as `zero_shot_map` and `ceiling_map`, and the share of the gap that was closed.
    """
    results: dict[str, float | None] = dict(metrics)
    several = len(languages) > 1
    for key, reference in references.items():
        results |= over_languages(reference, f"{key}_", several=several)
    gaps: dict[str, dict[str, float | None]] = {}
    for language in languages:
        own: dict[str, Any] = _of_one(results, language, languages)
        if "ceiling_map" in own:
            gaps[language] = {"gap_closed": gap_closed(own["zero_shot_map"], own["eval_map"], own["ceiling_map"])}
    return results | over_languages(gaps, several=several)


def results_text(results: dict[str, float | None], language: str, languages: list[str]) -> str:
    """Format the results of a language before and after training; empty if retrieval was not evaluated."""
    own = _of_one(results, language, languages)
    measures = [name.removeprefix("zero_shot_") for name in own if name.startswith("zero_shot_")]
    if not measures:
        return ""
    lines = [f"\n{language:28}" + "".join(f"{measure:>12}" for measure in measures)]
    for label, prefix in _ROWS:
        values = [own.get(prefix + measure) for measure in measures]
        if None not in values:
            lines.append(f"{label:28}" + "".join(f"{value:12.3f}" for value in values))
    if own.get("gap_closed") is not None:
        lines.append(f"{'gap closed':28}{own['gap_closed']:12.3f}")
    return "\n".join(lines)


def questions_text(trainer: OTDistillationTrainer, language: str, before: dict[str, list[Hit]], count: int) -> str:
    """Format a few questions whose first passage changed since `before`, now correct ones first."""
    evaluator = trainer.retrieval_evaluators[language]
    dataset = evaluator.dataset
    trainer.set_language(language)
    after = evaluator.search(
        trainer.model, trainer.processors[language], top_k=1, query_ids=list(dataset.queries)[: 10 * count]
    )

    def first(hits: dict[str, list[Hit]], query_id: str) -> str:
        return str(hits[query_id][0].document)

    def is_correct(hits: dict[str, list[Hit]], query_id: str) -> bool:
        return dataset.qrels[query_id].get(first(hits, query_id), 0) > 0

    changed = [query for query in after if first(before, query) != first(after, query)]
    changed.sort(key=lambda query: is_correct(after, query), reverse=True)
    lines = []
    for query_id in changed[:count]:
        query = dataset.queries[query_id]
        lines.append(f"\n{query.text}" + (f"  ({query.translation})" if query.translation else ""))
        for label, hits in (("before", before), ("after", after)):
            document = dataset.corpus[first(hits, query_id)]
            mark = "+" if is_correct(hits, query_id) else "-"
            title = f"{document.title}: " if document.title else ""
            lines.append(f"  {label:>6} {mark} {title}{document.text[:90]}...")
    return "\n".join(lines)


def _of_one(results: dict[str, float | None], language: str, languages: list[str]) -> dict[str, float | None]:
    return of_language(results, language) if len(languages) > 1 else results
