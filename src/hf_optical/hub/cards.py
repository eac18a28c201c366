"""The cards of what is published. The templates are in `hub_cards/`."""

from __future__ import annotations

import os
from importlib.resources import files
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from ..evaluation.metrics import DEFAULT_MEASURES
from ..evaluation.results import of_language
from ..files import write_text
from ..model.layout import public_name
from .methods import METHODS, describe


# What the card shows of the results: row -> prefix of its entries in `eval_results.json`.
_ROWS = {"before training": "zero_shot_", "this model": "eval_", "human translation, teacher": "ceiling_"}
# Template -> the library that opens it, how it relates to its base, and its title.
_KINDS = {
    "language_pack": ("hf_optical", "adapter", "Language pack"),
    "model": ("sentence-transformers", "finetune", "Late-interaction model"),
}


def write_card(
    folder: str | os.PathLike,
    *,
    kind: str,
    language: str,
    languages: list[str] | None = None,
    base_model: str,
    details: dict[str, Any],
    results: dict[str, float],
) -> None:
    """
    Writes `README.md`: metadata that the Hub understands and a page for people.

    Of what lies on this machine only the last part of its path is told.

    Args:
        folder (`str` or `os.PathLike`):
            Where the card goes.
        kind (`str`):
            `"language_pack"` or `"model"`, the name of the template.
        language (`str`):
            Code of the language, or of the pack that several share.
        languages (`list[str]`, *optional*):
            Codes of the languages that it reads. Defaults to `[language]`.
        base_model (`str`):
            Hub id of the base. A folder on this machine is left out of the metadata.
        details (`dict`):
            Where the weights come from, all of it optional: `teacher`, `teacher_language`, `bitext`, `pairs`,
            `settings` (a `dict`), `eval_name` (the retrieval set).
        results (`dict[str, float]`):
            As in `eval_results.json`; may be empty. Of several languages, the means and the results of each, named as
            [`over_languages`] does.
    """
    library, relation, what = _KINDS[kind]
    languages = languages or [language]
    title = f"{what} for {', '.join(languages)}"
    measures = _measures(results, languages)
    dataset = public_name(details.get("eval_name") or "custom")
    settings = details.get("settings", {})
    method = METHODS[settings.get("method", "ot")]
    teacher_language = details.get("teacher_language", "en")
    data = ModelCardData(
        language=languages,
        library_name=library,
        base_model=base_model if _is_hub_id(base_model) else None,
        base_model_relation=relation if _is_hub_id(base_model) else None,
        pipeline_tag="sentence-similarity",
        tags=["hf-optical", "late-interaction", "colbert", "cross-lingual", *method.tags],
        model_name=title if measures else None,
        eval_results=[
            EvalResult(
                task_type="information-retrieval",
                dataset_type=dataset,
                dataset_name=dataset,
                metric_type=measure,
                metric_value=round(results[f"eval_{measure}"], 4),
            )
            for measure in measures
        ]
        or None,
    )
    card = ModelCard.from_template(
        data,
        template_str=files("hf_optical.hub_cards").joinpath(f"{kind}.md").read_text(encoding="utf-8"),
        title=title,
        language=language,
        languages=", ".join(languages),
        base_model=public_name(base_model),
        results=_results_tables(measures, results, languages),
        gap_closed=results.get("gap_closed"),
        teacher=public_name(details.get("teacher") or "not recorded"),
        teacher_language=teacher_language,
        method=describe(settings, teacher_language),
        citations="\n\n".join(method.citations),
        bitext=public_name(details["bitext"]) if details.get("bitext") else None,
        pairs=details.get("pairs", "not recorded"),
        settings=settings,
        megabytes=sum(weights.stat().st_size for weights in Path(folder).glob("*.safetensors")) / 1e6,
    )
    write_text(Path(folder) / "README.md", f"{card}\n")


def _measures(results: dict[str, float], languages: list[str]) -> list[str]:
    named = [name.removeprefix("eval_") for name in results if name.startswith("eval_")]
    measures = [name for name in named if name in DEFAULT_MEASURES or f"zero_shot_{name}" in results]
    return [name for name in measures if not name.startswith(tuple(f"{code}_" for code in languages))]


def _results_tables(measures: list[str], results: dict[str, float], languages: list[str]) -> str:
    """A table; for several languages one of the means and one for each."""
    table = _results_table(measures, results)
    if len(languages) == 1 or not table:
        return table
    own = [f"{language}:\n\n{_results_table(measures, of_language(results, language))}" for language in languages]
    return "\n\n".join([f"Mean over the languages:\n\n{table}", *own])


def _results_table(measures: list[str], results: dict[str, float]) -> str:
    """A Markdown table with a column a measure, or nothing."""
    rows = [["", *measures], ["---", *["---:"] * len(measures)]]
    for label, prefix in _ROWS.items():
        values = [results.get(prefix + measure) for measure in measures]
        if any(value is not None for value in values):
            rows.append([label, *("" if value is None else f"{value:.3f}" for value in values)])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) if measures else ""


def _is_hub_id(name: str) -> bool:
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return not Path(name).exists()
