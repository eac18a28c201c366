"""New words of a language, added to the base's vocabulary and initialised from their translations."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from datasets import Dataset
from tokenizers import AddedToken
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from ..bitext.alignment import Lexicon, learn_lexicon, word_splitter
from ..bitext.entries import Entries, words_of_entries
from ..bitext.frequency import MOST_KNOWN, count_known
from ..bitext.loading import iter_sentences, sample_evenly
from ..checks import check_shape
from ..model import OpticalModel, OpticalProcessor
from ..model.added_words import REPLACING, prepare_for_words
from ..model.nearest_words import are_one_token
from ..model.spelling import KnownWords
from ..model.words import UNSPACED


@dataclass(eq=False)
class Vocabulary:
    """
    New words of a language.

    Attributes:
        tokens (`list[str]`): whole words, in the form that the tokenizer's normalizer gives them.
        rows (`torch.Tensor` of shape `(tokens, hidden)`): their word embeddings.
        first_id (`int`, *optional*):
            Token id of the first word; the others follow. Defaults to the number of the base's word embeddings, which
            may be larger than the number of the tokenizer's tokens.
        rules (`int`, defaults to 2):
            By which rules words are read, see [`extend_processor`].
    """

    tokens: list[str]
    rows: Tensor
    first_id: int | None = None
    rules: int = REPLACING


class LanguageEmbedding(nn.Embedding):
    """Word embeddings of the base, bit for bit and under their name, followed by those of the active language."""

    def __init__(self, base: nn.Embedding):
        if type(base) is not nn.Embedding:
            kind = type(base).__name__
            raise ValueError(f"cannot add words to word embeddings of type {kind}; set new_words=0 or change the base")
        super().__init__(base.num_embeddings, base.embedding_dim, base.padding_idx, _weight=base.weight)
        self.weight = base.weight
        self.rows = nn.ParameterDict()
        self.tokens: dict[str, list[str]] = {}
        self.first_ids: dict[str, int] = {}
        self.rules: dict[str, int] = {}
        self.active: str | None = None

    def add(self, name: str, vocabulary: Vocabulary) -> None:
        check_shape("the new rows", vocabulary.rows, (len(vocabulary.tokens), self.embedding_dim))
        self.rows[name] = nn.Parameter(vocabulary.rows.detach().clone().to(self.weight))
        self.tokens[name] = list(vocabulary.tokens)
        self.first_ids[name] = self.num_embeddings if vocabulary.first_id is None else vocabulary.first_id
        self.rules[name] = vocabulary.rules

    def vocabulary(self, name: str, rows: Tensor | None = None) -> Vocabulary | None:
        """Return a copy of the words added under `name`, optionally with other rows; `None` if there are none."""
        if name not in self.tokens:
            return None
        rows = self.rows[name] if rows is None else rows
        return Vocabulary(list(self.tokens[name]), rows.detach().cpu().clone(), self.first_ids[name], self.rules[name])

    def discard(self, name: str) -> None:
        if name in self.tokens:
            del self.rows[name], self.tokens[name], self.first_ids[name], self.rules[name]

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
    """Return the base's word embeddings, also if an adapter wraps them."""
    module: Any = model.encoder.get_input_embeddings()
    return getattr(module, "base_layer", module)


def vocabulary_of(model: OpticalModel, name: str) -> Vocabulary | None:
    """The new words of an adapter in a model, if it has any."""
    embedding = word_embedding(model)
    return embedding.vocabulary(name) if isinstance(embedding, LanguageEmbedding) else None


def language_embedding(model: OpticalModel) -> LanguageEmbedding:
    """Return the word embeddings with room for languages, which replace the base's at the first call."""
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
    pairs: Dataset | None,
    language: str,
    teacher_language: str = "en",
    *,
    entries: Entries | None = None,
    max_words: int = 8000,
    max_pairs: int = 50_000,
    min_count: int = 2,
    max_alike: float = 0.3,
    translations: int = 10,
) -> Vocabulary:
    """
    Learn new words from sentence pairs, a dictionary or both: words that the base's tokenizer splits.

    The embedding of each is the mean of the base's embeddings of its likeliest translations, weighted by their
    probability ([`learn_lexicon`]). Words with the same spelling in the translation are left out: most of them are
    names, which the teacher reads as the same subwords.

    The entries of a dictionary join the pairs as short sentence pairs. So a word with several translations, or a
    phrase for a translation, becomes the mean of their tokens, and the pairs weigh translations that they contain.

    Args:
        model ([`OpticalModel`]), processor ([`OpticalProcessor`]): the base.
        pairs (`datasets.Dataset`, *optional*): sentence pairs from [`load_bitext`]; optional with `entries`.
        language (`str`), teacher_language (`str`, defaults to `"en"`): keys of the `translation` feature.
        entries (`list[tuple[str, str]]`, *optional*): entries of dictionaries, from [`read_entries`].
        max_words (`int`, defaults to 8000): maximum number of words. The most frequent ones are kept.
        max_pairs (`int`, defaults to 50,000):
            Maximum number of sentence pairs to learn from, evenly spaced, which limits memory.
        min_count (`int`, defaults to 2):
            minimum number of sentences that contain a word. Words of `entries` need none.
        max_alike (`float`, defaults to 0.3):
            A word is left out if the translations of this share of its sentences, or more, contain it too.
        translations (`int`, defaults to 10): number of likeliest tokens to average.

    Returns:
        [`Vocabulary`]: the words, possibly none.
    """
    tokenizer = processor.tokenizer
    sentences = [] if pairs is None else [*iter_sentences(pairs := sample_evenly(pairs, max_pairs), language)]
    english = [] if pairs is None else [*iter_sentences(pairs, teacher_language)]
    split = word_splitter(tokenizer, sentences)
    words = [split(text) for text in sentences]
    listed = words_of_entries(entries or [], tokenizer)
    words += listed
    english += [translation for _, translation in entries or []]
    lexicon = learn_lexicon(words, tokenizer(english, add_special_tokens=False)["input_ids"])
    alike = spelled_alike(words, map(split, english))
    chosen = [
        word
        for word in words_to_add(lexicon, tokenizer, min_count, {word for own in listed for word in own})
        if alike.get(word, 0.0) < max_alike and lexicon.top(word, 1)
    ][:max_words]
    weight = word_embedding(model).weight.detach()
    rows = [_mean_translation(lexicon.top(word, translations), weight) for word in chosen]
    return Vocabulary(chosen, torch.stack(rows) if rows else weight[:0], len(tokenizer))


