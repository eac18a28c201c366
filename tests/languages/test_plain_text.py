from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from tiny import MINILM

from hf_optical import OpticalModel, OpticalProcessor
from hf_optical.languages import Vocabulary, extend_processor, learn_from_text, words_without_row


TOPICS, WORDS, HIDDEN = 20, 40, 384


@pytest.fixture(scope="module")
def processor():
    return OpticalProcessor.from_pretrained(MINILM)


@pytest.fixture(scope="module")
def model():
    return OpticalModel.from_pretrained(MINILM)


@pytest.fixture(scope="module")
def language():
    """Texts in which each sentence is of one topic, and rows of most words that differ by topic."""
    draws = random.Random(0)
    letters = "bdfgjkmpqvwxz"

    def word():
        return "".join(draws.choice(letters) + draws.choice("aeiou") for _ in range(5))

    topics = [[word() for _ in range(WORDS)] for _ in range(TOPICS)]
    directions = torch.from_numpy(np.random.default_rng(0).normal(size=(TOPICS, HIDDEN))).float()
    new = [topic[:3] for topic in topics]
    names = [topic[3] for topic in topics]
    texts = []
    for number in range(1800):
        chosen = draws.choices(topics[number % TOPICS], k=12)
        texts.append(" ".join(each.capitalize() if each in names else each for each in chosen) + ".")
    tokens = [each for topic in topics for each in topic[4:]]
    rows = torch.cat([direction + 0.1 * torch.randn(WORDS - 4, HIDDEN) for direction in directions])
    return texts, Vocabulary(tokens, rows, 30522), new, names, directions


@pytest.fixture(scope="module")
def learned(language, model, processor):
    pytest.importorskip("gensim")
    texts, vocabulary, new, *_ = language
    return learn_from_text(model, processor, vocabulary, texts, [new[0][0]])


def test_words_get_rows_like_those_of_the_words_around_them(language, learned):
    _, vocabulary, new, _, directions = language
    assert learned.tokens[: len(vocabulary.tokens)] == vocabulary.tokens
    assert torch.equal(learned.rows[: len(vocabulary.tokens)], vocabulary.rows)
    added = dict(zip(learned.tokens, learned.rows, strict=True))
    expected = {word: topic for topic, words in enumerate(new) for word in words}
    found = {
        word: int(torch.cosine_similarity(added[word][None], directions).argmax())
        for word in expected.keys() & added.keys()
    }
    assert len(found) > 0.8 * len(expected)
    assert sum(found[word] == expected[word] for word in found) > 0.9 * len(found)


def test_names_and_words_that_need_no_row_get_none(language, learned):
    _, _, new, names, _ = language
    assert not {*names, new[0][0]} & {*learned.tokens}


@pytest.mark.slow
def test_words_get_no_row_where_the_text_says_nothing_about_rows(language, model, processor):
    pytest.importorskip("gensim")
    texts, vocabulary, *_ = language
    random_rows = torch.randn(vocabulary.rows.shape, generator=torch.Generator().manual_seed(0))
    unrelated = Vocabulary(vocabulary.tokens, random_rows, vocabulary.first_id)
    assert learn_from_text(model, processor, unrelated, texts).tokens == vocabulary.tokens


def test_short_texts_and_full_vocabularies_stay_as_they_are(language, model, processor):
    texts, vocabulary, *_ = language
    assert learn_from_text(model, processor, vocabulary, texts[:100]) is vocabulary
    assert learn_from_text(model, processor, vocabulary, texts, max_words=len(vocabulary.tokens)) is vocabulary


def test_words_without_row_are_those_in_pieces(processor):
    extended = extend_processor(processor, ["maji"])
    texts = ["Maji ya kunywa, water!", "maji 1990"]
    assert words_without_row(extended, texts) == ["kunywa"]
    assert words_without_row(processor, texts) == ["maji", "kunywa"]
