import json

import pytest
import torch
from packs import TEXTS, WORDS, assert_equal, make_pack
from peft.tuners.tuners_utils import BaseTunerLayer
from tiny import ARCHITECTURES, SMALL, tiny_checkpoint, tiny_tokenizer, weights
from torch import nn
from transformers import AutoConfig, AutoModel, AutoTokenizer, BertTokenizer, RobertaTokenizer, XLMRobertaTokenizer

from hf_optical import LanguagePack, OpticalConfig, OpticalModel, OpticalProcessor, OpticalRetriever
from hf_optical.languages import (
    Vocabulary,
    activate,
    active_language,
    add_adapter,
    default_lora_config,
    extend_processor,
    languages,
    merge_language,
)
from hf_optical.languages.merging import unwrap
from hf_optical.languages.vocabulary import LanguageEmbedding


def teach(model, language, words=(), rank=4):
    """Add a language with random weights. Without words, its adapter includes the word embeddings."""
    size = model.get_input_embeddings().weight.shape[1]
    vocabulary = Vocabulary(list(words), torch.zeros(len(words), size)) if words else None
    add_adapter(model, language, default_lora_config(model, rank=rank, embeddings=not words), vocabulary)
    randomize(model, language)


def randomize(model, language):
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if f"language_{language}" in name:
                weight.normal_(std=0.2)
    model.eval()


@torch.no_grad()
def vectors(model, processor):
    output = model(**processor.queries(TEXTS))
    return output.embeddings[output.mask]


def state(model):
    trainable = [name for name, weight in model.named_parameters() if weight.requires_grad]
    modules = [(name, type(module), module.training) for name, module in model.named_modules()]
    return trainable, modules, languages(model), active_language(model), model.config.to_dict(), model.name_or_path


@pytest.fixture(scope="module")
def folder(request, tmp_path_factory):
    """A checkpoint of the architecture that the test names."""
    return tiny_checkpoint(tmp_path_factory.mktemp(request.param), request.param, projection_dim=16)


@pytest.mark.parametrize(
    ("folder", "words", "active"),
    [
        ("bert", [], "ha"),
        ("distilbert", WORDS, None),
        ("xlm-roberta", WORDS, "sw"),
        ("modernbert", WORDS, "ha"),
        ("deberta-v2", [], "sw"),
    ],
    indirect=["folder"],
)
def test_merged_model_agrees_with_the_pack_and_the_original_is_unchanged(folder, words, active):
    model, processor = OpticalModel.from_pretrained(folder), OpticalProcessor.from_pretrained(folder)
    teach(model, "sw", words)
    teach(model, "ha", ["umzuqo"] if words else [], rank=2)
    processor = extend_processor(processor, words) if words else processor
    activate(model, "sw")
    expected = vectors(model, processor)
    activate(model, active)
    before, bits = state(model), weights(model)

    merged = merge_language(model, "sw")
    assert state(model) == before
    assert all(torch.equal(weight, bits[name]) for name, weight in weights(model).items())
    assert (vectors(merged, processor) - expected).abs().max() <= 1e-5
    activate(model, None)
    bare = vectors(model, OpticalProcessor.from_pretrained(folder))
    assert bare.shape != expected.shape or (bare - expected).abs().max() > 0.1
    assert not {weight.data_ptr() for weight in merged.parameters()} & {w.data_ptr() for w in model.parameters()}

    # The merged model is an ordinary model.
    plain = OpticalModel.from_pretrained(folder)
    assert weights(merged).keys() == weights(plain).keys()
    assert [type(module) for module in merged.modules()] == [type(module) for module in plain.modules()]
    assert [weight.requires_grad for weight in merged.parameters()] == [w.requires_grad for w in plain.parameters()]
    size = plain.config.encoder_config.vocab_size + len(words)
    assert len(merged.get_input_embeddings().weight) == merged.config.encoder_config.vocab_size == size
    assert merged.get_input_embeddings().padding_idx == plain.get_input_embeddings().padding_idx
    assert (merged.name_or_path, languages(merged), active_language(merged)) == ("", [], None)
    teach(merged, "yo")  # it can be the base of other packs


