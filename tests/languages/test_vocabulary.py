from __future__ import annotations

import json
import re

import pytest
import torch
from datasets import Dataset
from huggingface_hub.utils import filter_repo_objects
from peft import LoraConfig
from tiny import DEMO, MINILM, SMALL, THAI, demo_pairs, tiny_checkpoint, tiny_tokenizer
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoConfig, AutoModel, BartConfig, BartModel, PreTrainedTokenizerFast

from hf_optical import LanguagePack, OpticalConfig, OpticalModel, OpticalProcessor, OpticalRetriever, load_bitext
from hf_optical.bitext.alignment import learn_lexicon
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
from hf_optical.languages.vocabulary import spelled_alike, words_to_add
from hf_optical.storage.fetching import _PATTERNS


ENGLISH = ["Where is the market?", "The children carry water; it isn't far.", ""]
SWAHILI = ["Kwa nini unaendesha haraka hivyo kwenye barabara mbaya?", "Basi hili linaweza kubeba abiria wangapi?"]


@pytest.fixture(scope="module")
def pairs():
    return load_bitext(DEMO / "train.jsonl", "sw")


# One for each kind of tokenizer. The last two have no normalizer.
@pytest.fixture(scope="module", params=["bert", "xlm-roberta", "modernbert"])
def folder(request, tmp_path_factory):
    return tiny_checkpoint(tmp_path_factory.mktemp("base"), request.param)


@pytest.fixture(scope="module")
def learned(folder, pairs):
    return learn_vocabulary(
        OpticalModel.from_pretrained(folder), OpticalProcessor.from_pretrained(folder), pairs, "sw"
    )


@pytest.fixture(scope="module")
def minilm():
    return OpticalModel.from_pretrained(MINILM), OpticalProcessor.from_pretrained(MINILM)


def teach(model, processor, pairs, language="sw", **options):
    """Add the words of the pairs, with an adapter of random weights."""
    return add_words(model, processor, learn_vocabulary(model, processor, pairs, "sw", **options), language)


def add_words(model, processor, vocabulary, language="sw"):
    add_adapter(model, language, default_lora_config(model, rank=2, embeddings=False), vocabulary)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if f".lora_B.language_{language}" in name:
                weight.normal_(std=0.1)
    model.eval()
    return vocabulary, extend_processor(processor, vocabulary.tokens)


def test_new_words_are_one_token_and_english_is_unchanged(folder, learned):
    model, processor = OpticalModel.from_pretrained(folder), OpticalProcessor.from_pretrained(folder)
    before = [model(**processor.queries([text])).embeddings for text in ENGLISH]
    ids = processor.queries(ENGLISH)["input_ids"]
    vocabulary, extended = add_words(model, processor, learned)
    if processor.tokenizer.backend_tokenizer.normalizer is None:
        assert any(word != word.lower() for word in vocabulary.tokens), "the text is kept as it is"
    size = model.config.encoder_config.vocab_size
    for position, word in enumerate(vocabulary.tokens):
        assert extended.tokenizer(word, add_special_tokens=False)["input_ids"] == [size + position], word
    assert torch.equal(processor.queries(ENGLISH)["input_ids"], ids), "the tokenizer given was changed"
    assert (extended.queries(SWAHILI)["input_ids"] >= size).any(1).all()
    activate(model, None)
    for text, embeddings in zip(ENGLISH, before, strict=True):
        assert torch.equal(model(**processor.queries([text])).embeddings, embeddings)


def test_only_whole_words_match(folder, pairs):
    processor = OpticalProcessor.from_pretrained(folder)
    extended = extend_processor(processor, ["mzuqo"])
    size = len(processor.tokenizer)
    tokenize = extended.tokenizer
    assert size in tokenize("Leta mzuqo, tafadhali")["input_ids"]
    assert size not in tokenize("mzuqoni")["input_ids"] and size not in tokenize("umzuqo")["input_ids"]
    # The space before the word leaves no token.
    spaced = tokenize("leta mzuqo", add_special_tokens=False)["input_ids"]
    assert spaced == [*tokenize("leta", add_special_tokens=False)["input_ids"], size]


