"""A retriever with two packs."""

import pytest
from packs import make_pack

from hf_optical import OpticalRetriever


@pytest.fixture(scope="module")
def packs(tiny):
    return {
        language: make_pack(tiny, language, seed, **roles)
        for seed, (language, roles) in enumerate({"ha": {}, "yo": {"query_length": 5, "document_length": 6}}.items())
    }


@pytest.fixture
def retriever(tiny, packs):
    retriever = OpticalRetriever.from_pretrained(tiny, device="cpu")
    for language, pack in packs.items():
        retriever.add_language(language, pack)
    return retriever
