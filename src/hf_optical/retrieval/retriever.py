from __future__ import annotations

import copy
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..hub import write_card
from ..hub.cards import FIGURE
from ..languages import LanguagePack, activate, active_language, extend_processor, languages, merge_language, remove
from ..languages.adapters import adapter_name, lock_of
from ..languages.pack import PACK_FILES, is_pack, pack_lock
from ..languages.vocabulary import word_embedding
from ..model import OpticalModel, OpticalProcessor
from ..model.texts import as_texts
from ..storage.fetching import local_folder, packaged_copy
from ..storage.json_files import misfits, read_json, write_json
from ..storage.names import DENSE_FOLDER, ENCODER_CONFIG, NEAREST_WORDS, PACKS_FOLDER
from ..storage.publishing import PushToHub
from ..storage.staging import discard, staged_directory
from .encoding import encode_texts
from .reader import LanguageReader
from .search import Hit, search
from .vectors import TokenVectors


# In the folder of a retriever: which packs are open, and which language is set.
_LANGUAGES = "languages.json"


class OpticalRetriever(PushToHub):
    """
    A model, its processor and its language packs, for people who search.

    Documents are read by the bare base, so that an English index stays as it is; queries by the pack of their
    language.

    Threads may share one: they take turns, a batch each, and packs are opened and closed in between. The language set
    is the same for all of them; a thread with one of its own passes `language`.

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

    # A pack that was there before would hide the base.
    _optional_files = (_LANGUAGES, f"{PACKS_FOLDER}/*", f"{DENSE_FOLDER}/*", NEAREST_WORDS, *PACK_FILES)

    def __init__(self, model: OpticalModel, processor: OpticalProcessor):
        self.model = model.eval()
        self.processor = processor
        self._processors: dict[str, OpticalProcessor] = {}
        # The packs without their weights, which are in the model: where each comes from.
        self._packs: dict[str, LanguagePack] = {}
        # The one, likewise, that is part of the model's own weights.
        self._merged: LanguagePack | None = None

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike,
        *,
        base_model: str | os.PathLike | None = None,
        revision: str | None = None,
        device: str | torch.device | None = None,
        dtype: torch.dtype | str = torch.float32,
    ) -> OpticalRetriever:
        """
        Opens a model, a language pack together with the base that it names, or what
        [`~OpticalRetriever.save_pretrained`] wrote: the base with all its packs and the language that was set.

        Args:
            pretrained_model_name_or_path (`str` or `os.PathLike`):
                Folder or Hub id of a model, a pack or a retriever.
            base_model (`str` or `os.PathLike`, *optional*):
                For a pack: where its base is, if not where the pack says.
            revision (`str`, *optional*):
                Branch, tag or commit on the Hub.
            device (`str` or `torch.device`, *optional*):
                Where to compute. Defaults to the first GPU, if there is one.
            dtype (`torch.dtype` or `str`, *optional*, defaults to `torch.float32`):
                Type of the base's weights, as in [`OpticalModel.from_pretrained`]. A pack opens on its base in the
                type that it was trained on alone.

        Raises:
            OSError: no such model or pack, or the base of a pack is not where it says.
            ValueError: the base is not the one that the pack was trained on, or `base_model` is given beside a model.
        """
        folder = local_folder(pretrained_model_name_or_path, revision)
        with pack_lock(folder):
            if is_pack(folder):
                retriever = cls._open_pack(folder, base_model, dtype)
            elif base_model is not None:
                raise ValueError(f"{pretrained_model_name_or_path} is no language pack; leave base_model out")
            else:
                retriever = cls._open(pretrained_model_name_or_path, revision, dtype)
                codes, chosen = _read_languages(folder)
                for code in codes:
                    retriever.add_language(code, folder / PACKS_FOLDER / code)
                retriever.set_language(chosen)
        retriever.model.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        return retriever

    @classmethod
    def _open(cls, name: str | os.PathLike, revision: str | None, dtype: torch.dtype | str) -> OpticalRetriever:
        return cls(
            OpticalModel.from_pretrained(name, revision=revision, dtype=dtype),
            OpticalProcessor.from_pretrained(name, revision=revision),
        )

    @classmethod
    def _open_pack(
        cls, folder: Path, base_model: str | os.PathLike | None, dtype: torch.dtype | str
    ) -> OpticalRetriever:
        pack = LanguagePack.from_pretrained(folder)
        packs = folder.absolute().parent
        revision = None
        if base_model is None and packs.name == PACKS_FOLDER and (packs.parent / ENCODER_CONFIG).is_file():
            base_model = packs.parent
        elif base_model is None:
            base_model = pack.base_model
            # A package with the same weights stands in for any commit; the fingerprint is looked at below.
            revision = None if packaged_copy(base_model) else pack.base_revision
        try:
            retriever = cls._open(base_model, revision, dtype)
        except OSError as error:
            raise OSError(f"the base of {folder} could not be opened: {error}. Name it with base_model") from error
        retriever.add_language(pack.language, pack)
        return retriever

    def save_pretrained(self, save_directory: str | os.PathLike) -> None:
        """
        Writes the base in its usual layout, which other libraries open too, and beside it every open pack, in
        `language_packs/LANGUAGE`. Opened again, the same languages are open, the same one is set, and all vectors are
        the same, to the last bit.

        Packs that an earlier saving left in the folder, and that are not open, are deleted. Killed, or stopped by a
        full disk, the folder holds the base and all packs of before, or those of now.

        Args:
            save_directory (`str` or `os.PathLike`): the folder.

        Raises:
            FileExistsError: the folder is that of a language pack.
            ValueError: the base was changed since a pack was opened on it, as by `retriever.model.bfloat16()`.
            OSError: the disk is full, or the folder cannot be written.
        """
        folder = Path(save_directory)
        if is_pack(folder):
            raise FileExistsError(f"{folder} holds a language pack, which would hide the base; choose another folder")
        with lock_of(self.model):
            fingerprint = self.model.fingerprint()
            self._require_base_of_packs(fingerprint)
        # Others read again while the files are brought to the disk.
        with staged_directory(folder) as staged, lock_of(self.model):
            self.model.save_pretrained(staged)
            self.processor.save_pretrained(staged)
            for language in self.languages:
                fresh = LanguagePack.from_model(
                    self.model,
                    language,
                    roles=self.processor_of(language).roles,
                    base_fingerprint=fingerprint,
                )
                known = self._packs.get(language, fresh)
                # The base is the folder around the pack, wherever that goes.
                pack = replace(known, weights=fresh.weights, vocabulary=fresh.vocabulary).without_local_paths()
                pack.save_pretrained(staged / PACKS_FOLDER / language)
            if self.languages:
                write_json(staged / _LANGUAGES, {"languages": self.languages, "language": self.language})
            else:
                discard(staged / _LANGUAGES)
            for pack in (folder / PACKS_FOLDER).glob("*"):
                if is_pack(pack) and pack.name not in self.languages:
                    discard(staged / PACKS_FOLDER / pack.name)

    def _require_base_of_packs(self, fingerprint: str) -> None:
        changed = [language for language, pack in self._packs.items() if pack.base_fingerprint != fingerprint]
        if changed:
            raise ValueError(
                f"the base was changed, by a cast to {self.model.dtype} or otherwise, since the packs for "
                f"{', '.join(changed)} were opened, and they would not open on what is saved; open the retriever anew "
                "and save it unchanged, or change what merge(LANGUAGE) gives, or close the packs with remove_language"
            )

    def _save_for_hub(self, folder: Path, repo_id: str) -> None:
        with lock_of(self.model):
            self.save_pretrained(folder)
            packs = dict(self._packs)
        name, revision = self.model.name_or_path, self.model.revision
        known = [*filter(None, [self._merged]), *packs.values()]
        if not known and name and (Path(name) / "README.md").is_file():
            for told in ("README.md", FIGURE):
                if (Path(name) / told).is_file():
                    shutil.copy(Path(name) / told, folder)
            return
        for language, pack in packs.items():
            pack.write_card(folder / PACKS_FOLDER / language, repo_id)
        if self._merged is not None:
            name, revision = self._merged.base_model, self._merged.base_revision
        write_card(
            folder,
            kind="model",
            base_model=name,
            base_revision=revision,
            languages=list(dict.fromkeys(code for pack in known for code in pack.reads)),
            details=_common([pack.details for pack in known]),
            repo_id=repo_id,
        )

    @property
    def languages(self) -> list[str]:
        """Codes of the languages whose packs are open."""
        return languages(self.model)

    @property
    def language(self) -> str | None:
        """The language that queries are read in unless they say otherwise; `None` is the bare base."""
        with lock_of(self.model):  # in the middle of a batch it would be that batch's
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
        processor = self._processor_for(pack)
        with lock_of(self.model):
            pack.attach(self.model)
            self._processors[language] = processor
            self._packs[language] = replace(pack, weights={}, vocabulary=None)

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
        with lock_of(self.model):
            remove(self.model, language)
            self._processors.pop(language, None)
            self._packs.pop(language, None)

    def processor_of(self, language: str | None) -> OpticalProcessor:
        """What cuts texts into tokens for the pack of `language`; for `None`, and with no such pack, for the base."""
        return self._processors.get(language, self.processor)

    def merge(self, language: str) -> OpticalRetriever:
        """
        A plain retriever that reads every text as `language` is read here: the pack is folded into the weights and
        the tokenizer. Saved, any library opens it. The packs open here, and the base, stay as they are.

        Documents are then read by the merged model too. An index that the base made can still be searched with the
        queries of the merged model; go on encoding its documents with the base.

        Args:
            language (`str`): the language of an open pack.

        Returns:
            [`OpticalRetriever`]: queries differ by float32's rounding (1e-5 at most) from those of the pack.

        Raises:
            KeyError: no pack for `language` is open.
        """
        with lock_of(self.model):
            merged = OpticalRetriever(merge_language(self.model, language), copy.deepcopy(self.processor_of(language)))
            merged._merged = self._packs.get(language)
        return merged

    def encode_queries(
        self,
        queries: Iterable[str],
        *,
        language: str | Iterable[str | None] | None = None,
        batch_size: int = 32,
        show_progress: bool = False,
    ) -> list[Tensor]:
        """
        Encodes queries.

        Args:
            queries (iterable of `str`): the queries, such as a list or a data frame's column.
            language (`str` or iterable of `str` or `None`, *optional*):
                Their language, or that of each, where `None` stands for the bare base. Defaults to the one set.
            batch_size (`int`, defaults to 32): queries at a time.
            show_progress (`bool`, defaults to `False`): whether to show a progress bar.

        Returns:
            `list[Tensor]`: for each query a float32 tensor of shape `(tokens, dim)`, unit vectors, on the CPU.

        Raises:
            KeyError: the pack of a language is not open, or was closed before all its queries were read.
            TypeError: `queries` is one string, or holds something else than strings.
            ValueError: the number of languages is not that of queries.
        """
        language = self.language if language is None else language
        return self._encode(queries, "query", language, batch_size, show_progress)

    def encode_documents(
        self,
        documents: Iterable[str],
        *,
        language: str | Iterable[str | None] | None = None,
        batch_size: int = 32,
        show_progress: bool = False,
    ) -> list[Tensor]:
        """As [`~OpticalRetriever.encode_queries`], for documents; without `language` the bare base reads them."""
        return self._encode(documents, "document", language, batch_size, show_progress)

    def search(
        self,
        queries: Iterable[Tensor] | Iterable[str] | TokenVectors,
        documents: Iterable[Tensor] | Iterable[str] | TokenVectors,
        top_k: int = 10,
        **kwargs,
    ) -> list[list[Hit]]:
        """
        Exact search by MaxSim, see [`~retrieval.search`] for what else can be passed.

        Args:
            queries (iterable of `Tensor` of shape `(tokens, dim)`, [`TokenVectors`], or iterable of `str`):
                Vectors from [`~OpticalRetriever.encode_queries`], or texts, which are encoded first.
            documents (likewise): vectors from [`~OpticalRetriever.encode_documents`], or texts.
            top_k (`int`, defaults to 10): length of the rankings.

        Returns:
            `list[list[Hit]]`: for each query its hits `(document, score)`, best first.
        """
        queries = _encoded(queries, self.encode_queries)
        documents = _encoded(documents, self.encode_documents)
        return search(queries, documents, top_k, **kwargs)

    def _processor_for(self, pack: LanguagePack) -> OpticalProcessor:
        try:
            words = self.processor.nearest_words.words if self.processor.nearest_words else ()
            roles = {**self.processor.roles, **pack.roles}
            processor = OpticalProcessor(self.processor.tokenizer, nearest_words=words, **roles)
            if pack.vocabulary is not None:
                tokens, first = pack.vocabulary.tokens, pack.vocabulary.first_id
                first = word_embedding(self.model).num_embeddings if first is None else first
                processor = extend_processor(processor, tokens)
                if processor.tokenizer.convert_tokens_to_ids(tokens) != list(range(first, first + len(tokens))):
                    raise ValueError("its new words do not follow the vocabulary of the base's tokenizer")
        except (TypeError, ValueError) as error:
            with lock_of(self.model):
                pack.check_base(self.model)  # the likelier reason
            raise ValueError(
                f"the pack for {pack.language!r} does not fit the processor: {error}. Open it with the tokenizer and "
                "the version of hf_optical that it was trained with"
            ) from error
        return processor

    def _encode(
        self,
        texts: Iterable[str],
        role: str,
        language: str | Iterable[str | None] | None,
        batch_size: int,
        show_progress: bool,
    ) -> list[Tensor]:
        texts = as_texts(texts)
        language = [language] * len(texts) if language is None or isinstance(language, str) else list(language)
        if len(language) != len(texts):
            raise ValueError(
                f"language has {len(language)} entries for {len(texts)} texts; pass one a text, or one code"
            )
        vectors: list[Tensor | None] = [None] * len(texts)
        for code in dict.fromkeys(language):
            reader = LanguageReader(self.model, code, self.processor_of)
            group = [i for i, entry in enumerate(language) if entry == code]
            encoded = encode_texts(
                reader,
                reader.processor,
                texts if len(group) == len(texts) else [texts[i] for i in group],
                role,
                batch_size=batch_size,
                show_progress=show_progress,
            )
            for i, tensor in zip(group, encoded.to_list(), strict=True):
                vectors[i] = tensor
        return vectors


def _encoded(given: Iterable, encode: Callable[[Iterable[str]], list[Tensor]]) -> Iterable:
    """What was given, by `encode` if it is texts."""
    if isinstance(given, str):
        raise TypeError("one string was passed; pass a list of strings")
    given = list(given) if isinstance(given, Iterator) else given
    return encode(given) if isinstance(next(iter(given), None), str) else given


def _common(details: list[dict[str, Any]]) -> dict[str, Any]:
    """What is the same for all packs, and the results of each."""
    common = {
        name: value
        for name, value in (details[0] if details else {}).items()
        if all(own.get(name) == value for own in details)
    }
    results = {language: found for own in details for language, found in (own.get("results") or {}).items()}
    return {**common, "results": results}


def _read_languages(folder: Path) -> tuple[list[str], str | None]:
    if not (folder / _LANGUAGES).is_file():
        return [], None
    saved = read_json(folder / _LANGUAGES)
    codes, chosen = saved.get("languages"), saved.get("language")
    try:
        if misfits(codes, [str]) or chosen not in [None, *codes]:
            raise ValueError("no list of languages with the one that is set")
        for code in codes:
            adapter_name(code)  # the names of folders
    except ValueError as error:
        raise OSError(f"{folder / _LANGUAGES} is damaged ({error}); fetch or save the retriever again") from error
    return codes, chosen
