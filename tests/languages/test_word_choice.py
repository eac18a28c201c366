from __future__ import annotations

from collections import defaultdict

import numpy as np
import ot
import pytest
import torch
from tiny import MINILM, demo_pairs

from hf_optical import OpticalModel, OpticalProcessor, load_bitext
from hf_optical.bitext.frequency import inverse_document_frequency
from hf_optical.languages import (
    Vocabulary,
    add_adapter,
    choose_words,
    default_lora_config,
    extend_processor,
    learn_vocabulary,
)
from hf_optical.losses import Geometry


@pytest.fixture(scope="module")
def base() -> tuple[OpticalModel, OpticalProcessor]:
    return OpticalModel.from_pretrained(MINILM), OpticalProcessor.from_pretrained(MINILM)


@pytest.fixture(scope="module")
def pairs():
    return load_bitext([{"translation": pair} for pair in demo_pairs()[:120]], "sw")


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
    vocabulary = learn_vocabulary(model, processor, pairs, "sw")
    # Without rows of their own, a random half of the words must be read better in pieces.
    torch.manual_seed(0)
    spoiled = set(torch.randperm(len(vocabulary.tokens))[: len(vocabulary.tokens) // 2].tolist())
    for word in spoiled:
        vocabulary.rows[word] = vocabulary.rows[word].norm() * torch.nn.functional.normalize(torch.randn(384), dim=0)
    chosen = choose_words(model, processor, vocabulary, pairs.select(range(40)), model, processor, "sw")

    words = extend_processor(processor, vocabulary.tokens)
    words.nearest_words = None
    extended = OpticalModel.from_pretrained(MINILM)
    add_adapter(extended, "sw", default_lora_config(extended, embeddings=False), vocabulary)
    texts = pairs["translation"][:40]
    sides = {"sw": [pair["sw"] for pair in texts], "en": [pair["en"] for pair in texts]}
    frequency = {
        "pieces": inverse_document_frequency(processor, sides["sw"]),
        "words": inverse_document_frequency(words, sides["sw"]),
        "en": inverse_document_frequency(processor, sides["en"]),
    }
    english = [read(model, processor, text, frequency["en"]) for text in sides["en"]]
    center = Geometry.of([vectors for vectors, _, _ in english]).mean

    def token_costs(own, other):
        units = [torch.nn.functional.normalize(each[0] - center, dim=1).double().numpy() for each in (own, other)]
        cost = 1 - units[0] @ units[1].T
        masses = [(each[2] / each[2].sum()).double().numpy() for each in (own, other)]
        masses = [each / each.sum() for each in masses]
        plan = ot.sinkhorn(*masses, cost, 0.01, method="sinkhorn_log", stopThr=1e-6, numItermax=2000, warn=False)
        return (plan * cost).sum(1) / plan.sum(1)

    dearer = defaultdict(list)
    for row, text in enumerate(sides["sw"]):
        pieces, whole = (
            read(reader, tokens, text, frequency[kind])
            for reader, tokens, kind in ((model, processor, "pieces"), (extended, words, "words"))
        )
        costs = token_costs(pieces, english[row]), token_costs(whole, english[row])
        at = 0
        for token, cost in zip(whole[1], costs[1], strict=True):
            count = len(processor.tokenizer.tokenize(token)) if token in vocabulary.tokens else 1
            if token in vocabulary.tokens:
                own = slice(at, at + count)
                in_pieces = np.average(costs[0][own], weights=pieces[2][own].numpy())
                dearer[token].append(cost - in_pieces)
            at += count
        assert at == len(pieces[1])
    means = {word: float(np.mean(own)) for word, own in dearer.items()}
    assert len(means) > 50
    clear = {word for word, mean in means.items() if abs(mean) > 2e-3}
    assert len(clear) > 0.9 * len(means)
    assert {word for word in clear if means[word] < 0} == clear & set(chosen.tokens)
    # The rows of the words that stay are theirs.
    for word, row in zip(chosen.tokens, chosen.rows, strict=True):
        assert torch.equal(row, vocabulary.rows[vocabulary.tokens.index(word)])
    kept = {vocabulary.tokens.index(word) for word in chosen.tokens if word in means}
    assert len(kept & spoiled) < 0.5 * len(kept)


def test_choice_leaves_the_base_unchanged(base, pairs):
    model, processor = base
    before = model.fingerprint(), model(**processor.queries(["Kahawa ni moto."])).embeddings
    choose_words(model, processor, learn_vocabulary(model, processor, pairs, "sw"), pairs, *base, "sw", max_pairs=20)
    assert model.fingerprint() == before[0]
    assert torch.equal(model(**processor.queries(["Kahawa ni moto."])).embeddings, before[1])


def test_no_candidates_are_no_words(base, pairs):
    none = Vocabulary([], torch.empty(0, 384))
    assert choose_words(*base, none, pairs, *base, "sw") is none
