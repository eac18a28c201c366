"""Our folders opened by transformers and PEFT alone."""

from __future__ import annotations

import json

import pytest
import torch
from interop.folders import HARD, LATE, largest_difference, write_folder
from packs import TEXTS, WORDS, make_pack
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModel, AutoTokenizer

from hf_optical import OpticalProcessor, OpticalRetriever
from hf_optical.languages import extend_processor


# PEFT uses a deprecated name of transformers.
old_name = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


@pytest.fixture(scope="module", params=zip(LATE, ("nothing", "projection", "projection"), strict=True), ids=": ".join)
def folder(request, tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("ours"), *request.param)


@torch.no_grad()
def encode(encoder, tokenizer, texts, projection=None, length=64):
    """Late-interaction encoding by hand, as a README would explain it."""
    vectors = []
    for text in texts:
        batch = tokenizer(text, truncation=True, max_length=length, return_tensors="pt")
        batch.pop("token_type_ids", None)
        hidden = encoder.eval()(**batch).last_hidden_state[0]
        if projection is not None:
            hidden = torch.nn.functional.linear(hidden, projection)
        vectors.append(torch.nn.functional.normalize(hidden, dim=-1))
    return vectors


def dense(folder):
    path = folder / "1_Dense" / "model.safetensors"
    return load_file(path)["linear.weight"] if path.is_file() else None


def test_model_equals_automodel_and_a_projection(folder):
    retriever = OpticalRetriever.from_pretrained(folder, device="cpu")
    encoder, tokenizer = AutoModel.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    found = encode(encoder, tokenizer, HARD, dense(folder))
    assert largest_difference(found, retriever.encode_queries(HARD)) <= 1e-6


@old_name
def test_pack_without_new_words_is_a_peft_adapter(folder, tmp_path):
    pack = make_pack(folder, "sw", 7)
    pack.save_pretrained(tmp_path)
    retriever = OpticalRetriever.from_pretrained(tmp_path, base_model=folder, device="cpu")
    encoder = PeftModel.from_pretrained(AutoModel.from_pretrained(folder), tmp_path)
    found = encode(encoder, AutoTokenizer.from_pretrained(folder), TEXTS, dense(folder))
    assert largest_difference(found, retriever.encode_queries(TEXTS)) <= 1e-6


@old_name
def test_pack_with_new_words_needs_the_words_first(folder, tmp_path):
    """The tokenizer learns the words, and their rows are added by hand, before PEFT opens the adapter."""
    pack = make_pack(folder, "sw", 7, WORDS)
    pack.save_pretrained(tmp_path)
    retriever = OpticalRetriever.from_pretrained(tmp_path, base_model=folder, device="cpu")
    encoder = AutoModel.from_pretrained(folder)
    words = json.loads((tmp_path / "language_pack.json").read_text(encoding="utf-8"))["new_words"]
    tokenizer = extend_processor(OpticalProcessor.from_pretrained(folder), words).tokenizer
    rows = load_file(tmp_path / "vocabulary.safetensors")["rows"]
    embedding = encoder.get_input_embeddings()
    encoder.set_input_embeddings(torch.nn.Embedding.from_pretrained(torch.cat([embedding.weight, rows])))
    found = encode(PeftModel.from_pretrained(encoder, tmp_path), tokenizer, TEXTS, dense(folder))
    assert largest_difference(found, retriever.encode_queries(TEXTS)) <= 1e-6
