from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.torch
import torch
from tiny import tiny_checkpoint

from hf_optical import OpticalModel, OpticalProcessor


TEXTS = ["The farmer sells coffee.", "Malaria huenezwa na nini?"]


@pytest.fixture
def folder(tmp_path) -> Path:
    """A tiny XLM-RoBERTa in the layout of BGE-M3: plain encoder files and a pickled `torch.nn.Linear`."""
    folder = tiny_checkpoint(tmp_path / "bge-m3", "xlm-roberta", seed=4)
    for name in ("modules.json", "config_sentence_transformers.json", "1_Dense/model.safetensors"):
        (folder / name).unlink()
    torch.manual_seed(0)
    torch.save(torch.nn.Linear(32, 24).state_dict(), folder / "colbert_linear.pt")
    return folder


def test_pickled_head_is_refused_with_code_that_converts_it(folder, monkeypatch):
    with pytest.raises(OSError, match="Pickled weights can run code and are not read") as raised:
        OpticalModel.from_pretrained(folder)
    code = str(raised.value).split("a copy of the folder: ")[1].split(". Or delete")[0]
    monkeypatch.chdir(folder)
    exec(code, {"safetensors": safetensors, "torch": torch})
    model, processor = OpticalModel.from_pretrained(folder), OpticalProcessor.from_pretrained(folder)
    head = torch.nn.Linear(32, 24)
    head.load_state_dict(torch.load("colbert_linear.pt", weights_only=True))
    inputs = processor.queries(TEXTS)
    found = model(**inputs)
    del inputs["token_mask"]
    with torch.no_grad():
        expected = torch.nn.functional.normalize(head(model.encoder(**inputs).last_hidden_state), dim=-1)
    assert torch.allclose(found.embeddings[found.mask], expected[found.mask], atol=1e-6)
    model.save_pretrained(folder.parent / "saved")
    processor.save_pretrained(folder.parent / "saved")
    again = OpticalModel.from_pretrained(folder.parent / "saved")
    assert again.fingerprint() == model.fingerprint() and again.embedding_dim == 24


def test_folder_without_the_file_is_a_plain_encoder(folder):
    (folder / "colbert_linear.pt").unlink()
    assert OpticalModel.from_pretrained(folder).embedding_dim == 32
