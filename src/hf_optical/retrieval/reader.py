from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..languages.adapters import check_added, lock_of, strength_of, use_language, use_strength
from ..languages.strength import Strength
from ..model import OpticalModel, OpticalOutput, OpticalProcessor
from ..model.modeling_optical import evaluating


BASE = "base"
"""Name of the bare base wherever a language is expected."""


class LanguageReader:
    """
    A shared model that encodes in one language, whichever language is active in the model.

    The model is locked and the language active for one batch at a time. So a short query does not wait for a large
    corpus, and nothing that other threads activate, open or close in between changes a vector. A call raises
    `KeyError` if the pack was closed since, even if it was opened again: `processor_of` then returns another object.
    All batches are read with one strength of the pack: `strength`, by default the one that it has now.
    """

    def __init__(
        self,
        model: OpticalModel,
        language: str,
        processor_of: Callable[[str], OpticalProcessor],
        strength: Strength | None = None,
    ):
        self.model, self.language, self._processor_of = model, language, processor_of
        pack = pack_of(language)
        with lock_of(model):
            check_added(model, pack)
            self.processor = processor_of(language)
            if strength is None:
                strength = 1.0 if pack is None else strength_of(model, pack)
            self.strength = strength

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def embedding_dim(self) -> int:
        return self.model.embedding_dim

    def __call__(self, **inputs: Tensor) -> OpticalOutput:
        pack = pack_of(self.language)
        with use_language(self.model, pack):
            # Token ids of another pack stand for other words.
            if self._processor_of(self.language) is not self.processor:
                raise KeyError(f"the pack for {self.language!r} was closed during encoding; encode the texts again")
            with evaluating(self.model), use_strength(self.model, pack, self.strength):
                return self.model(**inputs)


def pack_of(language: str) -> str | None:
    """The language of the pack to activate in a model, `None` for [`BASE`]."""
    if language is None:
        raise ValueError(f"language must be the code of an open pack or {BASE!r}, got None")
    return None if language == BASE else language