def test_row_is_the_mean_of_its_translations(tiny_model, tiny_processor, pairs):
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


def test_training_changes_new_rows_and_nothing_of_the_base(folder, learned):
    model, processor = OpticalModel.from_pretrained(folder), OpticalProcessor.from_pretrained(folder)
    fingerprint = model.fingerprint()
    _, extended = add_words(model, processor, learned)
    assert model.fingerprint() == fingerprint
    model.train()(**extended.queries(SWAHILI)).embeddings.sum().backward()
    trained = {name: weight.grad for name, weight in model.named_parameters() if weight.requires_grad}
    assert all(".lora_" in name or ".rows." in name for name in trained)
    assert all(gradient is not None and gradient.abs().sum() > 0 for gradient in trained.values())
    size = model.config.encoder_config.vocab_size
    used = extended.queries(SWAHILI)["input_ids"].unique()
    rows = next(gradient for name, gradient in trained.items() if ".rows." in name)
    assert set((rows.abs().sum(1) > 0).nonzero().flatten().tolist()) == {i - size for i in used.tolist() if i >= size}


def test_pack_contains_its_words(folder, learned, tmp_path):
    model, processor = OpticalModel.from_pretrained(folder), OpticalProcessor.from_pretrained(folder)
    vocabulary, extended = add_words(model, processor, learned)
    expected = model(**extended.queries(SWAHILI)).embeddings
    LanguagePack.from_model(model, "sw", roles=processor.roles).save_pretrained(tmp_path / "pack")
    pack = LanguagePack.from_pretrained(tmp_path / "pack")
    saved = sum(path.stat().st_size for path in (tmp_path / "pack").glob("*.safetensors"))
    assert pack.num_bytes() <= saved <= pack.num_bytes() + 10_000
    retriever = OpticalRetriever.from_pretrained(tmp_path / "pack", device="cpu")
    inputs = retriever._processors["sw"].queries(SWAHILI)
    assert torch.equal(inputs["input_ids"], extended.queries(SWAHILI)["input_ids"])
    assert torch.equal(retriever.model(**inputs).embeddings, expected)
    texts = [*SWAHILI, "unaendeshaje barabarani", " ".join(vocabulary.tokens[:20])]
    for text, vectors in zip(texts, retriever.encode_queries(texts, batch_size=1), strict=True):
        assert torch.equal(vectors, model(**extended.queries([text])).embeddings[0])


def test_all_files_of_a_pack_are_downloaded(tiny_model, tiny_processor, tmp_path):
    add_words(tiny_model, tiny_processor, Vocabulary(["mzuqo"], torch.zeros(1, 32)))
    LanguagePack.from_model(tiny_model, "sw", roles=tiny_processor.roles).save_pretrained(tmp_path)
    written = sorted(path.name for path in tmp_path.iterdir())
    assert "vocabulary.safetensors" in written
    assert list(filter_repo_objects(written, allow_patterns=_PATTERNS)) == written


def test_words_of_two_languages_are_independent(tiny, tiny_model, tiny_processor, pairs):
    _, extended = teach(tiny_model, tiny_processor, pairs.select(range(200)))
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


def test_language_without_new_words(tiny_model, tiny_processor):
    words = [word for word in tiny_processor.tokenizer.get_vocab() if word.isalpha() and len(word) > 2][:20]
    rows = [{"translation": {"en": "the water", "xx": f"{a} {b}"}} for a in words for b in words[:4]]
    vocabulary = learn_vocabulary(tiny_model, tiny_processor, Dataset.from_list(rows), "xx")
    assert vocabulary.tokens == [] and len(vocabulary.rows) == 0
    add_adapter(tiny_model, "xx", default_lora_config(tiny_model, rank=2), vocabulary)


def test_names_are_not_added_as_words(tiny_model, tiny_processor):
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


