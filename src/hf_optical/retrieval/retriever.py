from __future__ import annotations

import os
from collections.abc import Sequence

import torch
from torch import Tensor

from ..languages import LanguagePack, activate, active_language, languages, remove
from ..languages.pack import is_pack
from ..model import OpticalModel, OpticalProcessor
from ..model.layout import local_folder
from .encoding import encode_texts
from .search import Hit, search
from .vectors import TokenVectors


class OpticalRetriever:
    """
    A model, its processor and its language packs, for people who search.

    Documents are read by the bare base, so that an English index stays as it is; queries by the pack of their
    language.

    Args:
        model ([`OpticalModel`]): the base.
        processor ([`OpticalProcessor`]): what cuts texts into tokens for it.

    Example:

    ```python
    >>> from hf_optical import OpticalRetriever

    >>> retriever = OpticalRetriever.from_pretrained("sentence-transformers/all-MiniLM-L6-v2")
    >>> documents = ["The Nile is a river in Africa.", "Bread is baked from flour."]
    >>> vectors = retriever.encode_documents(documents)
    >>> hits = retriever.search(retriever.encode_queries(["Which rivers are in Africa?"]), vectors, top_k=1)
    >>> documents[hits[0][0].document]
    'The Nile is a river in Africa.'
    ```
    """

    def __init__(self, model: OpticalModel, processor: OpticalProcessor):
        self.model = model.eval()
        self.processor = processor
        self._processors: dict[str, OpticalProcessor] = {}

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike,
        *,
        base_model: str | os.PathLike | None = None,
        revision: str | None = None,
        device: str | torch.device | None = None,
    ) -> OpticalRetriever:
        """
        Opens a model, or a language pack together with the base that it names.

        Args:
            pretrained_model_name_or_path (`str` or `os.PathLike`):
                Folder or Hub id of a model or a pack.
            base_model (`str` or `os.PathLike`, *optional*):
                For a pack: where its base is, if not where the pack says.
            revision (`str`, *optional*):
                Branch, tag or commit on the Hub.
            device (`str` or `torch.device`, *optional*):
                Where to compute. Defaults to the first GPU, if there is one.

        Raises:
            OSError: no such model or pack.
            ValueError: the base is not the one that the pack was trained on.
        """
        folder = local_folder(pretrained_model_name_or_path, revision)
        pack = LanguagePack.from_pretrained(folder) if is_pack(folder) else None
        base, base_revision = (pretrained_model_name_or_path, revision)
        if pack is not None:
            base, base_revision = (base_model, None) if base_model else (pack.base_model, pack.base_revision)
        retriever = cls(
            OpticalModel.from_pretrained(base, revision=base_revision),
            OpticalProcessor.from_pretrained(base, revision=base_revision, **(pack.roles if pack else {})),
        )
        if pack is not None:
            retriever.add_language(pack.language, pack)
        retriever.model.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        return retriever

    @property
    def languages(self) -> list[str]:
        """Codes of the languages whose packs are open."""
        return languages(self.model)

    @property
    def language(self) -> str | None:
        """The language that queries are read in unless they say otherwise; `None` is the bare base."""
        return active_language(self.model)

    def add_language(self, language: str, pack: LanguagePack | str | os.PathLike) -> None:
        """
        Opens a pack and makes its language the one that queries are read in.

        Args:
            language (`str`): its code.
            pack ([`LanguagePack`], `str` or `os.PathLike`): the pack, its folder or its Hub id.

        Raises:
            ValueError: the pack is for another language or another base, or one for `language` is open already.
        """
        pack = pack if isinstance(pack, LanguagePack) else LanguagePack.from_pretrained(pack)
        if pack.language != language:
            raise ValueError(f"the pack is for language {pack.language!r}, not for {language!r}")
        device = self.model.device
        pack.attach(self.model)
        self.model.to(device)
        self._processors[language] = OpticalProcessor(self.processor.tokenizer, **{**self.processor.roles, **pack.roles})

    def set_language(self, language: str | None) -> None:
        """Chooses the language that queries are read in. Raises `KeyError` if its pack is not open."""
        activate(self.model, language)

    def remove_language(self, language: str) -> None:
        """Closes the pack of a language; the bare base is then what reads queries."""
        remove(self.model, language)
        del self._processors[language]

    def encode_queries(
        self,
        queries: Sequence[str],
        *,
        language: str | None = None,
        batch_size: int = 32,
        show_progress: bool = False,
    ) -> list[Tensor]:
        """
        Encodes queries.

        Args:
            queries (sequence of `str`): the queries.
            language (`str`, *optional*): their language. Defaults to the one set.
            batch_size (`int`, defaults to 32): queries at a time.
            show_progress (`bool`, defaults to `False`): whether to show a progress bar.

        Returns:
            `list[Tensor]`: for each query a float32 tensor of shape `(tokens, dim)`, unit vectors, on the CPU.
        """
        return self._encode(queries, "query", language or self.language, batch_size, show_progress)

    def encode_documents(
        self,
        documents: Sequence[str],
        *,
        language: str | None = None,
        batch_size: int = 32,
        show_progress: bool = False,
    ) -> list[Tensor]:
        """As [`~OpticalRetriever.encode_queries`], for documents; without `language` the bare base reads them."""
        return self._encode(documents, "document", language, batch_size, show_progress)

    def search(
        self,
        query_vectors: Sequence[Tensor] | TokenVectors,
        document_vectors: Sequence[Tensor] | TokenVectors,
        top_k: int = 10,
        **kwargs,
    ) -> list[list[Hit]]:
        """Exact search by MaxSim, see [`~retrieval.search`]: for each query its hits `(document, score)`."""
        return search(query_vectors, document_vectors, top_k, **kwargs)

    def _encode(
        self, texts: Sequence[str], role: str, language: str | None, batch_size: int, show_progress: bool
    ) -> list[Tensor]:
        if isinstance(texts, str):
            raise TypeError("one string was passed; pass a list of strings")
        before = self.language
        activate(self.model, language)
        try:
            processor = self._processors.get(language, self.processor)
            vectors = encode_texts(
                self.model, processor, texts, role, batch_size=batch_size, show_progress=show_progress
            )
        finally:
            activate(self.model, before)
        return vectors.to_list()
