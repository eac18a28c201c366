"""What other libraries store as text and mean as tokens: markers, prompts, skip lists."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase


def token_id(token: str, tokenizer: PreTrainedTokenizerBase) -> int | None:
    """
    The id of a token; `None` for what the tokenizer would read as an unknown word.

    Raises:
        ValueError: the tokenizer has no token for unknown words where it says so, as no whole one has.
    """
    try:
        found = tokenizer.convert_tokens_to_ids(token)
    except RecursionError as error:  # transformers looks up the unknown token in the place of an unknown token
        raise ValueError(f"{tokenizer.unk_token!r}, for unknown words, is no token of this tokenizer") from error
    return None if found == tokenizer.unk_token_id and token != tokenizer.unk_token else found


def stored_marker(marker: str | None, tokenizer: PreTrainedTokenizerBase) -> str | None:
    """
    The token that a stored marker means; `None` for an empty one.

    PyLate adds `"[Q] "` to the vocabulary with its space. Elsewhere the space belongs to the text behind the marker.
    """
    if not marker:
        return None
    return marker if token_id(marker, tokenizer) is not None else marker.strip()


def reads_spaces(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether a space at the head of a text changes its tokens."""
    bare, spaced = (tokenizer([text, f"{text}a"], add_special_tokens=False)["input_ids"] for text in ("", " "))
    return bare != spaced


def stored_skip_list(words: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """
    The tokens of a stored skip list.

    Raises:
        ValueError: it names special tokens, which take part in matching here whatever the list.
    """
    special = sorted(set(words).intersection(tokenizer.all_special_tokens))
    if special:
        raise ValueError(f"the stored skip list names {', '.join(special)}; special tokens are never skipped here")
    return list(words)


def split_prompt(prompt: str, tokenizer: PreTrainedTokenizerBase) -> tuple[str | None, str]:
    """
    A prompt as a marker and the text behind it, if a text is cut into the same tokens both ways.

    sentence-transformers keeps markers at the head of its prompts.
    """

    def ids(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    for token in sorted(tokenizer.get_added_vocab(), key=len, reverse=True):
        if prompt.startswith(token):
            rest = prompt.removeprefix(token).lstrip()
            marked = [token_id(token, tokenizer)]
            if all(ids(prompt + text) == marked + ids(rest + text) for text in ("", "a", " a")):
                return token, rest
    return None, prompt
