"""Search indexes: one protocol, several engines. Exact in a folder, Lance in a folder or in object storage, Qdrant."""

from .documents import IndexedDocument, read_documents, search_documents
from .opening import create_index, open_index
from .protocol import Index
from .retrieval_index import RetrievalIndex
from .settings import IndexSettings


__all__ = [
    "Index",
    "IndexSettings",
    "IndexedDocument",
    "RetrievalIndex",
    "create_index",
    "open_index",
    "read_documents",
    "search_documents",
]
