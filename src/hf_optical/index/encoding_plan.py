"""The plan of an encoding run: which rows each shard has, under ids that are all different."""

from __future__ import annotations

import base64
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from itertools import accumulate, chain
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from tqdm.auto import tqdm

from ..errors import DataError, short_repr
from .documents import next_number
from .settings import IndexSettings
from .shards import Columns, CorpusFile, Piece, count_rows, cut, find_ids, hash_id, merge_schemas, scan_file
from .tasks import Pool, TaskFailure


if TYPE_CHECKING:
    import lance

# Documents of a shard, if the number of shards is not given.
_SHARD = 10_000


@dataclass(frozen=True)
class EncodingPlan:
    """
    Args:
        files (`list[CorpusFile]`): The files, in the order of the documents.
        settings ([`IndexSettings`]): Settings of the index.
        columns ([`Columns`]): Columns to read.
        shards (`int`, *optional*): Number of shards that was asked for.
        add (`bool`): Whether the rows are added to a dataset that exists.
        version (`int`): Version of that dataset when the run began.
        first_number (`int`): Number of the first document, if they have no ids.
        schema (`pa.Schema`, *optional*): Schema of the rows.
        run (`str`, *optional*): Id of the run, and of the transaction that commits it.
    """

    files: list[CorpusFile]
    settings: IndexSettings
    columns: Columns
    shards: int | None
    add: bool
    version: int = 0
    first_number: int = 0
    schema: pa.Schema | None = None
    run: str = ""

    @property
    def rows(self) -> int:
        return sum(file.rows for file in self.files)

    def pieces(self) -> list[list[Piece]]:
        """The pieces of files that make up each shard."""
        return cut(self.files, self.shards or -(-self.rows // _SHARD), self.first_number)

    def to_json(self) -> dict[str, Any]:
        assert self.schema is not None
        schema = base64.b64encode(self.schema.serialize()).decode()
        return {**asdict(self), "files": self.files, "columns": self.columns, "schema": schema}

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> EncodingPlan:
        return cls(
            **{
                **stored,
                "files": [CorpusFile(*each) for each in stored["files"]],
                "settings": IndexSettings(**stored["settings"]),
                "columns": Columns(*stored["columns"]),
                "schema": pa.ipc.read_schema(pa.py_buffer(base64.b64decode(stored["schema"]))),
            }
        )

    def check_continues(self, before: EncodingPlan, place: str) -> None:
        """
        Check that this plan asks for the rows of the run that began `before`.

        Raises:
            ValueError: If it does not.
        """
        same = {
            "model or dtype": self.settings == before.settings,
            "shards": self.shards == before.shards,
            "add": self.add == before.add,
            "corpus": [file[:2] for file in self.files] == [file[:2] for file in before.files],
            "columns": self.columns == before.columns,
        }
        if changed := [name for name, equal in same.items() if not equal]:
            raise ValueError(
                f"{place} holds an unfinished run that began with another {', '.join(changed)}; pass the same "
                "arguments to continue it, or restart"
            )


def complete_plan(
    plan: EncodingPlan, pool: Pool, existing: lance.LanceDataset | None, show_progress: bool
) -> EncodingPlan:
    """
    Read the corpus before anything is encoded: count its rows, check them and their ids, find a schema that fits all.

    Args:
        plan ([`EncodingPlan`]): A plan whose files have not been counted.
        pool ([`Pool`]): Where files are read, one a task.
        existing (`LanceDataset`, *optional*): The dataset that the documents are added to.
        show_progress (`bool`): Whether to show progress bars.

    Raises:
        DataError: If a file is damaged, there are no documents, or an id is not unique.
    """
    counts = _read(pool, count_rows, None, [(file.path, 0) for file in plan.files], "Counting", show_progress)
    known = pa.chunked_array([], pa.string()) if existing is None else existing.to_table(columns=["id"])["id"]
    first = next_number(key.as_py() for key in known)
    starts = [first, *accumulate(counts, initial=first)][1:-1]
    files = [(file.path, start) for file, start in zip(plan.files, starts, strict=True)]
    if not sum(counts):
        raise DataError("corpus must not be empty")
    shared = (plan.columns, plan.settings)
    scanned = _read(pool, scan_file, shared, files, "Checking documents", show_progress)
    hashes = np.concatenate([own for own, _ in scanned])
    hashes.sort()
    twice = np.unique(hashes[1:][hashes[1:] == hashes[:-1]])
    # Two ids may have the same hash.
    places: dict[str, str] = {}
    for key, place in chain(*_read(pool, find_ids, (plan.columns, twice), files if len(twice) else [], "", False)):
        if key in places:
            raise DataError(f"document ids must be unique, got {short_repr(key)} in {places[key]} and in {place}")
        places[key] = place
    schema = merge_schemas([schema for _, schema in scanned], "corpus")
    if existing is not None:
        _check_new(pool, plan.columns, files, hashes, known)
        if set(schema) - set(existing.schema):
            fields = ", ".join(sorted(f"{field.name} ({field.type})" for field in set(schema) - set(existing.schema)))
            raise DataError(f"corpus must have columns that are in the index, got {fields}")
    return replace(
        plan,
        files=[file._replace(rows=count) for file, count in zip(plan.files, counts, strict=True)],
        version=0 if existing is None else existing.version,
        first_number=first,
        schema=schema if existing is None else existing.schema,
        run=str(uuid.uuid4()),
    )


def _check_new(
    pool: Pool, columns: Columns, files: list[tuple[str, int]], hashes: np.ndarray, known: pa.ChunkedArray
) -> None:
    suspects = np.intersect1d(hashes, np.fromiter((hash_id(key.as_py()) for key in known), np.uint64))
    for key, place in chain(*_read(pool, find_ids, (columns, suspects), files if len(suspects) else [], "", False)):
        if pc.index(known, key).as_py() >= 0:
            raise DataError(f"document ids must be unique in an index, got {short_repr(key)} again in {place}")


def _read(
    pool: Pool, task: Callable, shared: Any, files: list[tuple[str, int]], title: str, show_progress: bool
) -> list[Any]:
    """Results of a task for every file."""
    results: list[Any] = [None] * len(files)
    found = pool.run(task, shared, files)
    for position, result in tqdm(found, title, len(files), unit="file", disable=not show_progress):
        if isinstance(result, TaskFailure):
            raise DataError(str(result))
        results[position] = result
    return results