def test_merging_leaves_out_the_words_of_other_languages(tiny_model, tiny_processor):
    teach(tiny_model, "ha", WORDS)
    teach(tiny_model, "sw")
    expected = vectors(tiny_model, tiny_processor)
    merged = merge_language(tiny_model, "sw")
    assert type(merged.get_input_embeddings()) is nn.Embedding
    assert len(merged.get_input_embeddings().weight) == len(tiny_processor.tokenizer)
    assert (vectors(merged, tiny_processor) - expected).abs().max() <= 1e-5


def test_merging_a_base_with_more_embeddings_than_tokens(tmp_path):
    """Embeddings of new words, which keep their ids, replace the spare rows of the base."""
    tokenizer = tiny_tokenizer("wordpiece")
    config = AutoConfig.for_model("bert", **SMALL, vocab_size=len(tokenizer) + 3, pad_token_id=0)
    OpticalModel(OpticalConfig(encoder_config=config), AutoModel.from_config(config)).save_pretrained(tmp_path)
    OpticalProcessor(tokenizer).save_pretrained(tmp_path)
    for words in (WORDS, [*WORDS, "xyzzyq", "plughq", "mzuqoni"]):
        retriever = OpticalRetriever.from_pretrained(tmp_path, device="cpu")
        model = retriever.model
        vocabulary = Vocabulary(words, torch.zeros(len(words), 32), first_id=len(tokenizer))
        add_adapter(model, "sw", default_lora_config(model, rank=4, embeddings=False), vocabulary)
        randomize(model, "sw")
        pack = LanguagePack.from_model(model, "sw", roles=retriever.processor.roles)
        retriever.remove_language("sw")
        retriever.add_language("sw", pack)
        texts = [*TEXTS, " ".join(words)]
        expected = retriever.encode_queries(texts, language="sw")
        merged = retriever.merge("sw")
        assert_equal(merged.encode_queries(texts), expected, tolerance=1e-5)
        assert len(merged.model.get_input_embeddings().weight) == len(tokenizer) + len(words)
        assert len(model.get_input_embeddings().weight) == len(tokenizer) + 3
        folder = tmp_path / f"merged-{len(words)}"
        merged.save_pretrained(folder)
        again = OpticalRetriever.from_pretrained(folder, device="cpu")
        assert_equal(again.encode_queries(texts), merged.encode_queries(texts))


def test_merging_an_unknown_language_raises(tiny_model):
    teach(tiny_model, "ha")
    with pytest.raises(KeyError, match="no pack for language 'sw' is open .open: ha.; add it first"):
        merge_language(tiny_model, "sw")
    assert active_language(tiny_model) == "ha"


@pytest.mark.parametrize(
    ("folder", "words"), [("bert", WORDS), ("modernbert", []), ("deberta-v2", WORDS)], indirect=["folder"]
)
def test_unwrap_restores_the_base(folder, words):
    model, processor = OpticalModel.from_pretrained(folder), OpticalProcessor.from_pretrained(folder)
    modules = [(name, type(module)) for name, module in model.named_modules()]
    base, bits, embedding = vectors(model, processor), weights(model), model.get_input_embeddings().weight
    for language in ("ha", "sw"):
        teach(model, language, words)
    assert any(isinstance(module, (BaseTunerLayer, LanguageEmbedding)) for module in model.modules())
    unwrap(model)
    assert [(name, type(module)) for name, module in model.named_modules()] == modules
    assert model.get_input_embeddings().weight is embedding
    assert weights(model).keys() == bits.keys()
    assert all(torch.equal(weight, bits[name]) for name, weight in weights(model).items())
    assert torch.equal(vectors(model, processor), base)
    assert languages(model) == []
    unwrap(model)  # does nothing, and raises no error
    teach(model, "ha", words)
    assert languages(model) == ["ha"]


# Comparison with other libraries, as a retriever.


def tokenizer_model(kind):
    return json.loads(tiny_tokenizer(kind).backend_tokenizer.to_str())["model"]


def bert_tokenizer():
    return BertTokenizer(vocab=tokenizer_model("wordpiece")["vocab"])


