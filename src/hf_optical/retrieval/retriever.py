from __future__ import annotations

import copy
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias, cast, overload

import torch
from torch import Tensor

from ..checks import check_choice, check_length, check_number
from ..languages import (
    LanguagePack,
    activate,
    active_language,
    languages,
    merge_language,
    remove,
    set_strength,
    strength_of,
)
from ..languages.adapters import lock_of
from ..languages.pack import PACK_FILES, Teacher, is_pack, pack_lock
from ..languages.strength import Strength, check_strength
from ..model import OpticalModel, OpticalProcessor
from ..model.spelling import KnownWords
from ..model.texts import as_texts
from ..storage.fetching import local_folder
from ..storage.names import DENSE_FOLDER, NEAREST_WORDS, PACKS_FOLDER
from ..storage.publishing import PushToHub
from ..storage.staging import staged_directory
from .encoding import encode_by_language
from .processors import processor_of_pack, words_of_documents
from .reader import BASE, pack_of
from .retriever_folder import (
    LANGUAGES_FILE,
    check_unchanged,
    open_base,
    open_base_of_pack,
    read_languages,
    write_cards,
    write_packs,
)
from .search import Hit, SearchIndex, search
from .teacher import check_one_teacher, open_teacher
from .tuning import choose_strength, strength_scores
from .vectors import TokenVectors
from .weights import WEIGHTS, Weights, apply_weights


_TextsOrVectors: TypeAlias = Iterable[str] | Iterable[Tensor] | TokenVectors


