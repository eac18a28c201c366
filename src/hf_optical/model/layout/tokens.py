"""Markers, prompts and skip lists, which other libraries store as text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase


def token_id(token: str, tokenizer: PreTrainedTokenizerBase) -> int | None:
    """Return the id of a token, or `None` if the tokenizer does not have it."""
    try:
        found: Any = tokenizer.convert_tokens_to_ids(token)
    except RecursionError as error:  # to look up a missing token, transformers looks up the unknown token
        raise ValueError(f"the tokenizer lacks {tokenizer.unk_token!r}, its token for unknown words") from error
    return None if found == tokenizer.unk_token_id and token != tokenizer.unk_token else found


def stored_marker(marker: str | None, tokenizer: PreTrainedTokenizerBase) -> str | None:
    """Return the token of a stored marker; PyLate has the space of `"[Q] "` in the vocabulary, others do not."""
    if not marker:
        return None
    return marker if token_id(marker, tokenizer) is not None else marker.strip()


def reads_spaces(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Return whether a space at the start of a text changes its tokens."""
    bare, spaced = (tokenizer([text, f"{text}a"], add_special_tokens=False)["input_ids"] for text in ("", " "))
    return bare != spaced


def stored_skip_list(words: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Return the tokens of a stored skip list."""
    special = sorted(set(words).intersection(tokenizer.all_special_tokens))
    if special:
        raise ValueError(f"the stored skip list must not contain special tokens, got {', '.join(special)}")
    return list(words)


def split_prompt(prompt: str, tokenizer: PreTrainedTokenizerBase) -> tuple[str | None, str]:
    """Split a prompt into a marker at its start and the rest, if that does not change the tokens of a text."""

    def ids(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    for token in sorted(tokenizer.get_added_vocab(), key=len, reverse=True):
        if prompt.startswith(token):
            rest = prompt.removeprefix(token).lstrip()
            marked = [token_id(token, tokenizer)]
            if all(ids(prompt + text) == marked + ids(rest + text) for text in ("", "a", " a")):
                return token, rest
    return None, prompt
