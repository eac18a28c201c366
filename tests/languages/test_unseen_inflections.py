"""
A language with many inflections, learned from sentence pairs alone. Two in five word forms, except the most frequent
ones, are kept out of training. Sentences with these forms are the queries for their translations.
"""

from __future__ import annotations

import os
import zlib
from collections import Counter
from pathlib import Path
from random import Random

import pytest
from tiny import MINILM, REPOSITORY

from hf_optical import OpticalModel, OpticalProcessor, RetrievalEvaluator, load_bitext
from hf_optical.bitext import filter_bitext
from hf_optical.bitext.alignment import word_splitter
from hf_optical.evaluation.datasets import Document, Query, RetrievalDataset
from hf_optical.languages import add_adapter, default_lora_config, extend_processor, learn_vocabulary


DATA = Path(os.environ.get("HF_OPTICAL_DATA", REPOSITORY.parent / "shared" / "data")) / "bitext" / "cs"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.data,
    pytest.mark.skipif(not DATA.is_dir(), reason="HF_OPTICAL_DATA names no folder of real data with Czech sentences"),
]


def held_out(pairs, split, queries=400, distractors=1500, training=5000):
    """Split pairs into training rows, and a test set of half sentences with unseen forms and their translations."""
    words = [split(pair["cs"]) for pair in pairs["translation"]]
    common = {word for word, _ in Counter(word for sentence in words for word in sentence).most_common(100)}
    order = list(range(len(pairs)))
    Random(0).shuffle(order)
    seen, unseen = [], []
    for row in order:
        kept_out = any(word not in common and zlib.crc32(word.encode()) % 10 < 4 for word in words[row])
        (unseen if kept_out else seen).append(row)
    rows = unseen[: queries + distractors]
    texts = pairs.select(rows)["translation"]
    corpus = {english: str(number) for number, english in enumerate(dict.fromkeys(text["en"] for text in texts))}
    halves = [text["cs"].split() for text in texts[:queries]]
    dataset = RetrievalDataset(
        "czech-inflections",
        {number: Document("", english) for english, number in corpus.items()},
        {str(i): Query(" ".join(half[: max(1, round(len(half) / 2))]), None) for i, half in enumerate(halves)},
        {str(i): {corpus[text["en"]]: 1} for i, text in enumerate(texts[:queries])},
    )
    return pairs.select(seen[:training]), dataset


def test_new_words_improve_search_and_nearest_words_improve_it_further():
    pairs, _ = filter_bitext(load_bitext(DATA / "train.jsonl.gz", "cs"), "cs")
    model, processor = OpticalModel.from_pretrained(MINILM).eval(), OpticalProcessor.from_pretrained(MINILM)
    split = word_splitter(processor.tokenizer)
    train, dataset = held_out(pairs, split)
    known = {word for pair in train["translation"] for word in split(pair["cs"])}
    asked = [word for query in dataset.queries.values() for word in split(query.text)]
    unseen = sum(word not in known for word in asked) / len(asked)
    evaluator = RetrievalEvaluator(dataset, model, processor)
    base = evaluator(model, processor)["map"]

    vocabulary = learn_vocabulary(model, processor, train, "cs")
    add_adapter(model, "cs", default_lora_config(model, rank=1, embeddings=False), vocabulary)
    extended = extend_processor(processor, vocabulary.tokens)
    nearest = evaluator(model.eval(), extended)["map"]
    extended.nearest_words = None
    whole = evaluator(model, extended)["map"]
    print(f"\nunseen {unseen:.3f}, MAP: base {base:.3f}, whole words {whole:.3f}, and their nearest {nearest:.3f}")
    assert 0.15 < unseen < 0.35
    assert whole > base + 0.2 and nearest > whole + 0.05