class OpticalRetriever(PushToHub):
    """
    A model, its processor and its language packs, ready for search.

    Documents are encoded by the bare base, so that an English index never changes. Queries are encoded with the pack
    of their language. Packs whose teacher is another model than their base search the index of that teacher, which
    then encodes the documents ([`~OpticalRetriever.indexer`]).

    The base is addressed as the language `"base"` ([`~retrieval.BASE`]).

    Threads may share a retriever. They take turns batch by batch, and packs can be opened and closed in between. All
    threads share the active language; pass `language` to use another one.

    Args:
        model ([`OpticalModel`]): The base.
        processor ([`OpticalProcessor`]): Its processor.

    Example:

    ```python
    >>> from hf_optical import OpticalRetriever

    >>> retriever = OpticalRetriever.from_pretrained("sentence-transformers/all-MiniLM-L6-v2")
    >>> documents = ["The Nile is a river in Africa.", "Bread is baked from flour."]
    >>> vectors = retriever.encode_documents(documents)
    >>> hits = retriever.search("Which rivers are in Africa?", vectors, top_k=1)
    >>> documents[hits[0].document]
    'The Nile is a river in Africa.'
    ```
    """

    # Files to delete from a folder if this save does not write them. A leftover pack would hide the base.
    _optional_files = (LANGUAGES_FILE, f"{PACKS_FOLDER}/*", f"{DENSE_FOLDER}/*", NEAREST_WORDS, *PACK_FILES)

    def __init__(self, model: OpticalModel, processor: OpticalProcessor):
        self.model = model.eval()
        self.processor = processor
        self._processors: dict[str, OpticalProcessor] = {}
        # Words of the documents that are searched.
        self._known_words: KnownWords = {}
        # Where the open packs come from. Their weights are in the model.
        self._packs: dict[str, LanguagePack] = {}
        # The pack that `merge` folded into the weights, if any.
        self._merged: LanguagePack | None = None
        # The retriever of the packs' teacher with its fingerprint, once it is needed, and where to open it.
        self._indexer: tuple[str, OpticalRetriever] | None = None
        self._teacher_model: str | os.PathLike | None = None

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike,
        *,
        base_model: str | os.PathLike | None = None,
        teacher_model: str | os.PathLike | None = None,
        revision: str | None = None,
        device: str | torch.device | None = None,
        dtype: torch.dtype | str = torch.float32,
    ) -> OpticalRetriever:
        """
        Open a model, a language pack with its base, or a saved retriever.

        The language of a pack is active. A retriever saved by [`~OpticalRetriever.save_pretrained`] opens with all its
        packs and its active language.

        Args:
            pretrained_model_name_or_path (`str` or `os.PathLike`): Folder or Hub id of a model, a pack or a retriever.
            base_model (`str` or `os.PathLike`, *optional*):
                Folder or Hub id of the base of a pack. Defaults to the base that the pack names.
            teacher_model (`str` or `os.PathLike`, *optional*):
                Folder or Hub id of the teacher, if that is another model than the base: it encodes the documents.
                Defaults to the teacher that the pack names. It is opened when it is needed.
            revision (`str`, *optional*): Branch, tag or commit on the Hub.
            device (`str` or `torch.device`, *optional*):
                Device to compute on. Defaults to the first GPU, if there is one.
            dtype (`torch.dtype` or `str`, *optional*, defaults to `torch.float32`):
                Data type of the base's weights, as in [`OpticalModel.from_pretrained`]. A pack only opens on a base of
                the data type it was trained with.

        Raises:
            OSError: If there is no such model or pack, or the base of a pack is not found.
            ValueError: If the base is not the one that the pack was trained on, or `base_model` is given for a model.
        """
        folder = local_folder(pretrained_model_name_or_path, revision)
        with pack_lock(folder):
            if is_pack(folder):
                pack = LanguagePack.from_pretrained(folder)
                retriever = cls(*open_base_of_pack(pack, folder, base_model, dtype))
                retriever.add_language(pack.language, pack)
                retriever.set_language(pack.language)
            elif base_model is not None:
                raise ValueError(f"{pretrained_model_name_or_path} is not a language pack; leave out base_model")
            else:
                retriever = cls(*open_base(pretrained_model_name_or_path, revision, dtype))
                codes, active = read_languages(folder)
                for code in codes:
                    retriever.add_language(code, folder / PACKS_FOLDER / code)
                retriever.set_language(active or BASE)
        retriever.model.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        retriever._teacher_model = teacher_model
        return retriever

    def save_pretrained(self, save_directory: str | os.PathLike) -> None:
        """
        Save the base in its usual layout, which other libraries open too, and every open pack.

        Packs are saved in `language_packs/LANGUAGE`. Opened again, the retriever has the same languages, the same
        active language, and gives the same vectors to the last bit. Packs in the folder that are not open are deleted.
        If saving is interrupted or the disk is full, the folder holds either the old files or the new ones.

        Args:
            save_directory (`str` or `os.PathLike`): The folder.

        Raises:
            FileExistsError: If the folder holds a language pack.
            ValueError: If the base was changed after a pack was opened on it, as by `retriever.model.bfloat16()`.
            OSError: If the disk is full or the folder cannot be written.
        """
        self._save(Path(save_directory))
        if not self.model.name_or_path:  # as for one that was merged, or has another projection
            self.model.name_or_path = os.path.abspath(save_directory)

    def _save(self, folder: Path) -> None:
        if is_pack(folder):
            raise FileExistsError(f"{folder} holds a language pack, which would hide the base; choose another folder")
        with lock_of(self.model):
            fingerprint = self.model.fingerprint()
            check_unchanged(self.model, self._packs, fingerprint)
        # The inner lock is released first, so that other threads encode while the files are flushed to disk.
        with staged_directory(folder) as staged, lock_of(self.model):
            self.model.save_pretrained(staged)
            self.processor.save_pretrained(staged)
            write_packs(self.model, self.processor_of, self._packs, fingerprint, folder, staged)

    def _save_for_hub(self, folder: Path, repo_id: str) -> None:
        with lock_of(self.model):
            self._save(folder)
            packs = dict(self._packs)
        write_cards(folder, self.model, packs, self._merged, repo_id)

    @property
    def languages(self) -> list[str]:
        """Codes of the languages whose packs are open."""
        return languages(self.model)

    @property
    def language(self) -> str:
        """The active language, in which queries are encoded by default. `"base"` is the bare base."""
        with lock_of(self.model):  # during a batch, the language of that batch is active
            return active_language(self.model) or BASE

    def add_language(
        self, language: str, pack: LanguagePack | str | os.PathLike, *, strength: Strength | None = None
    ) -> None:
        """
        Open a pack. The active language stays the same; pass `language=` or call [`~OpticalRetriever.set_language`].

        Args:
            language (`str`): Code of the language.
            pack ([`LanguagePack`], `str` or `os.PathLike`): The pack, its folder or its Hub id.
            strength (`float` or `tuple[float, float]`, *optional*):
                As in [`~OpticalRetriever.set_strength`]. Defaults to the strength that is stored with the pack.

        Raises:
            ValueError: If the pack is for another language or base, or searches the index of another teacher than the
                open packs, a pack for `language` is already open, `language` is `"base"`, or `strength` is invalid.
        """
        pack = pack if isinstance(pack, LanguagePack) else LanguagePack.from_pretrained(pack)
        if pack.language != language:
            raise ValueError(f"the pack is for language {pack.language!r}, not {language!r}")
        if language == BASE:
            raise ValueError(f"{BASE!r} names the model without packs; save the pack under another language")
        if strength is not None:
            pack = replace(pack, strength=check_strength(strength))
        processor = processor_of_pack(pack, self.model, self.processor, self._known_words)
        with lock_of(self.model):
            check_one_teacher(self._packs, pack)
            active = active_language(self.model)
            pack.attach(self.model)
            activate(self.model, active)
            self._processors[language] = processor
            self._packs[language] = replace(pack, weights={}, vocabulary=None)

    def learn_spelling(self, documents: Iterable[str] | Mapping[str, int], *, base: bool = True) -> None:
        """
        Repair typing errors of queries by the words of the documents that are searched, in the base and in all packs.
        Packs that are opened later know these words too.

        A word that is known neither from the documents nor from the sentence pairs of the pack is read as the known
        one that was most likely meant, or stays. Documents are always read as they are, so the index does not change.
        Packs repair by the words of their sentence pairs without this; the base does not.

        Args:
            documents (iterable of `str`, or mapping of `str` to `int`):
                Texts of the index, or a sample of them; or its `word_counts()`.
            base (`bool`, defaults to `True`):
                Whether queries that the bare base reads are repaired too. Set it to `False` if these are in other
                languages than the documents, whose words would look like errors.

        Raises:
            TypeError: `documents` is a single string or contains something other than strings.
            DataError: a text contains an unpaired surrogate.
            ValueError: the index has not counted its words.
        """
        known = words_of_documents(self.processor, documents)
        with lock_of(self.model):
            self._known_words = known
            for processor in (*([self.processor] if base else []), *self._processors.values()):
                processor.add_known_words(known)

    @property
    def teacher(self) -> Teacher | None:
        """The model whose index the open packs search, if that is not the base. It need not be open."""
        return next((pack.teacher for pack in self._packs.values()), None)

    def check_index(self, index: SearchIndex) -> None:
        """Raise `ValueError` if the documents of an index were not encoded by the [`~OpticalRetriever.indexer`]."""
        # A teacher need not be open to be compared.
        index.check_base(cast(OpticalModel, self.teacher or self.model))

    @property
    def indexer(self) -> OpticalRetriever:
        """
        The retriever that encodes documents: this one, or that of the packs' teacher, if this is not their base.

        The teacher is opened when it is first needed.

        Raises:
            OSError: If the teacher is not found.
            ValueError: If the model at its place is not the teacher.
        """
        with lock_of(self.model):
            teacher = self.teacher
            if teacher is None:
                return self
            if self._indexer is None or self._indexer[0] != teacher.digest:
                model, processor = open_teacher(teacher, self._teacher_model)
                self._indexer = teacher.digest, OpticalRetriever(model.to(self.model.device), processor)
            return self._indexer[1]

    def set_language(self, language: str) -> None:
        """
        Activate a language for all callers; `"base"` is the bare base.

        Raises:
            KeyError: If no pack for `language` is open.
            ValueError: If `language` is `None`.
        """
        activate(self.model, pack_of(language))

    def set_strength(self, language: str, strength: Strength) -> None:
        """
        Set how much of a pack's adapter is applied, for all callers. The new words keep their embeddings.

        Texts from another domain than that of the sentence pairs are often read better with half of the adapter; see
        [`~OpticalRetriever.tune_strength`]. A saved retriever keeps the strengths of its packs.

        Args:
            language (`str`): Language of an open pack.
            strength (`float` or `tuple[float, float]`):
                0 to 2. 1 is the adapter as it was trained, to the last bit; 0 applies the new words alone. A pair
                gives the strengths of the first and the last layer, between which it is linear (LiNeS, arXiv
                2410.17146).

        Raises:
            KeyError: If no pack for `language` is open.
            ValueError: If `strength` is not from 0 to 2, or is not 1 for an adapter with DoRA.
        """
        set_strength(self.model, language, strength)

    def strength_of(self, language: str) -> Strength:
        """
        The strength of a pack.

        Raises:
            KeyError: If no pack for `language` is open.
        """
        with lock_of(self.model):
            return strength_of(self.model, language)

    def tune_strength(self, language: str, corpus: Iterable[str], **options) -> Strength:
        """
        Choose the strength of a pack for a corpus, without queries or judgements, and set it.

        Translations word by word favour low strengths. So the last of `strengths` is chosen whose mean score is at
        most 0.02 below the best.

        Args:
            language (`str`): Language of an open pack.
            corpus (iterable of `str`): Documents that will be searched, of which a sample is used.
            options: Further arguments of [`~retrieval.strength_scores`], such as `strengths` and `document_vectors`.

        Returns:
            `float` or `tuple[float, float]`: The strength that was set.

        Raises:
            KeyError: If no pack for `language` is open.
            ValueError: As [`~retrieval.strength_scores`].
        """
        scores = strength_scores(self, language, corpus, **options)
        chosen = choose_strength(scores)
        self.set_strength(language, chosen)
        return chosen

    def remove_language(self, language: str) -> None:
        """
        Close the pack of a language. If the language is active, the bare base becomes active.

        Raises:
            KeyError: If no pack for `language` is open.
        """
        with lock_of(self.model):
            remove(self.model, language)
            self._processors.pop(language, None)
            self._packs.pop(language, None)

    def processor_of(self, language: str) -> OpticalProcessor:
        """The processor for `language`: that of its pack if one is open, else that of the base."""
        return self._processors.get(language, self.processor)

    def merge(self, language: str) -> OpticalRetriever:
        """
        Merge a pack into a copy of the base: a plain retriever that encodes every text as `language`.

        Any library opens the result once it is saved. This retriever and its packs do not change.

        The merged model encodes documents too. Its queries still match an index made by the base, so keep encoding
        the documents of such an index with the base.

        Args:
            language (`str`): Language of an open pack.

        Returns:
            [`OpticalRetriever`]: The merged retriever. Queries differ from those of the pack by the rounding of
            float32, at most 1e-5.

        Raises:
            KeyError: If no pack for `language` is open.
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
        weights: Weights | None = None,
        batch_size: int = 32,
        show_progress: bool = False,
    ) -> list[Tensor]:
        """
        Encode queries.

        Args:
            queries (iterable of `str`): The queries, such as a list or a data frame's column.
            language (`str` or iterable of `str`, *optional*):
                The language of all queries, or one per query. `"base"` is the bare base. `None`, alone or for a query,
                is the active language.
            weights (`"idf"` or iterable of `Tensor` of shape `(tokens,)`, *optional*):
                How much each token counts in MaxSim, from 0: its vector is multiplied by its weight. `"idf"` lets
                frequent words count less ([`~retrieval.frequency_weights`]). A tensor per query gives other weights.
                All tokens count alike by default. Lance refuses weighted queries; other engines take them.
            batch_size (`int`, defaults to 32), show_progress (`bool`, defaults to `False`): As in [`encode_texts`].

        Returns:
            `list[Tensor]`: A float32 tensor of shape `(tokens, dim)` per query, on the CPU: unit vectors, unless
            `weights` are given.

        Raises:
            KeyError: If the pack of a language is not open, or was closed before all its queries were encoded.
            TypeError: If `queries` is a single string or holds something other than strings.
            DataError: If a query holds an unpaired surrogate.
            ValueError: If the number of languages differs from the number of queries, `batch_size` is below 1,
                `weights` do not fit the queries, or it is `"idf"` and the words of a language are not known.
        """
        if weights is None:
            return self._encode(queries, "query", language, batch_size, show_progress)
        if isinstance(weights, str):
            check_choice("weights", weights, WEIGHTS, "or pass a tensor of weights per query")
            return self._encode(queries, "query", language, batch_size, show_progress, weighted=True)
        return apply_weights(self._encode(queries, "query", language, batch_size, show_progress), weights)

    def encode_documents(
        self,
        documents: Iterable[str],
        *,
        language: str | Iterable[str | None] | None = None,
        batch_size: int = 32,
        show_progress: bool = False,
    ) -> list[Tensor]:
        """
        Encode documents; as [`~OpticalRetriever.encode_queries`], but `language` defaults to the model of the index.

        That is the bare base, or the teacher of the packs, if that is another model ([`~OpticalRetriever.indexer`]).
        """
        if language is None and self.teacher is not None:
            return self.indexer.encode_documents(documents, batch_size=batch_size, show_progress=show_progress)
        return self._encode(documents, "document", language, batch_size, show_progress)

    @overload
    def search(
        self,
        queries: str,
        documents: _TextsOrVectors | SearchIndex,
        top_k: int = 10,
        *,
        language: str | None = None,
        weights: Weights | None = None,
        **kwargs,
    ) -> list[Hit]: ...

    @overload
    def search(
        self,
        queries: _TextsOrVectors,
        documents: _TextsOrVectors | SearchIndex,
        top_k: int = 10,
        *,
        language: str | Iterable[str | None] | None = None,
        weights: Weights | None = None,
        **kwargs,
    ) -> list[list[Hit]]: ...

    def search(self, queries, documents, top_k=10, *, language=None, weights=None, **kwargs):
        """
        Exact search with MaxSim. Further arguments are those of [`~retrieval.search`].

        Args:
            queries (`str`, iterable of `str`, iterable of `Tensor` of shape `(tokens, dim)`, or [`TokenVectors`]):
                A query, several queries, or vectors from [`~OpticalRetriever.encode_queries`].
            documents (iterable of `str`, iterable of `Tensor` of shape `(tokens, dim)`, [`TokenVectors`], or
                [`~index.RetrievalIndex`]):
                Texts, which are encoded first, vectors from [`~OpticalRetriever.encode_documents`], or an
                index, whose hits have its document ids.
            top_k (`int`, defaults to 10): Length of the rankings.
            language (`str` or iterable of `str`, *optional*):
                Language of the queries, as in [`~OpticalRetriever.encode_queries`]. Only for texts.
            weights (`"idf"` or iterable of `Tensor` of shape `(tokens,)`, *optional*):
                Weights of query tokens, as in [`~OpticalRetriever.encode_queries`]. Only for texts.

        Returns:
            `list[list[Hit]]`: The hits `(document, score)` of each query, best first. For a single `str`, `list[Hit]`.

        Raises:
            ValueError: If `language` or `weights` are given for vectors, another base encoded the index, or an
                argument of [`~retrieval.search`] is invalid.
        """
        single = isinstance(queries, str)
        if isinstance(documents, SearchIndex):
            self.check_index(documents)
        queries = [queries] if single else _sequence(queries)
        if _holds_texts(queries):
            queries = self.encode_queries(queries, language=language, weights=weights)
        elif len(queries):
            for name, value in (("language", language), ("weights", weights)):
                if value is not None:
                    raise ValueError(
                        f"{name} applies to texts; these queries are vectors, so pass it to encode_queries"
                    )
        if isinstance(documents, SearchIndex):
            rankings = documents.search(queries, top_k, **kwargs)
        else:
            documents = _sequence(documents)
            if _holds_texts(documents):
                documents = self.encode_documents(documents)
            rankings = search(queries, documents, top_k, **kwargs)
        return rankings[0] if single else rankings

    def _encode(
        self,
        texts: Iterable[str],
        role: str,
        language: str | Iterable[str | None] | None,
        batch_size: int,
        show_progress: bool,
        weighted: bool = False,
    ) -> list[Tensor]:
        name = "queries" if role == "query" else "documents"
        texts = as_texts(texts, name)
        check_number("batch_size", batch_size, at_least=1)
        given = [language] * len(texts) if language is None or isinstance(language, str) else list(language)
        check_length("language", given, len(texts), name)
        default = self.language if role == "query" and None in given else BASE
        codes = [default if code is None else code for code in given]
        return encode_by_language(
            self.model, self.processor_of, texts, codes, role, batch_size, show_progress, weighted
        )


def _sequence(given: Iterable) -> Iterable:
    return list(given) if isinstance(given, Iterator) else given


def _holds_texts(given: Iterable) -> bool:
    return isinstance(next(iter(given), None), str)
