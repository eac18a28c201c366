from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import DataError, short_repr
from ..retrieval import Hit
from ..storage.data_files import read_lines, read_objects


_QRELS_HEADER = ["query-id", "corpus-id", "score"]
# What measures the ranking keeps a count for every judgement up to the highest.
_JUDGEMENT = re.compile(r"[+-]?[0-9]{1,4}")


@dataclass(frozen=True)
class Document:
    """A document of a corpus. `title` may be empty."""

    title: str
    text: str


@dataclass(frozen=True)
class Query:
    """A query, with its human translation into the language of the corpus where there is one."""

    text: str
    translation: str | None = None


@dataclass(frozen=True)
class RetrievalDataset:
    """
    Queries, the documents to search, and who is relevant to whom.

    Args:
        name (`str`):
            What to call it in reports.
        corpus (`dict[str, Document]`):
            Document id -> document.
        queries (`dict[str, Query]`):
            Query id -> query; the keys are those of `qrels`.
        qrels (`dict[str, dict[str, int]]`):
            Query id -> document id -> judgement; above 0 is relevant. A query may have no relevant document, and then
            scores 0 whatever is found.
        ignore_identical_ids (`bool`, defaults to `False`):
            Whether a document found that has the id of its query is passed over: where the queries are documents
            themselves (ArguAna, Quora), each would find itself first. As in `mteb` and in BEIR's own evaluator.
    """

    name: str
    corpus: dict[str, Document]
    queries: dict[str, Query]
    qrels: dict[str, dict[str, int]]
    ignore_identical_ids: bool = False

    def counted(self, hits: Mapping[str, Sequence[Hit]]) -> Mapping[str, Sequence[Hit]]:
        """What was found for each query id, without the hits that `ignore_identical_ids` passes over."""
        if not self.ignore_identical_ids:
            return hits
        return {key: [hit for hit in own if hit.document != key] for key, own in hits.items()}

    def document_texts(self) -> list[str]:
        """What an encoder reads of each document, in the order of `corpus`: title, a space, text, as BEIR has it."""
        return [f"{document.title} {document.text}".strip() for document in self.corpus.values()]


def load_beir(
    folder: str | os.PathLike, split: str = "test", corpus: str | os.PathLike | None = None
) -> RetrievalDataset:
    """
    Reads a retrieval set in the layout of BEIR (Thakur et al. 2021).

    The folder holds `corpus.jsonl` (`_id`, `title`, `text`), `queries.jsonl` (`_id`, `text`, and in
    `metadata.translation` a human translation, if there is one) and `qrels/SPLIT.tsv` (header `query-id`, `corpus-id`,
    `score`). Each may be gzipped, with `.gz` after its name; where both are there the plain file is read. Queries that
    the split does not judge are left out.

    Args:
        folder (`str` or `os.PathLike`):
            Where the set is.
        split (`str`, defaults to `"test"`):
            Which judgements to read.
        corpus (`str` or `os.PathLike`, *optional*):
            The corpus file, where it is not in the folder.

    Returns:
        [`RetrievalDataset`]: named after folder and split.

    Raises:
        DataError: a file is missing, unreadable or malformed, an id is there twice, the judgements are empty, name an
            unknown query or document, or find no document relevant. The message names the file and the line.
    """
    folder = Path(folder)
    # `Path` raises where a name is too long for the system.
    if not os.path.isdir(folder):
        raise DataError(f"there is no folder {folder}; a retrieval set is a folder in BEIR layout")
    corpus_file = _locate(folder / "corpus.jsonl" if corpus is None else Path(corpus))
    queries_file = _locate(folder / "queries.jsonl")
    qrels_file = _locate_split(folder / "qrels", split)

    qrels = _read_qrels(qrels_file)
    documents = {
        key: Document(text_field(row, "title", where, default=""), text_field(row, "text", where))
        for key, row, where in read_rows(corpus_file)
    }
    queries = {
        key: Query(text_field(row, "text", where), translation_field(row, where))
        for key, row, where in read_rows(queries_file)
        if key in qrels
    }
    _require_known("queries", qrels, queries, qrels_file, queries_file)
    judged = dict.fromkeys(document for judgements in qrels.values() for document in judgements)
    _require_known("documents", judged, documents, qrels_file, corpus_file)
    qrels = {key: qrels[key] for key in queries}
    return RetrievalDataset(f"{folder.resolve().name}/{split}", documents, queries, qrels)


