"""Conditions on metadata in SQL, for engines that have no query language of their own."""

from __future__ import annotations

import json
import sqlite3
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from typing import Any

from ..errors import short_repr
from .documents import IndexedDocument


# Seconds that a condition may take: one with a query of its own could take days.
_SECONDS = 1.0
# Steps of SQLite between two looks at the clock.
_STEPS = 10_000
_ALLOWED = (sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION)


class MetadataTable:
    """
    The metadata of documents in a temporary SQLite table, which is on disk when it is large.

    Args:
        documents (iterable of [`IndexedDocument`]): The documents, in order.
        names (sequence of `str`): Keys of their metadata. Of keys that differ only in case, the first is taken.
    """

    def __init__(self, documents: Iterable[IndexedDocument], names: Sequence[str]):
        self._database = sqlite3.connect("", check_same_thread=False)
        self._asking = threading.Lock()
        if sys.version_info >= (3, 12):  # a column that is not there is no text in double quotes
            self._database.setconfig(sqlite3.SQLITE_DBCONFIG_DQS_DML, False)
        # SQLite compares names by their ASCII letters, in any case.
        first: dict[bytes, str] = {}
        for name in ("id", "title", "text", *names):
            first.setdefault(name.encode().lower(), name)
        # A column of the same name would hide the number of a row.
        self._row = next((name for name in ("rowid", "oid") if name.encode() not in first), "_rowid_")
        columns = [name for key, name in first.items() if key != self._row.encode()]
        self._database.execute(f"CREATE TABLE documents ({', '.join(map(_quoted, columns))})")
        rows = (
            (each.id, each.title, each.text, *(_value(each.columns.get(name)) for name in columns[3:]))
            for each in documents
        )
        self._database.executemany(f"INSERT INTO documents VALUES ({', '.join('?' * len(columns))})", rows)
        self._database.execute("PRAGMA case_sensitive_like = ON")  # as in other engines
        self._database.set_authorizer(
            lambda action, *_: sqlite3.SQLITE_OK if action in _ALLOWED else sqlite3.SQLITE_DENY
        )

    def matching(self, where: str) -> list[int]:
        """
        Positions of the documents that fulfil a condition, in order.

        Raises:
            ValueError: If the condition does not parse, names an unknown column, or takes more than a second.
        """
        with self._asking:
            deadline = time.monotonic() + _SECONDS
            self._database.set_progress_handler(lambda: time.monotonic() > deadline, _STEPS)
            try:
                rows = self._database.execute(
                    f"SELECT {self._row} - 1 FROM documents WHERE ({where}\n) ORDER BY {self._row}"
                ).fetchall()
            except (sqlite3.Error, sqlite3.Warning) as error:
                reason = f"it takes more than {_SECONDS:g} s" if time.monotonic() > deadline else str(error)
                raise ValueError(condition_error(where, reason)) from error
        return [row[0] for row in rows]

    def close(self) -> None:
        self._database.close()


def condition_error(where: str, reason: str) -> str:
    """The message for a condition that an engine refuses."""
    return (
        f"where must be a condition in SQL on the columns of the index, such as \"year >= 1990 AND source = 'news'\", "
        f"got {short_repr(where)}: {reason}"
    )


def _value(value: Any) -> Any:
    if isinstance(value, int) and not -(2**63) <= value < 2**63:  # larger than the integers of SQLite
        return float(str(value))
    return value if value is None or isinstance(value, (str, int, float)) else json.dumps(value, default=str)


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
