"""
Open folders with `pylate.models.ColBERT` and write its vectors of texts. Runs in PyLate's environment.

    python pylate_run.py jobs.json

Keys of a job: `open`, a folder; `arguments` of the class; `queries` and `documents`, texts; `prompts`, whether to add
the model's prompts, which PyLate leaves to the caller; `vectors`, the `.npz` file to write; optionally `save`, where
to save the model.
"""

from __future__ import annotations

import json
import logging
import sys
import warnings

import numpy
from pylate import models


def run(job: dict) -> None:
    model = models.ColBERT(job["open"], device="cpu", **job.get("arguments", {}))
    if "save" in job:
        model.save_pretrained(job["save"])
    arrays = {}
    for role in ("query", "document"):
        texts = job["queries" if role == "query" else "documents"]
        found = model.encode(
            texts,
            is_query=role == "query",
            prompt_name=role if job.get("prompts") else None,
            output_value=None,
            show_progress_bar=False,
        )
        for position, mask in enumerate(found["masks"]):
            arrays[f"{role}_{position}_ids"] = found["input_ids"][position][mask]
            arrays[f"{role}_{position}"] = found["token_embeddings"][position][mask]
    numpy.savez(job["vectors"], **arrays)


def main(path: str) -> None:
    with open(path, encoding="utf-8") as file:
        jobs = json.load(file)
    for job in jobs:
        logged: list[str] = []
        handler = logging.Handler(level=logging.WARNING)
        handler.emit = lambda record, logged=logged: logged.append(record.getMessage())
        logging.getLogger().addHandler(handler)
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            run(job)
        logging.getLogger().removeHandler(handler)
        with open(job["vectors"] + ".log", "w", encoding="utf-8") as file:
            json.dump(logged + [str(warning.message) for warning in warned], file)


main(sys.argv[1])
