"""Finished cells of studies, stored under the hash of everything that determines them."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from filelock import FileLock

from ..retrieval import TokenVectors
from ..storage.staging import flush, recover, write_text


# Increase it when the meaning of stored cells changes, so that older ones run again.
FORMAT = 2


@dataclass(frozen=True)
class Record:
    """
    Scores of one method on the queries of one language and test set.

    Args:
        method (`str`), kind (`str`):
            Name in the study, and its kind: the `method` of `OTDistillationConfig` for a trained method (`"ot"`,
            `"greedy"`, ...), and the kind in the study's file for any other (`"zero_shot"`, `"ceiling"`, ...).
        test (`str`), language (`str`): test set, and language of the queries.
        values (`dict[str, dict[str, float]]`): measure -> query id -> value.
        corpus (`str`, *optional*): corpus of the sentence pairs; `None` for a method that reads none.
        languages (`tuple[str, ...]`): languages that were trained together.
        size (`int`, *optional*), pairs (`int`):
            Requested sentence pairs per language, `None` for all, and pairs used over all languages.
        seed (`int`, *optional*): `None` for a method without randomness.
        perturbation (`str`, *optional*), strength (`float`): perturbation of the queries.
        seconds (`float`), search_seconds (`float`): time of training and of search.
    """

    method: str
    kind: str
    test: str
    language: str
    values: dict[str, dict[str, float]]
    corpus: str | None = None
    languages: tuple[str, ...] = ()
    size: int | None = None
    pairs: float = 0
    seed: int | None = None
    perturbation: str | None = None
    strength: float = 0.0
    seconds: float = 0.0
    search_seconds: float = 0.0

    def mean(self, measure: str) -> float:
        """Mean over the queries."""
        return fmean(self.values[measure].values())


def key_of(content: Mapping[str, Any]) -> str:
    """Hash of everything that determines a cell."""
    text = json.dumps({"format": FORMAT, **content}, sort_keys=True, ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


class Store:
    """
    A folder of finished cells, which studies and processes may share.

    A cell is finished when its JSON file exists, which is written last and atomically. Its other files, such as a
    trained pack, are in a folder of the same name. Locks end with the process that holds them.

    Args:
        folder (`str` or `os.PathLike`): the folder, created if it does not exist.
    """

    def __init__(self, folder: str | os.PathLike):
        self.folder = Path(folder)

    @property
    def teacher_cache(self) -> Path:
        """Folder of the teacher's vectors of training sentences."""
        return self.folder / "teacher"

    def read(self, key: str) -> dict[str, Any] | None:
        """Results of a finished cell; `None` if it is not finished."""
        try:
            return json.loads(self._file(key).read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return None

    def write(self, key: str, content: Mapping[str, Any]) -> None:
        """Mark a cell as finished, after flushing its files to disk."""
        if self.folder_of(key).is_dir():
            flush(self.folder_of(key), deep=True)
        write_text(self._file(key), json.dumps(content, ensure_ascii=False) + "\n")

    def settle(self) -> None:
        """Clean up after writers that were killed."""
        for folder in self.folder.glob("*/"):
            recover(folder)

    def folder_of(self, key: str) -> Path:
        """Folder of a cell's files."""
        return self._file(key).with_suffix("")

    def run_file(self, key: str) -> Path:
        """File of a test cell's rankings, which studies with `keep_runs` write."""
        return self.folder / "runs" / f"{key}.trec.gz"

    def lock(self, key: str) -> FileLock:
        """Lock of a cell, not acquired yet."""
        folder = self.folder / "locks"
        folder.mkdir(parents=True, exist_ok=True)
        return FileLock(folder / f"{key}.lock")

    def vectors(self, key: str, encode: Callable[[], TokenVectors]) -> TokenVectors:
        """
        Memory-mapped document vectors, encoded by the first process that needs them.

        They are stored in half precision, as a large index would be, and scored in float32. Similarities differ from
        those of a float32 index by at most 1e-3.
        """
        file = self.folder / "documents" / f"{key}.safetensors"
        with self.lock(f"documents-{key}"):
            if not file.is_file():
                encode().to(torch.float16).save(file)
        return TokenVectors.open(file)

    def _file(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.json"