def _locate(path: Path) -> Path:
    """`path`, or `path` with `.gz` after it."""
    zipped = path.with_name(f"{path.name}.gz")
    for candidate in (path, zipped):
        if os.path.isfile(candidate):
            return candidate
    raise DataError(f"there is no file {path}, nor {zipped.name} beside it; a retrieval set needs it (BEIR layout)")


def _locate_split(folder: Path, split: str) -> Path:
    try:
        return _locate(folder / f"{split}.tsv")
    except DataError as error:
        splits = sorted({path.name.split(".tsv")[0] for path in folder.glob("*.tsv*")})
        known = f"the splits in {folder} are {', '.join(splits)}" if splits else f"{folder} holds no split at all"
        raise DataError(f"split {split!r} not found: there is no file {folder / split}.tsv[.gz]; {known}") from error


def read_rows(path: Path, id_field: str = "_id") -> Iterator[tuple[str, dict, str]]:
    """The rows of a file in JSON lines: id, row, and where it stands."""
    seen = set()
    for row, where in read_objects(path):
        key = row.get(id_field)
        if not isinstance(key, str) or not key:
            raise DataError(f"{where}: {id_field!r} must be a non-empty string, got {short_repr(key)}")
        if key in seen:
            raise DataError(f"{where}: the id {short_repr(key)} is there already, further up; ids must be unique")
        seen.add(key)
        yield key, row, where


def text_field(row: dict, name: str, where: str, default: str | None = None) -> str:
    value = default if row.get(name) is None else row[name]
    if not isinstance(value, str):
        raise DataError(f"{where}: {name!r} is {short_repr(value)}; it must be a string")
    return value


def translation_field(row: dict, where: str) -> str | None:
    """The human translation of a query, which is `metadata.translation`, where it has one."""
    metadata = row.get("metadata")
    if metadata is None:
        return None
    if not isinstance(metadata, dict):
        raise DataError(f"{where}: 'metadata' is {short_repr(metadata)}; it must be an object")
    return text_field(metadata, "translation", where, default="") or None


def _read_qrels(path: Path) -> dict[str, dict[str, int]]:
    qrels: dict[str, dict[str, int]] = {}
    lines = read_lines(path)
    where, header = next(lines, (str(path), ""))
    if header.split("\t") != _QRELS_HEADER:
        raise DataError(f"{where}: the header {' '.join(_QRELS_HEADER)!r}, separated by tabs, is missing")
    for where, line in lines:
        fields = line.split("\t")
        if len(fields) != 3:
            raise DataError(f"{where}: {len(fields)} fields in place of query-id, corpus-id and score, split by tabs")
        query, document, score = fields
        judgement = read_judgement(score, where)
        if qrels.setdefault(query, {}).setdefault(document, judgement) != judgement:
            raise DataError(
                f"{where}: query {short_repr(query)} has two different scores for document {short_repr(document)}"
            )
    if not any(judgement > 0 for judgements in qrels.values() for judgement in judgements.values()):
        raise DataError(f"{path} judges no document relevant (score above 0); there is nothing to measure")
    return qrels


def read_judgement(score: str, where: str) -> int:
    if not _JUDGEMENT.fullmatch(score):
        raise DataError(f"{where}: the score {short_repr(score)} is not an integer of at most four digits")
    return int(score)


def _require_known(kind: str, named: Iterable[str], known: dict, qrels_file: Path, file: Path) -> None:
    unknown = [key for key in named if key not in known]
    if unknown:
        examples = ", ".join(short_repr(key) for key in unknown[:3])
        raise DataError(
            f"{qrels_file} names {len(unknown)} {kind} that {file} does not have, such as {examples}; "
            "the two files do not belong together, or one is cut short"
        )
