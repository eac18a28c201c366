from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from packs import WORDS
from tiny import THAI, tiny_checkpoint

from hf_optical import OpticalProcessor, OpticalRetriever
from hf_optical.plots.words import read_words


SENTENCE = "Mtoto wangu, Baraka, hanywi maji  baridi."


def words_of(text: str, read) -> list[str]:
    return [text[start:stop] for start, stop in read.spans]


@pytest.fixture(scope="module", params=["bert", "xlm-roberta", "modernbert"])
def any_retriever(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    return OpticalRetriever.from_pretrained(tiny_checkpoint(folder, request.param), device="cpu")


def test_words_do_not_depend_on_the_tokenizer(any_retriever):
    read = read_words(any_retriever, SENTENCE, "query", "base")

    assert words_of(SENTENCE, read) == ["Mtoto", "wangu", ",", "Baraka", ",", "hanywi", "maji", "baridi", "."]
    assert read.words.sum(0).tolist() == [1] * len(read.ids)
    tokenizer = any_retriever.processor.tokenizer
    for word, row in zip(words_of(SENTENCE, read), read.words, strict=True):
        spelled = tokenizer.decode(read.ids[row.bool()]).replace(" ", "")
        assert spelled.replace("##", "").lower() == word.lower() or tokenizer.unk_token in spelled
    # Their vectors are those used in matching, without [CLS] and [SEP].
    (vectors,) = any_retriever.encode_queries([SENTENCE])
    assert torch.equal(read.vectors, vectors[1:-1])
    # Skipped tokens of documents are left out.
    read = read_words(any_retriever, SENTENCE, "document", "base")
    assert words_of(SENTENCE, read) == ["Mtoto", "wangu", "Baraka", "hanywi", "maji", "baridi"]
    (vectors,) = any_retriever.encode_documents([SENTENCE])
    assert torch.equal(read.vectors, vectors[1:-1])


@pytest.mark.parametrize("rules", [2, 3])
def test_tokens_of_a_nearest_word_belong_to_the_word_in_the_text(tiny, rules):
    """Whether the nearest word replaces the word or follows it."""
    processor = OpticalProcessor.from_pretrained(tiny, nearest_words=["watoto", "barabara"], word_rules=rules)
    retriever = OpticalRetriever(OpticalRetriever.from_pretrained(tiny).model, processor)
    text = "ulibarabara! watotoni  leo"

    own = {2: ["barabara", "!", "watoto", "leo"], 3: ["ulibarabara barabara", "!", "watotoni watoto", "leo"]}[rules]
    read = read_words(retriever, text, "query", "base")
    assert words_of(text, read) == ["ulibarabara", "!", "watotoni", "leo"]
    tokens = [processor.tokenizer.convert_ids_to_tokens(read.ids[row.bool()]) for row in read.words]
    assert tokens == [processor.tokenizer.tokenize(each) for each in own]
    (vectors,) = retriever.encode_queries([text])
    assert torch.equal(read.vectors, vectors[1:-1])


def test_errors_are_repaired_in_queries_and_stay_in_documents(tiny):
    """A repair changes the number of tokens, so that the words after it would have wrong vectors."""
    processor = OpticalProcessor.from_pretrained(tiny, known_words={"language": {"maji": 90, "wangu": 9}})
    retriever = OpticalRetriever(OpticalRetriever.from_pretrained(tiny).model, processor)
    text, tokenizer = "mzqou mjai baridi", processor.tokenizer
    for role, own in (("query", ["mzqou", "maji", "baridi"]), ("document", ["mzqou", "mjai", "baridi"])):
        read = read_words(retriever, text, role, "base")
        assert words_of(text, read) == text.split()
        tokens = [tokenizer.convert_ids_to_tokens(read.ids[row.bool()]) for row in read.words]
        assert tokens == [tokenizer.tokenize(each) for each in own], role


def test_markers_expansion_and_truncation(tiny):
    processor = OpticalProcessor.from_pretrained(
        tiny, query_marker="[PAD]", query_length=8, query_expansion=True, attend_to_expansion=True
    )
    retriever = OpticalRetriever(OpticalRetriever.from_pretrained(tiny).model, processor)

    short = read_words(retriever, "the water", "query", "base")
    assert words_of("the water", short) == ["the", "water"] and len(short.ids) == 2
    text = "the water is in the market and cold"
    assert words_of(text, read_words(retriever, text, "query", "base")) == ["the", "water", "is", "in", "the"]


def test_prompt_is_not_part_of_the_words(any_retriever):
    prompts = {"query_prompt": "maji: ", "document_prompt": "the water "}
    processor = OpticalProcessor(any_retriever.processor.tokenizer, **prompts)
    retriever = OpticalRetriever(any_retriever.model, processor)
    for role, encode in (("query", retriever.encode_queries), ("document", retriever.encode_documents)):
        read = read_words(retriever, "maji baridi", role, "base")
        assert words_of("maji baridi", read) == ["maji", "baridi"]
        (vectors,) = encode(["maji baridi"])
        # [CLS] and the prompt come before the text, [SEP] after it.
        assert torch.equal(read.vectors, vectors[-1 - len(read.ids) : -1]) and len(vectors) >= len(read.ids) + 4


def test_special_tokens_in_the_text_are_not_words(retriever):
    text = "[CLS] maji [SEP] baridi [MASK]"
    assert words_of(text, read_words(retriever, text, "query", "base")) == ["maji", "baridi"]


def test_pack_encodes_its_new_words(retriever):
    text = f"{WORDS[0]} maji"
    read = read_words(retriever, text, "query", "sw")
    assert words_of(text, read) == [WORDS[0], "maji"] and len(read.ids) == 2
    assert torch.equal(read.vectors, retriever.encode_queries([text], language="sw")[0][1:-1])
    assert len(read_words(retriever, text, "query", "base").ids) > 2


def test_words_keep_apostrophes_hyphens_and_marks(retriever):
    text = "ng'ombe wa-moja ẹ̀kọ́ 25%"
    assert words_of(text, read_words(retriever, text, "query", "base")) == ["ng'ombe", "wa-moja", "ẹ̀kọ́", "25", "%"]


def test_each_token_is_a_word_in_scripts_without_spaces(any_retriever):
    text = next(iter(THAI))
    read = read_words(any_retriever, text, "query", "base")
    spans = read.spans
    assert spans[0][0] == 0 and spans[-1][1] == len(text)
    assert [stop for _, stop in spans[:-1]] == [start for start, _ in spans[1:]]


def test_text_without_words_is_refused(retriever):
    for text in ("   ", "[CLS]"):
        with pytest.raises(ValueError, match="no word"):
            read_words(retriever, text, "query", "base")


@settings(max_examples=20, deadline=None)
@given(st.text(st.characters(codec="utf-8"), max_size=40))
def test_every_token_of_any_text_has_a_word(any_retriever, text):
    try:
        read = read_words(any_retriever, text, "query", "base")
    except ValueError:
        return
    assert read.words.sum(0).tolist() == [1] * len(read.vectors) and (read.words.sum(1) > 0).all()
    assert all(start < stop for start, stop in read.spans) and read.spans == sorted(read.spans)
