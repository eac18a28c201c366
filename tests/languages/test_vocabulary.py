from __future__ import annotations

import pytest
import torch
from datasets import Dataset
from huggingface_hub.utils import filter_repo_objects
from peft import LoraConfig
from tiny import ARCHITECTURES, DEMO, MINILM, tiny_checkpoint

from hf_optical import LanguagePack, OpticalModel, OpticalProcessor, OpticalRetriever, load_bitext
from hf_optical.languages import (
    Vocabulary,
    activate,
    add_adapter,
    default_lora_config,
    extend_processor,
    languages,
    learn_vocabulary,
    remove,
)
from hf_optical.languages.vocabulary import spelled_alike
from hf_optical.model.layout import _PATTERNS


ENGLISH = ["Where is the market?", "The children carry water; it isn't far.", ""]
SWAHILI = ["Kwa nini unaendesha haraka hivyo kwenye barabara mbaya?", "Basi hili linaweza kubeba abiria wangapi?"]


@pytest.fixture(scope="session")
def pairs():
    return load_bitext(DEMO / "train.jsonl", "sw")


@pytest.fixture(scope="session", params=sorted(ARCHITECTURES))
def folder(request, tmp_path_factory):
    return tiny_checkpoint(tmp_path_factory.mktemp("base"), request.param)


def teach(model, processor, pairs, language="sw"):
    """Adds the words of the pairs, with an adapter that does something."""
    vocabulary = learn_vocabulary(model, processor, pairs, "sw")
    add_adapter(model, language, default_lora_config(model, rank=2, embeddings=False), vocabulary)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if f".lora_B.language_{language}" in name:
                weight.normal_(std=0.1)
    model.eval()
    return vocabulary, extend_processor(processor, vocabulary.tokens)


def test_new_words_are_one_token_and_english_is_as_before(folder, pairs):
    model, processor = OpticalModel.from_pretrained(folder), OpticalProcessor.from_pretrained(folder)
    before = [model(**processor.queries([text])).embeddings for text in ENGLISH]
    ids = processor.queries(ENGLISH)["input_ids"]
    vocabulary, extended = teach(model, processor, pairs)
    size = model.config.encoder_config.vocab_size
    for position, word in enumerate(vocabulary.tokens):
        assert extended.tokenizer(word, add_special_tokens=False)["input_ids"] == [size + position], word
    assert torch.equal(processor.queries(ENGLISH)["input_ids"], ids), "the tokenizer given was changed"
    assert (extended.queries(SWAHILI)["input_ids"] >= size).any(1).all()
    activate(model, None)
    for text, embeddings in zip(ENGLISH, before, strict=True):
        assert torch.equal(model(**processor.queries([text])).embeddings, embeddings)


def test_words_are_matched_whole(folder, pairs):
    processor = OpticalProcessor.from_pretrained(folder)
    extended = extend_processor(processor, ["mzuqo"])
    size = len(processor.tokenizer)
    tokenize = extended.tokenizer
    assert size in tokenize("Leta mzuqo, tafadhali")["input_ids"]
    assert size not in tokenize("mzuqoni")["input_ids"] and size not in tokenize("umzuqo")["input_ids"]
    # Nothing is left of the space before the word.
    spaced = tokenize("leta mzuqo", add_special_tokens=False)["input_ids"]
    assert spaced == [*tokenize("leta", add_special_tokens=False)["input_ids"], size]


def test_a_row_starts_as_the_mean_of_its_translations(tiny_model, tiny_processor, pairs):
    from hf_optical.bitext.alignment import learn_lexicon, word_splitter

    vocabulary = learn_vocabulary(tiny_model, tiny_processor, pairs, "sw", translations=3)
    split, tokenizer = word_splitter(tiny_processor.tokenizer), tiny_processor.tokenizer
    lexicon = learn_lexicon(
        [split(pair["sw"]) for pair in pairs["translation"]],
        tokenizer([pair["en"] for pair in pairs["translation"]], add_special_tokens=False)["input_ids"],
    )
    weight = tiny_model.get_input_embeddings().weight
    for position in (0, 7, len(vocabulary.tokens) - 1):
        best = lexicon.top(vocabulary.tokens[position], 3)
        expected = sum(share * weight[token] for token, share in best) / sum(share for _, share in best)
        assert (vocabulary.rows[position] - expected).abs().max() < 1e-6


