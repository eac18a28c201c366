from __future__ import annotations

import copy
import json
import os
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import normalizers
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from ..checks import check_choice
from ..storage.json_files import read_json, write_json
from ..storage.names import NEAREST_WORDS
from ..storage.publishing import PushToHub
from ..storage.staging import discard, staged_directory
from .added_words import WORD_RULES, prepare_for_words
from .layout import DOCUMENT_LENGTH, ROLE_KINDS, Layout, invalid_roles, read_layout, token_id, write_roles
from .nearest_words import NearestWords, invalid_word
from .spelling import KnownWords, invalid_known_words
from .texts import as_texts


# Of a long text, so many characters per token of its length are tokenized at first.
_CHARACTERS = 100


class OpticalProcessor(PushToHub):
    """
    Tokenize texts for an [`OpticalModel`], as queries or as documents (ColBERT, section 3.2).

    The tokenizer is never changed: markers are inserted, long texts truncated and query expansion filled in on token
    ids. A text without tokens (an empty one, and often spaces, control and zero-width characters) consists of the
    special tokens alone, or of one unknown or padding token if there are none. Of a very long text, only as much is
    tokenized as is used.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): Any tokenizer of transformers.
        query_marker (`str`, *optional*), document_marker (`str`, *optional*):
            Token that is inserted after the tokenizer's opening token, so that the model knows the role. No marker if
            `None`.
        query_prompt (`str`, defaults to `""`), document_prompt (`str`, defaults to `""`):
            Text put before every text, after the marker.
        query_length (`int`, defaults to 64), document_length (`int`, defaults to 256):
            Maximum number of tokens, including special tokens and the marker. Longer texts are truncated.
        query_expansion (`bool`, defaults to `False`):
            Whether queries are filled up to `query_length` with mask tokens, which take part in matching.
        attend_to_expansion (`bool`, defaults to `False`): Whether the encoder attends to these mask tokens.
        skip_tokens (`"punctuation"` or a list of `str`, defaults to `"punctuation"`):
            Tokens of documents that take no part in matching. `"punctuation"` stands for all tokens that consist of
            characters of the Unicode categories P and S. Special and unknown tokens always take part. Tokens that the
            tokenizer lacks are dropped from the list.
        nearest_words (sequence of `str`, *optional*):
            Words that are read for similar unknown words of a text, see [`NearestWords`]. None by default.
        known_words (mapping of `str` to mapping of `str` to `int`, *optional*):
            Source -> word -> count: the words by which typing errors of queries are repaired, see [`Spelling`].
            Without any, queries are read as they are typed. Documents always are.
        word_rules (`int`, defaults to 1):
            By which rules words are read, see [`~hf_optical.languages.extend_processor`]. From 2 on the tokenizer is
            adapted to added words; before 3 nearest words replace unknown ones.

    Raises:
        ValueError: a marker is not a single known token, a length leaves no room for a word, expansion is requested
            without a mask token, or a setting has the wrong type or is too large.
    """

    # Trainer looks this up when it groups batches by length.
    model_input_names = ["input_ids", "attention_mask", "token_mask"]

    _optional_files = (NEAREST_WORDS,)

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        *,
        query_marker: str | None = None,
        document_marker: str | None = None,
        query_prompt: str = "",
        document_prompt: str = "",
        query_length: int = 64,
        document_length: int = DOCUMENT_LENGTH,
        query_expansion: bool = False,
        attend_to_expansion: bool = False,
        skip_tokens: str | Sequence[str] = "punctuation",
        nearest_words: Sequence[str] = (),
        known_words: KnownWords | None = None,
        word_rules: int = 1,
    ):
        self.tokenizer, self.word_rules = tokenizer, word_rules
        if word_rules > 1:
            prepare_for_words(tokenizer)
        self.nearest_words = None
        if nearest_words or known_words:
            self.nearest_words = self._make_nearest_words(nearest_words, known_words)
        self.query_marker = query_marker or None
        self.document_marker = document_marker or None
        self.query_prompt = query_prompt
        self.document_prompt = document_prompt
        self.query_length = query_length
        self.document_length = document_length
        self.query_expansion = query_expansion
        self.attend_to_expansion = attend_to_expansion
        self.skip_tokens = skip_tokens if isinstance(skip_tokens, str) else list(skip_tokens)
        if invalid := invalid_roles(self.roles):
            raise ValueError(f"wrong type or value of {', '.join(invalid)}; see the arguments of OpticalProcessor")
        if self.skip_tokens == "punctuation":
            self.skip_tokens = punctuation_tokens(tokenizer)
        special = set(tokenizer.all_special_tokens)
        known = {token: token_id(token, tokenizer) for token in self.skip_tokens if token not in special}
        # A token that the tokenizer lacks would stand for all unknown words, as it does in PyLate.
        self.skip_tokens = [token for token, i in known.items() if i is not None]

        self._opening, self._closing = self._frame()
        self._marker_ids = {role: self._marker_id(f"{role}_marker") for role in ("query", "document")}
        for role, length in {"query": query_length, "document": document_length}.items():
            shortest = len(self._opening) + (self._marker_ids[role] is not None) + 1 + len(self._closing)
            if length < shortest:
                raise ValueError(f"{role}_length must be at least {shortest} to leave room for a word, got {length}")
        if query_expansion and tokenizer.mask_token_id is None:
            raise ValueError("query_expansion needs a tokenizer with a mask token; set query_expansion=False")
        self._skip_ids = torch.tensor(tokenizer.convert_tokens_to_ids(self.skip_tokens), dtype=torch.long)
        # An empty text without any token would have no vector, which encoder, transport and search cannot handle.
        self._unknown_id = self._pad_id if tokenizer.unk_token_id is None else tokenizer.unk_token_id

    def __call__(self, texts: Iterable[str], role: str) -> dict[str, Tensor]:
        """
        Tokenize texts as queries or documents.

        Args:
            texts (iterable of `str`): the texts, such as a list or a data frame's column.
            role (`str`): `"query"` or `"document"`.

        Returns:
            `dict`: `input_ids`, `attention_mask` (long) and `token_mask` (bool), each of shape `(batch, tokens)`,
            padded on the right to the longest text or, for queries with expansion, to `query_length`.

        Raises:
            TypeError: `texts` is a single string or contains something other than strings.
            DataError: a text contains an unpaired surrogate. The message names the text.
            ValueError: `role` is unknown.
        """
        check_choice("role", role, ("query", "document"))
        return self.encode_checked(as_texts(texts), role)

    def queries(self, texts: Iterable[str]) -> dict[str, Tensor]:
        """Tokenize texts as queries, see [`~OpticalProcessor.__call__`]."""
        return self.encode_checked(as_texts(texts), "query")

    def documents(self, texts: Iterable[str]) -> dict[str, Tensor]:
        """
        Tokenize texts as documents, see [`~OpticalProcessor.__call__`].

        `token_mask` leaves out `skip_tokens`. A document of skipped tokens alone keeps its special tokens or, if there
        are none, all its tokens.
        """
        return self.encode_checked(as_texts(texts), "document")

    def encode_checked(self, texts: list[str], role: str) -> dict[str, Tensor]:
        """Tokenize texts that [`as_texts`] has checked already, see [`~OpticalProcessor.__call__`]."""
        rows = self._rows(texts, role)
        width = max((len(row) for row in rows), default=0)
        if role == "query" and self.query_expansion:
            batch = self._pad(rows, self.query_length)
            expansion = batch["attention_mask"] == 0
            batch["input_ids"][expansion] = self.tokenizer.mask_token_id
            batch["token_mask"] |= expansion
            if self.attend_to_expansion:
                batch["attention_mask"][expansion] = 1
            return batch
        batch = self._pad(rows, width)
        if role == "document":
            kept = batch["token_mask"] & ~torch.isin(batch["input_ids"], self._skip_ids)
            if not self._opening and not self._closing:
                kept = torch.where(kept.any(1, keepdim=True), kept, batch["token_mask"])
            batch["token_mask"] = kept
        return batch

    def pad(self, batches: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
        """Stack tokenized batches of different widths into one."""
        width = max(batch["input_ids"].shape[1] for batch in batches)
        fill = {"input_ids": self._pad_id, "attention_mask": 0, "token_mask": False}
        return {
            name: torch.cat(
                [
                    torch.nn.functional.pad(batch[name], (0, width - batch[name].shape[1]), value=value)
                    for batch in batches
                ]
            )
            for name, value in fill.items()
        }

    @property
    def roles(self) -> dict:
        """The settings besides the tokenizer, as keyword arguments of this class."""
        return {name: getattr(self, name) for name in ROLE_KINDS}

    @property
    def known_words(self) -> KnownWords:
        """The words by which typing errors of queries are repaired; none without repair."""
        return self.nearest_words.known_words if self.nearest_words else {}

    def add_known_words(self, known_words: KnownWords) -> None:
        """Repair typing errors of queries by more words, as those of the argument `known_words`."""
        # A new object, since other threads may be reading with the present one.
        before = self.nearest_words or self._make_nearest_words((), None)
        self.nearest_words = before.with_known_words({**self.known_words, **known_words})

    def with_documents(self, counts: Mapping[str, int]) -> OpticalProcessor:
        """
        Create a processor that knows the words of the documents that its queries search too.

        A word of the documents is then no typing error, and may be what a mistyped word means. A processor that
        repairs nothing, as that of a base, is returned as it is.

        Args:
            counts (mapping of `str` to `int`): words of the documents, from [`~bitext.frequency.count_known`].
        """
        if not counts or not self.known_words:
            return self
        processor = copy.copy(self)
        processor.add_known_words({"documents": counts})
        return processor

    def as_written(self) -> OpticalProcessor:
        """Create a processor that reads no word as a similar one and repairs nothing."""
        processor = copy.copy(self)
        processor.nearest_words = None
        return processor

    def _make_nearest_words(self, words: Sequence[str], known_words: KnownWords | None) -> NearestWords:
        return NearestWords(words, self.tokenizer, known_words=known_words, instead=self.word_rules < 3)

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike, *, revision: str | None = None, **roles
    ) -> OpticalProcessor:
        """
        Load the tokenizer and the settings of a checkpoint.

        A plain encoder gets the defaults of this class, with a `document_length` that the encoder can read.

        Args:
            pretrained_model_name_or_path (`str` or `os.PathLike`): folder or Hub id.
            revision (`str`, *optional*): branch, tag or commit on the Hub.
            roles: settings of this class that override the stored ones.

        Raises:
            OSError: the checkpoint does not exist, or its tokenizer is missing or damaged.
            ValueError: the stored settings do not fit the tokenizer.
        """
        layout = read_layout(pretrained_model_name_or_path, revision)
        tokenizer = _open_tokenizer(layout)
        stored = layout.roles(tokenizer)
        if (layout.folder / NEAREST_WORDS).is_file():
            stored |= _read_words(layout.folder / NEAREST_WORDS)
        try:
            return cls(tokenizer, **{**stored, **roles})
        except ValueError as error:
            raise ValueError(f"cannot open {layout.folder}: {str(error)[:1000]}") from error

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs) -> None:
        """Save the tokenizer and the settings, in the layout of `layout/pylate.py`."""
        with staged_directory(save_directory) as folder:
            self.tokenizer.save_pretrained(folder)
            if self.word_rules > 1:
                # Classes of one architecture build its own pre-tokenizer again; the general class reads what is saved.
                settings = read_json(folder / "tokenizer_config.json")
                general = {"tokenizer_class": "PreTrainedTokenizerFast"}
                write_json(folder / "tokenizer_config.json", {**settings, **general})
            write_roles(folder, self.roles)
            if self.nearest_words is not None or self.word_rules > 1:
                words = self.nearest_words.words if self.nearest_words else []
                rules = {"rules": self.word_rules} if self.word_rules > 1 else {}
                known = {"known_words": self.known_words} if self.known_words else {}
                write_json(folder / NEAREST_WORDS, {"words": words, **rules, **known})
            else:
                discard(folder / NEAREST_WORDS)  # left by another processor

    def __repr__(self) -> str:
        settings = {**self.roles, "skip_tokens": f"<{len(self.skip_tokens)} tokens>"}
        settings |= {"word_rules": self.word_rules} if self.word_rules > 1 else {}
        return f"{type(self).__name__}({type(self.tokenizer).__name__}, {json.dumps(settings, ensure_ascii=False)})"

    @property
    def _pad_id(self) -> int:
        # Without a padding token any valid id will do, since padding is neither attended to nor matched.
        return 0 if self.tokenizer.pad_token_id is None else self.tokenizer.pad_token_id

    def frame(self, role: str) -> tuple[int, int]:
        """Return the numbers of special tokens and markers before and after the tokens of a text."""
        return len(self._opening) + (self._marker_ids[role] is not None), len(self._closing)

    def _rows(self, texts: list[str], role: str) -> list[list[int]]:
        """Token ids of each text, with special tokens and marker."""
        if not texts:
            return []
        marker = self._marker_ids[role]
        opening = self._opening if marker is None else [*self._opening, marker]
        length = self.query_length if role == "query" else self.document_length
        room = length - len(opening) - len(self._closing)
        longest = _CHARACTERS * length
        rows = self._tokens([text[:longest] for text in texts], role)
        for i, text in enumerate(texts):
            # Tokens near the cut may differ from those of the whole text, so require twice as many as are used.
            if len(text) > longest and len(rows[i]) < 2 * room:
                rows[i] = self._tokens([text], role)[0]
        return [[*opening, *row[:room], *self._closing] or [self._unknown_id] for row in rows]

    def _tokens(self, texts: list[str], role: str) -> list[list[int]]:
        if self.nearest_words is not None and (self.nearest_words.words or role == "query"):
            texts = [self.nearest_words(text, repair=role == "query") for text in texts]
        prompt = self.query_prompt if role == "query" else self.document_prompt
        # If a fast tokenizer truncates, it keeps the length as a setting and saves it. So truncation comes later.
        texts = [prompt + text for text in texts]
        return self.tokenizer(texts, add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"]

    def _pad(self, rows: list[list[int]], width: int) -> dict[str, Tensor]:
        lengths = torch.tensor([len(row) for row in rows], dtype=torch.long)
        present = torch.arange(width)[None, :] < lengths[:, None]
        input_ids = torch.full((len(rows), width), self._pad_id)
        input_ids[present] = torch.tensor([token for row in rows for token in row], dtype=torch.long)
        return {"input_ids": input_ids, "attention_mask": present.long(), "token_mask": present.clone()}

    def _frame(self) -> tuple[list[int], list[int]]:
        """The special tokens that the tokenizer puts before and after a text."""
        empty = self.tokenizer("")["input_ids"]
        word = self.tokenizer("a")["input_ids"]
        opening = next((i for i, (a, b) in enumerate(zip(empty, word, strict=False)) if a != b), len(empty))
        return empty[:opening], empty[opening:]

    def _marker_id(self, name: str) -> int | None:
        marker = getattr(self, name)
        if marker is None:
            return None
        marker_id = token_id(marker, self.tokenizer)
        if marker_id is None:
            raise ValueError(
                f"{name} must be a token of this tokenizer, got {marker!r}; choose one that it has, add the marker to "
                f"the tokenizer and the model first, or set {name}=None"
            )
        return marker_id


def _open_tokenizer(layout: Layout) -> PreTrainedTokenizerBase:
    folder = layout.folder
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        tokenizer("a")  # some damage shows only in use
    except (KeyboardInterrupt, SystemExit):
        raise
    # Damaged files cause JSON and value errors, a bare `Exception` from Rust, or even a panic.
    except BaseException as error:
        reason = str(error).strip().split("\n")[0][:1000]
        raise OSError(f"the tokenizer in {folder} is missing or damaged ({reason}); fetch it again") from error
    if layout.lower_case:
        backend = tokenizer.backend_tokenizer
        backend.normalizer = normalizers.Sequence(
            [normalizers.Lowercase(), *([] if backend.normalizer is None else [backend.normalizer])]
        )
    # For a folder without tokenizer files transformers creates a tokenizer with an empty vocabulary.
    if len(tokenizer) <= len(tokenizer.all_special_tokens):
        raise OSError(f"{folder} has no tokenizer files; save the tokenizer there")
    return tokenizer


def _read_words(path: Path) -> dict[str, Any]:
    stored = read_json(path, {"words": [str], "rules": range(1, WORD_RULES + 1), "known_words": dict})
    words = stored.get("words")
    known = stored.get("known_words") or {}
    if problem := "no words" if words is None else invalid_word(words) or invalid_known_words(known):
        raise OSError(f"{path} is damaged ({problem}); fetch the checkpoint again")
    return {"nearest_words": words, "word_rules": stored.get("rules") or 1, "known_words": known}


def punctuation_tokens(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Return the tokens that consist of punctuation and symbols (Unicode categories P and S), in order of id."""
    special = set(tokenizer.all_special_tokens)
    tokens = []
    for token, _ in sorted(tokenizer.get_vocab().items(), key=lambda item: item[1]):
        if token in special:
            continue
        surface = tokenizer.convert_tokens_to_string([token]).strip()
        surface = surface.removeprefix("##") or surface
        if surface and all(unicodedata.category(character)[0] in "PS" for character in surface):
            # A token for part of a character decodes to U+FFFD, a symbol by category but not punctuation.
            if "\ufffd" not in surface:
                tokens.append(token)
    return tokens
