"""New words: a language's own entries beside the base's vocabulary, started from what they translate to."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from datasets import Dataset
from tokenizers import AddedToken
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from ..bitext.alignment import Lexicon, learn_lexicon, word_splitter
from ..model import OpticalModel, OpticalProcessor


@dataclass(eq=False)
class Vocabulary:
    """
    What a language adds to the vocabulary of its base.

    Attributes:
        tokens (`list[str]`): whole words, in the form that the tokenizer's normaliser gives them.
        rows (`torch.Tensor` of shape `(tokens, hidden)`): their word embeddings.
    """

    tokens: list[str]
    rows: Tensor


class LanguageEmbedding(nn.Embedding):
    """
    The base's word embeddings, and behind them the rows of the language at work.

    Ids below `num_embeddings` are the base's and give what they always gave, to the last bit. The weight keeps its
    name, so a state dict looks as before but for the rows added.
    """

    def __init__(self, base: nn.Embedding):
        super().__init__(base.num_embeddings, base.embedding_dim, base.padding_idx, _weight=base.weight)
        self.weight = base.weight
        self.rows = nn.ParameterDict()
        self.tokens: dict[str, list[str]] = {}
        self.active: str | None = None

    def add(self, name: str, vocabulary: Vocabulary) -> None:
        if vocabulary.rows.shape != (len(vocabulary.tokens), self.embedding_dim):
            raise ValueError(
                f"the new rows have shape {tuple(vocabulary.rows.shape)}; {len(vocabulary.tokens)} tokens on this "
                f"base need {(len(vocabulary.tokens), self.embedding_dim)}"
            )
        self.rows[name] = nn.Parameter(vocabulary.rows.detach().clone().to(self.weight))
        self.tokens[name] = list(vocabulary.tokens)

    def discard(self, name: str) -> None:
        if name in self.tokens:
            del self.rows[name], self.tokens[name]

    def activate(self, name: str | None) -> None:
        self.active = name if name in self.tokens else None
        for language, rows in self.rows.items():
            rows.requires_grad_(language == name)

    def forward(self, input_ids: Tensor) -> Tensor:
        if self.active is None:
            return super().forward(input_ids)
        new = input_ids >= self.num_embeddings
        base = super().forward(input_ids.masked_fill(new, 0))
        added = nn.functional.embedding((input_ids - self.num_embeddings).clamp_min(0), self.rows[self.active])
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
    min_count: int = 2,
    translations: int = 10,
) -> Vocabulary:
    """
    The frequent words that the base's tokenizer has to cut up, each started as the mean of the base's embeddings of
    its likeliest translations, weighted by their probability ([`learn_lexicon`]).

    Args:
        model ([`OpticalModel`]), processor ([`OpticalProcessor`]): the base.
        pairs (`datasets.Dataset`): sentence pairs from [`load_bitext`].
        language (`str`), teacher_language (`str`, defaults to `"en"`): keys of the `translation` feature.
        max_words (`int`, defaults to 8000): at most so many words, the most frequent ones.
        min_count (`int`, defaults to 2): sentences that must hold a word.
        translations (`int`, defaults to 10): likeliest tokens that a row is made of.

    Returns:
        [`Vocabulary`]; empty if every word is one token already.
    """
    tokenizer = processor.tokenizer
    split = word_splitter(tokenizer)
    texts = pairs["translation"]
    lexicon = learn_lexicon(
        [split(text[language]) for text in texts],
        tokenizer([text[teacher_language] for text in texts], add_special_tokens=False)["input_ids"],
    )
    chosen = [i for i in choose_words(lexicon, tokenizer, min_count) if lexicon.probabilities[[i]].nnz][:max_words]
    weight = word_embedding(model).weight.detach()
    rows = [_mean_translation(lexicon, i, weight, translations) for i in chosen]
    return Vocabulary([lexicon.words[i] for i in chosen], torch.stack(rows) if rows else weight[:0])


def choose_words(lexicon: Lexicon, tokenizer: PreTrainedTokenizerBase, min_count: int = 2) -> list[int]:
    """Rows of the lexicon whose word is frequent enough and not one token already, the most frequent first."""
    pieces = tokenizer(lexicon.words, add_special_tokens=False)["input_ids"]
    unknown = tokenizer.unk_token_id
    return [
        i
        for i, (ids, count) in enumerate(zip(pieces, lexicon.counts, strict=True))
        if count >= min_count and (len(ids) > 1 or ids == [unknown])
    ]


def extend_processor(processor: OpticalProcessor, tokens: list[str]) -> OpticalProcessor:
    """A processor that knows `tokens` too, as whole words; the one given is left as it is."""
    tokenizer = copy.deepcopy(processor.tokenizer)
    # Matching inside words would take apart the base's own words. A tokenizer that keeps spaces would leave the one
    # before the word as a token of its own, unless the word takes it along.
    keeps_spaces = tokenizer.tokenize("a b") != ["a", "b"]
    tokenizer.add_tokens(
        [AddedToken(token, single_word=True, normalized=True, lstrip=keeps_spaces) for token in tokens]
    )
    return OpticalProcessor(tokenizer, **processor.roles)


def _mean_translation(lexicon: Lexicon, word: int, weight: Tensor, translations: int) -> Tensor:
    row = lexicon.probabilities[[word]]
    best = torch.topk(torch.from_numpy(row.data), min(translations, row.nnz))
    ids = torch.from_numpy(lexicon.token_ids[row.indices[best.indices.numpy()]])
    shares = (best.values / best.values.sum()).to(weight)
    return shares @ weight[ids.to(weight.device)]
