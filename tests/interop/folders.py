"""Folders for other libraries to open: each architecture with each setting."""

from __future__ import annotations

import json
import string
from collections.abc import Sequence
from pathlib import Path

import torch
from packs import TEXTS, WORDS, make_pack
from tiny import ARCHITECTURES, tiny_tokenizer
from transformers import (
    AutoConfig,
    AutoModel,
    BertTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    XLMRobertaTokenizer,
    set_seed,
)

from hf_optical import OpticalConfig, OpticalModel, OpticalProcessor, OpticalRetriever


LATE = ("bert", "xlm-roberta", "modernbert")
PROJECTION = {"projection_dim": 16}
MARKERS = {"query_marker": "[Q]", "document_marker": "[D]"}
PROMPTS = {"query_prompt": "query: ", "document_prompt": "passage: "}
EXPANSION = {"query_expansion": True, "query_length": 24}
# Setting -> changes to the defaults of the model and the processor.
SETTINGS = {
    "nothing": {},
    "projection": PROJECTION,
    "markers": MARKERS,
    "prompts": PROMPTS,
    "expansion": EXPANSION,
    "projection, markers, attended expansion": PROJECTION | MARKERS | EXPANSION | {"attend_to_expansion": True},
    "markers and prompts": PROJECTION | MARKERS | PROMPTS,
    "short, own skip list": PROJECTION | {"query_length": 12, "document_length": 20, "skip_tokens": [",", "?"]},
}
SOURCES = [(architecture, setting) for architecture in LATE for setting in (*SETTINGS, "merged")]
HARD = [
    *TEXTS,
    "?!",
    "the river, with 3 boats: (two) are green!",
    "！。، « » “quotes” — dashes… and 漢字 ምን ጊዜ",
    "Ẹ káàárọ̀, ṣé dáadáa ni?",
    "long " * 400,
]


def tokenizer_of(architecture: str, *added: str) -> PreTrainedTokenizerBase:
    """A tokenizer of the class of published checkpoints of an architecture; like theirs, it covers ASCII."""
    tokenizer = tiny_tokenizer(ARCHITECTURES[architecture][1])
    vocabulary = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["vocab"]
    if architecture == "bert":
        new = [symbol for symbol in string.punctuation if symbol not in vocabulary]
        tokenizer = BertTokenizer(vocab=vocabulary | {symbol: len(vocabulary) + i for i, symbol in enumerate(new)})
    elif architecture == "xlm-roberta":
        pieces = dict.fromkeys(string.punctuation, -12.0) | dict(vocabulary)
        special = [piece for piece, score in vocabulary if score == 0]
        tokenizer = XLMRobertaTokenizer(vocab=sorted(pieces.items(), key=lambda piece: piece[0] not in special))
    tokenizer.add_special_tokens({"extra_special_tokens": list(added)})
    return tokenizer


def tiny_encoder(architecture: str, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    size = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
    set_seed(3)
    return AutoModel.from_config(AutoConfig.for_model(architecture, **ARCHITECTURES[architecture][0], **size))


def write_folder(folder: Path, architecture: str, setting: str) -> Path:
    """Write a complete checkpoint. `"merged"` is a base with a language pack and its new words merged into it."""
    if setting == "merged":
        base = write_folder(folder / "base", architecture, "projection")
        retriever = OpticalRetriever.from_pretrained(base, device="cpu")
        retriever.add_language("sw", make_pack(base, "sw", 7, WORDS, query_length=30))
        retriever.merge("sw").save_pretrained(folder)
        return folder
    roles = dict(SETTINGS[setting])
    tokenizer = tokenizer_of(architecture, *(roles[name] for name in roles if name.endswith("_marker")))
    encoder = tiny_encoder(architecture, tokenizer)
    config = OpticalConfig(encoder_config=encoder.config, projection_dim=roles.pop("projection_dim", None))
    OpticalModel(config, encoder).save_pretrained(folder)
    OpticalProcessor(tokenizer, **roles).save_pretrained(folder)
    return folder


def largest_difference(found: Sequence, expected: Sequence[torch.Tensor]) -> float:
    """Largest difference over all texts; infinite if shapes differ."""
    found = [torch.as_tensor(vectors) for vectors in found]
    if [vectors.shape for vectors in found] != [vectors.shape for vectors in expected]:
        return float("inf")
    return max((a - b).abs().max().item() for a, b in zip(found, expected, strict=True))
