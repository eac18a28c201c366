"""Our folders opened by sentence-transformers alone."""

from __future__ import annotations

import json
import logging

import pytest
import torch
from interop.folders import HARD, SETTINGS, SOURCES, largest_difference, tokenizer_of, write_folder
from packs import WORDS, make_pack

from hf_optical import OpticalModel, OpticalProcessor, OpticalRetriever


# PyLate strips whitespace; sentence-transformers does not, like us.
TEXTS = [*HARD, "", " ", "\n  the river \t"]


# Every setting with one architecture, and every architecture with and without all parts; nightly, each with each.
QUICK = {
    *(("bert", setting) for setting in SETTINGS if setting != "nothing"),
    *(("xlm-roberta", setting) for setting in ("nothing", "merged")),
    *(("modernbert", setting) for setting in ("projection, markers, attended expansion", "merged")),
}


@pytest.fixture
def logged():
    """Warnings logged by transformers and sentence-transformers."""
    messages = []
    handler = logging.Handler(level=logging.WARNING)
    handler.emit = lambda record: messages.append(record.getMessage())
    names = ("transformers", "sentence_transformers")
    for name in names:
        logging.getLogger(name).addHandler(handler)
    yield messages
    for name in names:
        logging.getLogger(name).removeHandler(handler)


@pytest.mark.parametrize(
    "source",
    [
        pytest.param(source, marks=() if source in QUICK else pytest.mark.slow, id=": ".join(source))
        for source in SOURCES
    ],
)
def test_vectors_equal_sentence_transformers(source, tmp_path, logged):
    from sentence_transformers import MultiVectorEncoder

    folder = write_folder(tmp_path, *source)
    check_that_it_does_not_need_this_library(folder)
    retriever = OpticalRetriever.from_pretrained(folder, device="cpu")
    encoder = MultiVectorEncoder(str(folder), device="cpu")
    assert logged == []
    assert largest_difference(encoder.encode_query(TEXTS), retriever.encode_queries(TEXTS)) <= 1e-6
    assert largest_difference(encoder.encode_document(TEXTS), retriever.encode_documents(TEXTS)) <= 1e-6


def check_that_it_does_not_need_this_library(folder):
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} <= {".json", ".jinja", ".safetensors"}
    for path in files:
        if path.suffix == ".json":
            text = path.read_text(encoding="utf-8")
            assert "auto_map" not in text and "hf_optical" not in text, path
    modules = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
    assert {module["type"].rsplit(".", 1)[0] for module in modules} == {"sentence_transformers.models"}


def test_packs_next_to_a_base_are_ignored(tmp_path):
    from sentence_transformers import MultiVectorEncoder

    base = OpticalRetriever.from_pretrained(write_folder(tmp_path / "base", "bert", "nothing"), device="cpu")
    expected = base.encode_queries(TEXTS)
    base.add_language("sw", make_pack(tmp_path / "base", "sw", 7, WORDS))
    base.save_pretrained(tmp_path / "retriever")
    encoder = MultiVectorEncoder(str(tmp_path / "retriever"), device="cpu")
    assert largest_difference(encoder.encode_query(TEXTS), expected) <= 1e-6


def test_half_precision_weights_can_be_loaded_in_float32(tmp_path):
    from sentence_transformers import MultiVectorEncoder

    write_folder(tmp_path, "bert", "projection")
    OpticalModel.from_pretrained(tmp_path, dtype=torch.bfloat16).save_pretrained(tmp_path)
    retriever = OpticalRetriever.from_pretrained(tmp_path, device="cpu")
    encoder = MultiVectorEncoder(str(tmp_path), device="cpu", model_kwargs={"dtype": torch.float32})
    assert largest_difference(encoder.encode_query(TEXTS), retriever.encode_queries(TEXTS)) <= 1e-6


def test_skip_words_missing_from_the_tokenizer_are_not_exported(tmp_path):
    """sentence-transformers would warn about them; PyLate would skip every unknown word instead."""
    OpticalProcessor(tokenizer_of("bert"), skip_tokens=["?", "mzuqo"]).save_pretrained(tmp_path)
    roles = json.loads((tmp_path / "config_sentence_transformers.json").read_text(encoding="utf-8"))
    assert roles["skiplist_words"] == ["?"]
