from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from ..languages.adapters import check_added, lock_of, use_language
from ..model import OpticalModel, OpticalOutput, OpticalProcessor


class LanguageReader:
    """
    A model that reads in one language, whichever is set; stands in for the model where texts are encoded.

    The language is at work, and other threads wait, for one batch at a time. So a short query does not wait for a
    large corpus, and nothing that other threads set, open or close in between changes a vector.

    Args:
        model ([`OpticalModel`]): the model.
        language (`str`, *optional*): the language; `None` is the bare base.
        processor_of (`Callable`): language -> the processor that belongs to its pack, a new one whenever it is opened.

    Attributes:
        processor ([`OpticalProcessor`]): what cuts the texts.

    Raises:
        KeyError: no pack for `language` is open; and from a call, if it was closed since, even if opened again.
    """

    def __init__(
        self, model: OpticalModel, language: str | None, processor_of: Callable[[str | None], OpticalProcessor]
    ):
        self.model, self.language, self._processor_of = model, language, processor_of
        with lock_of(model):
            check_added(model, language)
            self.processor = processor_of(language)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    def train(self, mode: bool = True) -> LanguageReader:
        """Does nothing: each batch is read in evaluation mode, and others may be training in between."""
        return self

    def eval(self) -> LanguageReader:
        return self

    def __call__(self, **inputs: Tensor) -> OpticalOutput:
        with use_language(self.model, self.language):
            # Texts that were cut for another pack would be read as other words.
            if self._processor_of(self.language) is not self.processor:
                raise KeyError(f"the pack for {self.language!r} was closed while texts were read; encode them again")
            was_training = self.model.training
            if was_training:
                self.model.eval()
            try:
                return self.model(**inputs)
            finally:
                if was_training:
                    self.model.train()