def test_rows_learn_and_nothing_of_the_base_does(folder, pairs):
    model, processor = OpticalModel.from_pretrained(folder), OpticalProcessor.from_pretrained(folder)
    fingerprint = model.fingerprint()
    _, extended = teach(model, processor, pairs)
    assert model.fingerprint() == fingerprint
    model.train()(**extended.queries(SWAHILI)).embeddings.sum().backward()
    trained = {name: weight.grad for name, weight in model.named_parameters() if weight.requires_grad}
    assert all(".lora_" in name or ".rows." in name for name in trained)
    assert all(gradient is not None and gradient.abs().sum() > 0 for gradient in trained.values())
    size = model.config.encoder_config.vocab_size
    used = extended.queries(SWAHILI)["input_ids"].unique()
    rows = next(gradient for name, gradient in trained.items() if ".rows." in name)
    assert set((rows.abs().sum(1) > 0).nonzero().flatten().tolist()) == {i - size for i in used.tolist() if i >= size}


def test_a_pack_brings_its_words(folder, pairs, tmp_path):
    model, processor = OpticalModel.from_pretrained(folder), OpticalProcessor.from_pretrained(folder)
    _, extended = teach(model, processor, pairs)
    expected = model(**extended.queries(SWAHILI)).embeddings
    LanguagePack.from_model(model, "sw", roles=processor.roles).save_pretrained(tmp_path / "pack")
    pack = LanguagePack.from_pretrained(tmp_path / "pack")
    saved = sum(path.stat().st_size for path in (tmp_path / "pack").glob("*.safetensors"))
    assert pack.num_bytes() <= saved <= pack.num_bytes() + 10_000
    retriever = OpticalRetriever.from_pretrained(tmp_path / "pack", device="cpu")
    inputs = retriever._processors["sw"].queries(SWAHILI)
    assert torch.equal(inputs["input_ids"], extended.queries(SWAHILI)["input_ids"])
    assert torch.equal(retriever.model(**inputs).embeddings, expected)
    for text, vectors in zip(SWAHILI, retriever.encode_queries(SWAHILI, batch_size=1), strict=True):
        assert torch.equal(vectors, model(**extended.queries([text])).embeddings[0])


def test_every_file_of_a_pack_is_fetched_from_the_hub(tiny_model, tiny_processor, pairs, tmp_path):
    teach(tiny_model, tiny_processor, pairs)
    LanguagePack.from_model(tiny_model, "sw", roles=tiny_processor.roles).save_pretrained(tmp_path)
    written = sorted(path.name for path in tmp_path.iterdir())
    assert "vocabulary.safetensors" in written
    assert list(filter_repo_objects(written, allow_patterns=_PATTERNS)) == written


def test_two_languages_with_words_do_not_disturb_each_other(tiny, tiny_model, tiny_processor, pairs):
    _, extended = teach(tiny_model, tiny_processor, pairs)
    alone = tiny_model(**extended.queries(SWAHILI)).embeddings
    teach(tiny_model, tiny_processor, pairs.select(range(50)), language="lo")
    other = extend_processor(tiny_processor, tiny_model.get_input_embeddings().tokens["language_lo"])
    tiny_model(**other.queries(SWAHILI))
    activate(tiny_model, "sw")
    assert torch.equal(tiny_model(**extended.queries(SWAHILI)).embeddings, alone)
    remove(tiny_model, "lo")
    assert torch.equal(tiny_model(**extended.queries(SWAHILI)).embeddings, alone)
    remove(tiny_model, "sw")
    bare = OpticalModel.from_pretrained(tiny)
    inputs = tiny_processor.queries(ENGLISH)
    assert torch.equal(tiny_model(**inputs).embeddings, bare(**inputs).embeddings)


