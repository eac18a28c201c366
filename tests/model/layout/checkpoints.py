"""Tiny checkpoints in the layouts of other libraries."""

from __future__ import annotations

import json
import string
from pathlib import Path

import torch
from safetensors.torch import save_file
from sentence_transformers import MultiVectorEncoder
from sentence_transformers.base.modules import Dense, Normalize, Transformer
from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask
from tiny import ARCHITECTURES, tiny_tokenizer
from tokenizers import AddedToken
from transformers import AutoConfig, AutoModel, BertTokenizer, set_seed


# The settings that PyLate writes.
PYLATE_SETTINGS = {
    "model_type": "ColBERT",
    "__version__": {"sentence_transformers": "5.3.0", "transformers": "5.3.0", "pytorch": "2.13.0"},
    "prompts": {"query": "", "document": ""},
    "default_prompt_name": None,
    "similarity_fn_name": "MaxSim",
    "query_prefix": "[Q] ",
    "document_prefix": "[D] ",
    "query_length": 24,
    "document_length": 40,
    "attend_to_expansion_tokens": False,
    "skiplist_words": [",", ".", "?"],
    "do_query_expansion": True,
}


def pylate_checkpoint(folder: Path, architecture: str = "bert", **changes) -> Path:
    """Write a checkpoint like PyLate: markers with their space in the vocabulary, [MASK] for padding."""
    settings, kind = ARCHITECTURES[architecture]
    tokenizer = tiny_tokenizer(kind)
    padding = tokenizer.pad_token_id
    tokenizer.add_tokens(["[Q] ", "[D] "])
    tokenizer.pad_token = tokenizer.mask_token
    set_seed(2)
    config = AutoConfig.for_model(architecture, **settings, vocab_size=len(tokenizer), pad_token_id=padding)
    AutoModel.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    kinds = {"": "sentence_transformers.models.Transformer", "1_Dense": "pylate.models.Dense.Dense"}
    modules = [{"idx": i, "name": str(i), "path": path, "type": kinds[path]} for i, path in enumerate(kinds)]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Dense").mkdir()
    dense = {"in_features": 32, "out_features": 16, "bias": False, "use_residual": False}
    dense["activation_function"] = "torch.nn.modules.linear.Identity"
    (folder / "1_Dense" / "config.json").write_text(json.dumps(dense))
    save_file({"linear.weight": torch.randn(16, 32)}, folder / "1_Dense" / "model.safetensors")
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 39, "do_lower_case": false}')
    (folder / "config_sentence_transformers.json").write_text(json.dumps({**PYLATE_SETTINGS, **changes}))
    return folder


# The settings that Stanford's ColBERT writes, besides many others.
STANFORD_METADATA = {
    "query_maxlen": 16,
    "doc_maxlen": 30,
    "mask_punctuation": True,
    "attend_to_mask_tokens": False,
    "query_token_id": "[unused0]",
    "doc_token_id": "[unused1]",
    "dim": 16,
    "similarity": "cosine",
    "interaction": "colbert",
    "checkpoint": "some/base",
}


def stanford_checkpoint(folder: Path, architecture: str = "bert", metadata: dict | None = None, dim: int = 16) -> Path:
    """Write a checkpoint like Stanford's ColBERT: one weight file, with the encoder's under its own name."""
    settings, kind = ARCHITECTURES[architecture]
    tokenizer = tiny_tokenizer(kind)
    if kind == "wordpiece":
        known = [*tokenizer.get_vocab(), *string.punctuation, "[unused0]", "[unused1]"]
        tokenizer = BertTokenizer(vocab={token: i for i, token in enumerate(dict.fromkeys(known))})
    else:
        markers = [AddedToken(f"[unused{i}]", normalized=False, special=True) for i in (0, 1)]
        tokenizer.add_tokens(markers, special_tokens=True)
    set_seed(5)
    config = AutoConfig.for_model(
        architecture, **settings, vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id
    )
    encoder = AutoModel.from_config(config)
    encoder.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "architectures": ["HF_ColBERT"]}))
    weights = {f"{encoder.base_model_prefix}.{name}": weight for name, weight in encoder.state_dict().items()}
    weights["linear.weight"] = torch.randn(dim, 32)
    if architecture == "bert":
        # Older versions saved this buffer too.
        weights["bert.embeddings.position_ids"] = torch.arange(512)[None]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    if metadata is not None:
        (folder / "artifact.metadata").write_text(json.dumps(metadata))
    return folder


def native_checkpoint(
    folder: Path,
    architecture: str = "bert",
    *,
    dims: tuple[int, ...] = (16,),
    added: tuple[str, ...] = (),
    prompts: dict[str, str] | None = None,
    skip: tuple[str, ...] = (".", "?"),
    residual: bool = False,
    **reading,
) -> Path:
    """Write a checkpoint with sentence-transformers, with a layer for each of `dims`."""
    settings, kind = ARCHITECTURES[architecture]
    tokenizer = tiny_tokenizer(kind)
    tokenizer.add_tokens([AddedToken(token, normalized=False, special=True) for token in added], special_tokens=True)
    set_seed(4)
    config = AutoConfig.for_model(
        architecture, **settings, vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id
    )
    AutoModel.from_config(config).save_pretrained(folder / "encoder")
    tokenizer.save_pretrained(folder / "encoder")
    plain = {"activation_function": None, "module_input_name": "token_embeddings", "use_residual": residual}
    layers = [Dense(size, dim, **plain) for size, dim in zip((32, *dims), dims, strict=False)]
    modules = [Transformer(str(folder / "encoder"), **reading), *layers]
    modules += [MultiVectorMask(list(skip)), Normalize("token_embeddings")]
    MultiVectorEncoder(modules=modules, prompts=prompts, device="cpu").save_pretrained(str(folder))
    return folder
