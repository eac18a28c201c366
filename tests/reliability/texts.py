"""Difficult texts: from the web, from broken conversions, from attackers."""

from __future__ import annotations

import sys
import unicodedata

from hypothesis import strategies as st


def _by_category() -> dict[str, str]:
    """The first, middle and last character of every Unicode category except surrogates."""
    found: dict[str, list[str]] = {}
    for character in map(chr, range(sys.maxunicode + 1)):
        found.setdefault(unicodedata.category(character), []).append(character)
    del found["Cs"]
    return {name: own[0] + own[len(own) // 2] + own[-1] for name, own in found.items()}


CATEGORIES = _by_category()

# Texts without a visible character.
BLANK = {
    "empty": "",
    "space": " ",
    "spaces": " \t\u00a0\u3000\u2003",
    "line ends": "\n\r\n\v\f\x85\u2028\u2029",
    "control": "".join(map(chr, [*range(32), *range(127, 160)])),
    "zero width": "\u200b\u200c\u200d\u2060\ufeff",
    "directions": "\u202a\u202b\u202d\u202e\u202c\u2066\u2067\u2068\u2069\u200e\u200f",
}

TEXTS = {
    **{f"category {name}": text for name, text in CATEGORIES.items()},
    **{f"words of {name}": f"word{text}word {text} {text}{text}" for name, text in CATEGORIES.items()},
    "right to left": "السلام عليكم",
    "both directions": "the word שלום means \u202epeace\u202c, 123 مرحبا 456",
    "one ligature": "ﷺﷺ ﬁne",
    "zero width inside": "wa\u200bter wa\u00adter wa\u2060ter \ufeffwater क्\u200dष",
    "no break": "the\u00a0water\u202fis\u3000cold",
    "marks": "a" + "\u0301" * 300 + " " + "e\u0316\u0301" * 100,
    "mark alone": "\u0301",
    "two normal forms": "café cafe\u0301 Å \u212b A\u030a",
    "cases that change the length": "İstanbul STRASSE ẞ ŉ ǰ ΐ ﬃ ǅ",
    "emoji": "😀 👨\u200d👩\u200d👧\u200d👦 🏳\ufe0f\u200d🌈 👍🏿 🇰🇪🇳🇬 1\ufe0f\u20e3 🏴\U000e0067\U000e0062\U000e007f",
    "half a family": "👨\u200d",
    "mixed scripts": "wаter with а Cyrillic а, 水とwater, น้ำwater, ውሃwater, ΩmegaЖ",
    "without spaces": "น้ำอยู่ในตลาด水在市场里みずはいちばにある ទឹក ຕະຫຼາດ ရေ བོད་ཡིག",
    "jamo": unicodedata.normalize("NFD", "한국어") + " 한국어",
    "indic": "पानी बाज़ार में है নদী నీరు நீர் ນ້ຳ",
    "mathematical": "𝐰𝐚𝐭𝐞𝐫 𝓌𝒶𝓉𝑒𝓇 ｗａｔｅｒ Ⅷ ⅷ ² ½ ٣ ३ 𝟚",
    "not characters": "\ufffe\uffff\U0010ffff \ufffd \ue000 \U000f0000",
    "private": "\ue000word\uf8ff",
    "nul inside": "wa\x00ter \x00 water",
    "escapes": "\x1b[31mred\x1b[0m \x07\x08",
    "special tokens": "[CLS] [SEP] [PAD] [UNK] [MASK] <s> </s> <pad> <mask> ##water ▁water Ġwater",
    "punctuation": "... !? — «» “” 。、 ؟ ।",
    "markup": '<a href="x">&amp;</a> {"json": [1]} %s %d {0} \\n \\ud800',
    "long word": "water" * 500,
    "long number": "9" * 400,
    "address": "https://example.org/" + "a%20" * 100,
    "many spaces": "water" + " " * 500 + "market",
    "many lines": "water\n" * 100,
}

# Kind -> function that makes a text of a given length.
LONG = {
    "sentences": lambda size: ("mtoto anakunywa maji. " * (size // 22 + 1))[:size],
    "unseen words": lambda size: "".join(f"{_letters(i % 20_000)}maji " for i in range(size // 10))[:size],
    "one word": lambda size: "a" * size,
    "spaces and a word": lambda size: " " * (size - 4) + "maji",
    "punctuation": lambda size: "." * size,
    "nul": lambda size: "\x00" * size,
    "marks of two classes": lambda size: "a" + "\u0301\u0316" * (size // 2),
    "without spaces": lambda size: "水在市场里" * (size // 5),
    "emoji": lambda size: "👨\u200d👩\u200d👧" * (size // 5),
    "brackets": lambda size: "[" * size,
}

HALVES = {
    "first half": "water \ud83d market",
    "second half": "water \ude00 market",
    "in the wrong order": "\ude00\ud83d",
    "as two units": "water \ud83d\ude00",
}

# Any text: characters of any category and pieces of the texts above.
ANY_TEXT = st.lists(
    st.one_of(
        st.characters(exclude_categories=("Cs",)),
        st.sampled_from([*BLANK.values(), *TEXTS.values()]),
        st.sampled_from(["water", "Water", " ", "maji", "the "]),
    ),
    max_size=8,
).map("".join)


def _letters(number: int) -> str:
    return "".join(chr(ord("a") + int(digit)) for digit in f"{number:05d}")


def for_csv(text: str) -> str:
    """Remove NUL before Python 3.11, whose `csv` does not support it."""
    return text if sys.version_info >= (3, 11) else text.replace("\0", "")
