from __future__ import annotations

import copy
import json
import unicodedata

import pytest
import torch
from tiny import MINILM, tiny_checkpoint, tiny_tokenizer
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from hf_optical import OpticalModel, OpticalProcessor
from hf_optical.model.processing_optical import punctuation_tokens
from hf_optical.storage.fetching import packaged_copy


KINDS = ("wordpiece", "unigram", "bpe")
TEXTS = ["The river rises in the hills.", "", "Mto, unaanza wapi?", " \t\n", "🦒 !", "word " * 300]


@pytest.fixture(scope="module", params=KINDS)
def trained(request):
    return tiny_tokenizer(request.param)


@pytest.fixture
def tokenizer(trained):
    """A tokenizer of each kind, new for every test."""
    return copy.deepcopy(trained)


@pytest.fixture(scope="module")
def minilm():
    return OpticalProcessor.from_pretrained(MINILM)


def plain_tokenizer(vocabulary: dict[str, int], model=models.WordLevel, **names) -> PreTrainedTokenizerFast:
    """A tokenizer without special tokens around a text."""
    backend = Tokenizer(model(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]", **names)


def ids_by_hand(tokenizer, text, marker, length):
    words = tokenizer.convert_tokens_to_ids(tokenizer.tokenize(text))
    marker = [] if marker is None else tokenizer.convert_tokens_to_ids([marker])
    words = words[: length - 2 - len(marker)]
    return [tokenizer.cls_token_id, *marker, *words, tokenizer.sep_token_id]


def kept(processor, text):
    """The tokens of a document that take part in matching."""
    batch = processor.documents([text])
    return processor.tokenizer.convert_ids_to_tokens(batch["input_ids"][batch["token_mask"]].tolist())


@pytest.mark.parametrize("marked", [False, True])
def test_ids_contain_marker_and_are_truncated(tokenizer, marked):
    vocabulary = tokenizer.get_vocab()
    query_marker, document_marker = sorted(set(vocabulary) - set(tokenizer.all_special_tokens))[100:102]
    markers = {"query_marker": query_marker, "document_marker": document_marker} if marked else {}
    processor = OpticalProcessor(tokenizer, query_length=9, document_length=21, **markers)
    for role, marker, length in (("query", query_marker, 9), ("document", document_marker, 21)):
        batch = processor(TEXTS, role)
        expected = [ids_by_hand(tokenizer, text, marker if marked else None, length) for text in TEXTS]
        width = max(map(len, expected))
        assert width == length
        assert batch["input_ids"].tolist() == [row + [tokenizer.pad_token_id] * (width - len(row)) for row in expected]
        assert batch["attention_mask"].tolist() == [[1] * len(row) + [0] * (width - len(row)) for row in expected]
        assert {name: tensor.dtype for name, tensor in batch.items()} == {
            "input_ids": torch.int64,
            "attention_mask": torch.int64,
            "token_mask": torch.bool,
        }


def test_all_query_tokens_take_part_in_matching(tiny_processor):
    batch = tiny_processor.queries(["Where, then?", "a"])
    assert torch.equal(batch["token_mask"], batch["attention_mask"].bool())


@pytest.mark.parametrize(("name", "marker"), [("query_marker", "two words"), ("document_marker", "[Q]")])
def test_marker_outside_the_vocabulary_raises(name, marker):
    with pytest.raises(ValueError) as caught:
        OpticalProcessor(tiny_tokenizer("bpe"), **{name: marker})
    assert f"{name} must be a token of this tokenizer, got {marker!r}" in str(caught.value)


def test_xlm_roberta_rejects_bert_markers(tmp_path):
    tiny_checkpoint(tmp_path, "xlm-roberta")
    with pytest.raises(ValueError, match=r"query_marker must be a token .* got '\[unused0\]'"):
        OpticalProcessor.from_pretrained(tmp_path, query_marker="[unused0]")
    path = tmp_path / "config_sentence_transformers.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "document_prefix": "[unused1] "}))
    with pytest.raises(ValueError, match=r"document_marker must be a token .* got '\[unused1\]'"):
        OpticalProcessor.from_pretrained(tmp_path)


def test_minilm_has_the_bert_markers():
    processor = OpticalProcessor.from_pretrained(MINILM, query_marker="[unused0]", document_marker="[unused1]")
    assert processor.queries(["hello"])["input_ids"].tolist() == [[101, 1, 7592, 102]]
    assert processor.documents(["hello"])["input_ids"].tolist() == [[101, 2, 7592, 102]]


def test_stored_marker_loses_its_trailing_space(tiny, tmp_path):
    processor = OpticalProcessor.from_pretrained(tiny, query_marker="the")
    processor.save_pretrained(tmp_path)
    path = tmp_path / "config_sentence_transformers.json"
    path.write_text(path.read_text().replace('"the"', '"the "'))
    (tmp_path / "config.json").write_bytes((tiny / "config.json").read_bytes())
    assert OpticalProcessor.from_pretrained(tmp_path).query_marker == "the"


@pytest.mark.parametrize(("role", "marker"), [("query", "the"), ("document", None)])
def test_length_without_room_for_a_word_raises(tiny, role, marker):
    shortest = 3 if marker is None else 4
    settings = {f"{role}_marker": marker}
    with pytest.raises(ValueError, match=f"{role}_length must be at least {shortest} .* got {shortest - 1}"):
        OpticalProcessor.from_pretrained(tiny, **{f"{role}_length": shortest - 1}, **settings)
    processor = OpticalProcessor.from_pretrained(tiny, **{f"{role}_length": shortest}, **settings)
    assert processor(["hills and rivers"], role)["input_ids"].shape == (1, shortest)


def test_query_expansion_fills_queries_with_mask_tokens(tokenizer):
    plain = OpticalProcessor(tokenizer, query_length=16)
    texts = ["Where?", "word " * 50, ""]
    for attend in (False, True):
        processor = OpticalProcessor(tokenizer, query_length=16, query_expansion=True, attend_to_expansion=attend)
        batch = processor.queries(texts)
        assert batch["input_ids"].shape == (3, 16)
        assert batch["token_mask"].all()
        for row, text in enumerate(texts):
            words = plain.queries([text])["input_ids"][0].tolist()
            assert batch["input_ids"][row].tolist() == words + [tokenizer.mask_token_id] * (16 - len(words))
            assert batch["attention_mask"][row].tolist() == [1] * len(words) + [int(attend)] * (16 - len(words))
    for name, tensor in plain.documents(texts).items():
        assert torch.equal(tensor, processor.documents(texts)[name])


def test_query_expansion_needs_a_mask_token():
    tokenizer = plain_tokenizer({"[UNK]": 0, "a": 1})
    with pytest.raises(ValueError, match="set query_expansion=False"):
        OpticalProcessor(tokenizer, query_expansion=True)


def test_expanded_query_vectors_do_not_depend_on_the_batch(tiny, tiny_model):
    processor = OpticalProcessor.from_pretrained(tiny, query_expansion=True, query_length=16)
    texts = ["Where does the river begin?", "Why?"]
    together = tiny_model(**processor.queries(texts)).embeddings
    for row, text in enumerate(texts):
        alone = tiny_model(**processor.queries([text])).embeddings[0]
        assert (alone - together[row]).abs().max() <= 1e-6


def test_tokenizer_without_special_tokens_gives_every_text_a_token():
    tokenizer = plain_tokenizer({"[UNK]": 0, "a": 1, "b": 2, "M": 3, "!": 4})
    processor = OpticalProcessor(tokenizer, query_marker="M", query_length=3)
    assert processor.queries(["a b a b", "b"])["input_ids"].tolist() == [[3, 1, 2], [3, 2, 0]]
    documents = processor.documents(["a !", "!", ""])
    assert documents["input_ids"].tolist() == [[1, 4], [4, 0], [0, 0]]
    # Every text has a vector: one of skipped tokens keeps them, and an empty one gets an unknown token.
    assert documents["token_mask"].tolist() == [[True, False], [True, False], [True, False]]
    assert processor.queries([""])["input_ids"].tolist() == [[3]]


def test_punctuation_is_defined_by_unicode_categories(minilm):
    vocabulary = minilm.tokenizer.get_vocab()
    skipped = set(minilm.skip_tokens)
    assert {"!", ",", "。", "।", "、", "«", "###", "##。", "€", "+", "“"} & vocabulary.keys() <= skipped
    assert len({"!", ",", "。", "।", "、"} & skipped) == 5
    assert not skipped & {*minilm.tokenizer.all_special_tokens, "[unused0]", "a", "##s", "1", "²", "ー"}
    for token in set(vocabulary) - set(minilm.tokenizer.all_special_tokens):
        surface = token[2:] if token.startswith("##") and len(token) > 2 else token
        assert (token in skipped) == all(unicodedata.category(c)[0] in "PS" for c in surface), token


def test_tokens_are_skipped_in_documents_only(minilm):
    text = "Yes, «the Nile» ends here। Seen ☃!"
    assert kept(minilm, text) == ["[CLS]", "yes", "the", "nile", "ends", "here", "seen", "[UNK]", "[SEP]"]
    assert minilm.queries([text])["token_mask"].all()


def test_punctuation_of_metaspace_and_byte_level_tokenizers():
    for kind, marked in (("unigram", "▁"), ("bpe", "Ġ")):
        tokenizer = tiny_tokenizer(kind)
        tokenizer.add_tokens(["?!", "。", f"{marked}¡", "a!"])
        skipped = punctuation_tokens(tokenizer)
        assert {".", "?!", "。"} <= set(skipped)
        assert marked not in skipped and "a!" not in skipped
        assert not set(skipped) & set(tokenizer.all_special_tokens)
    # The last tokenizer has a token for every byte. Those above ASCII are parts of characters.
    ascii_marks = {chr(i) for i in range(33, 127) if unicodedata.category(chr(i))[0] in "PS"}
    assert {token for token in skipped if len(token) == 1} == ascii_marks | {"。"}


def test_special_tokens_are_not_punctuation():
    tokenizer = plain_tokenizer({"[UNK]": 0, "|": 1, "!": 2}, sep_token="|")
    assert punctuation_tokens(tokenizer) == ["!"]


def test_hash_signs_are_punctuation_outside_wordpiece():
    tokenizer = plain_tokenizer({"[UNK]": 0, "##": 1, "###": 2, "##a": 3, "#": 4})
    assert punctuation_tokens(tokenizer) == ["##", "###", "#"]


def test_unknown_and_special_tokens_are_never_skipped(tokenizer):
    skip = ["never seen", tokenizer.unk_token, tokenizer.cls_token, tokenizer.sep_token, "."]
    text = "\u0f40 ."
    unknown = tokenizer(text)["input_ids"].count(tokenizer.unk_token_id)
    assert unknown == (0 if "Ġ" in tokenizer.get_vocab() else 1)  # byte-level tokenizers know all words
    found = kept(OpticalProcessor(tokenizer, skip_tokens=skip), text)
    assert found[0] == tokenizer.cls_token and found[-1] == tokenizer.sep_token
    assert "." not in found
    assert found.count(tokenizer.unk_token) == unknown
    assert OpticalProcessor(tokenizer, skip_tokens=skip).skip_tokens == ["."]


def test_document_of_punctuation_keeps_its_special_tokens(tokenizer):
    processor = OpticalProcessor(tokenizer)
    # The space that some tokenizers put before the first word is not punctuation.
    assert set(kept(processor, "...")) - {"▁"} == {tokenizer.cls_token, tokenizer.sep_token}


def test_empty_skip_list_skips_nothing(tiny):
    batch = OpticalProcessor.from_pretrained(tiny, skip_tokens=[]).documents(["Yes, no.", "a"])
    assert torch.equal(batch["token_mask"], batch["attention_mask"].bool())


def test_unknown_name_of_a_skip_list_raises(tiny):
    with pytest.raises(ValueError, match="skip_tokens; see the arguments"):
        OpticalProcessor.from_pretrained(tiny, skip_tokens="none")


def test_long_and_invisible_texts_are_tokenized(minilm, caplog):
    limit = minilm.document_length
    texts = ["", "   ", "\n\t", "🦒🦒", "\u200b", "\x00", "a" * 100_000, "word " * 20_000, "[SEP] [PAD] [MASK]"]
    batch = minilm.documents(texts)
    assert batch["input_ids"].shape == (len(texts), limit)
    lengths = batch["attention_mask"].sum(dim=1).tolist()
    assert lengths[:3] == [2, 2, 2]
    assert lengths[7] == limit
    assert (batch["input_ids"][7, limit - 1]) == minilm.tokenizer.sep_token_id
    assert not caplog.records


def test_empty_list_gives_empty_tensors(tiny):
    processor = OpticalProcessor.from_pretrained(tiny, query_expansion=True, query_length=8)
    assert {name: tuple(tensor.shape) for name, tensor in processor.documents([]).items()} == {
        "input_ids": (0, 0),
        "attention_mask": (0, 0),
        "token_mask": (0, 0),
    }
    assert processor.queries([])["input_ids"].shape == (0, 8)


def test_single_string_raises(tiny_processor):
    for role in ("query", "document"):
        with pytest.raises(TypeError, match="texts must be a list of strings, got one string"):
            tiny_processor("Where?", role)


def test_prompt_precedes_the_text_and_counts_towards_the_length(tokenizer):
    marker = sorted(set(tokenizer.get_vocab()) - set(tokenizer.all_special_tokens))[100]
    processor = OpticalProcessor(
        tokenizer, query_marker=marker, query_prompt="Where is ", document_prompt="The ", query_length=9
    )
    texts = ["the river?", "", "a very long question, with many words in it"]
    batch = processor.queries(texts)
    for row, text in enumerate(texts):
        expected = ids_by_hand(tokenizer, "Where is " + text, marker, 9)
        assert batch["input_ids"][row, : len(expected)].tolist() == expected
    plain = OpticalProcessor(tokenizer)
    assert torch.equal(processor.documents(["river"])["input_ids"], plain.documents(["The river"])["input_ids"])


def test_nearest_words_are_not_applied_to_the_prompt(tokenizer):
    tokenizer.add_tokens([AddedToken("unakunywak", single_word=True, normalized=True, lstrip=True)])
    prompted = OpticalProcessor(tokenizer, nearest_words=["unakunywak"], query_prompt="zanakunywak ")
    bare = OpticalProcessor(tokenizer)
    expected = bare.queries(["zanakunywak unakunywak"])["input_ids"]
    assert torch.equal(prompted.queries(["zanakunywak"])["input_ids"], expected)


def test_unknown_role_raises(tiny_processor):
    with pytest.raises(ValueError, match="role must be one of 'query', 'document', got 'passage'"):
        tiny_processor(["Where?"], "passage")


def test_pad_stacks_batches_of_different_widths(tiny_processor):
    parts = [tiny_processor.documents([text, "x"]) for text in ("short.", "a rather longer text, with a comma")]
    found = tiny_processor.pad(parts)
    expected = tiny_processor.documents(["short.", "x", "a rather longer text, with a comma", "x"])
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor) and found[name].dtype == tensor.dtype, name


