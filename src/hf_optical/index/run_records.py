"""What an encoding run has done so far, kept next to the dataset so that another driver can continue."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ..checks import import_optional
from .encoding_plan import EncodingPlan
from .lance_rows import readable_errors


_PLAN = "plan.json"
# What object storage and file systems answer -> what to do.
_CURES = {
    "NoSuchBucket": "create the bucket first",
    "403 Forbidden|401 Unauthorized|InvalidAccessKeyId|SignatureDoesNotMatch": "check AWS_ACCESS_KEY_ID, "
    "AWS_SECRET_ACCESS_KEY and AWS_ENDPOINT_URL, and what that key may do",
    "No space left|StorageFull|InsufficientStorage": "free space, and the same call continues",
    "error sending request|Connection refused|timed out": "once the storage is reached again, the same call continues",
}


class RunRecords:
    """
    JSON objects in `URI.encoding`: the plan of a run and, in a folder of the run, one record for each finished shard.

    They are read and written by Lance, so the folder may be anywhere that a dataset may be.
    """

    def __init__(self, uri: str):
        import_optional("lance", "lance")
        from lance.file import LanceFileSession

        self.uri = f"{uri.rstrip('/')}.encoding"
        with _storage_errors(self.uri):
            self._session = LanceFileSession(self.uri)

    def plan(self) -> EncodingPlan | None:
        """The plan of the run that has not ended, if there is one."""
        with _storage_errors(self.uri):
            stored = self._read(_PLAN) if self._session.contains(_PLAN) else None
        return None if stored is None else EncodingPlan.from_json(stored)

    def write_plan(self, plan: EncodingPlan) -> None:
        self._write(_PLAN, plan.to_json())

    def shards(self, run: str) -> dict[int, dict[str, Any]]:
        """Records of the finished shards of a run."""
        names = [name for name in self._list(run) if name.endswith(".json")]
        found = {int(Path(name).stem): self._read(f"{run}/{Path(name).name}") for name in names}
        return {number: record for number, record in found.items() if record is not None}

    def write_shard(self, run: str, number: int, record: dict[str, Any]) -> None:
        self._write(f"{run}/{number:07}.json", record)

    def clear(self, run: str) -> None:
        """Delete the records of a run, and last its plan, by which the end of the run can be completed."""
        for name in self._list(run):
            self._delete(f"{run}/{Path(name).name}")
        self._delete(_PLAN)

    def _list(self, folder: str) -> list[str]:
        with _storage_errors(self.uri):
            return self._session.list(folder)

    def _delete(self, name: str) -> None:
        with _storage_errors(self.uri), suppress(FileNotFoundError):
            self._session.delete_file(name)

    def _read(self, name: str) -> dict[str, Any] | None:
        """An object, or `None` if a full disk or a killed process cut it short."""
        with tempfile.TemporaryDirectory() as folder, _storage_errors(self.uri):
            file = Path(folder) / "object.json"
            self._session.download_file(name, file)
            with suppress(ValueError):
                return json.loads(file.read_text(encoding="utf-8"))
        return None

    def _write(self, name: str, content: dict[str, Any]) -> None:
        with tempfile.TemporaryDirectory() as folder, _storage_errors(self.uri):
            file = Path(folder) / "object.json"
            file.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
            self._session.upload_file(file, name)


@contextmanager
def _storage_errors(uri: str) -> Iterator[None]:
    """Raise Lance's errors as `OSError` without secrets, with what to do."""
    try:
        with readable_errors(uri):
            yield
    except OSError as error:
        cure = next((cure for answer, cure in _CURES.items() if re.search(answer, str(error))), None)
        if cure is None:
            raise
        raise type(error)(f"{error}; {cure}") from None
