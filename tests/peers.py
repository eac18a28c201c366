"""Vectors of the same folder here and in sentence-transformers."""

from __future__ import annotations

from pathlib import Path

import torch

from hf_optical import OpticalModel, OpticalProcessor


TEXTS = [
    "The river rises in the hills.",
    "Where?",
    "",
    "  Two spaces  in front",
    "A long sentence with many words, commas, and 3 numbers: 12, 34 and 56; then « quotes » and an end!",
    "Ẹ káàárọ̀, ṣé dáadáa ni?",
    "the water is in the market " * 12,
]


def open_both(folder: Path) -> tuple[OpticalModel, OpticalProcessor]:
    return OpticalModel.from_pretrained(folder), OpticalProcessor.from_pretrained(folder)


@torch.no_grad()
def embed(folder: Path, texts: list[str] = TEXTS) -> list[torch.Tensor]:
    """Token vectors of texts, as queries and as documents."""
    model, processor = open_both(folder)
    outputs = [model(**processor(texts, role)) for role in ("query", "document")]
    return [vectors[mask] for output in outputs for vectors, mask in zip(output.embeddings, output.mask, strict=True)]


def largest_difference(found: list[torch.Tensor], expected: list[torch.Tensor]) -> float:
    assert [vectors.shape for vectors in found] == [vectors.shape for vectors in expected]
    return torch.stack([(a - b).abs().max() for a, b in zip(found, expected, strict=True)]).max().item()


def peer_difference(folder: Path, texts: list[str] = TEXTS) -> float:
    """
    Largest difference between our vectors and those of `MultiVectorEncoder` for the same folder.

    Also checks that input ids and attention masks are the same.
    """
    from sentence_transformers import MultiVectorEncoder

    peer = MultiVectorEncoder(str(folder), device="cpu")
    processor, expected = OpticalProcessor.from_pretrained(folder), []
    for role, encode in (("query", peer.encode_query), ("document", peer.encode_document)):
        batch = processor(texts, role)
        features = peer.preprocess(texts, prompt=peer.prompts[role], task=role)
        assert torch.equal(batch["attention_mask"], features["attention_mask"])
        expansion = features.get("query_expansion_positions", torch.zeros_like(batch["token_mask"]))
        read = features["attention_mask"].bool() | expansion.bool()
        assert torch.equal(batch["input_ids"][read], features["input_ids"][read])
        expected += [torch.as_tensor(vectors) for vectors in encode(texts)]
    return largest_difference(embed(folder, texts), expected)
