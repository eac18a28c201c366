from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from packs import WORDS
from tiny import THAI, demo_pairs, tiny_checkpoint

from hf_optical import OpticalProcessor, OpticalRetriever
from hf_optical.plots.words import read_words


SENTENCE = "Mtoto wangu, Baraka, hanywi maji  baridi."


def words_of(text: str, read) -> list[str]:
    return [text[start:stop] for start, stop in read.spans]


@pytest.fixture(scope="module", params=["bert", "xlm-roberta", "modernbert"])
def any_retriever(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    return OpticalRetriever.from_pretrained(tiny_checkpoint(folder, request.param), device="cpu")


def test_words_are_those_of_the_text_whatever_cuts_it_into_tokens(any_retriever):
    read = read_words(any_retriever, SENTENCE, "query", None)

    assert words_of(SENTENCE, read) == ["Mtoto", "wangu", ",", "Baraka", ",", "hanywi", "maji", "baridi", "."]
    assert read.words.sum(0).tolist() == [1] * len(read.ids)
    tokenizer = any_retriever.processor.tokenizer
    for word, row in zip(words_of(SENTENCE, read), read.words, strict=True):
        spelled = tokenizer.decode(read.ids[row.bool()]).replace(" ", "")
        assert spelled.replace("##", "").lower() == word.lower() or tokenizer.unk_token in spelled


def test_tokens_have_the_vectors_that_are_matched(any_retriever):
    for text in [pair["en"] for pair in demo_pairs()[:3]]:
        (vectors,) = any_retriever.encode_queries([text])
        read = read_words(any_retriever, text, "query", None)
        # All but [CLS] and [SEP].
        assert torch.equal(read.vectors, vectors[1:-1])


def test_documents_leave_out_what_is_skipped_in_matching(any_retriever):
    read = read_words(any_retriever, SENTENCE, "document", None)

    assert words_of(SENTENCE, read) == ["Mtoto", "wangu", "Baraka", "hanywi", "maji", "baridi"]
    (vectors,) = any_retriever.encode_documents([SENTENCE])
    assert torch.equal(read.vectors, vectors[1:-1])


def test_a_word_read_as_its_nearest_keeps_its_own_place(tiny):
    processor = OpticalProcessor.from_pretrained(tiny, nearest_words=["watoto", "barabara"])
    retriever = OpticalRetriever(OpticalRetriever.from_pretrained(tiny).model, processor)
    text = "ulibarabara! watotoni  leo"

    assert processor.nearest_words(text) != text
    read = read_words(retriever, text, "query", None)
    assert words_of(text, read) == ["ulibarabara", "!", "watotoni", "leo"]
    (vectors,) = retriever.encode_queries([text])
    assert torch.equal(read.vectors, vectors[1:-1])


def test_markers_expansion_and_cuts_change_nothing_but_what_is_cut(tiny):
    processor = OpticalProcessor.from_pretrained(
        tiny, query_marker="[PAD]", query_length=8, query_expansion=True, attend_to_expansion=True
    )
    retriever = OpticalRetriever(OpticalRetriever.from_pretrained(tiny).model, processor)

    short = read_words(retriever, "the water", "query", None)
    assert words_of("the water", short) == ["the", "water"] and len(short.ids) == 2
    text = "the water is in the market and cold"
    assert words_of(text, read_words(retriever, text, "query", None)) == ["the", "water", "is", "in", "the"]


def test_a_prompt_is_no_word_of_the_text(any_retriever):
    prompts = {"query_prompt": "maji: ", "document_prompt": "the water "}
    processor = OpticalProcessor(any_retriever.processor.tokenizer, **prompts)
    retriever = OpticalRetriever(any_retriever.model, processor)
    for role, encode in (("query", retriever.encode_queries), ("document", retriever.encode_documents)):
        read = read_words(retriever, "maji baridi", role, None)
        assert words_of("maji baridi", read) == ["maji", "baridi"]
        (vectors,) = encode(["maji baridi"])
        # Behind it comes [SEP] alone, before it [CLS] and the prompt.
        assert torch.equal(read.vectors, vectors[-1 - len(read.ids) : -1]) and len(vectors) >= len(read.ids) + 4


def test_special_tokens_that_are_typed_are_no_words(retriever):
    text = "[CLS] maji [SEP] baridi [MASK]"
    assert words_of(text, read_words(retriever, text, "query", None)) == ["maji", "baridi"]


def test_the_pack_reads_its_own_words(retriever):
    text = f"{WORDS[0]} maji"
    read = read_words(retriever, text, "query", "sw")
    assert words_of(text, read) == [WORDS[0], "maji"] and len(read.ids) == 2
    assert torch.equal(read.vectors, retriever.encode_queries([text], language="sw")[0][1:-1])
    assert len(read_words(retriever, text, "query", None).ids) > 2


def test_apostrophes_and_hyphens_stand_inside_words_and_marks_with_their_letter(retriever):
    text = "ng'ombe wa-moja ẹ̀kọ́ 25%"
    assert words_of(text, read_words(retriever, text, "query", None)) == ["ng'ombe", "wa-moja", "ẹ̀kọ́", "25", "%"]


def test_without_spaces_each_token_is_a_word(any_retriever):
    text = next(iter(THAI))
    read = read_words(any_retriever, text, "query", None)
    spans = read.spans
    assert spans[0][0] == 0 and spans[-1][1] == len(text)
    assert [stop for _, stop in spans[:-1]] == [start for start, _ in spans[1:]]


@pytest.mark.parametrize("text", ["", "   ", "[CLS]"])
def test_a_text_without_a_word_is_refused(retriever, text):
    with pytest.raises(ValueError, match="no word"):
        read_words(retriever, text, "query", None)


@settings(max_examples=60, deadline=None)
@given(st.text(st.characters(codec="utf-8"), max_size=40))
def test_every_token_of_any_text_has_a_word(any_retriever, text):
    try:
        read = read_words(any_retriever, text, "query", None)
    except ValueError:
        return
    assert read.words.sum(0).tolist() == [1] * len(read.vectors) and (read.words.sum(1) > 0).all()
    assert all(start < stop for start, stop in read.spans) and read.spans == sorted(read.spans)
