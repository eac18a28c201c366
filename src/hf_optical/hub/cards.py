"""The cards of what is published. The templates are in `hub_cards/`."""

from __future__ import annotations

import os
from importlib.resources import files
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from ..files import write_text


# What the card shows of the results: row -> prefix of its entries in `eval_results.json`.
_ROWS = {"before training": "zero_shot_", "this model": "eval_", "human translation, teacher": "ceiling_"}


def write_card(
    folder: str | os.PathLike,
    *,
    kind: str,
    language: str,
    base_model: str,
    details: dict[str, Any],
    results: dict[str, float],
) -> None:
    """
    Writes `README.md`: metadata that the Hub understands and a page for people.

    Args:
        folder (`str` or `os.PathLike`): where the card goes.
        kind (`str`): `"language_pack"` or `"model"`, the name of the template.
        language (`str`): code of the language.
        base_model (`str`): Hub id of the base. A folder on this machine is left out of the metadata.
        details (`dict`): teacher, bitext and settings.
        results (`dict`): as in `eval_results.json`; may be empty.
    """
    measures = [name.removeprefix("eval_") for name in results if f"zero_shot_{name.removeprefix('eval_')}" in results]
    on_hub = not Path(base_model).is_absolute() and base_model.count("/") <= 1
    data = ModelCardData(
        language=[language],
        library_name="hf_optical" if kind == "language_pack" else "sentence-transformers",
        base_model=base_model if on_hub else None,
        base_model_relation="adapter" if kind == "language_pack" else "finetune",
        pipeline_tag="sentence-similarity",
        tags=["hf-optical", "late-interaction", "colbert", "cross-lingual", "optimal-transport"],
        model_name=f"{'Language pack' if kind == 'language_pack' else 'Late-interaction model'} for {language}",
        eval_results=[
            EvalResult(
                task_type="information-retrieval",
                dataset_type=details.get("eval_name", "custom"),
                dataset_name=details.get("eval_name", "custom"),
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
        base_model=base_model if on_hub else Path(base_model).name,
        measures=measures,
        rows=[
            (label, [results.get(prefix + measure) for measure in measures])
            for label, prefix in _ROWS.items()
            if any(prefix + measure in results for measure in measures)
        ],
        gap_closed=results.get("gap_closed"),
        **{"teacher": None, "bitext": None, "pairs": None, "settings": {}, **details},
    )
    write_text(Path(folder) / "README.md", str(card))
