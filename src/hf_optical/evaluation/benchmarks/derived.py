"""Test sets made from other data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any

from ...errors import DataError
from ...model.texts import is_blank
from ..datasets import BenchmarkParts, Document, Query, RetrievalDataset, build_dataset


def across_languages(queries: BenchmarkParts, documents: BenchmarkParts) -> BenchmarkParts:
    """Combine the queries of one test set with documents, judgements and wording of its other-language version."""
    shared = {
        key: Query(query.text, documents.queries[key].text)
        for key, query in queries.queries.items()
        if key in documents.queries
    }
    if not shared:
        raise DataError(f"{queries.name} and {documents.name} must ask the same questions, but share no query id")
    name = f"{queries.name} over {documents.name}"
    qrels = {key: documents.qrels[key] for key in shared if key in documents.qrels}
    return BenchmarkParts(name, documents.documents, shared, qrels, documents.ignore_identical_ids)


def from_bitext(
    pairs: Iterable[Mapping[str, Any]],
    language: str,
    teacher_language: str = "en",
    *,
    name: str | None = None,
    limit: int | None = None,
) -> RetrievalDataset:
    """
    Make a test set from held-out sentence pairs.

    A sentence in the new language is a query, and its English translation is the document to find. Pairs with the same
    English sentence share one document. All translations of a repeated sentence are relevant to it.

    Args:
        pairs (`datasets.Dataset`, or iterable of rows):
            Rows with a `translation`, as returned by [`load_bitext`]: `{"translation": {"en": "...", "ha": "..."}}`.
        language (`str`): Language of the queries.
        teacher_language (`str`, defaults to `"en"`): Language of the documents.
        name (`str`, *optional*): Name for reports. Defaults to `"bitext/LANGUAGE"`.
        limit (`int`, *optional*): Maximum number of pairs.

    Returns:
        [`RetrievalDataset`]: the translation of a query is identical to its document, so the ceiling is close to 1 and
        not informative.

    Raises:
        DataError: there are no pairs, or a pair has no text in one of the languages.
    """
    documents: dict[str, str] = {}
    query_ids: dict[str, str] = {}
    queries: dict[str, Query] = {}
    qrels: dict[str, dict[str, int]] = {}
    for position, pair in enumerate(islice(pairs, limit)):
        text, english = (_sentence(pair, key, position) for key in (language, teacher_language))
        document = documents.setdefault(english, f"d{position}")
        query = query_ids.setdefault(text, f"q{position}")
        queries.setdefault(query, Query(text, english))
        qrels.setdefault(query, {})[document] = 1
    if not queries:
        raise DataError("pairs must not be empty")
    corpus = {key: Document("", text) for text, key in documents.items()}
    return build_dataset(name or f"bitext/{language}", corpus, queries, qrels)


def _sentence(pair: Mapping[str, Any], language: str, position: int) -> str:
    translation = pair.get("translation") or {}
    text = (translation.get(language) or "").strip()
    if is_blank(text):
        found = ", ".join(translation) or "none"
        raise DataError(f"pair {position} has no text in {language!r} (languages: {found}); see `filter_bitext`")
    return text
