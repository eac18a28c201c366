"""The strength of a pack, chosen on a corpus without judgements and without queries."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import normalize
from tqdm.auto import tqdm

from ..bitext import Dictionary
from ..checks import check_length, check_not_empty, check_number
from ..languages.adapters import adapter_name
from ..languages.strength import Strength, check_strength
from ..languages.vocabulary import vocabulary_of, word_embedding
from ..model.texts import as_texts, is_blank, split_sentences
from ..model.words import find_words
from .encoding import encode_checked
from .maxsim import maxsim
from .reader import LanguageReader
from .vectors import TokenVectors


if TYPE_CHECKING:
    from .retriever import OpticalRetriever

STRENGTHS: tuple[Strength, ...] = (0.0, 0.25, 0.5, 0.75, 1.0)
# Words of a sentence that a query is made from, and of the query.
_FEWEST, _MOST, _QUERY = 6, 30, 6
# Mean log-probability by which a higher strength may be worse than the best and still be chosen.
_MARGIN = 0.02
# Cosine of the embeddings of a new word and of the word of the base that it stands for.
_MIN_SIMILARITY = 0.5


@torch.no_grad()
def strength_scores(
    retriever: OpticalRetriever,
    language: str,
    corpus: Iterable[str],
    *,
    strengths: Sequence[Strength] = STRENGTHS,
    dictionary: Dictionary | None = None,
    document_vectors: TokenVectors | None = None,
    max_documents: int = 1000,
    max_queries: int = 300,
    seed: int = 0,
    batch_size: int = 32,
    show_progress: bool = False,
) -> dict[Strength, Tensor]:
    """
    Score strengths of a pack by searches for known documents, as LARMOR chooses retrievers (arXiv 2402.04853).

    Six words of a sentence of the corpus, translated one by one, are a query; the document of the sentence is the one
    to find. The score is the log-probability of that document among all, with MaxSim scores as logits. It says more
    than the rank, since most of these queries find their document with every strength.

    Args:
        retriever ([`OpticalRetriever`]), language (`str`): The retriever, and the language of an open pack.
        corpus (iterable of `str`): Documents that will be searched, in the language of the base.
        strengths (sequence of `float` or `tuple[float, float]`): The strengths to score, as in [`set_strength`].
        dictionary ([`Dictionary`], *optional*):
            From the language of the corpus to `language`, for a pack without new words. Otherwise each word is
            translated to the new word of the pack with the most similar embedding, which chooses better. Words without
            a translation stay as they are.
        document_vectors ([`TokenVectors`], *optional*):
            Vectors of the corpus by the model of the index, in its order. By default the documents are encoded by the
            base, or the teacher of the packs if that is another model.
        max_documents (`int`, defaults to 1000), max_queries (`int`, defaults to 300):
            Size of the random sample of documents, and number of queries made from it.
        seed (`int`, defaults to 0): Seed of the sample.
        batch_size (`int`, defaults to 32), show_progress (`bool`, defaults to `False`): As in [`encode_texts`].

    Returns:
        `dict`: strength -> scores of the queries, of shape `(queries,)`.

    Raises:
        KeyError: If no pack for `language` is open.
        ValueError: If a strength is not from 0 to 2, `corpus` has fewer than two documents with text, or the pack has
            no new words for those of the corpus and no `dictionary` is given.
    """
    texts = as_texts(corpus, "corpus")
    strengths = [check_strength(strength) for strength in strengths]
    check_not_empty("strengths", strengths)
    check_number("max_documents", max_documents, at_least=2)
    check_number("max_queries", max_queries, at_least=1)
    if document_vectors is not None:
        check_length("document_vectors", document_vectors, len(texts), "documents")
    readers = [LanguageReader(retriever.model, language, retriever.processor_of, each) for each in strengths]
    filled = [position for position, text in enumerate(texts) if not is_blank(text)]
    check_number("the number of documents with text in corpus", len(filled), at_least=2)
    draws = random.Random(seed)
    sample = draws.sample(filled, min(max_documents, len(filled)))
    sentences = [_draw_sentence(texts[position], draws) for position in sample[:max_queries]]
    dictionary = dictionary_of_pack(retriever, language, sentences) or dictionary
    if dictionary is None:
        raise ValueError(
            f"the pack for {language!r} has no new words to make queries of the corpus from; pass dictionary, or to "
            "`hf-optical tune` --dictionary or --train_file, or documents in the language of the base"
        )
    translated = [dictionary.replace(sentence, lambda entries: entries[0][0]) for sentence in sentences]
    queries = [_draw_words(sentence, draws) for sentence in translated]
    if document_vectors is None:
        own = [texts[position] for position in sample]
        encoded = retriever.encode_documents(own, batch_size=batch_size, show_progress=show_progress)
        documents = TokenVectors.from_list(encoded)
    else:
        documents = document_vectors.take(sample).to(torch.float32)
    scores = {}
    for reader in tqdm(readers, desc="Trying strengths", disable=not show_progress):
        vectors = encode_checked(reader, reader.processor, queries, "query", batch_size)
        likelihoods = maxsim(vectors, documents).log_softmax(1)
        scores[reader.strength] = likelihoods.diagonal().clone()  # query i is made from document i
    return scores


def choose_strength(scores: Mapping[Strength, Tensor]) -> Strength:
    """The last strength with a mean score near the best, see [`~OpticalRetriever.tune_strength`]."""
    means = {strength: own.mean().item() for strength, own in scores.items()}
    return [strength for strength, mean in means.items() if mean >= max(means.values()) - _MARGIN][-1]


def dictionary_of_pack(retriever: OpticalRetriever, language: str, texts: Iterable[str]) -> Dictionary | None:
    """
    Translate the words of texts in the language of the base by the new words of a pack with the nearest embeddings.

    `None` if the pack has no new words, or none of them is near a word of the texts.
    """
    new = vocabulary_of(retriever.model, adapter_name(language))
    if new is None:
        return None
    tokenizer = retriever.processor.tokenizer
    found: dict[str, int] = {}
    words = sorted({word.text for text in texts for word in find_words(text) if word.has_letter})
    # Some tokenizers have another token for a word after a space.
    for variants in ([f" {word}" for word in words], words):
        pieces = tokenizer(variants, add_special_tokens=False)["input_ids"] if words else []
        for word, ids in zip(words, pieces, strict=True):
            if len(ids) == 1 and ids != [tokenizer.unk_token_id]:
                found.setdefault(word, ids[0])
    rows = normalize(word_embedding(retriever.model).weight.detach()[list(found.values())].float(), dim=1).cpu()
    similarity, nearest = (rows @ normalize(new.rows.float(), dim=1).T).max(1)
    entries = {
        word: [(new.tokens[index], 1.0)]
        for word, cosine, index in zip(found, similarity.tolist(), nearest.tolist(), strict=True)
        if cosine >= _MIN_SIMILARITY
    }
    return Dictionary(entries) if entries else None


def _draw_sentence(text: str, draws: random.Random) -> str:
    """Draw a sentence of usual length; if there is none, take the first words of the text."""
    sentences = [each for each in split_sentences(text) if _FEWEST <= len(each.split()) <= _MOST]
    return draws.choice(sentences) if sentences else " ".join(text.split()[:_MOST])


def _draw_words(sentence: str, draws: random.Random) -> str:
    words = [word.text for word in find_words(sentence)] or [sentence]
    return " ".join(draws.sample(words, min(_QUERY, len(words))))
