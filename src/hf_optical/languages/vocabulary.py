"""New words: a language's own entries beside the base's vocabulary, started from what they translate to."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from datasets import Dataset
from tokenizers import AddedToken
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from ..bitext.alignment import Lexicon, learn_lexicon, word_splitter
from ..bitext.loading import iter_sentences, sample_evenly
from ..model import OpticalModel, OpticalProcessor
from ..model.nearest_words import UNSPACED, are_one_token


@dataclass(eq=False)
class Vocabulary:
    """
    What a language adds to the vocabulary of its base.

    Attributes:
        tokens (`list[str]`): whole words, in the form that the tokenizer's normaliser gives them.
        rows (`torch.Tensor` of shape `(tokens, hidden)`): their word embeddings.
        first_id (`int`, *optional*):
            Token id of the first; the others follow. By default the number of the base's word embeddings, of which
            some models have more than their tokenizer has tokens.
    """

    tokens: list[str]
    rows: Tensor
    first_id: int | None = None


class LanguageEmbedding(nn.Embedding):
    """
    The base's word embeddings, and behind them the rows of the language at work.

    Ids below its first one are the base's and give what they always gave, to the last bit. The weight keeps its name,
    so a state dict looks as before but for the rows added.

    Raises:
        ValueError: `base` does more than to look up its rows, as the scaled embeddings of some models do.
    """

    def __init__(self, base: nn.Embedding):
        if type(base) is not nn.Embedding:
            raise ValueError(
                f"the base's word embeddings are a {type(base).__name__}, which no rows can be added to; train with "
                "new_words=0, or choose another base"
            )
        super().__init__(base.num_embeddings, base.embedding_dim, base.padding_idx, _weight=base.weight)
        self.weight = base.weight
        self.rows = nn.ParameterDict()
        self.tokens: dict[str, list[str]] = {}
        self.first_ids: dict[str, int] = {}
        self.active: str | None = None

    def add(self, name: str, vocabulary: Vocabulary) -> None:
        if vocabulary.rows.shape != (len(vocabulary.tokens), self.embedding_dim):
            raise ValueError(
                f"the new rows have shape {tuple(vocabulary.rows.shape)}; {len(vocabulary.tokens)} tokens on this "
                f"base need {(len(vocabulary.tokens), self.embedding_dim)}"
            )
        self.rows[name] = nn.Parameter(vocabulary.rows.detach().clone().to(self.weight))
        self.tokens[name] = list(vocabulary.tokens)
        self.first_ids[name] = self.num_embeddings if vocabulary.first_id is None else vocabulary.first_id

    def vocabulary(self, name: str, rows: Tensor | None = None) -> Vocabulary | None:
        """A copy of what was added under `name`, with other rows where they are given; `None` if nothing was."""
        if name not in self.tokens:
            return None
        rows = self.rows[name] if rows is None else rows
        return Vocabulary(list(self.tokens[name]), rows.detach().cpu().clone(), self.first_ids[name])

    def discard(self, name: str) -> None:
        if name in self.tokens:
            del self.rows[name], self.tokens[name], self.first_ids[name]

    def activate(self, name: str | None) -> None:
        self.active = name if name in self.tokens else None

    def forward(self, input_ids: Tensor) -> Tensor:
        if self.active is None:
            return super().forward(input_ids)
        first = self.first_ids[self.active]
        new = input_ids >= first
        base = super().forward(input_ids.masked_fill(new, 0))
        added = nn.functional.embedding((input_ids - first).clamp_min(0), self.rows[self.active])
        return torch.where(new.unsqueeze(-1), added, base)


def word_embedding(model: OpticalModel) -> nn.Embedding:
    """The base's word embeddings, also where an adapter wraps them."""
    module = model.encoder.get_input_embeddings()
    return getattr(module, "base_layer", module)


def language_embedding(model: OpticalModel) -> LanguageEmbedding:
    """The word embeddings with room for languages, put in place of the base's at the first call."""
    embedding = word_embedding(model)
    if not isinstance(embedding, LanguageEmbedding):
        embedding = LanguageEmbedding(embedding)
        outer = model.encoder.get_input_embeddings()
        if hasattr(outer, "base_layer"):
            outer.base_layer = embedding
        else:
            model.encoder.set_input_embeddings(embedding)
    return embedding


