"""Processors of packs, and the words of documents by which they repair typing errors of queries."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from ..bitext.frequency import count_known, known_of_written
from ..languages import LanguagePack, extend_processor
from ..languages.adapters import lock_of
from ..languages.vocabulary import word_embedding
from ..model import OpticalModel, OpticalProcessor
from ..model.spelling import KnownWords
from ..model.texts import as_texts
from .reader import BASE
from .weights import Weights


if TYPE_CHECKING:
    from .retriever import OpticalRetriever


def processor_of_pack(
    pack: LanguagePack, model: OpticalModel, base: OpticalProcessor, documents: KnownWords
) -> OpticalProcessor:
    """Create the base's processor with the settings and new words of a pack, and with the words of `documents`."""
    try:
        words = base.nearest_words.words if base.nearest_words else ()
        processor = OpticalProcessor(
            base.tokenizer,
            nearest_words=words,
            known_words={**base.known_words, **documents, **(pack.known_words or {})},
            word_rules=base.word_rules,
            **{**base.roles, **pack.roles},
        )
        if pack.vocabulary is not None:
            tokens, first = pack.vocabulary.tokens, pack.vocabulary.first_id
            first = word_embedding(model).num_embeddings if first is None else first
            processor = extend_processor(processor, tokens, pack.vocabulary.rules)
            if processor.tokenizer.convert_tokens_to_ids(tokens) != list(range(first, first + len(tokens))):
                raise ValueError("its new words do not follow the vocabulary of the base's tokenizer")
    except (TypeError, ValueError) as error:
        with lock_of(model):
            pack.check_base(model)  # a wrong base is the likelier cause
        raise ValueError(
            f"the pack for {pack.language!r} does not fit the processor: {error}. Open it with the tokenizer and "
            "the version of hf_optical that it was trained with"
        ) from error
    return processor


def words_of_documents(base: OpticalProcessor, documents: Iterable[str] | Mapping[str, int]) -> KnownWords:
    """Count the words of documents, texts or the `word_counts()` of an index, in the form of the base's tokenizer."""
    if not isinstance(documents, Mapping):
        return {"documents": count_known(base, as_texts(documents, "documents"))}
    if not documents:
        raise ValueError("documents must be texts, since the index has not counted its words")
    return {"documents": known_of_written(base, documents)}


def learn_for_search(
    retriever: OpticalRetriever,
    documents: Iterable[str] | Mapping[str, int],
    language: str | None = None,
    weights: Weights | None = None,
) -> None:
    """Teach a retriever the words of documents before queries in `language` search them."""
    # The base repairs nothing, since its queries may be in other languages than the documents. But it weighs words by
    # how often they occur, which it knows from the documents alone.
    base = weights is not None and (language or retriever.language) == BASE
    retriever.learn_spelling(documents, base=base)
