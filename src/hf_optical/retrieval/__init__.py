from .encoding import encode_texts
from .maxsim import maxsim
from .retriever import OpticalRetriever
from .search import Hit, search
from .vectors import TokenVectors


__all__ = ["Hit", "OpticalRetriever", "TokenVectors", "encode_texts", "maxsim", "search"]
