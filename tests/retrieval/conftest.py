"""Fixtures: a retriever with two packs."""

import pytest
from packs import make_pack, retriever_with


@pytest.fixture(scope="module")
def packs(tiny):
    return {
        language: make_pack(tiny, language, seed, **roles)
        for seed, (language, roles) in enumerate({"ha": {}, "yo": {"query_length": 5, "document_length": 6}}.items())
    }


@pytest.fixture
def retriever(tiny, packs):
    return retriever_with(tiny, packs)
