from __future__ import annotations

import hashlib
import heapq
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ...errors import DataError
from ...model.texts import is_blank
from ..datasets import Document, Query, RetrievalDataset


@dataclass(frozen=True)
class RawBenchmark:
    """
    A retrieval set as its keeper gives it out: documents are read when they are asked for, one after the other, and
    `queries` and `qrels` need not name the same queries. `origin` is where it was read from, for messages.
    """

    documents: Iterable[tuple[str, Document]]
    queries: Mapping[str, Query]
    qrels: Mapping[str, Mapping[str, int]]
    ignore_identical_ids: bool = False
    origin: str = ""

    def assemble(self, name: str, documents: int | None = None, seed: int = 0) -> RetrievalDataset:
        """
        The queries that are judged, the corpus or a sample of it, and the judgements as they were published: a
        relevant document that the corpus lacks counts as not found, as in `trec_eval`.

        Raises:
            ValueError: `documents` is below 1.
            DataError: no query is judged, or the corpus holds no document that is judged relevant.
        """
        queries = {key: query for key, query in self.queries.items() if key in self.qrels}
        qrels = {key: dict(self.qrels[key]) for key in queries}
        read = f"{name} (read from {self.origin})" if self.origin else name
        if not queries:
            raise DataError(f"{read} judges none of its {len(self.queries)} queries; choose another split or language")
        name, corpus = _draw(name, self.documents, _judged(qrels), documents, seed)
        if not any(score > 0 and key in corpus for judgements in qrels.values() for key, score in judgements.items()):
            raise DataError(f"{read} holds no document that is judged relevant; its parts do not fit together")
        return RetrievalDataset(name, corpus, queries, qrels, self.ignore_identical_ids)


def across_languages(queries: RawBenchmark, documents: RawBenchmark, names: tuple[str, str]) -> RawBenchmark:
    """
    The queries of one set over the documents of another that asks the same questions in another language; the other's
    wording is their translation, and its judgements hold.

    Raises:
        DataError: the two sets share no query id.
    """
    asked = {
        key: Query(query.text, documents.queries[key].text)
        for key, query in queries.queries.items()
        if key in documents.queries
    }
    if not asked:
        raise DataError(f"{names[0]} and {names[1]} share no query id; they do not ask the same questions")
    return RawBenchmark(documents.documents, asked, documents.qrels, documents.ignore_identical_ids)


def sample_pool(dataset: RetrievalDataset, documents: int, seed: int = 0) -> RetrievalDataset:
    """
    A smaller corpus for cheap runs: the judged documents and a random sample of the others. Measures are higher than
    on the whole corpus; compare them within one pool only.

    Args:
        dataset ([`RetrievalDataset`]):
            The whole set.
        documents (`int`):
            How many documents to keep, at least 1.
        seed (`int`, defaults to 0):
            Which sample. It depends on seed and document ids alone: it is the same on every machine, and a larger
            pool contains the smaller one.

    Returns:
        [`RetrievalDataset`]: named `"... (pool of 1200)"`, its documents in their order; `dataset` itself where it has
        no more than `documents`.

    Raises:
        ValueError: `documents` is below 1.
        DataError: more documents than that are judged.
    """
    name, corpus = _draw(dataset.name, dataset.corpus.items(), _judged(dataset.qrels), documents, seed)
    return dataset if len(corpus) == len(dataset.corpus) else replace(dataset, name=name, corpus=corpus)


def from_bitext(
    pairs: Iterable[Mapping[str, Any]],
    language: str,
    teacher_language: str = "en",
    *,
    name: str | None = None,
    limit: int | None = None,
) -> RetrievalDataset:
    """
    Makes a test set of sentence pairs that training has not seen: a sentence of the new language is a query, and its
    English translation is the document to find.

    Pairs with the same English sentence share one document. A sentence that is there with several translations is one
    query to which each of them is relevant.

    Args:
        pairs (`datasets.Dataset`, or iterable of rows):
            Rows with a `translation`, as [`load_bitext`] gives them: `{"translation": {"en": "...", "ha": "..."}}`.
        language (`str`):
            Key of the queries.
        teacher_language (`str`, defaults to `"en"`):
            Key of the documents.
        name (`str`, *optional*):
            What to call it in reports. Defaults to `"bitext/LANGUAGE"`.
        limit (`int`, *optional*):
            Stop after so many pairs.

    Returns:
        [`RetrievalDataset`]: the translation of a query is the very text of its document, so the ceiling is close to 1
        and says little.

    Raises:
        DataError: there are no pairs, or a pair lacks a language or is blank in one.
    """
    documents: dict[str, str] = {}
    asked: dict[str, str] = {}
    queries: dict[str, Query] = {}
    qrels: dict[str, dict[str, int]] = {}
    for position, pair in enumerate(pairs):
        if limit is not None and position >= limit:
            break
        text, english = (_sentence(pair, key, position) for key in (language, teacher_language))
        document = documents.setdefault(english, f"d{position}")
        query = asked.setdefault(text, f"q{position}")
        queries.setdefault(query, Query(text, english))
        qrels.setdefault(query, {})[document] = 1
    if not queries:
        raise DataError("pairs is empty; there is nothing to ask")
    corpus = {key: Document("", text) for text, key in documents.items()}
    return RetrievalDataset(name or f"bitext/{language}", corpus, queries, qrels)


def _sentence(pair: Mapping[str, Any], language: str, position: int) -> str:
    translation = pair.get("translation") or {}
    text = (translation.get(language) or "").strip()
    if is_blank(text):
        raise DataError(
            f"pair {position} has no text in {language!r} (it has {', '.join(translation) or 'no translation'}); "
            "check the language codes, and drop blank pairs with `filter_bitext`"
        )
    return text


def _judged(qrels: Mapping[str, Mapping[str, int]]) -> set[str]:
    return {document for judgements in qrels.values() for document in judgements}


def _draw(
    name: str, documents: Iterable[tuple[str, Document]], judged: Collection[str], limit: int | None, seed: int
) -> tuple[str, dict[str, Document]]:
    """Reads the documents once, holds no more than `limit` beside the judged ones, and says in the name if it cut."""
    require_documents(limit)
    if limit is None:
        return name, dict(documents)
    kept: list[tuple[int, str, Document]] = []
    total = 0

    def others() -> Iterator[tuple[int, str, Document]]:
        nonlocal total
        for key, document in documents:
            row = (total, key, document)
            total += 1
            if key in judged:
                kept.append(row)
            else:
                yield row

    drawn = heapq.nsmallest(limit, others(), key=lambda row: _lot(seed, row[1]))
    if len(kept) > limit:
        raise DataError(f"documents is {limit}, but {name} judges {len(kept)}; keep at least those")
    rows = sorted(kept + drawn[: limit - len(kept)], key=lambda row: row[0])
    corpus = {key: document for _, key, document in rows}
    return name if len(rows) == total else f"{name} (pool of {len(rows)})", corpus


def require_documents(documents: int | None) -> None:
    if documents is not None and documents < 1:
        raise ValueError(f"documents is {documents}; it must be at least 1, or None for all")


def _lot(seed: int, key: str) -> bytes:
    return hashlib.blake2b(f"{seed}:{key}".encode(), digest_size=16).digest()