def learn_vocabulary(
    model: OpticalModel,
    processor: OpticalProcessor,
    pairs: Dataset,
    language: str,
    teacher_language: str = "en",
    *,
    max_words: int = 8000,
    max_pairs: int = 50_000,
    min_count: int = 2,
    max_alike: float = 0.3,
    translations: int = 10,
) -> Vocabulary:
    """
    The words that the base's tokenizer has to cut up, each started as the mean of the base's embeddings of its
    likeliest translations, weighted by their probability ([`learn_lexicon`]).

    Words that the translations spell alike are left out: names, mostly, and their pieces are what the teacher reads.

    Args:
        model ([`OpticalModel`]), processor ([`OpticalProcessor`]): the base.
        pairs (`datasets.Dataset`): sentence pairs from [`load_bitext`].
        language (`str`), teacher_language (`str`, defaults to `"en"`): keys of the `translation` feature.
        max_words (`int`, defaults to 8000): at most so many words, the most frequent ones.
        max_pairs (`int`, defaults to 50,000):
            Sentence pairs to learn from, at even distances, so that memory does not grow with them.
        min_count (`int`, defaults to 2): sentences that must hold a word.
        max_alike (`float`, defaults to 0.3):
            A word is left out if it stands in the translation too for this part of its sentences, or more.
        translations (`int`, defaults to 10): likeliest tokens that a row is made of.

    Returns:
        [`Vocabulary`]; empty if every word is one token already.
    """
    tokenizer = processor.tokenizer
    pairs = sample_evenly(pairs, max_pairs)
    english = list(iter_sentences(pairs, teacher_language))
    split = word_splitter(tokenizer, iter_sentences(pairs, language))
    words = [split(text) for text in iter_sentences(pairs, language)]
    lexicon = learn_lexicon(words, tokenizer(english, add_special_tokens=False)["input_ids"])
    alike = spelled_alike(words, map(split, english))
    chosen = [
        word
        for word in words_to_add(lexicon, tokenizer, min_count)
        if alike.get(word, 0.0) < max_alike and lexicon.top(word, 1)
    ][:max_words]
    weight = word_embedding(model).weight.detach()
    rows = [_mean_translation(lexicon.top(word, translations), weight) for word in chosen]
    return Vocabulary(chosen, torch.stack(rows) if rows else weight[:0], len(tokenizer))


def words_to_add(lexicon: Lexicon, tokenizer: PreTrainedTokenizerBase, min_count: int = 2) -> list[str]:
    """Words of the lexicon that are frequent enough and not one token already, the most frequent first."""
    known, whole = tokenizer.get_vocab(), are_one_token(lexicon.words, tokenizer)
    # A word may be known as a piece that stands inside words alone: it could not be added once more.
    return [
        word
        for word, one, count in zip(lexicon.words, whole, lexicon.counts, strict=True)
        if count >= min_count and not one and word not in known
    ]


def spelled_alike(words: Sequence[Sequence[str]], translations: Iterable[Sequence[str]]) -> dict[str, float]:
    """For each word, in which part of its sentences the translation holds it as it is; words without any left out."""
    held: Counter[str] = Counter()
    shared: Counter[str] = Counter()
    for sentence, translation in zip(words, translations, strict=True):
        held.update(set(sentence))
        shared.update(set(sentence).intersection(translation))
    return {word: count / held[word] for word, count in shared.items()}


def extend_processor(processor: OpticalProcessor, tokens: list[str]) -> OpticalProcessor:
    """
    A processor that knows `tokens` too, as whole words, and reads words that it lacks as the nearest of them and of
    those that were its `nearest_words` before; the one given is left as it is.

    Raises:
        ValueError: a token is one of the tokenizer's already.
    """
    tokenizer = copy.deepcopy(processor.tokenizer)
    known = sorted(tokenizer.get_vocab().keys() & set(tokens))
    if known:
        raise ValueError(f"the tokenizer has {', '.join(map(repr, known[:5]))} already; leave it out of the new words")
    # Matching inside words would take apart the base's own words. A tokenizer that keeps spaces would leave the one
    # before the word as a token of its own, unless the word takes it along.
    keeps_spaces = tokenizer.tokenize("a b") != ["a", "b"]
    tokenizer.add_tokens(
        [
            AddedToken(token, single_word=not UNSPACED.search(token), normalized=True, lstrip=keeps_spaces)
            for token in tokens
        ]
    )
    before = processor.nearest_words.words if processor.nearest_words else []
    return OpticalProcessor(tokenizer, nearest_words=[*before, *tokens], **processor.roles)


def _mean_translation(translations: list[tuple[int, float]], weight: Tensor) -> Tensor:
    ids, shares = zip(*translations, strict=True)
    shares = torch.tensor(shares, dtype=weight.dtype, device=weight.device)
    return shares / shares.sum() @ weight[list(ids)]
