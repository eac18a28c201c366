from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from ..model.texts import as_texts
from .search import Hit


class BM25:
    """
    Lexical search by BM25 (Robertson & Zaragoza 2009), in the form of Lucene, through the library `bm25s`.

    Words are runs of two or more letters and digits, lower-cased, and English stop words are left out. With `k1` 1.5
    and `b` 0.75.

    Args:
        document_texts (iterable of `str`): the documents.
        document_ids (iterable of `str`, *optional*): name of each document; their positions by default.
        stemmer (function from `list[str]` to `list[str]`, *optional*):
            Cuts words to their stems, such as what [`english_stemmer`] gives. By default words stay whole.

    Raises:
        ImportError: `bm25s` is not installed.
        ValueError: there is no document, none holds a word, or the number of ids is not that of documents.
        TypeError: `document_texts` is one string, or holds something else than strings.
        DataError: a text holds half a character (an unpaired surrogate).
    """

    def __init__(
        self,
        document_texts: Iterable[str],
        document_ids: Iterable[str] | None = None,
        *,
        stemmer: Callable[[list[str]], list[str]] | None = None,
    ):
        try:
            import bm25s
        except ImportError as error:
            raise ImportError('BM25 needs the library bm25s; pip install "hf_optical[rivals]"') from error
        self._tokenize = bm25s.tokenize
        self.stemmer = stemmer
        words = self._words(document_texts, "document_texts")
        self.document_ids = list(range(len(words)) if document_ids is None else document_ids)
        if len(self.document_ids) != len(words):
            raise ValueError(
                f"document_ids has {len(self.document_ids)} entries for {len(words)} documents; pass one id a document"
            )
        if not any(words):
            raise ValueError(f"document_texts has {len(words)} texts and no word in them; there is nothing to search")
        self._index = bm25s.BM25()
        self._index.index(words, show_progress=False)

    def search(self, texts: Iterable[str], top_k: int = 10) -> list[list[Hit]]:
        """
        Finds the documents of highest score among those that share a word with a query.

        Args:
            texts (iterable of `str`): the queries.
            top_k (`int`, defaults to 10): at most so many documents a query.

        Returns:
            `list[list[Hit]]`: for each query its hits, best first, equal scores by position of the document. Empty
            for a query that shares no word with any.

        Raises:
            ValueError: `top_k` is below 1.
            TypeError: `texts` is one string, or holds something else than strings.
            DataError: a text holds half a character (an unpaired surrogate).
        """
        if top_k < 1:
            raise ValueError(f"top_k is {top_k}; it must be at least 1")
        return [self._best(words, top_k) for words in self._words(texts, "texts")]

    def _best(self, words: list[str], top_k: int) -> list[Hit]:
        if not words:
            return []
        # Not the library's own selection, which promises no order among equal scores.
        scores = self._index.get_scores(words)
        found = np.flatnonzero(scores > 0)
        if len(found) > top_k:
            found = found[scores[found] >= np.partition(scores[found], -top_k)[-top_k]]
        order = found[np.argsort(-scores[found], kind="stable")][:top_k]
        return [Hit(self.document_ids[i], float(scores[i])) for i in order]

    def _words(self, texts: Iterable[str], name: str) -> list[list[str]]:
        texts = as_texts(texts, name)
        return self._tokenize(texts, stopwords="english", stemmer=self.stemmer, return_ids=False, show_progress=False)


def english_stemmer() -> Callable[[list[str]], list[str]]:
    """
    The English stemmer of Snowball (Porter 2), through the library PyStemmer: words -> their stems.

    Raises:
        ImportError: PyStemmer is not installed.
    """
    try:
        from Stemmer import Stemmer
    except ImportError as error:
        raise ImportError('stemming needs the library PyStemmer; pip install "hf_optical[rivals]"') from error
    return Stemmer("english").stemWords