def words_to_add(
    lexicon: Lexicon, tokenizer: PreTrainedTokenizerBase, min_count: int = 2, listed: Collection[str] = ()
) -> list[str]:
    """Return the frequent or `listed` words of the lexicon that are not one token already, most frequent first."""
    known, whole = tokenizer.get_vocab(), are_one_token(lexicon.words, tokenizer)
    # A word may be a token that occurs only inside words. It could not be added a second time.
    return [
        word
        for word, one, count in zip(lexicon.words, whole, lexicon.counts, strict=True)
        if (count >= min_count or word in listed) and not one and word not in known
    ]


def spelled_alike(words: Sequence[Sequence[str]], translations: Iterable[Sequence[str]]) -> dict[str, float]:
    """Return for each word in what share of its sentences the translation contains it too, if in any."""
    held: Counter[str] = Counter()
    shared: Counter[str] = Counter()
    for sentence, translation in zip(words, translations, strict=True):
        held.update(set(sentence))
        shared.update(set(sentence).intersection(translation))
    return {word: count / held[word] for word, count in shared.items()}


def count_words(
    processor: OpticalProcessor, pairs: Dataset, language: str, teacher_language: str = "en", max_pairs: int = 50_000
) -> dict[str, dict[str, int]]:
    """
    Count the words on both sides of sentence pairs, by which typing errors are repaired ([`Spelling`]).

    Args:
        processor ([`OpticalProcessor`]): that of the base; its tokenizer normalises the words.
        pairs (`datasets.Dataset`), language (`str`), teacher_language (`str`), max_pairs (`int`): as in
            [`learn_vocabulary`].

    Returns:
        `dict[str, dict[str, int]]`: `"language"` and `"translations"` -> word -> number of its occurrences.
    """
    pairs = sample_evenly(pairs, max_pairs)
    sides = {"language": language, "translations": teacher_language}
    return {side: count_known(processor, iter_sentences(pairs, code)) for side, code in sides.items()}


def add_counts(known: KnownWords | None, counts: Mapping[str, int]) -> dict[str, dict[str, int]]:
    """Add the words of plain text in the language to known words, from [`count_words`]."""
    own = Counter((known or {}).get("language", {}))
    own.update(counts)
    return {
        **{side: dict(words) for side, words in (known or {}).items()},
        "language": dict(own.most_common(MOST_KNOWN)),
    }


def extend_processor(
    processor: OpticalProcessor,
    tokens: list[str],
    rules: int = REPLACING,
    known_words: KnownWords | None = None,
) -> OpticalProcessor:
    """
    Create a processor that has `tokens` as additional whole words.

    For words that it lacks it reads the most similar of `tokens` and of the former `nearest_words`. The given
    processor is not changed.

    Args:
        processor ([`OpticalProcessor`]): the base's processor.
        tokens (`list[str]`): the new words.
        rules (`int`, defaults to 2):
            By which rules words are read. By rules 2, the most similar word replaces an unknown one; by rules 3 it
            follows it, for bases that read some of the language themselves. Packs that do not record them have rules
            1: there, tokenizers that do not compose accents miss words in decomposed letters (NFD), and SentencePiece
            tokenizers emit a stray space token between a new word and the punctuation after it.
        known_words (*optional*): as in [`OpticalProcessor`], beside those of the base's processor.

    Raises:
        ValueError: the tokenizer has one of the tokens already.
    """
    tokenizer = copy.deepcopy(processor.tokenizer)
    known = sorted(tokenizer.get_vocab().keys() & set(tokens))
    if known:
        raise ValueError(f"the tokenizer has {', '.join(map(repr, known[:5]))} already; remove it from the new words")
    rules = max(rules, processor.word_rules) if tokens else processor.word_rules
    if rules > 1:
        prepare_for_words(tokenizer)  # before the words are added, so that they are normalised too
    # Matching inside words would split words of the base. A tokenizer that keeps spaces would make the one before the
    # word a separate token, unless the word includes it.
    keeps_spaces = tokenizer.tokenize("a b") != ["a", "b"]
    tokenizer.add_tokens(
        [
            AddedToken(token, single_word=not UNSPACED.search(token), normalized=True, lstrip=keeps_spaces)
            for token in tokens
        ]
    )
    before = processor.nearest_words.words if processor.nearest_words else []
    return OpticalProcessor(
        tokenizer,
        nearest_words=[*before, *tokens],
        known_words={**processor.known_words, **(known_words or {})},
        word_rules=rules,
        **processor.roles,
    )


def _mean_translation(translations: list[tuple[int, float]], weight: Tensor) -> Tensor:
    ids, shares = zip(*translations, strict=True)
    probabilities = torch.tensor(shares, dtype=weight.dtype, device=weight.device)
    return probabilities / probabilities.sum() @ weight[list(ids)]