def test_a_language_whose_every_word_is_one_token(tiny_model, tiny_processor):
    words = [word for word in tiny_processor.tokenizer.get_vocab() if word.isalpha() and len(word) > 2][:20]
    rows = [{"translation": {"en": "the water", "xx": f"{a} {b}"}} for a in words for b in words[:4]]
    vocabulary = learn_vocabulary(tiny_model, tiny_processor, Dataset.from_list(rows), "xx")
    assert vocabulary.tokens == [] and len(vocabulary.rows) == 0
    add_adapter(tiny_model, "xx", default_lora_config(tiny_model, rank=2), vocabulary)


def test_names_keep_the_pieces_that_the_teacher_reads(tiny_model, tiny_processor):
    rows = [
        {"translation": {"en": "Nkurunziza drinks water", "sw": "Nkurunziza anakunywa maji"}},
        {"translation": {"en": "where is Nkurunziza ?", "sw": "Nkurunziza yuko wapi ?"}},
        {"translation": {"en": "the Mercato of the town", "sw": "soko la mji"}},
        {"translation": {"en": "water of the town", "sw": "maji ya Mercato"}},
    ]
    vocabulary = learn_vocabulary(tiny_model, tiny_processor, Dataset.from_list(rows), "sw", min_count=1)
    assert "nkurunziza" not in vocabulary.tokens and {"anakunywa", "mercato"} <= set(vocabulary.tokens)
    every = learn_vocabulary(tiny_model, tiny_processor, Dataset.from_list(rows), "sw", min_count=1, max_alike=1.1)
    assert "nkurunziza" in every.tokens


def test_words_alike_by_a_naive_count():
    words = [["a", "b", "a"], ["a", "c"], ["b"]]
    translations = [["a", "x"], ["c"], ["b", "b"]]
    assert spelled_alike(words, translations) == {"a": 1 / 2, "c": 1.0, "b": 1 / 2}


@pytest.mark.parametrize(
    "text",
    ["ውሃ በገበያ ውስጥ አለ ውሃ", "बाज़ार में पानी है पानी", "ਪਾਣੀ ਬਾਜ਼ਾਰ", "มี น้ำ อยู่ใน ตลาด"],
    ids=["Amharic", "Marathi", "Punjabi", "Thai"],
)
def test_scripts_that_the_base_cannot_spell(text):
    model, processor = OpticalModel.from_pretrained(MINILM), OpticalProcessor.from_pretrained(MINILM)
    rows = [{"translation": {"en": "there is water in the market", "xx": text}}] * 3
    vocabulary = learn_vocabulary(model, processor, Dataset.from_list(rows), "xx")
    extended = extend_processor(processor, vocabulary.tokens)
    ids = extended.tokenizer(text, add_special_tokens=False)["input_ids"]
    assert vocabulary.tokens and extended.tokenizer.unk_token_id not in ids
    assert sum(i >= len(processor.tokenizer) for i in ids) >= 2


def test_words_beside_an_adapter_of_the_embeddings_are_refused(tiny_model):
    vocabulary = Vocabulary(["maji"], torch.zeros(1, 32))
    config = LoraConfig(target_modules=["word_embeddings"])
    with pytest.raises(ValueError, match="leave the word embeddings out"):
        add_adapter(tiny_model, "sw", config, vocabulary)
    assert languages(tiny_model) == []


def test_rows_of_another_size(tiny_model):
    with pytest.raises(ValueError, match=r"need \(1, 32\)"):
        add_adapter(
            tiny_model, "sw", default_lora_config(tiny_model, embeddings=False), Vocabulary(["a"], torch.zeros(1, 8))
        )
    assert languages(tiny_model) == []