def test_spelled_alike_equals_a_naive_count():
    words = [["a", "b", "a"], ["a", "c"], ["b"]]
    translations = [["a", "x"], ["c"], ["b", "b"]]
    assert spelled_alike(words, translations) == {"a": 1 / 2, "c": 1.0, "b": 1 / 2}


def test_words_of_a_script_without_spaces(minilm):
    """Repeated pieces of Thai text become tokens, wherever they are in a run of letters."""
    model, processor = minilm
    pairs = Dataset.from_list([{"translation": {"en": english, "th": thai}} for thai, english in THAI.items()])
    vocabulary = learn_vocabulary(model, processor, pairs, "th")
    extended = extend_processor(processor, vocabulary.tokens)
    unseen = "ครูอยู่ในตลาด"
    assert processor.tokenizer(unseen, add_special_tokens=False)["input_ids"] == [processor.tokenizer.unk_token_id]
    ids = extended.tokenizer(unseen, add_special_tokens=False)["input_ids"]
    assert sum(i >= len(processor.tokenizer) for i in ids) >= 2
    assert torch.equal(extended.queries(ENGLISH)["input_ids"], processor.queries(ENGLISH)["input_ids"])


@pytest.mark.parametrize(
    "text",
    ["ውሃ በገበያ ውስጥ አለ ውሃ", "बाज़ार में पानी है पानी"],
    ids=["Amharic", "Marathi"],
)
def test_words_of_scripts_unknown_to_the_base(minilm, text):
    model, processor = minilm
    rows = [{"translation": {"en": "there is water in the market", "xx": text}}] * 3
    vocabulary = learn_vocabulary(model, processor, Dataset.from_list(rows), "xx")
    extended = extend_processor(processor, vocabulary.tokens)
    ids = extended.tokenizer(text, add_special_tokens=False)["input_ids"]
    assert vocabulary.tokens and extended.tokenizer.unk_token_id not in ids
    assert sum(i >= len(processor.tokenizer) for i in ids) >= 2


def test_words_with_adapted_embeddings_raise(tiny_model):
    vocabulary = Vocabulary(["maji"], torch.zeros(1, 32))
    config = LoraConfig(target_modules=["word_embeddings"])
    with pytest.raises(ValueError, match="must leave the word embeddings out"):
        add_adapter(tiny_model, "sw", config, vocabulary)
    assert languages(tiny_model) == []


def test_rows_of_the_wrong_size_raise(tiny_model):
    with pytest.raises(ValueError, match=r"must have shape \(1, 32\)"):
        add_adapter(
            tiny_model, "sw", default_lora_config(tiny_model, embeddings=False), Vocabulary(["a"], torch.zeros(1, 8))
        )
    assert languages(tiny_model) == []


# Other kinds of bases.


def checkpoint(folder, tokenizer, spare: int = 0):
    """Create a tiny BERT for a tokenizer, with `spare` word embeddings that no token uses."""
    config = AutoConfig.for_model("bert", **SMALL, vocab_size=len(tokenizer) + spare, pad_token_id=0)
    OpticalModel(OpticalConfig(encoder_config=config), AutoModel.from_config(config)).save_pretrained(folder)
    OpticalProcessor(tokenizer).save_pretrained(folder)
    return OpticalModel.from_pretrained(folder), OpticalProcessor.from_pretrained(folder)