def roberta_tokenizer():
    model, names = tokenizer_model("bpe"), tiny_tokenizer("bpe").special_tokens_map
    names |= {"bos_token": names["cls_token"], "eos_token": names["sep_token"]}
    return RobertaTokenizer(vocab=model["vocab"], merges=[tuple(merge) for merge in model["merges"]], **names)


def xlm_roberta_tokenizer():
    return XLMRobertaTokenizer(vocab=[tuple(piece) for piece in tokenizer_model("unigram")["vocab"]])


@pytest.fixture
def published(request, tmp_path_factory):
    """Checkpoints like those on the Hub, with the tokenizer class of the architecture."""
    folder = tmp_path_factory.mktemp(request.param)
    with pytest.MonkeyPatch.context() as patch:
        shape = {**SMALL, "type_vocab_size": 1, "max_position_embeddings": 514}
        patch.setitem(ARCHITECTURES, "roberta", (shape, "bpe"))
        tiny_checkpoint(folder, request.param, projection_dim=16)
    own = {"bert": bert_tokenizer, "roberta": roberta_tokenizer, "xlm-roberta": xlm_roberta_tokenizer}
    tokenizer = own[request.param]()
    OpticalProcessor(tokenizer).save_pretrained(folder)
    assert type(AutoTokenizer.from_pretrained(folder)) is type(tokenizer)
    return folder


@pytest.mark.parametrize(
    ("published", "words"),
    [("bert", WORDS), ("roberta", []), ("xlm-roberta", WORDS)],
    indirect=["published"],
)
def test_other_libraries_open_the_merged_model(published, words, tmp_path):
    from sentence_transformers import MultiVectorEncoder

    retriever = OpticalRetriever.from_pretrained(published, device="cpu")
    retriever.add_language("sw", make_pack(published, "sw", 7, words, query_length=30))
    retriever.add_language("ha", make_pack(published, "ha", 8, ["umzuqo"], rank=2))
    expected, bits = retriever.encode_queries(TEXTS, language="sw"), weights(retriever.model)
    languages = {code: retriever.encode_queries(TEXTS, language=[code] * len(TEXTS)) for code in ("sw", "ha", "base")}

    merged = retriever.merge("sw")
    assert (merged.languages, merged.language) == ([], "base")
    queries = merged.encode_queries(TEXTS)
    assert_equal(queries, expected, tolerance=1e-5)
    assert max(len(vectors) for vectors in queries) <= 30
    assert (retriever.languages, retriever.language) == (["sw", "ha"], "base")
    assert all(torch.equal(weight, bits[name]) for name, weight in weights(retriever.model).items())
    for code, vectors in languages.items():
        assert_equal(retriever.encode_queries(TEXTS, language=[code] * len(TEXTS)), vectors)

    merged.save_pretrained(tmp_path)
    assert not (tmp_path / "language_packs").exists() and not (tmp_path / "languages.json").exists()
    again = OpticalRetriever.from_pretrained(tmp_path, device="cpu")
    assert_equal(again.encode_queries(TEXTS), queries)
    assert_equal(again.encode_documents(TEXTS), merged.encode_documents(TEXTS))

    encoder, report = AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert not any(report.values()), report
    assert encoder.config.vocab_size == len(tokenizer) == len(encoder.get_input_embeddings().weight)
    assert len(tokenizer) == len(AutoTokenizer.from_pretrained(published)) + len(words)
    for text, vectors in zip(TEXTS, merged.encode_queries(TEXTS, batch_size=1), strict=True):
        ids = tokenizer(text, truncation=True, max_length=30, return_tensors="pt")
        assert torch.equal(ids["input_ids"], merged.processor.queries([text])["input_ids"])
        with torch.no_grad():
            hidden = encoder.eval()(ids["input_ids"], ids["attention_mask"]).last_hidden_state[0]
            hidden = torch.nn.functional.normalize(merged.model.projection(hidden), dim=-1)
        assert torch.equal(hidden, vectors)

    peer = MultiVectorEncoder(str(tmp_path), device="cpu")
    for found, other in (
        (queries, peer.encode_query(TEXTS)),
        (merged.encode_documents(TEXTS), peer.encode_document(TEXTS)),
    ):
        assert_equal([torch.as_tensor(vectors) for vectors in other], found, tolerance=1e-6)
