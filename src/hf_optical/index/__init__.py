"""A search index on disk: token vectors and documents, searched exactly."""

from .documents import IndexedDocument, read_documents, search_documents
from .retrieval_index import RetrievalIndex


__all__ = ["IndexedDocument", "RetrievalIndex", "read_documents", "search_documents"]
