"""Removal of adapters from a model, with or without merging one of them into the weights."""

from __future__ import annotations

import copy

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from ..model import OpticalModel
from .adapters import activate, adapter_name, languages
from .vocabulary import LanguageEmbedding, vocabulary_of, word_embedding


def merge_language(model: OpticalModel, language: str) -> OpticalModel:
    """
    Merge a language into a copy of the model, which then encodes all texts as the original does in that language.

    The adapter is added to the weights. The embeddings of new words are appended to those of the base.

    Args:
        model ([`OpticalModel`]): the base, with an adapter for `language`.
        language (`str`): language code.

    Returns:
        [`OpticalModel`]: a model without adapters, with all weights trainable. Token vectors differ from the
        original's by float32 rounding (1e-5). It has no name, since it is no longer the base.

    Raises:
        KeyError: there is no adapter for `language`.
    """
    merged = copy.deepcopy(model)
    activate(merged, language)
    for layer in _tuner_layers(merged).values():
        if not layer.merged:
            layer.merge()
    embedding = word_embedding(merged)
    added = vocabulary_of(merged, adapter_name(language))
    unwrap(merged)
    if added is not None:
        weight = torch.cat([embedding.weight.detach()[: added.first_id], added.rows.to(embedding.weight.device)])
        merged.set_input_embeddings(nn.Embedding(len(weight), weight.shape[1], embedding.padding_idx, _weight=weight))
        merged.encoder.config.get_text_config().vocab_size = len(weight)
    merged.requires_grad_(True)
    if getattr(merged.encoder, "pooler", None) is not None:
        merged.encoder.pooler.requires_grad_(False)
    merged.name_or_path, merged.revision = "", None
    return merged


def unwrap(model: OpticalModel) -> None:
    """Remove the adapters of all languages and restore the base's own layers."""
    encoder = model.encoder
    for path, layer in _tuner_layers(model).items():
        encoder.set_submodule(path, layer.get_base_layer())
    if languages(model):
        del encoder.peft_config
    encoder._hf_peft_config_loaded = False
    vars(model).pop("_strengths", None)
    embedding = encoder.get_input_embeddings()
    if isinstance(embedding, LanguageEmbedding):
        rows, columns = embedding.weight.shape
        plain = nn.Embedding(rows, columns, embedding.padding_idx, _weight=embedding.weight)
        plain.weight = embedding.weight
        encoder.set_input_embeddings(plain)


def _tuner_layers(model: OpticalModel) -> dict[str, BaseTunerLayer]:
    """PEFT's wrappers of layers by path. A shared one appears under each of its paths."""
    modules = model.encoder.named_modules(remove_duplicate=False)
    return {path: module for path, module in modules if isinstance(module, BaseTunerLayer)}
