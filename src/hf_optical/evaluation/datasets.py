"""Retrieval test sets: documents, queries and judgements."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from glob import glob
from itertools import islice
from pathlib import Path
from typing import Any

from ..errors import DataError, short_repr
from ..retrieval import Hit
from ..storage.data_files import read_lines, read_objects
from .sampling import sample_documents


_QRELS_HEADER = ["query-id", "corpus-id", "score"]
# pytrec_eval allocates a counter for every grade up to the highest judgement.
_JUDGEMENT = re.compile(r"([+-]?[0-9]{1,4})(?:\.0*)?")
# Share of the relevant judgements that may name missing queries or documents.
_MISSING_SHARE = 0.05


@dataclass(frozen=True)
class Document:
    """A document of a corpus. `title` may be empty."""

    title: str
    text: str

    @property
    def full_text(self) -> str:
        """The text that is encoded: title, space, text, as in BEIR."""
        return f"{self.title} {self.text}".strip()


@dataclass(frozen=True)
class Query:
    """A query, with its human translation into the language of the corpus if there is one."""

    text: str
    translation: str | None = None


@dataclass(frozen=True)
class RetrievalDataset:
    """
    A retrieval test set. [`build_dataset`] builds one from its parts and checks that they belong together.

    Args:
        name (`str`): Name for reports.
        corpus (`dict[str, Document]`): Document id -> document.
        queries (`dict[str, Query]`): Query id -> query, with the same keys as `qrels`.
        qrels (`dict[str, dict[str, int]]`):
            Query id -> document id -> judgement; above 0 is relevant. A query without a relevant document always
            scores 0.
        ignore_identical_ids (`bool`, defaults to `False`):
            Whether to ignore hits whose document id equals the query id. Needed if the queries are documents
            themselves (ArguAna, Quora), because each would retrieve itself first. As in `mteb` and in BEIR.
    """

    name: str
    corpus: dict[str, Document]
    queries: dict[str, Query]
    qrels: dict[str, dict[str, int]]
    ignore_identical_ids: bool = False

    def drop_identical_ids(self, hits: Mapping[str, Sequence[Hit]]) -> Mapping[str, Sequence[Hit]]:
        """Remove hits that are the query itself, if `ignore_identical_ids` is set."""
        if not self.ignore_identical_ids:
            return hits
        return {key: [hit for hit in own if hit.document != key] for key, own in hits.items()}

    def document_texts(self) -> list[str]:
        """Texts to encode, in the order of `corpus`."""
        return [document.full_text for document in self.corpus.values()]


@dataclass(frozen=True)
class BenchmarkParts:
    """Parts of a test set that are not checked yet, from the source `origin`. Documents are read once and lazily."""

    name: str
    documents: Iterable[tuple[str, Document]]
    queries: Mapping[str, Query]
    qrels: Mapping[str, Mapping[str, int]]
    ignore_identical_ids: bool = False
    origin: str = ""

    def build(self, documents: int | None = None, seed: int = 0) -> RetrievalDataset:
        """Build the test set with [`build_dataset`]."""
        return build_dataset(**vars(self), pool=documents, seed=seed)


def build_dataset(
    name: str,
    documents: Mapping[str, Document] | Iterable[tuple[str, Document]],
    queries: Mapping[str, Query],
    qrels: Mapping[str, Mapping[str, int]],
    *,
    ignore_identical_ids: bool = False,
    pool: int | None = None,
    seed: int = 0,
    origin: str = "",
) -> RetrievalDataset:
    """
    Build a test set from its parts, and check that they belong together.

    All loaders use this function. Queries without judgements are left out. Published test sets may judge a few queries
    or documents that they do not contain, which gives one warning. Such queries are left out, and such documents count
    as not found, as in `trec_eval`.

    Args:
        name (`str`): Name for reports.
        documents (mapping of document id to [`Document`], or iterable of such pairs):
            The corpus. An iterable is read once.
        queries (mapping of query id to [`Query`]): The queries.
        qrels (mapping of query id to mapping of document id to `int`): The judgements; above 0 is relevant.
        ignore_identical_ids (`bool`, defaults to `False`): As in [`RetrievalDataset`].
        pool (`int`, *optional*), seed (`int`, defaults to 0):
            Keep only this many documents, as in [`sample_pool`]. The others are never held in memory.
        origin (`str`, *optional*): Files or library that the parts come from, for error messages.

    Raises:
        ValueError: `pool` is below 1.
        DataError: no document is judged relevant, more than 5 % of the relevant judgements are for missing queries or
            documents, or more than `pool` documents are judged.
    """
    source = f"{name} (read from {origin})" if origin else name
    queries = {key: query for key, query in queries.items() if key in qrels}
    judged = {key: dict(qrels[key]) for key in queries}
    pairs = documents.items() if isinstance(documents, Mapping) else documents
    name, corpus = sample_documents(name, pairs, judged, pool, seed)
    missing = {
        (query, document): score
        for query, own in qrels.items()
        for document, score in own.items()
        if query not in queries or document not in corpus
    }
    relevant = sum(score > 0 for own in qrels.values() for score in own.values())
    lost = sum(score > 0 for score in missing.values())
    names = dict.fromkeys(document if query in queries else query for query, document in missing)
    examples = f"such as {', '.join(map(short_repr, islice(names, 3)))}" if missing else "none"
    if relevant == 0 or lost > _MISSING_SHARE * relevant:
        raise DataError(
            f"{source} has {relevant} relevant judgements, {lost} for missing queries or documents ({examples}); "
            "choose another split or language, or check that no file is cut short"
        )
    if missing:
        total = sum(map(len, qrels.values()))
        warnings.warn(
            f"{source}: {len(missing)} of {total} judgements are for missing queries or documents ({examples}). The "
            "queries are left out, and the documents count as not found.",
            stacklevel=3,
        )
    return RetrievalDataset(name, corpus, queries, judged, ignore_identical_ids)


def load_beir(
    folder: str | os.PathLike, split: str = "test", corpus: str | os.PathLike | None = None
) -> RetrievalDataset:
    """
    Load a test set in the layout of BEIR (Thakur et al. 2021).

    The folder contains `corpus.jsonl` (`_id`, `title`, `text`), `queries.jsonl` (`_id`, `text`, and optionally a human
    translation in `metadata.translation`) and `qrels/SPLIT.tsv` (header `query-id`, `corpus-id`, `score`). The
    judgements may also be in TREC format, as `.tsv` or `.txt`. Files may be gzipped, with `.gz` appended to their
    names; a plain file takes precedence. Queries without judgements in the split are left out.

    Args:
        folder (`str` or `os.PathLike`): Folder of the test set.
        split (`str`, defaults to `"test"`): Name of the judgements.
        corpus (`str` or `os.PathLike`, *optional*): The corpus file, if it is not in the folder.

    Returns:
        [`RetrievalDataset`]: named after folder and split.

    Raises:
        DataError: a file is missing, unreadable or malformed, an id is duplicated, or the parts do not belong together
            (see [`build_dataset`]). The message names the file and the line.
    """
    return read_beir(folder, split, corpus).build()


def read_beir(
    folder: str | os.PathLike, split: str = "test", corpus: str | os.PathLike | None = None
) -> BenchmarkParts:
    """Read the parts of a test set in BEIR layout, see [`load_beir`]."""
    folder = Path(folder)
    splits = {
        name.removesuffix(".gz")[:-4]: name
        for ending in (".txt.gz", ".txt", ".tsv.gz", ".tsv")
        for name in sorted(glob(f"*{ending}", root_dir=folder / "qrels"))
    }
    if split not in splits:
        found = ", ".join(splits) or "none"
        raise DataError(f"{folder} must be a folder in BEIR layout with qrels/{split}.tsv[.gz]; splits found: {found}")
    corpus_file = _plain_or_zipped(folder / "corpus.jsonl" if corpus is None else Path(corpus))
    queries_file, qrels_file = _plain_or_zipped(folder / "queries.jsonl"), folder / "qrels" / splits[split]
    qrels = read_qrels(qrels_file)
    queries = {
        key: Query(field(row, "text", where, str), translation_of(row, where))
        for key, row, where in read_rows(queries_file)
        if key in qrels
    }
    return BenchmarkParts(
        f"{folder.resolve().name}/{split}",
        read_documents(corpus_file),
        queries,
        qrels,
        origin=f"{corpus_file}, {queries_file} and {qrels_file}",
    )


def _plain_or_zipped(path: Path) -> Path:
    zipped = path.with_name(f"{path.name}.gz")
    return zipped if os.path.isfile(zipped) and not os.path.isfile(path) else path


def read_documents(path: Path, id_field: str = "_id") -> Iterator[tuple[str, Document]]:
    """Read the documents of a JSON lines file: id, document."""
    for key, row, where in read_rows(path, id_field):
        yield key, Document(field(row, "title", where, str, default=""), field(row, "text", where, str))


def read_rows(path: Path, id_field: str = "_id") -> Iterator[tuple[str, dict, str]]:
    """Read the rows of a JSON lines file: id, row, and `"FILE, line N"`."""
    seen: set[str] = set()
    for row, where in read_objects(path):
        key = field(row, id_field, where, str)
        if not key or key in seen:
            raise DataError(f"{where}: {id_field!r} must be unique and not empty, got {short_repr(key)}")
        seen.add(key)
        yield key, row, where


def field(row: Mapping[str, Any], name: str, where: str, *kinds: type, default: Any = None) -> Any:
    """Return a field of a row after checking its type. `None` counts as missing."""
    value = default if row.get(name) is None else row[name]
    if not isinstance(value, kinds):
        expected = " or ".join(kind.__name__ for kind in kinds)
        raise DataError(f"{where}: {name!r} must be {expected}, got {short_repr(value)}")
    return value


def translation_of(row: Mapping[str, Any], where: str) -> str | None:
    """Return the human translation of a query (`metadata.translation`), if there is one."""
    return field(field(row, "metadata", where, dict, default={}), "translation", where, str, default="") or None


def read_qrels(path: Path) -> dict[str, dict[str, int]]:
    """Read judgements in the three columns of BEIR, with or without a header, or the four columns of TREC."""
    qrels: dict[str, dict[str, int]] = {}
    columns = 0
    for where, line in read_lines(path):
        fields = [each.strip() for each in line.split("\t")] if "\t" in line else line.split()
        if not columns:
            columns = len(fields)
            if fields == _QRELS_HEADER:
                continue
        score = _JUDGEMENT.fullmatch(fields[-1])
        if score is None or len(fields) != columns or columns not in (3, 4):
            raise DataError(
                f"{where}: a judgement must have a query id, a document id and an integer score of at most four "
                f"digits, got {short_repr(line)}"
            )
        query, document, judgement = fields[0], fields[-2], int(score[1])
        if qrels.setdefault(query, {}).setdefault(document, judgement) != judgement:
            raise DataError(
                f"{where}: query {short_repr(query)} and document {short_repr(document)} have two different scores"
            )
    return qrels
