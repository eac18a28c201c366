"""Conditions on metadata in SQL, for engines that have no query language of their own."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any

from ..errors import short_repr
from .documents import IndexedDocument


_ALLOWED = (sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION)


class MetadataTable:
    """
    The metadata of documents in a temporary SQLite table, which is on disk when it is large.

    Args:
        documents (iterable of [`IndexedDocument`]): The documents, in order.
        names (sequence of `str`): Keys of their metadata.
    """

    def __init__(self, documents: Iterable[IndexedDocument], names: Sequence[str]):
        self._database = sqlite3.connect("", check_same_thread=False)
        columns = ["id", "title", "text", *(name for name in names if name not in ("id", "title", "text"))]
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
            ValueError: If the condition does not parse or names an unknown column.
        """
        try:
            rows = self._database.execute(
                f"SELECT rowid - 1 FROM documents WHERE ({where}\n) ORDER BY rowid"
            ).fetchall()
        except (sqlite3.Error, sqlite3.Warning) as error:
            raise ValueError(condition_error(where, str(error))) from error
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
    return value if value is None or isinstance(value, (str, int, float)) else json.dumps(value, default=str)


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
