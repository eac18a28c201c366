from __future__ import annotations

import os
from collections.abc import Sequence

import torch
from torch import Tensor

from ..languages import LanguagePack, activate, active_language, extend_processor, languages, remove
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
            OSError: no such model or pack, or the base of a pack is not where it says.
            ValueError: the base is not the one that the pack was trained on, or `base_model` is given beside a model.
        """
        folder = local_folder(pretrained_model_name_or_path, revision)
        if not is_pack(folder):
            if base_model is not None:
                raise ValueError(f"{pretrained_model_name_or_path} is no language pack; leave base_model out")
            retriever = cls._open(pretrained_model_name_or_path, revision)
        else:
            pack = LanguagePack.from_pretrained(folder)
            base = (pack.base_model, pack.base_revision) if base_model is None else (base_model, None)
            try:
                retriever = cls._open(*base)
            except OSError as error:
                raise OSError(f"the base of {folder} could not be opened: {error}. Name it with base_model") from error
            retriever.add_language(pack.language, pack)
        retriever.model.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        return retriever

    @classmethod
    def _open(cls, name: str | os.PathLike, revision: str | None) -> OpticalRetriever:
        return cls(
            OpticalModel.from_pretrained(name, revision=revision),
            OpticalProcessor.from_pretrained(name, revision=revision),
        )

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
        pack.attach(self.model)
        processor = OpticalProcessor(self.processor.tokenizer, **{**self.processor.roles, **pack.roles})
        if pack.vocabulary is not None:
            processor = extend_processor(processor, pack.vocabulary.tokens)
        self._processors[language] = processor

    def set_language(self, language: str | None) -> None:
        """
        Chooses the language that queries are read in, `None` for the bare base.

        Raises:
            KeyError: no pack for `language` is open.
        """
        activate(self.model, language)

    def remove_language(self, language: str) -> None:
        """
        Closes the pack of a language. If it was the one set, the bare base reads queries from then on.

        Raises:
            KeyError: no pack for `language` is open.
        """
        remove(self.model, language)
        self._processors.pop(language, None)

    def encode_queries(
        self,
        queries: Sequence[str],
        *,
        language: str | Sequence[str | None] | None = None,
        batch_size: int = 32,
        show_progress: bool = False,
    ) -> list[Tensor]:
        """
        Encodes queries.

        Args:
            queries (sequence of `str`): the queries.
            language (`str` or sequence of `str` or `None`, *optional*):
                Their language, or that of each, where `None` stands for the bare base. Defaults to the one set.
            batch_size (`int`, defaults to 32): queries at a time.
            show_progress (`bool`, defaults to `False`): whether to show a progress bar.

        Returns:
            `list[Tensor]`: for each query a float32 tensor of shape `(tokens, dim)`, unit vectors, on the CPU.

        Raises:
            KeyError: the pack of a language is not open.
            TypeError: `queries` is one string, or holds something else than strings.
            ValueError: the number of languages is not that of queries.
        """
        language = self.language if language is None else language
        return self._encode(queries, "query", language, batch_size, show_progress)

    def encode_documents(
        self,
        documents: Sequence[str],
        *,
        language: str | Sequence[str | None] | None = None,
        batch_size: int = 32,
        show_progress: bool = False,
    ) -> list[Tensor]:
        """As [`~OpticalRetriever.encode_queries`], for documents; without `language` the bare base reads them."""
        return self._encode(documents, "document", language, batch_size, show_progress)

    def search(
        self,
        queries: Sequence[Tensor] | Sequence[str] | TokenVectors,
        documents: Sequence[Tensor] | Sequence[str] | TokenVectors,
        top_k: int = 10,
        **kwargs,
    ) -> list[list[Hit]]:
        """
        Exact search by MaxSim, see [`~retrieval.search`] for what else can be passed.

        Args:
            queries (sequence of `Tensor` of shape `(tokens, dim)`, [`TokenVectors`], or sequence of `str`):
                Vectors from [`~OpticalRetriever.encode_queries`], or texts, which are encoded first.
            documents (likewise): vectors from [`~OpticalRetriever.encode_documents`], or texts.
            top_k (`int`, defaults to 10): length of the rankings.

        Returns:
            `list[list[Hit]]`: for each query its hits `(document, score)`, best first.
        """
        if _are_texts(queries):
            queries = self.encode_queries(queries)
        if _are_texts(documents):
            documents = self.encode_documents(documents)
        return search(queries, documents, top_k, **kwargs)

    def _encode(
        self,
        texts: Sequence[str],
        role: str,
        language: str | Sequence[str | None] | None,
        batch_size: int,
        show_progress: bool,
    ) -> list[Tensor]:
        if language is None or isinstance(language, str):
            language = [language] * len(texts)
        if len(language) != len(texts):
            raise ValueError(
                f"language has {len(language)} entries for {len(texts)} texts; pass one a text, or one code"
            )
        vectors: list[Tensor | None] = [None] * len(texts)
        before = self.language
        try:
            for code in dict.fromkeys(language):
                activate(self.model, code)
                group = [i for i, entry in enumerate(language) if entry == code]
                encoded = encode_texts(
                    self.model,
                    self._processors.get(code, self.processor),
                    texts if len(group) == len(texts) else [texts[i] for i in group],
                    role,
                    batch_size=batch_size,
                    show_progress=show_progress,
                )
                for i, tensor in zip(group, encoded.to_list(), strict=True):
                    vectors[i] = tensor
        finally:
            activate(self.model, before)
        return vectors


def _are_texts(texts_or_vectors: Sequence[Tensor] | Sequence[str] | TokenVectors) -> bool:
    if isinstance(texts_or_vectors, str):
        raise TypeError("one string was passed; pass a list of strings")
    return len(texts_or_vectors) > 0 and isinstance(texts_or_vectors[0], str)
