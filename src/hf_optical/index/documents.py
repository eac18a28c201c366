"""Documents to index, from texts, rows or files."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..bitext.sources import check_keys, read_rows, read_text, source_name
from ..errors import DataError
from ..retrieval import OpticalRetriever
from ..retrieval.processors import learn_for_search
from ..retrieval.weights import Weights


# Usual names of the column of ids, the first of which is BEIR's.
_ID_COLUMNS = ("_id", "id")
_CORPUS = "corpus.jsonl"
NAME_COLUMNS = "name the columns with `text_column` and `id_column`"


class IndexedDocument(NamedTuple):
    """
    A document of an index.

    Attributes:
        id (`str`): its id, unique in the index.
        title (`str`): its title, which may be empty.
        text (`str`): its text.
        columns (`dict`): values of the other columns.
    """

    id: str
    title: str
    text: str
    columns: dict[str, Any]

    @property
    def full_text(self) -> str:
        """The text that is encoded: title, space, text, as in BEIR."""
        return f"{self.title} {self.text}".strip()


def read_documents(
    source: Any,
    *,
    id_column: str | None = None,
    text_column: str = "text",
    title_column: str = "title",
    first_number: int = 0,
) -> Iterator[IndexedDocument]:
    """
    Read documents one by one.

    Args:
        source (`str`, `os.PathLike`, or documents in memory):
            One of

            - a file: CSV, TSV, JSON lines or Parquet, optionally compressed, as in [`load_bitext`];
            - a folder in BEIR layout, which has a `corpus.jsonl`;
            - the id of a Hub dataset;
            - an iterable of texts, an iterable of dictionaries such as a `datasets.Dataset`, or a data frame.
        id_column (`str`, *optional*):
            Column of the ids. Defaults to `_id` or `id`. Without such a column, documents are numbered.
        text_column (`str`, defaults to `"text"`), title_column (`str`, defaults to `"title"`):
            Columns of the texts and of the titles. There may be no titles.
        first_number (`int`, defaults to 0): Number of the first document, if they are numbered.

    Raises:
        DataError: the file is missing or damaged, a column is missing, or a text is not a string.
    """
    name = source_name(source)
    for number, row in enumerate(_rows(source)):
        place = f"{name}, row {number}"
        if isinstance(row, str) or not isinstance(row, Mapping):
            row = {text_column: row}
        check_keys(
            row,
            [text_column, *([id_column] if id_column else [])],
            f"{place} has no column",
            f"; {NAME_COLUMNS}",
        )
        key = id_column or next((column for column in _ID_COLUMNS if row.get(column) is not None), None)
        yield IndexedDocument(
            # Ids of tables may be numbers.
            str(number + first_number) if key is None else read_text(_id(row[key]), key, place, required=True),
            read_text(row.get(title_column), title_column, place).strip(),
            read_text(row[text_column], text_column, place).strip(),
            {column: value for column, value in row.items() if column not in (key, title_column, text_column)},
        )


def next_number(ids: Iterable[str]) -> int:
    """Number of the next document without an id, after those of an index."""
    return max((int(key) for key in ids if key.isdecimal()), default=-1) + 1


def _rows(source: Any) -> Iterable[Any]:
    if isinstance(source, (str, os.PathLike)):
        corpus = [Path(source) / f"{_CORPUS}{ending}" for ending in ("", ".gz")] if os.path.isdir(source) else []
        return read_rows(next((file for file in corpus if file.is_file()), source))
    if isinstance(source, Mapping) or hasattr(source, "__dataframe__"):
        return read_rows(source)
    return source


def _id(value: Any) -> Any:
    return str(value) if isinstance(value, int) else value


def search_documents(
    retriever: OpticalRetriever,
    source: Any,
    queries: Sequence[str],
    top_k: int = 10,
    language: str | None = None,
    weights: Weights | None = None,
    **columns: Any,
) -> list[list[tuple[IndexedDocument, float]]]:
    """
    Search documents without an index. The packs of the retriever then know their words, and repair queries by them.

    Args:
        retriever ([`OpticalRetriever`]): Encodes the queries, and with its base the documents.
        source: The documents, as in [`read_documents`], whose `columns` are further arguments.
        queries, top_k, language, weights: As in [`OpticalRetriever.search`].

    Returns:
        `list[list[tuple[IndexedDocument, float]]]`: The documents found for each query and their scores, best first.
    """
    documents: dict[str | int, IndexedDocument] = dict(enumerate(read_documents(source, **columns)))
    if not documents:
        raise DataError("documents must not be empty")
    texts = [each.full_text for each in documents.values()]
    vectors = retriever.encode_documents(texts, show_progress=True)
    learn_for_search(retriever, texts, language, weights)
    rankings = retriever.search(list(queries), vectors, top_k, language=language, weights=weights)
    return [[(documents[hit.document], hit.score) for hit in hits] for hits in rankings]
