"""Whether a new word deserves a row of its own, or the base's own pieces of it lie nearer to its translations."""

from __future__ import annotations

import copy
from collections import defaultdict

import torch
from datasets import Dataset
from torch import Tensor

from ..bitext.loading import iter_sentences, sample_evenly
from ..bitext.reading import ReadSentence, fitted_loss, read_sentences, token_costs_of
from ..model import OpticalModel, OpticalProcessor
from ..model.mapping import token_spans
from .vocabulary import Vocabulary, extend_processor, language_embedding


# Name of the candidates in the model while they are compared.
_CANDIDATES = "word_choice"


def choose_words(
    model: OpticalModel,
    processor: OpticalProcessor,
    vocabulary: Vocabulary,
    pairs: Dataset,
    teacher: OpticalModel,
    teacher_processor: OpticalProcessor,
    language: str,
    teacher_language: str = "en",
    *,
    max_pairs: int = 1000,
    batch_size: int = 64,
    show_progress: bool = False,
) -> Vocabulary:
    """
    Leave out the new words that the base reads better in pieces.

    The base reads sentences twice, with the rows of the new words and without. A word keeps its row if its transported
    cost, the mean over its occurrences, is lower than that of its pieces. A word that does not occur in the sentences
    is decided as most words with as many pieces are.

    Args:
        model ([`OpticalModel`]), processor ([`OpticalProcessor`]): the base. No language pack may be active.
        vocabulary ([`Vocabulary`]): the candidates, from [`learn_vocabulary`].
        pairs (`datasets.Dataset`): sentence pairs from [`load_bitext`].
        teacher ([`OpticalModel`]), teacher_processor ([`OpticalProcessor`]): read the translations.
        language (`str`), teacher_language (`str`, defaults to `"en"`): keys of the `translation` feature.
        max_pairs (`int`, defaults to 1000): maximum number of pairs to read, evenly spaced.
        batch_size (`int`, defaults to 64), show_progress (`bool`, defaults to `False`): for encoding.

    Returns:
        [`Vocabulary`]: the words that keep their rows, possibly none.
    """
    if not vocabulary.tokens:
        return vocabulary
    pairs = sample_evenly(pairs, max_pairs)
    new, english = ([*iter_sentences(pairs, code)] for code in (language, teacher_language))
    options = {"batch_size": batch_size, "show_progress": show_progress}
    # Similar words would shift the characters.
    pieces, words = copy.copy(processor), extend_processor(processor, vocabulary.tokens, vocabulary.rules)
    pieces.nearest_words = words.nearest_words = None

    translations = read_sentences(teacher, teacher_processor, english, **options)  # type: ignore[arg-type]
    in_pieces = read_sentences(model, pieces, new, **options)  # type: ignore[arg-type]
    embedding = language_embedding(model)
    embedding.add(_CANDIDATES, vocabulary)
    embedding.activate(_CANDIDATES)
    try:
        in_words = read_sentences(model, words, new, **options)  # type: ignore[arg-type]
    finally:
        embedding.activate(None)
        embedding.discard(_CANDIDATES)

    loss = fitted_loss(translations)
    costs = [token_costs_of(loss, side, translations, batch_size) for side in (in_pieces, in_words)]
    spans = [token_spans(each, new, "query") for each in (pieces, words)]
    first = embedding.num_embeddings if vocabulary.first_id is None else vocabulary.first_id
    # Word -> how much dearer its row is than its pieces, at each occurrence.
    dearer: dict[int, list[float]] = defaultdict(list)
    for row in range(len(new)):
        sides = (in_pieces[row], in_words[row])
        own_spans = [_spans(side, each[row]) for side, each in zip(sides, spans, strict=True)]
        for token in (in_words[row].ids >= first).nonzero()[:, 0].tolist():
            start, stop = own_spans[1][token].tolist()
            inside = (own_spans[0][:, 0] < stop) & (own_spans[0][:, 1] > start)
            if not inside.any():
                continue
            weights = in_pieces[row].weights[inside]
            piece_cost = float((costs[0][row][inside] * weights).sum() / weights.sum())
            dearer[int(in_words[row].ids[token]) - first].append(float(costs[1][row][token]) - piece_cost)
    return _cheaper(vocabulary, dearer, [len(each) for each in _pieces_of(pieces, vocabulary.tokens)])


def _spans(sentence: ReadSentence, spans: Tensor) -> Tensor:
    """The characters of the tokens of a sentence; none for tokens beyond those that have offsets."""
    padded = torch.cat([spans, spans.new_full((1, 2), -1)])
    return padded[sentence.positions.clamp_max(len(spans))]


def _pieces_of(processor: OpticalProcessor, words: list[str]) -> list[list[int]]:
    return processor.tokenizer(words, add_special_tokens=False)["input_ids"]


def _cheaper(vocabulary: Vocabulary, dearer: dict[int, list[float]], pieces: list[int]) -> Vocabulary:
    """The words whose row is cheaper than their pieces on average, or is for most words of as many `pieces`."""
    means = {word: sum(own) / len(own) for word, own in dearer.items()}
    votes: dict[int, int] = defaultdict(int)
    for word, mean in means.items():
        votes[pieces[word]] += 1 if mean < 0 else -1
    kept = [
        word
        for word in range(len(vocabulary.tokens))
        if (means[word] < 0 if word in means else votes[pieces[word]] >= 0)
    ]
    tokens = [vocabulary.tokens[word] for word in kept]
    return Vocabulary(tokens, vocabulary.rows[kept], vocabulary.first_id, vocabulary.rules)
