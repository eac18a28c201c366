"""Words of a text: the one way in which the library cuts text into words."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from typing import NamedTuple

import regex


# Longer strings in a text are addresses, ASCII art or lines without spaces, not words.
LONGEST_WORD = 100
# The scripts without spaces between words. Marks and Japanese long vowels belong to the letter before them.
_SCRIPTS = "Thai Lao Tibetan Myanmar Khmer Han Hiragana Katakana Bopomofo Yi Tai_Tham Tai_Viet Javanese Balinese"
_LETTERS = "".join(rf"\p{{Script={script}}}" for script in _SCRIPTS.split())
UNSPACED = regex.compile(rf"[{_LETTERS}][{_LETTERS}\p{{M}}\p{{Lm}}\p{{Cf}}]*+")
# White space, the space of SentencePiece, the zero-width space and all punctuation separate words. Other symbols, such
# as those for currencies and degrees, belong to the word that they adjoin.
_RUN = regex.compile(r"[^\s▁\u200b\p{P}$+<=>^`|~\p{Emoji_Presentation}\p{Emoji_Modifier}]+")
_ALPHANUMERIC = regex.compile(r"[\p{L}\p{N}]")
_LETTER = regex.compile(r"\p{L}")
_CLUSTER = regex.compile(r"\X")

# What may join words, see `find_words`.
APOSTROPHE_OR_HYPHEN = regex.compile("['’‑-]")
ADJOINING = regex.compile("")
NO_SPACE = regex.compile(r"\S*")


class Word(NamedTuple):
    """A word and its place in a text; not `spaced` if it is a run of a script without spaces between words."""

    text: str
    start: int
    stop: int
    spaced: bool

    @property
    def has_letter(self) -> bool:
        """Whether there is a letter in it, and not digits alone."""
        return _LETTER.search(self.text) is not None


def find_words(text: str, joined_by: regex.Pattern[str] | None = None) -> Iterator[Word]:
    """
    Find the words of a text: runs of letters and digits, with their combining marks, between spaces and punctuation.

    Apostrophes and hyphens are punctuation, as for the tokenizers of most encoders: `ma'aikata` is two words, unless
    the characters between words match `joined_by`. The glottal `ʼ` (U+02BC) is a letter. Scripts without spaces
    between words, such as Thai and Chinese, give one [`Word`] for each run of their letters, with `spaced=False`,
    which callers may divide.
    """
    if joined_by is None:
        yield from _parts(text)
        return
    start, stop, spaced = 0, None, True
    for _, begin, end, own in _parts(text):
        if stop is not None and not joined_by.fullmatch(text, stop, begin):
            yield Word(text[start:stop], start, stop, spaced)
            stop = None
        start, spaced = (begin, own) if stop is None else (start, spaced and own)
        stop = end
    if stop is not None:
        yield Word(text[start:stop], start, stop, spaced)


def _parts(text: str) -> Iterator[Word]:
    mixed = UNSPACED.search(text) is not None
    for run in _RUN.finditer(text):
        for start, stop, spaced in _by_spacing(text, *run.span()) if mixed else [(*run.span(), True)]:
            if _ALPHANUMERIC.search(text, start, stop):
                yield Word(text[start:stop], start, stop, spaced)


def _by_spacing(text: str, start: int, stop: int) -> Iterator[tuple[int, int, bool]]:
    """Divide a run into parts with and without spaces between words."""
    for match in UNSPACED.finditer(text, start, stop):
        yield start, match.start(), True
        yield *match.span(), False
        start = match.end()
    yield start, stop, True


def clusters(text: str) -> list[str]:
    """Split a text into characters as people see them, each with its combining marks (Unicode Annex 29)."""
    return _CLUSTER.findall(text)


def compose(word: str) -> str:
    """Compose the letters of a word with their accents (NFC), so that both ways of writing it are equal."""
    # Composing takes quadratic time in the number of combining marks, so text that cannot be a word is skipped.
    return unicodedata.normalize("NFC", word) if len(word) <= 10 * LONGEST_WORD else word
