"""Whole words added to a tokenizer: composed and decomposed, and next to punctuation."""

from __future__ import annotations

import copy
import unicodedata

import pytest
import torch
from tiny import tiny_checkpoint, tiny_tokenizer
from tokenizers import normalizers, pre_tokenizers
from transformers import XLMRobertaTokenizer

from hf_optical import OpticalProcessor
from hf_optical.languages import extend_processor
from hf_optical.model.added_words import composing_normalizer, prepare_for_words


PIECES = ("▁", "▁Ni", "▁ni", "▁maji", "▁tu", *"?,.()'", *"abcdefghijklmnopqrstuvwxyzN")
EKO = unicodedata.normalize("NFC", "ẹ̀kọ́")


def tokenizer_of(kind: str):
    if kind == "xlm-roberta":
        special = ("<s>", "<pad>", "</s>", "<unk>")
        return XLMRobertaTokenizer(vocab=[*((name, 0.0) for name in special), *((piece, -5.0) for piece in PIECES)])
    tokenizer = tiny_tokenizer(kind.split()[0])
    if kind == "bpe with a space":
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    return tokenizer


KINDS = ("xlm-roberta", "unigram", "bpe", "bpe with a space", "wordpiece")


@pytest.fixture(params=KINDS)
def base(request):
    return OpticalProcessor(tokenizer_of(request.param))


def ids(processor: OpticalProcessor, text: str) -> list[int]:
    return processor.tokenizer(text, add_special_tokens=False)["input_ids"]


# Byte-level tokenizers without a space before the text have no space to lose, and split `maji` at the start of it.
@pytest.mark.parametrize("base", sorted({*KINDS} - {"bpe"}), indirect=True)
@pytest.mark.promise(
    "Text", "A new word changes no token around it: before punctuation there is no stray space token."
)
def test_tokens_around_a_new_word_are_those_of_the_base(base):
    """As they are around a word that the base has as one token."""
    new, known = "zuqo", "maji"
    extended, first = extend_processor(base, [new]), len(base.tokenizer)
    forms = [ids(base, form) for form in (known, f" {known}")]
    for text in ("Ni {}? Ni tu.", "{}. {}, tu", "tu {}'ni {}...", "{}"):
        expected = [first if [each] in forms else each for each in ids(base, text.replace("{}", known))]
        assert ids(extended, text.replace("{}", new)) == expected, text


def test_text_without_new_words_is_read_as_by_the_base(base):
    before = base.tokenizer.backend_tokenizer.to_str()
    extended = extend_processor(base, ["zuqo"])
    for text in ("", " ", "  a maji\tb  tu \n ni. ", "a▁b ▁tu", "Ni maji? (tu), 'ni'", "\u3000ni\xa0tu"):
        assert ids(extended, text) == ids(base, text), text
    assert base.tokenizer.backend_tokenizer.to_str() == before, "the base's tokenizer was changed"


@pytest.mark.promise("Text", "Composed and decomposed letters (NFC and NFD) are the same word of a language.")
def test_composed_and_decomposed_words_are_the_same(base):
    extended = extend_processor(base, ["eko" if base.tokenizer.tokenize("É") == ["e"] else EKO, "ilesa"])
    found = [ids(extended, unicodedata.normalize(form, f"wà {EKO}, ilésà {EKO}")) for form in ("NFC", "NFD")]
    assert found[0] == found[1] and found[0].count(len(base.tokenizer)) == 2
    # A similar word is found from decomposed letters too.
    typed = unicodedata.normalize("NFD", f"a{EKO}")
    assert extended.nearest_words(typed) in {EKO, "eko"}
    decomposed = extend_processor(base, [unicodedata.normalize("NFD", EKO)])
    if base.tokenizer.backend_tokenizer.normalizer is None:
        assert ids(decomposed, EKO) == [len(base.tokenizer)]


def test_rules_of_version_1_leave_the_tokenizer_as_it_is():
    base = OpticalProcessor(tokenizer_of("xlm-roberta"))
    old = extend_processor(base, ["zuqo"], rules=1)
    first = len(base.tokenizer)
    assert ids(old, "zuqo?") == [first, *ids(base, "▁"), *ids(base, "maji?")[1:]]
    assert ids(extend_processor(base, ["zuqo"]), "zuqo?") == [first, *ids(base, "maji?")[1:]]
    assert extend_processor(old, ["kitxbu"]).word_rules == 2 and extend_processor(base, []).word_rules == 1


@pytest.mark.parametrize(("kind", "nearest"), [("xlm-roberta", True), ("bpe", True), ("wordpiece", False)])
def test_rules_survive_saving(kind, nearest, tmp_path):
    tiny_checkpoint(tmp_path)
    extended = extend_processor(OpticalProcessor(tokenizer_of(kind)), ["zuqo", EKO])
    text = f"Ni zuqo? Ni {unicodedata.normalize('NFD', EKO)}, tu."
    if not nearest:
        extended.nearest_words = None
    extended.save_pretrained(tmp_path)
    opened = OpticalProcessor.from_pretrained(tmp_path)
    assert (opened.word_rules, opened.nearest_words is not None) == (2, nearest)
    assert torch.equal(opened.queries([text])["input_ids"], extended.queries([text])["input_ids"])


@pytest.mark.parametrize(
    ("kind", "rules", "read"),
    [
        ("unigram", 1, "Ni zuqoni, tu?"),
        ("wordpiece", 2, "Ni zuqoni, tu?"),
        ("bpe", 3, "Ni tuzuqoni zuqoni, tu?"),
        ("xlm-roberta", 3, "Ni tuzuqoni zuqoni, tu?"),
    ],
)
def test_nearest_word_replaces_or_follows_by_the_rules(kind, rules, read, tmp_path):
    """The same before saving, after it, and after learning words of documents."""
    tiny_checkpoint(tmp_path)
    extended = extend_processor(OpticalProcessor(tokenizer_of(kind)), ["zuqoni"], rules)
    extended.save_pretrained(tmp_path)
    opened, learned = (OpticalProcessor.from_pretrained(tmp_path) for _ in range(2))
    learned.add_known_words({"documents": {"habari": 1}})
    plain = OpticalProcessor(extended.tokenizer)
    for processor in (extended, opened, learned):
        assert processor.word_rules == rules
        for role in ("query", "document"):
            found, expected = processor(["Ni tuzuqoni, tu?"], role), plain([read], role)
            assert torch.equal(found["input_ids"], expected["input_ids"])


@pytest.mark.parametrize("base", ["xlm-roberta", "bpe"], indirect=True)
def test_preparing_twice_changes_nothing_more(base):
    tokenizer = copy.deepcopy(base.tokenizer)
    prepare_for_words(tokenizer)
    once = tokenizer.backend_tokenizer.to_str()
    prepare_for_words(tokenizer)
    assert tokenizer.backend_tokenizer.to_str() == once


def test_normalizers_that_compose_are_kept():
    tokenizer = tiny_tokenizer("bpe")
    for own, composes in ((normalizers.NFKC(), True), (normalizers.BertNormalizer(), True), (None, False)):
        tokenizer.backend_tokenizer.normalizer = own
        assert (str(composing_normalizer(tokenizer)) == str(own)) == composes
    tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()
    assert composing_normalizer(tokenizer).normalize_str("E\u0301") == "\u00e9"
