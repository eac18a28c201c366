"""Fixture: a retriever with a pack that has two new words and random weights."""

import pytest
from packs import WORDS, make_pack

from hf_optical import OpticalRetriever


@pytest.fixture(scope="module")
def retriever(tiny):
    retriever = OpticalRetriever.from_pretrained(tiny, device="cpu")
    retriever.add_language("sw", make_pack(tiny, "sw", seed=1, words=WORDS))
    retriever.set_language("sw")
    return retriever
