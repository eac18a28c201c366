"""Language packs with random weights, and the vectors of a model with only one of them."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from tiny import DEMO, MINILM, demo_pairs
from transformers.utils import logging as transformers_logging

from hf_optical import LanguagePack, OpticalModel, OpticalProcessor, OpticalRetriever, load_bitext
from hf_optical.languages import Vocabulary, add_adapter, default_lora_config, extend_processor, learn_vocabulary
from hf_optical.model.added_words import WORD_RULES
from hf_optical.retrieval import encode_texts


WORDS = ["mzuqo", "kitxbu"]
TEXTS = [text for pair in demo_pairs()[:4] for text in pair.values()]
TEXTS = [text if position % 3 else f"mzuqo {text} kitxbu, mzuqo!" for position, text in enumerate(TEXTS)]


def make_pack(
    base: str | Path,
    language: str,
    seed: int,
    words: Sequence[str] = (),
    rank: int = 4,
    dtype: torch.dtype = torch.float32,
    **roles,
) -> LanguagePack:
    """A pack with random weights; without new words, its adapter also covers the word embeddings."""
    torch.manual_seed(seed)
    model = OpticalModel.from_pretrained(base, dtype=dtype)
    size = model.get_input_embeddings().weight.shape[1]
    vocabulary = Vocabulary(list(words), torch.zeros(len(words), size), rules=WORD_RULES) if words else None
    add_adapter(model, language, default_lora_config(model, rank=rank, embeddings=not words), vocabulary)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.normal_(std=0.2)
    return LanguagePack.from_model(model, language, roles=roles)


def untrained_pack(code: str, max_words: int = 500) -> LanguagePack:
    """A pack before training on MiniLM, with new words learned from the embedded Swahili sentences."""
    model, processor = OpticalModel.from_pretrained(MINILM), OpticalProcessor.from_pretrained(MINILM)
    sentences = load_bitext(DEMO / "train.jsonl", "sw")
    words = learn_vocabulary(model, processor, sentences, "sw", "en", max_words=max_words)
    add_adapter(model, code, default_lora_config(model, rank=4, embeddings=False), words)
    return LanguagePack.from_model(model, code, roles=processor.roles)


def with_pack(base: Path, pack: LanguagePack | None, texts: Sequence[str], role: str) -> list[torch.Tensor]:
    """Vectors of the texts from a model with only this pack."""
    model, processor = OpticalModel.from_pretrained(base), OpticalProcessor.from_pretrained(base)
    if pack is not None:
        pack.attach(model)
        processor = OpticalProcessor(processor.tokenizer, **{**processor.roles, **pack.roles})
        processor = extend_processor(processor, pack.vocabulary.tokens) if pack.vocabulary else processor
    return encode_texts(model, processor, texts, role).to_list()


def assert_equal(found: Sequence[torch.Tensor], expected: Sequence[torch.Tensor], tolerance: float = 0.0) -> None:
    assert [tensor.shape for tensor in found] == [tensor.shape for tensor in expected]
    assert max((a - b).abs().max().item() for a, b in zip(found, expected, strict=True)) <= tolerance


@contextmanager
def no_warnings() -> Iterator[None]:
    """Fail if transformers logs a warning."""
    messages = []
    handler = logging.Handler(level=logging.WARNING)
    handler.emit = lambda record: messages.append(record.getMessage())
    logger = transformers_logging.get_logger("transformers")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
    assert messages == []


def retriever_with(base: str | Path, packs: dict[str, LanguagePack]) -> OpticalRetriever:
    """A retriever on the CPU with these packs open and the last one active."""
    retriever = OpticalRetriever.from_pretrained(base, device="cpu")
    for language, pack in packs.items():
        retriever.add_language(language, pack)
        retriever.set_language(language)
    return retriever