def test_base_with_more_embeddings_than_tokens(pairs, tmp_path):
    model, processor = checkpoint(tmp_path / "base", tiny_tokenizer("unigram"), spare=37)
    first, before = len(processor.tokenizer), [model(**processor.queries([text])).embeddings for text in ENGLISH]
    vocabulary, extended = teach(model, processor, pairs.select(range(200)))
    assert vocabulary.first_id == first and len(vocabulary.tokens) > 37
    ids = extended.tokenizer.convert_tokens_to_ids(vocabulary.tokens)
    assert ids == list(range(first, first + len(vocabulary.tokens)))
    # Each id gets its own row, including ids of the base's spare rows.
    found = model.get_input_embeddings()(torch.tensor(ids))
    assert torch.equal(found, vocabulary.rows)
    assert len(model.get_input_embeddings().weight) == first + 37
    activate(model, None)
    for text, embeddings in zip(ENGLISH, before, strict=True):
        assert torch.equal(model(**processor.queries([text])).embeddings, embeddings)
    activate(model, "sw")

    expected = [model(**extended.queries([text])).embeddings[0] for text in SWAHILI]
    LanguagePack.from_model(model, "sw", roles=processor.roles).save_pretrained(tmp_path / "pack")
    assert LanguagePack.from_pretrained(tmp_path / "pack").vocabulary.first_id == first
    retriever = OpticalRetriever.from_pretrained(tmp_path / "pack", device="cpu")
    retriever.save_pretrained(tmp_path / "retriever")
    for opened in (retriever, OpticalRetriever.from_pretrained(tmp_path / "retriever", device="cpu")):
        found = opened.encode_queries(SWAHILI, batch_size=1)
        assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
        base = opened.encode_queries(ENGLISH, language="base", batch_size=1)
        assert all(torch.equal(one, other[0]) for one, other in zip(base, before, strict=True))


def test_scaled_word_embeddings_raise(pairs):
    tokenizer = tiny_tokenizer("bpe")
    config = BartConfig(
        vocab_size=len(tokenizer), d_model=32, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=64, decoder_ffn_dim=64, scale_embedding=True,
        decoder_start_token_id=2, pad_token_id=0, bos_token_id=2, eos_token_id=3,
    )  # fmt: skip
    model, processor = (
        OpticalModel(OpticalConfig(encoder_config=config), BartModel(config)).eval(),
        OpticalProcessor(tokenizer),
    )
    inputs = processor.queries(ENGLISH)

    def state():
        flags = [(name, weight.requires_grad) for name, weight in model.named_parameters()]
        return [(name, type(module)) for name, module in model.named_modules()], flags, languages(model)

    before, expected = state(), model(**inputs).embeddings
    vocabulary = learn_vocabulary(model, processor, pairs.select(range(20)), "sw")
    with pytest.raises(ValueError, match=r"of type BartScaledWordEmbedding; set new_words=0 or"):
        add_adapter(model, "sw", default_lora_config(model, rank=2, embeddings=False), vocabulary)
    assert state() == before
    assert torch.equal(model(**inputs).embeddings, expected)
    # An adapter without words works, as the message says.
    add_adapter(model, "sw", default_lora_config(model, rank=2, embeddings=False))
    assert languages(model) == ["sw"]


def test_existing_tokens_raise():
    processor = OpticalProcessor(tiny_tokenizer("wordpiece"))
    before = processor.tokenizer.backend_tokenizer.to_str()
    known = max(processor.tokenizer.get_vocab(), key=lambda token: (token.isalpha() and token.isascii(), len(token)))
    with pytest.raises(ValueError, match=f"the tokenizer has '{known}' already; remove it from the new words"):
        extend_processor(processor, ["mzuqo", known])
    assert processor.tokenizer.backend_tokenizer.to_str() == before
    extended = extend_processor(processor, ["mzuqo"])
    with pytest.raises(ValueError, match="'mzuqo' already"):
        extend_processor(extended, ["mzuqo"])


@pytest.mark.parametrize("kind", ["unigram", "bpe", "wordpiece"])
def test_words_to_add_leaves_out_subword_tokens(kind):
    """A BPE tokenizer has `ter` as a part of `water`, so it cannot be added as a word."""
    tokenizer = tiny_tokenizer(kind)
    inner = "ter"
    if kind != "bpe":
        content = tokenizer.backend_tokenizer.to_str()
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=Tokenizer.from_str(_with_piece(content, kind)), **tokenizer.special_tokens_map
        )
        inner = "zuqo"
    assert inner in tokenizer.get_vocab()
    lexicon = learn_lexicon([[inner, "kitxbu", "water"]] * 3, [["a", "b", "c"]] * 3)
    added = words_to_add(lexicon, tokenizer)
    assert added == ["kitxbu"]
    extend_processor(OpticalProcessor(tokenizer), added)


