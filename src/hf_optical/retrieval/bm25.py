from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np
import regex

from ..checks import check_length, check_number, import_optional
from ..model.texts import as_texts
from ..model.words import clusters, compose, find_words
from .search import Hit


_TWO_CHARACTERS = regex.compile(r"\X\X")


class BM25:
    """
    Lexical search with BM25 (Robertson & Zaragoza 2009) as in Lucene, with `k1` 1.5 and `b` 0.75.

    Built on the library `bm25s`. Words are those of [`~hf_optical.model.words.find_words`] with two or more
    characters, lowercased and composed (NFC). Scripts without spaces between words are indexed by all pairs of
    neighbouring characters, as by Lucene's CJK analyzer. English stop words are removed.

    Args:
        document_texts (iterable of `str`): The documents.
        document_ids (iterable of `str`, *optional*): Id of each document. Defaults to positions.
        stemmer (function from `list[str]` to `list[str]`, *optional*):
            Reduces words to their stems, such as [`english_stemmer`]. By default words are not stemmed.

    Raises:
        ImportError: If `bm25s` is not installed.
        ValueError: If there are no documents or none of them has a word, or if the number of ids differs from the
            number of documents.
        TypeError: If `document_texts` is a single string or holds something other than strings.
        DataError: If a text holds an unpaired surrogate.
    """

    def __init__(
        self,
        document_texts: Iterable[str],
        document_ids: Iterable[str] | None = None,
        *,
        stemmer: Callable[[list[str]], list[str]] | None = None,
    ):
        bm25s = import_optional("bm25s", "rivals")
        self.stemmer, self._stop_words = stemmer, frozenset(import_optional("bm25s.stopwords", "rivals").STOPWORDS_EN)
        words = self._words(document_texts, "document_texts")
        self.document_ids = list(range(len(words)) if document_ids is None else document_ids)
        check_length("document_ids", self.document_ids, len(words), "documents")
        if not any(words):
            raise ValueError(f"document_texts must hold at least one word, got {len(words)} texts without any")
        self._index = bm25s.BM25()
        self._index.index(words, show_progress=False)

    def search(self, texts: Iterable[str], top_k: int = 10) -> list[list[Hit]]:
        """
        Find the documents with the highest scores among those that share a word with a query.

        Args:
            texts (iterable of `str`): The queries.
            top_k (`int`, defaults to 10): Maximum number of documents per query.

        Returns:
            `list[list[Hit]]`: The hits of each query, best first. Equal scores are ranked by the position of the
            document. Empty for a query that shares no word with any document.

        Raises:
            ValueError: If `top_k` is below 1.
            TypeError: If `texts` is a single string or holds something other than strings.
            DataError: If a text holds an unpaired surrogate.
        """
        check_number("top_k", top_k, at_least=1)
        return [self._best(words, top_k) for words in self._words(texts, "texts")]

    def _best(self, words: list[str], top_k: int) -> list[Hit]:
        if not words:
            return []
        # The library's own selection promises no order among equal scores.
        scores = self._index.get_scores(words)
        found = np.flatnonzero(scores > 0)
        if len(found) > top_k:
            found = found[scores[found] >= np.partition(scores[found], -top_k)[-top_k]]
        order = found[np.argsort(-scores[found], kind="stable")][:top_k]
        return [Hit(self.document_ids[i], float(scores[i])) for i in order]

    def _words(self, texts: Iterable[str], name: str) -> list[list[str]]:
        words = [[word for word in _terms(text) if word not in self._stop_words] for text in as_texts(texts, name)]
        if self.stemmer is None:
            return words
        distinct = list(dict.fromkeys(word for own in words for word in own))
        stems = dict(zip(distinct, self.stemmer(distinct), strict=True))
        return [[stems[word] for word in own] for own in words]


def _terms(text: str) -> Iterator[str]:
    for word in find_words(text.lower()):
        composed = compose(word.text)
        if word.spaced:
            if _TWO_CHARACTERS.match(composed):
                yield composed
        else:
            characters = clusters(composed)
            yield from map("".join, zip(characters, characters[1:], strict=False)) if characters[1:] else characters


def english_stemmer() -> Callable[[list[str]], list[str]]:
    """
    English Snowball stemmer (Porter 2) from the library PyStemmer, as a function from words to stems.

    Raises:
        ImportError: If PyStemmer is not installed.
    """
    return import_optional("Stemmer", "rivals").Stemmer("english").stemWords
