"""Search indexes: one protocol, several engines. Exact in a folder, Lance in a folder or in object storage, Qdrant."""

from .batch_search import BatchSearch
from .documents import IndexedDocument, read_documents, search_documents
from .encoding_run import ShardsFailed, encode_corpus
from .opening import create_index, open_index
from .protocol import Index
from .retrieval_index import RetrievalIndex
from .settings import IndexSettings
from .tasks import Workers


__all__ = [
    "BatchSearch",
    "Index",
    "IndexSettings",
    "IndexedDocument",
    "RetrievalIndex",
    "ShardsFailed",
    "Workers",
    "create_index",
    "encode_corpus",
    "open_index",
    "read_documents",
    "search_documents",
]
