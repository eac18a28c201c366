"""Whole words that are added to a tokenizer, without a change to how it reads the text around them."""

from __future__ import annotations

from tokenizers import Regex, normalizers
from tokenizers.normalizers import Normalizer
from tokenizers.pre_tokenizers import ByteLevel, Metaspace, Sequence, Split, WhitespaceSplit
from transformers import PreTrainedTokenizerBase


# How words are read. By rules 1, SentencePiece tokenizers emit a stray space token between an added word and the
# punctuation after it, and a tokenizer that does not compose accents misses decomposed words. By rules 2, a similar
# word replaces an unknown one, as by rules 1; by rules 3 it follows it, for bases that can read the unknown one too.
WORD_RULES = 3
REPLACING = 2


def composing_normalizer(tokenizer: PreTrainedTokenizerBase) -> Normalizer:
    """Return the tokenizer's normalizer, with NFC after it if `é` and `e` with a combining accent would differ."""
    own = tokenizer.backend_tokenizer.normalizer
    if own is None:
        return normalizers.NFC()
    same = own.normalize_str("\u00e9") == own.normalize_str("e\u0301")
    return own if same else normalizers.Sequence([own, normalizers.NFC()])


def prepare_for_words(tokenizer: PreTrainedTokenizerBase) -> None:
    """
    Change a tokenizer so that added words are found in composed and decomposed text, and cause no false spaces.

    Text after an added word is read as if it began there, so punctuation too would get the space before every text.
    """
    backend = tokenizer.backend_tokenizer
    backend.normalizer = composing_normalizer(tokenizer)
    whole = backend.pre_tokenizer
    match list(whole) if isinstance(whole, Sequence) else [whole]:  # type: ignore[call-overload]
        case [Metaspace(prepend_scheme="always", replacement=mark, split=split)]:
            backend.pre_tokenizer = Metaspace(mark, "first", split)
        case [WhitespaceSplit(), Metaspace(prepend_scheme="always", replacement=mark, split=split)]:
            # Splitting at spaces removes them, and with them the sign of where a word begins. So only those before
            # another space or at the end are removed.
            spaces = normalizers.Replace(Regex(rf"[\s{mark}]"), " ")
            backend.normalizer = normalizers.Sequence([backend.normalizer, spaces])
            excess = Split(Regex(r"\s+(?=\s|\z)"), "removed")
            backend.pre_tokenizer = Sequence([excess, Metaspace(mark, "first", split)])
        case [ByteLevel(add_prefix_space=True) as last]:
            last.add_prefix_space = False
            backend.pre_tokenizer = Sequence([Metaspace(" ", "first", split=False), last])
