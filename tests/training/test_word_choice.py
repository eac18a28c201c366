from __future__ import annotations

from collections import defaultdict
from functools import partial

import numpy as np
import ot
import pytest
import torch
from tiny import MINILM, demo_pairs

from hf_optical import OpticalModel, OpticalProcessor, load_bitext
from hf_optical.bitext.frequency import inverse_document_frequency
from hf_optical.languages import (
    add_adapter,
    default_lora_config,
    extend_processor,
    learn_vocabulary,
)
from hf_optical.losses import Geometry
from hf_optical.training.word_choice import _better, choose_words


@pytest.fixture(scope="module")
def base() -> tuple[OpticalModel, OpticalProcessor]:
    return OpticalModel.from_pretrained(MINILM), OpticalProcessor.from_pretrained(MINILM)


@pytest.fixture(scope="module")
def pairs():
    return load_bitext([{"translation": pair} for pair in demo_pairs()[:240]], "sw")


def read(model: OpticalModel, processor: OpticalProcessor, text: str, weights: torch.Tensor):
    """Vectors, tokens and weights of the words of one sentence, one at a time."""
    inputs = processor.queries([text])
    with torch.no_grad():
        vectors = model(**inputs).embeddings[0, 1:-1].half().float()
    ids = inputs["input_ids"][0, 1:-1]
    return vectors, processor.tokenizer.convert_ids_to_tokens(ids), weights[ids]


def test_choice_is_that_of_a_plain_loop_with_pot(base, pairs):
    """Each sentence alone, words found by their pieces, and POT's solver."""
    model, processor = base
    learned = []

    def learn(some):
        """With rows that a random half of the words must do worse with than with their pieces."""
        vocabulary = learn_vocabulary(model, processor, some, "sw")
        random = torch.Generator().manual_seed(0)
        for word in range(0, len(vocabulary.tokens), 2):
            row = torch.nn.functional.normalize(torch.randn(384, generator=random), dim=0)
            vocabulary.rows[word] = vocabulary.rows[word].norm() * row
        learned.append((some, vocabulary))
        return vocabulary

    chosen = choose_words(model, processor, pairs, learn, model, processor, "sw", max_pairs=40)
    (_, everything), (others, candidates) = learned
    taught = {pair["en"] for pair in others["translation"]}
    texts = [pair for pair in pairs["translation"] if pair["en"] not in taught]
    assert len(texts) == 40 and len(others) == len(pairs) - 40

    words = extend_processor(processor, candidates.tokens)
    words.nearest_words = None
    extended = OpticalModel.from_pretrained(MINILM)
    add_adapter(extended, "sw", default_lora_config(extended, embeddings=False), candidates)
    sides = {code: [pair[code] for pair in texts] for code in ("sw", "en")}
    frequency = {
        "pieces": inverse_document_frequency(processor, sides["sw"]),
        "words": inverse_document_frequency(words, sides["sw"]),
        "en": inverse_document_frequency(processor, sides["en"]),
    }
    english = [read(model, processor, text, frequency["en"]) for text in sides["en"]]
    center = Geometry.of([vectors for vectors, _, _ in english]).mean
    by_length = sorted(range(40), key=lambda row: len(english[row][0]))
    next_one = dict(zip(by_length, [*by_length[1:], by_length[0]], strict=True))

    def token_costs(own, other):
        units = [torch.nn.functional.normalize(each[0] - center, dim=1).double().numpy() for each in (own, other)]
        cost = 1 - units[0] @ units[1].T
        masses = [(each[2] / each[2].double().sum()).numpy() for each in (own, other)]
        plan = ot.sinkhorn(*masses, cost, 0.01, method="sinkhorn_log", stopThr=1e-6, numItermax=2000, warn=False)
        return (plan * cost).sum(1) / plan.sum(1)

    better = defaultdict(list)
    for row, text in enumerate(sides["sw"]):
        pieces = read(model, processor, text, frequency["pieces"])
        whole = read(extended, words, text, frequency["words"])
        contrasts = [
            token_costs(side, english[next_one[row]]) - token_costs(side, english[row]) for side in (pieces, whole)
        ]
        at = 0
        for token, contrast in zip(whole[1], contrasts[1], strict=True):
            count = len(processor.tokenizer.tokenize(token)) if token in candidates.tokens else 1
            if token in candidates.tokens:
                own = slice(at, at + count)
                better[token].append(contrast - np.average(contrasts[0][own], weights=pieces[2][own].numpy()))
            at += count
        assert at == len(pieces[1])
    means = {word: float(np.mean(own)) for word, own in better.items()}
    clear = {word for word, mean in means.items() if abs(mean) > 5e-3 and word in everything.tokens}
    assert len(clear) > 0.9 * len(means) > 45
    assert {word for word in clear if means[word] > 0} == clear & set(chosen.tokens)
    # Rows are those that all pairs taught.
    for word, row in zip(chosen.tokens, chosen.rows, strict=True):
        assert torch.equal(row, everything.rows[everything.tokens.index(word)])


def test_words_that_no_held_out_sentence_has_go_with_their_frequency():
    better = {"a": [0.1], "b": [0.2, -0.1], "c": [-0.3], "d": [-0.1], "e": [0.05]}
    held_in = {"a": 9, "b": 8, "c": 2, "d": 3, "e": 2}
    counts = {"a": 10, "b": 9, "c": 3, "d": 4, "e": 3, "rare": 2, "frequent": 15, "new": 70}
    words = ["a", "b", "c", "d", "e", "rare", "frequent", "new"]
    assert [words[i] for i in _better(words, better, held_in, counts)] == ["a", "b", "e", "frequent", "new"]


def test_choice_leaves_the_base_unchanged(base, pairs):
    model, processor = base
    before = model.fingerprint(), model(**processor.queries(["Kahawa ni moto."])).embeddings
    learn = partial(learn_vocabulary, model, processor, language="sw")
    choose_words(model, processor, pairs, learn, *base, "sw", max_pairs=20)
    assert model.fingerprint() == before[0]
    assert torch.equal(model(**processor.queries(["Kahawa ni moto."])).embeddings, before[1])


def test_words_that_do_not_help_to_find_translations_are_none(base, pairs):
    model, processor = base

    def learn(some):
        vocabulary = learn_vocabulary(model, processor, some, "sw")
        vocabulary.rows = torch.randn_like(vocabulary.rows) * vocabulary.rows.std()
        return vocabulary

    chosen = choose_words(model, processor, pairs, learn, model, processor, "sw", max_pairs=40)
    assert chosen.tokens == [] and chosen.rows.shape == (0, 384)


def test_few_pairs_decide_nothing(base, pairs):
    learn = partial(learn_vocabulary, *base, language="sw")
    few = pairs.select(range(100))
    assert choose_words(*base, few, learn, *base, "sw").tokens == learn(few).tokens
