"""Taking out what languages wrap around a base: with one of them folded into the weights, or without any."""

from __future__ import annotations

import copy

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from ..model import OpticalModel
from .adapters import activate, adapter_name, languages
from .vocabulary import LanguageEmbedding, word_embedding


def merge_language(model: OpticalModel, language: str) -> OpticalModel:
    """
    A plain model that reads every text as `language` is read by `model`, which is left as it is.

    The adapter is added to the weights and the rows of the new words follow those of the base, in an ordinary
    `nn.Embedding`.

    Args:
        model ([`OpticalModel`]): the base, with an adapter for `language`.
        language (`str`): language code.

    Returns:
        [`OpticalModel`]: token vectors within float32's rounding of the pack's (1e-5), no trace of languages left,
        every weight trainable as in a model just opened. It has no name, since it is no longer the base.

    Raises:
        KeyError: there is no adapter for `language`.
    """
    merged = copy.deepcopy(model)
    activate(merged, language)
    for layer in _tuner_layers(merged).values():
        if not layer.merged:
            layer.merge()
    embedding = word_embedding(merged)
    added = embedding.vocabulary(adapter_name(language)) if isinstance(embedding, LanguageEmbedding) else None
    unwrap(merged)
    if added is not None:
        weight = torch.cat([embedding.weight.detach()[: added.first_id], added.rows.to(embedding.weight.device)])
        merged.set_input_embeddings(nn.Embedding(*weight.shape, embedding.padding_idx, _weight=weight))
        merged.encoder.config.get_text_config().vocab_size = len(weight)
    merged.requires_grad_(True)
    if getattr(merged.encoder, "pooler", None) is not None:
        merged.encoder.pooler.requires_grad_(False)
    merged.name_or_path, merged.revision = "", None
    return merged


def unwrap(model: OpticalModel) -> None:
    """Puts the base's own layers back where languages wrapped them; the adapters of all languages are gone."""
    encoder = model.encoder
    for path, layer in _tuner_layers(model).items():
        encoder.set_submodule(path, layer.get_base_layer())
    if languages(model):
        del encoder.peft_config
    encoder._hf_peft_config_loaded = False
    embedding = encoder.get_input_embeddings()
    if isinstance(embedding, LanguageEmbedding):
        plain = nn.Embedding(*embedding.weight.shape, embedding.padding_idx, _weight=embedding.weight)
        plain.weight = embedding.weight
        encoder.set_input_embeddings(plain)


def _tuner_layers(model: OpticalModel) -> dict[str, BaseTunerLayer]:
    """PEFT's wrappers by the place they are at; one that is at several places is at each of them."""
    modules = model.encoder.named_modules(remove_duplicate=False)
    return {path: module for path, module in modules if isinstance(module, BaseTunerLayer)}
