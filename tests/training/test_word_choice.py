from __future__ import annotations

from functools import partial

import pytest
import torch
from peft import LoraConfig
from tiny import MINILM, demo_pairs

from hf_optical import OpticalModel, OpticalProcessor, OTDistillationConfig, OTDistillationTrainer, load_bitext
from hf_optical.languages import (
    add_adapter,
    default_lora_config,
    extend_processor,
    learn_vocabulary,
)
from hf_optical.training.word_choice import choose_words


@pytest.fixture(scope="module")
def base() -> tuple[OpticalModel, OpticalProcessor]:
    return OpticalModel.from_pretrained(MINILM), OpticalProcessor.from_pretrained(MINILM)


@pytest.fixture(scope="module")
def pairs():
    return load_bitext([{"translation": pair} for pair in demo_pairs()[:240]], "sw")


def test_choice_compares_mean_reciprocal_ranks(base, pairs, caplog):
    """Each sentence alone, in a plain loop."""
    model, processor = base
    learned = []

    def learn(some):
        learned.append((some, learn_vocabulary(model, processor, some, "sw")))
        return learned[-1][1]

    with caplog.at_level("INFO", logger="hf_optical"):
        chosen = choose_words(model, processor, pairs, learn, model, processor, "sw", max_pairs=40)
    (others, candidates), (everything, vocabulary) = learned
    assert chosen == (vocabulary, False) and everything is pairs
    taught = {pair["en"] for pair in others["translation"]}
    texts = [pair for pair in pairs["translation"] if pair["en"] not in taught]
    assert len(texts) == 40 and len(others) == len(pairs) - 40

    extended = OpticalModel.from_pretrained(MINILM)
    add_adapter(extended, "sw", default_lora_config(extended, embeddings=False), candidates)
    words = extend_processor(processor, candidates.tokens)

    def vectors(model, processor, text):
        with torch.no_grad():
            return model(**processor.queries([text])).embeddings[0, 1:-1]

    documents = {pair["en"]: vectors(*base, pair["en"]) for pair in texts}

    def rank(model, processor):
        found = 0.0
        for pair in texts:
            query = vectors(model, processor, pair["sw"])
            scores = {text: (query @ own.T).max(1).values.sum() for text, own in documents.items()}
            found += 1 / sum(score >= scores[pair["en"]] for score in scores.values())
        return found / len(texts)

    ranks = [float(rank(*reader)) for reader in ((model, processor), (extended, words))]
    assert f"{ranks[0]:.3f} in pieces, {ranks[1]:.3f} with new words" in caplog.text
    assert ranks[1] > ranks[0] + 0.1


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
    assert chosen.vocabulary.tokens == [] and chosen.vocabulary.rows.shape == (0, 384)


def test_few_pairs_decide_nothing(base, pairs):
    learn = partial(learn_vocabulary, *base, language="sw")
    few = pairs.select(range(100))
    assert choose_words(*base, few, learn, *base, "sw").vocabulary.tokens == learn(few).tokens


@pytest.fixture(scope="module")
def read_already(pairs):
    """Pairs in a language that the base reads: English."""
    return load_bitext([{"translation": {"xx": pair["en"], "en": pair["en"]}} for pair in pairs["translation"]], "xx")


def test_a_base_that_finds_most_translations_reads_the_language(base, pairs, read_already):
    words = learn_vocabulary(*base, pairs, "sw")
    chosen = choose_words(*base, read_already, lambda some: words, *base, "xx", max_pairs=20)
    assert chosen.base_reads and chosen.vocabulary.tokens == []


def test_a_pack_whose_base_reads_the_language_is_applied_in_part(base, read_already, tmp_path):
    # A word that the base lacks, so that there is something to choose.
    odd = [{"translation": {"xx": "mzuqo " + pair["xx"], "en": pair["en"]}} for pair in read_already["translation"]]

    def make(strength: float | None = None, **options) -> OTDistillationTrainer:
        settings = {"output_dir": str(tmp_path), "language": "xx", "use_cpu": True, "eval_strategy": "no"}
        args = OTDistillationConfig(**settings, strength=strength)
        models = OpticalModel.from_pretrained(MINILM), base[0], args, odd, None, base[1], base[1]
        return OTDistillationTrainer(*models, **options)

    assert make().language_pack().strength == 0.5
    dora = LoraConfig(r=2, target_modules=["query"], use_dora=True)
    assert make(peft_config=dora).language_pack().strength == 1.0
    with pytest.raises(ValueError, match="strength must be .*since an adapter with DoRA cannot be applied in part"):
        make(0.5, peft_config=dora)
