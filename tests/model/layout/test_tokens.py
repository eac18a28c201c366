from __future__ import annotations

import pytest
from tiny import tiny_tokenizer
from tokenizers import AddedToken

from hf_optical.model.layout.tokens import reads_spaces, split_prompt, stored_marker, stored_skip_list, token_id


KINDS = ("wordpiece", "unigram", "bpe")


def with_tokens(kind: str, *tokens: str):
    tokenizer = tiny_tokenizer(kind)
    tokenizer.add_tokens([AddedToken(token, normalized=False, special=True) for token in tokens], special_tokens=True)
    return tokenizer


def test_token_id_is_none_for_unknown_tokens():
    tokenizer = tiny_tokenizer("wordpiece")
    assert token_id(tokenizer.mask_token, tokenizer) == tokenizer.mask_token_id
    assert token_id(tokenizer.unk_token, tokenizer) == tokenizer.unk_token_id
    assert token_id("[Q] ", tokenizer) is None


def test_stored_marker_is_tried_with_and_without_its_space():
    kind = "unigram"
    assert stored_marker("[Q] ", with_tokens(kind, "[Q] ")) == "[Q] "
    assert stored_marker("[Q] ", with_tokens(kind, "[Q]")) == "[Q]"
    assert stored_marker("[Q] ", with_tokens(kind, "[Q]", "[Q] ")) == "[Q] "
    for nothing in ("", None):
        assert stored_marker(nothing, with_tokens(kind)) is None


def test_reads_spaces_distinguishes_tokenizers():
    assert [reads_spaces(tiny_tokenizer(kind)) for kind in KINDS] == [False, True, True]


@pytest.mark.parametrize("kind", KINDS)
def test_split_prompt_preserves_tokens(kind):
    for tokens in ((), ("[Q]",), ("[Q] ",), ("[Q]", "[Q] ")):
        tokenizer = with_tokens(kind, *tokens)
        for prompt in ("[Q] ", "[Q] the question: ", "the question: ", "", " ", "[Q]", "the [Q] "):
            marker, rest = split_prompt(prompt, tokenizer)
            opening = [] if marker is None else [tokenizer.convert_tokens_to_ids(marker)]
            for text in ("", "the river", " the river", "Mto, unaanza wapi?", "  7", "?"):
                whole = tokenizer(prompt + text, add_special_tokens=False)["input_ids"]
                found = opening + tokenizer(rest + text, add_special_tokens=False)["input_ids"]
                assert found == whole, (tokens, prompt, text)


@pytest.mark.parametrize("kind", KINDS)
def test_split_prompt_finds_markers(kind):
    assert split_prompt("[Q] ", with_tokens(kind, "[Q] ")) == ("[Q] ", "")
    assert split_prompt("[Q] find: ", with_tokens(kind, "[Q] ")) == ("[Q] ", "find: ")
    assert split_prompt("[Q] ", with_tokens(kind)) == (None, "[Q] ")
    spaces_matter = kind != "wordpiece"
    assert split_prompt("[Q] ", with_tokens(kind, "[Q]")) == ((None, "[Q] ") if spaces_matter else ("[Q]", ""))


def test_skip_list_with_special_tokens_raises():
    tokenizer = tiny_tokenizer("wordpiece")
    assert stored_skip_list((".", "no such token"), tokenizer) == [".", "no such token"]
    with pytest.raises(ValueError, match=r"must not contain special tokens, got \[CLS\], \[UNK\]"):
        stored_skip_list([".", "[UNK]", "[CLS]"], tokenizer)