@pytest.mark.parametrize(
    "roles",
    [
        {"query_marker": "the", "document_marker": "a", "query_length": 10, "document_length": 30},
        {"query_expansion": True, "attend_to_expansion": True, "skip_tokens": ["the", "."]},
        {"query_prompt": "query: ", "document_prompt": " 'text' "},
        {"skip_tokens": []},
    ],
    ids=str,
)
def test_settings_survive_saving(tiny, tmp_path, roles):
    processor = OpticalProcessor.from_pretrained(tiny, **roles)
    for name, value in roles.items():
        assert getattr(processor, name) == value
    OpticalModel.from_pretrained(tiny).save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    reopened = OpticalProcessor.from_pretrained(tmp_path)
    assert reopened.roles == processor.roles
    assert repr(reopened) == repr(processor)
    assert OpticalProcessor(reopened.tokenizer, **processor.roles).roles == processor.roles
    for role in ("query", "document"):
        for name, tensor in processor(TEXTS, role).items():
            assert torch.equal(tensor, reopened(TEXTS, role)[name])
    assert OpticalProcessor.from_pretrained(tmp_path, query_length=7).query_length == 7


def test_default_lengths_of_a_plain_encoder(tiny, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    (tmp_path / "config.json").write_bytes((tiny / "config.json").read_bytes())
    for longest, expected in ((10**30, 256), (512, 256), (40, 40)):
        tokenizer.model_max_length = longest
        tokenizer.save_pretrained(tmp_path)
        assert OpticalProcessor.from_pretrained(tmp_path).document_length == expected
    (tmp_path / "sentence_bert_config.json").write_text('{"max_seq_length": 30}')
    assert OpticalProcessor.from_pretrained(tmp_path).document_length == 30


def state(tokenizer) -> tuple:
    attributes = {name: repr(value) for name, value in vars(tokenizer).items() if name != "_tokenizer"}
    return tokenizer.backend_tokenizer.to_str(), attributes, tokenizer.special_tokens_map


def test_tokenizer_is_not_changed(tokenizer, tmp_path):
    before = state(tokenizer)
    processor = OpticalProcessor(tokenizer, query_marker="a", query_expansion=True, query_length=8, document_length=16)
    for role in ("query", "document"):
        processor(TEXTS, role)
    assert state(tokenizer) == before
    processor.save_pretrained(tmp_path / "used")
    OpticalProcessor(tokenizer, **processor.roles).save_pretrained(tmp_path / "new")
    for path in (tmp_path / "new").iterdir():
        assert path.read_bytes() == (tmp_path / "used" / path.name).read_bytes()


def test_truncation_stored_in_a_tokenizer_is_ignored(minilm):
    """The published MiniLM tokenizer truncates and pads to 128 tokens."""
    stored = json.loads((packaged_copy(MINILM) / "tokenizer.json").read_text())
    assert stored["truncation"]["max_length"] == stored["padding"]["strategy"]["Fixed"] == 128
    assert minilm.documents(["word " * 300])["input_ids"].shape == (1, 256)
    assert minilm.documents(["word"])["input_ids"].shape == (1, 3)


UNSEEN = ["Where do zunakunywak drink?", "wanakunywak, maji", "", "Zanakunywak 7"]


def test_nearest_words_apply_to_queries_and_documents(tokenizer):
    tokenizer.add_tokens([AddedToken("unakunywak", single_word=True, normalized=True, lstrip=True)])
    processor = OpticalProcessor(tokenizer, nearest_words=["unakunywak"])
    plain = OpticalProcessor(tokenizer)
    assert plain.nearest_words is None and OpticalProcessor(tokenizer, nearest_words=[]).nearest_words is None
    replaced = ["Where do unakunywak drink?", "unakunywak, maji", "", "Zanakunywak 7"]
    for role in ("query", "document"):
        found, expected, without = processor(UNSEEN, role), plain(replaced, role), plain(UNSEEN, role)
        assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
        assert found["input_ids"].shape != without["input_ids"].shape
    assert tokenizer.convert_tokens_to_ids("unakunywak") in processor.queries(UNSEEN)["input_ids"][0]


def test_nearest_words_survive_saving(tiny, tmp_path):
    tokenizer = tiny_tokenizer("wordpiece")
    tokenizer.add_tokens([AddedToken("unakunywak", single_word=True, normalized=True, lstrip=True)])
    processor = OpticalProcessor(tokenizer, nearest_words=["unakunywak"], query_length=9)
    OpticalModel.from_pretrained(tiny).save_pretrained(tmp_path)
    for _ in range(2):
        processor.save_pretrained(tmp_path)
        reopened = OpticalProcessor.from_pretrained(tmp_path)
        assert reopened.nearest_words.words == ["unakunywak"]
        for role in ("query", "document"):
            expected = processor(UNSEEN, role)
            assert all(torch.equal(tensor, expected[name]) for name, tensor in reopened(UNSEEN, role).items())
        processor = copy.deepcopy(reopened)
    assert OpticalProcessor.from_pretrained(tmp_path, nearest_words=()).nearest_words is None
    # A processor without nearest words removes those saved before.
    OpticalProcessor(tokenizer).save_pretrained(tmp_path)
    assert not (tmp_path / "nearest_words.json").exists()
    assert OpticalProcessor.from_pretrained(tmp_path).nearest_words is None


def test_damaged_nearest_words_raise(tiny, tmp_path):
    OpticalModel.from_pretrained(tiny).save_pretrained(tmp_path)
    OpticalProcessor.from_pretrained(tiny, nearest_words=["unakunywak"]).save_pretrained(tmp_path)
    for content in ('{"words": ["unaku', '["unakunywak"]', "{}", '{"words": [3]}', '{"words": ["\\ud800"]}'):
        (tmp_path / "nearest_words.json").write_text(content)
        with pytest.raises(OSError, match=r"nearest_words\.json.* damaged"):
            OpticalProcessor.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    "settings",
    [
        *({"query_length": value} for value in (10.5, None, 10**6)),
        *({"document_length": 10**30}, {"document_prompt": 5}, {"query_prompt": "\ud800"}, {"query_expansion": "no"}),
        *({"skip_tokens": ["a", 3]}, {"query_marker": 5}),
    ],
    ids=str,
)
def test_settings_of_the_wrong_type_raise(tiny_processor, settings):
    (name,) = settings
    with pytest.raises(ValueError, match=f"wrong type or value of {name}"):
        OpticalProcessor(tiny_processor.tokenizer, **settings)


def test_invalid_nearest_words_raise(tiny_processor):
    tokenizer = tiny_processor.tokenizer
    assert OpticalProcessor(tokenizer, nearest_words=["a" * 1000]).nearest_words
    for word, wrong in (
        ("a" * 1001, "number 1 has 1001 characters"),
        ("\ud800", "number 1 contains half a character"),
    ):
        with pytest.raises(ValueError, match=f"the list of words is invalid: {wrong}"):
            OpticalProcessor(tokenizer, nearest_words=["maji", word])