def _with_piece(content: str, kind: str) -> str:
    tokenizer = json.loads(content)
    vocabulary = tokenizer["model"]["vocab"]
    if kind == "unigram":
        vocabulary.append(["zuqo", -9.0])
    else:
        vocabulary["zuqo"] = len(vocabulary)
    return json.dumps(tokenizer)


def words_of(code: str) -> list[str]:
    return sorted({word for pair in demo_pairs() for word in re.findall(r"\w+", pair[code])})


def every_word(kind: str) -> PreTrainedTokenizerFast:
    """A tokenizer with one token for every word of both languages, as those of multilingual models almost have."""
    words, names = sorted({*words_of("en"), *words_of("sw")}), ["<unk>", "<pad>"]
    characters = sorted({character for word in words for character in word} | set(".,;:?!'\"()-–’"))
    if kind == "unigram":
        pieces = [*((name, 0.0) for name in names), ("▁", -3.0), *((f"▁{word}", -5.0) for word in words)]
        backend = Tokenizer(models.Unigram([*pieces, *((piece, -12.0) for piece in characters)], unk_id=0))
        backend.pre_tokenizer = pre_tokenizers.Metaspace()
    else:
        # Byte-level: a word is one token after a space, and several at the start of a text.
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        vocabulary, merges = {piece: i for i, piece in enumerate([*names, *alphabet])}, {}
        level = pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=False)
        for word in words:
            spelled = level.pre_tokenize_str(word)[0][0]
            for end in range(2, len(spelled) + 1):
                vocabulary.setdefault(spelled[:end], len(vocabulary))
                merges[(spelled[: end - 1], spelled[end - 1])] = None
        backend = Tokenizer(models.BPE(vocabulary, list(merges), unk_token="<unk>"))
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", pad_token="<pad>")


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
def test_multilingual_base_gets_few_words_or_none(kind, pairs, tmp_path):
    model, processor = checkpoint(tmp_path, every_word(kind))
    pairs = pairs.select(range(100))
    vocabulary = learn_vocabulary(model, processor, pairs, "sw", min_count=1)
    assert vocabulary.tokens == [] and vocabulary.rows.shape == (0, 32)
    add_adapter(model, "sw", default_lora_config(model, rank=2), vocabulary)
    pack = LanguagePack.from_model(model, "sw", roles=processor.roles)
    assert pack.vocabulary is None
    # It gets the one word that it lacks.
    rows = [{"translation": {**pair, "sw": f"{pair['sw']} mzuqo"}} for pair in pairs["translation"]]
    assert learn_vocabulary(model, processor, Dataset.from_list(rows), "sw").tokens == ["mzuqo"]


@pytest.mark.parametrize("min_count", [1, 2])
def test_ten_pairs_are_enough_to_learn_words(tiny, pairs, tmp_path, min_count):
    """Even if all words that the base lacks occur only once."""
    model, processor = OpticalModel.from_pretrained(tiny), OpticalProcessor.from_pretrained(tiny)
    vocabulary, extended = teach(model, processor, pairs.select(range(10)), min_count=min_count)
    assert torch.isfinite(vocabulary.rows).all() and len(vocabulary.rows) == len(vocabulary.tokens)
    assert min_count > 1 or len(vocabulary.tokens) > 5
    expected = model(**extended.queries(SWAHILI)).embeddings
    assert torch.isfinite(expected).all()
    LanguagePack.from_model(model, "sw", roles=processor.roles).save_pretrained(tmp_path)
    opened = OpticalRetriever.from_pretrained(tmp_path, device="cpu")
    assert torch.equal(opened.model(**opened._processors["sw"].queries(SWAHILI)).embeddings, expected)
