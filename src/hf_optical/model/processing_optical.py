from __future__ import annotations

import json
import os
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import normalizers
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from ..storage.json_files import read_json, write_json
from ..storage.names import NEAREST_WORDS
from ..storage.publishing import PushToHub
from ..storage.staging import discard, staged_directory
from .layout import DOCUMENT_LENGTH, QUERY_LENGTH, Layout, read_layout, token_id, unfit_roles, write_roles
from .nearest_words import NearestWords, no_words
from .texts import require_texts, text_list


# Characters that are read of a text for each token that it may have, unless they make too few tokens.
_CHARACTERS = 100

# What beside the tokenizer says how texts are read.
_ROLES = (
    "query_marker",
    "document_marker",
    "query_prompt",
    "document_prompt",
    "query_length",
    "document_length",
    "query_expansion",
    "attend_to_expansion",
    "skip_tokens",
)


class OpticalProcessor(PushToHub):
    """
    Cuts texts into tokens for an [`OpticalModel`], as queries or as documents (ColBERT, section 3.2).

    The tokenizer is used as it is and never changed: markers are inserted, long texts cut and expansion filled in on
    ids. What a tokenizer makes no token of (an empty text, and often spaces, control and zero-width characters) is
    read by its special tokens alone; where there are none, by one unknown or padding token. Of a very long text no
    more is tokenized than is read.

    Args:
        tokenizer (`PreTrainedTokenizerBase`):
            Any tokenizer of transformers.
        query_marker (`str`, *optional*), document_marker (`str`, *optional*):
            A token inserted after the tokenizer's opening token, so that the model knows the role. `None`: no marker.
        query_prompt (`str`, defaults to `""`), document_prompt (`str`, defaults to `""`):
            What is put before every text, behind the marker.
        query_length (`int`, defaults to 64), document_length (`int`, defaults to 256):
            Longest input in tokens, special tokens and marker included; what is longer is cut off.
        query_expansion (`bool`, defaults to `False`):
            Whether queries are filled up to `query_length` with mask tokens, which take part in matching.
        attend_to_expansion (`bool`, defaults to `False`):
            Whether the encoder attends to these mask tokens.
        skip_tokens (`"punctuation"` or a list of `str`, defaults to `"punctuation"`):
            Tokens of documents that take no part in matching. `"punctuation"` stands for every token that Unicode
            puts in the categories P and S alone. Special and unknown tokens always take part; of a list, those that
            the tokenizer has are kept.
        nearest_words (sequence of `str`, *optional*):
            Words among which every text's unknown ones find their nearest, see [`NearestWords`]. None by default.

    Raises:
        ValueError: a marker is not one known token; a length leaves no room for a word; expansion without a mask
            token; `skip_tokens` is some other string; a setting is of another kind, or larger than anything is read.
    """

    # Trainer asks for it when it groups batches by length.
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
    ):
        self.tokenizer = tokenizer
        self.nearest_words = NearestWords(nearest_words, tokenizer) if nearest_words else None
        self.query_marker = query_marker or None
        self.document_marker = document_marker or None
        self.query_prompt = query_prompt
        self.document_prompt = document_prompt
        self.query_length = query_length
        self.document_length = document_length
        self.query_expansion = query_expansion
        self.attend_to_expansion = attend_to_expansion
        if isinstance(skip_tokens, str) and skip_tokens != "punctuation":
            raise ValueError(f"skip_tokens={skip_tokens!r}; pass 'punctuation' or a list of tokens")
        if skip_tokens == "punctuation":
            skip_tokens = punctuation_tokens(tokenizer)
        self.skip_tokens = list(skip_tokens)
        if unfit := unfit_roles(self.roles):
            raise ValueError(
                f"{', '.join(unfit[:5])} of the wrong kind or too large; lengths are whole numbers, of a query up to "
                f"{QUERY_LENGTH[-1]}, and the rest is as OpticalProcessor's arguments say"
            )
        special = set(tokenizer.all_special_tokens)
        known = {token: token_id(token, tokenizer) for token in skip_tokens if token not in special}
        # PyLate would skip every unknown word in the place of a token that is not there.
        self.skip_tokens = [token for token, i in known.items() if i is not None]

        self._opening, self._closing = self._frame()
        self._marker_ids = {
            "query": self._marker_id("query_marker", self.query_marker),
            "document": self._marker_id("document_marker", self.document_marker),
        }
        for name in ("query_length", "document_length"):
            marked = self._marker_ids[name.split("_")[0]] is not None
            shortest = len(self._opening) + marked + 1 + len(self._closing)
            if getattr(self, name) < shortest:
                raise ValueError(
                    f"{name}={getattr(self, name)} leaves no room for a word; set it to {shortest} or more"
                )
        if query_expansion and tokenizer.mask_token_id is None:
            raise ValueError("query_expansion needs a tokenizer with a mask token; set query_expansion=False")
        self._skip_ids = torch.tensor(tokenizer.convert_tokens_to_ids(self.skip_tokens), dtype=torch.long)
        # Without it an empty text would have no vector, which neither the encoder, transport nor search can use.
        self._unknown_id = self._pad_id if tokenizer.unk_token_id is None else tokenizer.unk_token_id

    def queries(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """
        Tokenizes `texts` as queries.

        Returns:
            `dict`: `input_ids`, `attention_mask` (long) and `token_mask` (bool), each of shape `(batch, tokens)`,
            padded on the right to the longest text or, with expansion, to `query_length`.

        Raises:
            TypeError: `texts` is one string, or holds something else than strings.
            DataError: a text holds half a character (an unpaired surrogate). The message names it.
        """
        rows = self._rows(texts, "query")
        width = max((len(row) for row in rows), default=0)
        batch = self._pad(rows, self.query_length if self.query_expansion else width)
        if self.query_expansion:
            expansion = batch["attention_mask"] == 0
            batch["input_ids"][expansion] = self.tokenizer.mask_token_id
            batch["token_mask"] |= expansion
            if self.attend_to_expansion:
                batch["attention_mask"][expansion] = 1
        return batch

    def documents(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """
        Tokenizes `texts` as documents; as [`~OpticalProcessor.queries`], but `token_mask` leaves out `skip_tokens`.

        A document that is nothing but skipped tokens keeps its special tokens; where there are none, all its tokens.
        """
        rows = self._rows(texts, "document")
        batch = self._pad(rows, max((len(row) for row in rows), default=0))
        kept = batch["token_mask"] & ~torch.isin(batch["input_ids"], self._skip_ids)
        if not self._opening and not self._closing:
            kept = torch.where(kept.any(1, keepdim=True), kept, batch["token_mask"])
        batch["token_mask"] = kept
        return batch

    def __call__(self, texts: Sequence[str], role: str) -> dict[str, Tensor]:
        """Tokenizes `texts` for `role`, `"query"` or `"document"`."""
        if role not in ("query", "document"):
            raise ValueError(f"role={role!r}; choose 'query' or 'document'")
        return self.queries(texts) if role == "query" else self.documents(texts)

    def pad(self, batches: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
        """Stacks tokenized batches of different widths into one."""
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
        """The settings beside the tokenizer, as keyword arguments of this class."""
        return {name: getattr(self, name) for name in _ROLES}

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike, *, revision: str | None = None, **roles
    ) -> OpticalProcessor:
        """
        Opens the tokenizer and role settings of a checkpoint folder or Hub id.

        A plain encoder gets the defaults of this class, its `document_length` bounded by what the encoder can read.

        Args:
            pretrained_model_name_or_path (`str` or `os.PathLike`): folder or Hub id.
            revision (`str`, *optional*): branch, tag or commit on the Hub.
            roles: settings of this class that take precedence over the stored ones.

        Raises:
            OSError: no such checkpoint, or one with a missing or damaged tokenizer.
            ValueError: the stored settings do not fit the tokenizer.
        """
        layout = read_layout(pretrained_model_name_or_path, revision)
        tokenizer = _open_tokenizer(layout)
        stored = layout.roles(tokenizer)
        if (layout.folder / NEAREST_WORDS).is_file():
            stored["nearest_words"] = _read_words(layout.folder / NEAREST_WORDS)
        try:
            return cls(tokenizer, **{**stored, **roles})
        except ValueError as error:
            raise ValueError(f"{layout.folder} cannot be opened: {str(error)[:1000]}") from error

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs) -> None:
        """Writes the tokenizer and the role settings, in the layout of `layout/pylate.py`."""
        with staged_directory(save_directory) as folder:
            self.tokenizer.save_pretrained(folder)
            write_roles(folder, self.roles)
            if self.nearest_words is not None:
                write_json(folder / NEAREST_WORDS, {"words": self.nearest_words.words})
            else:
                discard(folder / NEAREST_WORDS)  # of another processor, saved here before

    def __repr__(self) -> str:
        settings = {**self.roles, "skip_tokens": f"<{len(self.skip_tokens)} tokens>"}
        return f"{type(self).__name__}({type(self.tokenizer).__name__}, {json.dumps(settings, ensure_ascii=False)})"

    @property
    def _pad_id(self) -> int:
        # A tokenizer without padding gets any valid id: what is padded is neither attended to nor matched.
        return 0 if self.tokenizer.pad_token_id is None else self.tokenizer.pad_token_id

    def _rows(self, texts: Sequence[str], role: str) -> list[list[int]]:
        texts = text_list(texts)
        if not texts:
            return []
        marker = self._marker_ids[role]
        opening = self._opening if marker is None else [*self._opening, marker]
        length = self.query_length if role == "query" else self.document_length
        room = length - len(opening) - len(self._closing)
        most = _CHARACTERS * length
        try:
            rows = self._tokens([text[:most] for text in texts], role)
            cut = [i for i, text in enumerate(texts) if len(text) > most]
            if cut:
                require_texts(texts)
            for i in cut:
                # Tokens near the cut may be others than in the whole text: twice the room keeps them out of sight.
                if len(rows[i]) < 2 * room:
                    rows[i] = self._tokens([texts[i]], role)[0]
        except (TypeError, ValueError):
            require_texts(texts)
            raise
        return [[*opening, *row[:room], *self._closing] or [self._unknown_id] for row in rows]

    def _tokens(self, texts: list[str], role: str) -> list[list[int]]:
        if self.nearest_words is not None:
            texts = [self.nearest_words(text) for text in texts]
        prompt = self.query_prompt if role == "query" else self.document_prompt
        # Asked to cut texts itself, a fast tokenizer keeps the length of the last call and saves it with its files.
        texts = [prompt + text for text in texts]
        return self.tokenizer(texts, add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"]

    def _pad(self, rows: list[list[int]], width: int) -> dict[str, Tensor]:
        lengths = torch.tensor([len(row) for row in rows], dtype=torch.long)
        present = torch.arange(width)[None, :] < lengths[:, None]
        input_ids = torch.full((len(rows), width), self._pad_id)
        input_ids[present] = torch.tensor([token for row in rows for token in row], dtype=torch.long)
        return {"input_ids": input_ids, "attention_mask": present.long(), "token_mask": present.clone()}

    def _frame(self) -> tuple[list[int], list[int]]:
        """The special tokens that the tokenizer puts before and behind a text."""
        empty = self.tokenizer("")["input_ids"]
        word = self.tokenizer("a")["input_ids"]
        opening = next((i for i, (a, b) in enumerate(zip(empty, word, strict=False)) if a != b), len(empty))
        return empty[:opening], empty[opening:]

    def _marker_id(self, name: str, marker: str | None) -> int | None:
        if marker is None:
            return None
        marker_id = token_id(marker, self.tokenizer)
        if marker_id is None:
            raise ValueError(
                f"{name}={marker!r} is not a token of this tokenizer, so it would be read as an unknown word. Choose "
                f"a token it has, add the marker to the tokenizer and the model first, or set {name}=None"
            )
        return marker_id


def _open_tokenizer(layout: Layout) -> PreTrainedTokenizerBase:
    folder = layout.folder
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        tokenizer("a")  # some damage shows in use alone
    except (KeyboardInterrupt, SystemExit):
        raise
    # What is wrong with the files decides the type: JSON and value errors, a bare `Exception` from Rust, or a panic.
    except BaseException as error:
        reason = str(error).strip().split("\n")[0][:1000]
        raise OSError(f"the tokenizer in {folder} is missing or damaged ({reason}); fetch it again") from error
    if layout.lower_case:
        backend = tokenizer.backend_tokenizer
        backend.normalizer = normalizers.Sequence(
            [normalizers.Lowercase(), *([] if backend.normalizer is None else [backend.normalizer])]
        )
    # From a folder without tokenizer files transformers makes a tokenizer that knows no word.
    if len(tokenizer) <= len(tokenizer.all_special_tokens):
        raise OSError(f"{folder} has no tokenizer files; save the tokenizer there")
    return tokenizer


def _read_words(path: Path) -> list[str]:
    words = read_json(path).get("words")
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise OSError(f"{path} holds no list of words; the checkpoint is damaged, fetch it again")
    if wrong := no_words(words):
        raise OSError(f"{path} is damaged ({wrong}); fetch the checkpoint again")
    return words


def punctuation_tokens(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Tokens whose surface is nothing but punctuation and symbols (Unicode categories P and S), in order of id."""
    kept = set(tokenizer.all_special_tokens)
    tokens = []
    for token, _ in sorted(tokenizer.get_vocab().items(), key=lambda item: item[1]):
        if token in kept:
            continue
        surface = tokenizer.convert_tokens_to_string([token]).strip()
        surface = surface.removeprefix("##") or surface
        if surface and all(unicodedata.category(character)[0] in "PS" for character in surface):
            # A token that is half of a character decodes to U+FFFD, a symbol by category but not punctuation.
            if "\ufffd" not in surface:
                tokens.append(token)
    return tokens
