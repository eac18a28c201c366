"""What a study has done so far: cells on disk under the hash of everything that determines them."""

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


# Counted up when the meaning of what is stored changes; older cells are then done again.
FORMAT = 1


@dataclass(frozen=True)
class Record:
    """
    What one method scored with the queries of one language on one test set.

    Args:
        method (`str`), kind (`str`):
            Its name in the study, and what it is: the `method` of `OTDistillationConfig` for one that is trained by
            it (`"ot"`, `"greedy"`, ...), else the kind that the study names (`"zero_shot"`, `"ceiling"`, ...).
        test (`str`), language (`str`): the test set, and the language of the queries.
        values (`dict[str, dict[str, float]]`): measure -> query id -> value.
        corpus (`str`, *optional*): the sentence pairs learned from; `None` for a method that reads none.
        languages (`tuple[str, ...]`): the languages that were trained together.
        size (`int`, *optional*), pairs (`int`):
            The pairs a language asked for, `None` for all; and the pairs used, of all languages together.
        seed (`int`, *optional*): `None` where nothing is drawn.
        perturbation (`str`, *optional*), strength (`float`): what was done to the queries.
        seconds (`float`), search_seconds (`float`): what training took, and what asking took.
    """

    method: str
    kind: str
    test: str
    language: str
    values: dict[str, dict[str, float]]
    corpus: str | None = None
    languages: tuple[str, ...] = ()
    size: int | None = None
    pairs: int = 0
    seed: int | None = None
    perturbation: str | None = None
    strength: float = 0.0
    seconds: float = 0.0
    search_seconds: float = 0.0

    def mean(self, measure: str) -> float:
        """Mean over the queries."""
        return fmean(self.values[measure].values())


def key_of(content: Mapping[str, Any]) -> str:
    """The hash of what determines a cell."""
    text = json.dumps({"format": FORMAT, **content}, sort_keys=True, ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


class Store:
    """
    A folder of finished cells, which any number of studies and processes may share.

    A cell is there when its JSON file is; that is written last and in one step. What else belongs to it, such as the
    pack that was trained, lies in a folder of the same name. Locks go with the process that holds them.

    Args:
        folder (`str` or `os.PathLike`): where. Created if need be.
    """

    def __init__(self, folder: str | os.PathLike):
        self.folder = Path(folder)

    @property
    def teacher_cache(self) -> Path:
        """Where the teacher's vectors of training sentences are kept."""
        return self.folder / "teacher"

    def read(self, key: str) -> dict[str, Any] | None:
        """What is known of a finished cell; `None` if it is not finished."""
        try:
            return json.loads(self._file(key).read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return None

    def write(self, key: str, content: Mapping[str, Any]) -> None:
        """Marks a cell as finished, once all that belongs to it is on the disk."""
        if self.folder_of(key).is_dir():
            flush(self.folder_of(key), deep=True)
        write_text(self._file(key), json.dumps(content, ensure_ascii=False) + "\n")

    def settle(self) -> None:
        """Ends what processes that were killed began to write."""
        for folder in self.folder.glob("*/"):
            recover(folder)

    def folder_of(self, key: str) -> Path:
        """Where the files of a cell lie."""
        return self._file(key).with_suffix("")

    def lock(self, key: str) -> FileLock:
        """The lock of a cell, not yet taken."""
        folder = self.folder / "locks"
        folder.mkdir(parents=True, exist_ok=True)
        return FileLock(folder / f"{key}.lock")

    def vectors(self, key: str, encode: Callable[[], TokenVectors]) -> TokenVectors:
        """
        Document vectors, memory-mapped; encoded once, whichever process comes first.

        Kept in half precision, as a large index is; scores are computed in float32. Against an index in float32 a
        similarity is off by 1e-3 at most.
        """
        file = self.folder / "documents" / f"{key}.safetensors"
        with self.lock(f"documents-{key}"):
            if not file.is_file():
                encode().to(torch.float16).save(file)
        return TokenVectors.open(file)

    def _file(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.json"
