"""
Queries as people type them: misspelt, without accents, in the wrong case, mixed with English.

Every perturbation knows the places of a text that it can touch (letters, words, pairs of them) and touches each with
probability `strength`, so that `strength` is the share of these places that changes. What happens at a place hangs on
`seed`, `kind` and `text` alone, and on no other query, process, machine or version of Python: the numbers come from
SHA-256 through `random.Random.random`, whose sequence Python guarantees. Letters are grapheme clusters (Unicode
Standard Annex 29): an accent, a tone mark or a vowel sign stays on its letter. Characters that Unicode has only just
added may count as letters in one version of `regex` and not in an older one.
"""

from __future__ import annotations

import hashlib
import random
import unicodedata
from collections.abc import Callable, Iterator, Mapping

import regex

from ..bitext import CodeSwitcher, Dictionary
from ..errors import DataError


# From, to, and what stands there instead.
_Edit = tuple[int, int, str]
_Draw = Callable[[], float]

_CLUSTER = regex.compile(r"\X")
_LETTER = regex.compile(r"\p{L}")
_TOKEN = regex.compile(r"\S+")
# A word without the punctuation around it.
_WORD = regex.compile(r"[\p{L}\p{M}\p{N}](?:\S*[\p{L}\p{M}\p{N}])?")
_CONTENT = regex.compile(r"[\p{L}\p{N}\p{S}]")
_PUNCTUATION = regex.compile(r"^\p{P}+|(?<!\p{P})\p{P}++$")
_MARKS = ",.;:!?"
# Letters of another script than Latin; characters that all scripts share are of none.
_OTHER_SCRIPT = regex.compile(r"(?![\p{Latin}\p{Common}])\p{L}")

_ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
# A key touches those beside it, two above and two below.
_NEIGHBOURS = {
    key: "".join(
        _ROWS[row + down][column + right]
        for down, right in ((0, -1), (0, 1), (-1, 0), (-1, 1), (1, -1), (1, 0))
        if 0 <= row + down < len(_ROWS) and 0 <= column + right < len(_ROWS[row + down])
    )
    for row, keys in enumerate(_ROWS)
    for column, key in enumerate(keys)
}

# Accents, Hebrew points and Arabic vowel signs can be left out in writing; the vowel signs of Indic scripts cannot.
_DIACRITICS = regex.compile(
    "[\u0300-\u036f\u1ab0-\u1aff\u1dc0-\u1dff\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7\u064b-\u065f\u0670]"
)
# Hooks and strokes that Unicode does not take for marks, though writers leave them out alike.
_HOOKED = str.maketrans("ɓɗƙƴøđłħŧƁƊƘƳØĐŁĦŦ", "bdkyodlhtBDKYODLHT")


def _letters(text: str) -> Iterator[tuple[int, int]]:
    """Where each letter begins and ends, with the marks that it carries."""
    return (match.span() for match in _CLUSTER.finditer(text) if _LETTER.match(match.group()))


def _typos(text: str, draw: _Draw) -> Iterator[_Edit]:
    for start, stop in _letters(text):
        # The accents of a letter survive: the finger missed its key.
        base, marks = text[start], text[start + 1 : stop]
        base, *own = unicodedata.normalize("NFD", base)
        if near := _NEIGHBOURS.get(base.lower()):
            key = near[int(draw() * len(near))]
            key = key.upper() if base.isupper() else key
            yield start, stop, unicodedata.normalize("NFC", key + "".join(own) + marks)


def _drop_letters(text: str, draw: _Draw) -> Iterator[_Edit]:
    return ((start, stop, "") for start, stop in _letters(text))


def _swap_letters(text: str, draw: _Draw) -> Iterator[_Edit]:
    runs: list[list[tuple[int, int]]] = []
    for span in _letters(text):
        if runs and runs[-1][-1][1] == span[0]:
            runs[-1].append(span)
        else:
            runs.append([span])
    for run in runs:
        yield from _swap_neighbours(text, run, draw)


def _swap_words(text: str, draw: _Draw) -> Iterator[_Edit]:
    return _swap_neighbours(text, [match.span() for match in _WORD.finditer(text)], draw)


def _swap_neighbours(text: str, spans: list[tuple[int, int]], draw: _Draw) -> Iterator[_Edit]:
    """The spans go by twos, from the first or the second on, so that no two swaps meet."""
    offset = int(draw() < 0.5) if len(spans) > 2 else 0
    for (start, end), (begin, stop) in zip(spans[offset::2], spans[offset + 1 :: 2], strict=False):
        first, between, second = text[start:end], text[end:begin], text[begin:stop]
        if first != second:
            yield start, stop, second + between + first


def _drop_diacritics(text: str, draw: _Draw) -> Iterator[_Edit]:
    for start, stop in _letters(text):
        letter = unicodedata.normalize("NFD", text[start:stop])
        plain = _DIACRITICS.sub("", letter).translate(_HOOKED)
        if plain != letter:
            yield start, stop, unicodedata.normalize("NFC", plain)


def _case(text: str, draw: _Draw) -> Iterator[_Edit]:
    for match in _WORD.finditer(text):
        if (swapped := match.group().swapcase()) != match.group():
            yield *match.span(), swapped


def _drop_words(text: str, draw: _Draw) -> Iterator[_Edit]:
    tokens = list(_TOKEN.finditer(text))
    stops = [*(token.start() for token in tokens[1:]), len(text)]
    for token, stop in zip(tokens, stops, strict=False):
        if _CONTENT.search(token.group()):
            yield token.start(), stop, ""


def _punctuation(text: str, draw: _Draw) -> Iterator[_Edit]:
    for match in _TOKEN.finditer(text):
        token, mark = match.group(), _MARKS[int(draw() * len(_MARKS))]
        bare = _PUNCTUATION.sub("", token)
        yield *match.span(), bare if bare != token else token + mark


def _transliteration(text: str, draw: _Draw) -> Iterator[_Edit]:
    try:
        from anyascii import anyascii
    except ImportError as error:
        raise ImportError(
            'transliteration needs the anyascii library; pip install "hf_optical[rivals]" or pip install anyascii'
        ) from error
    for match in _WORD.finditer(text):
        # What the library does not know becomes nothing, and stays as it is here.
        if _OTHER_SCRIPT.search(match.group()) and (latin := anyascii(match.group()).strip()):
            yield *match.span(), latin


_KINDS: dict[str, tuple[Callable[[str, _Draw], Iterator[_Edit]], str]] = {
    "typos": (_typos, "letters become a neighbour on a QWERTY keyboard (share of the letters a-z, accented or not)"),
    "drop_letters": (_drop_letters, "letters are left out (share of all letters)"),
    "swap_letters": (_swap_letters, "letters change places with the next of their word (share of the pairs)"),
    "drop_diacritics": (_drop_diacritics, "letters lose accents, tone marks, hooks (share of the letters with some)"),
    "case": (_case, "words are typed with caps lock on (share of the words in scripts with case)"),
    "drop_words": (_drop_words, "words are left out (share of all words)"),
    "swap_words": (_swap_words, "words change places with the next (share of the pairs)"),
    "punctuation": (_punctuation, "words lose the punctuation around them, or gain some (share of all words)"),
    "transliteration": (_transliteration, "words are written in Latin letters (share of the words in other scripts)"),
}
# These never take all below strength 1, so that a study survives its queries of one word.
_DROPS = ("drop_letters", "drop_words")

PERTURBATIONS: dict[str, str] = {name: description for name, (_, description) in _KINDS.items()}
PERTURBATIONS["code_mixing"] = "words become English (share of the words that the dictionary holds)"


def perturb(text: str, kind: str, strength: float, *, seed: int = 0, dictionary: Dictionary | None = None) -> str:
    """
    Perturbs one query.

    What is changed at one `strength` is changed alike at every greater one. White space around a text that changes is
    left out. Words are what white space parts, so a sentence in a script without spaces is one word, except to
    `"code_mixing"`. A text without a place that `kind` can touch stays as it is, and so does
    one of punctuation alone.

    Args:
        text (`str`): the query.
        kind (`str`): a name in `PERTURBATIONS`, which says what each changes.
        strength (`float`): probability that a place is touched, from 0 (nothing changes) to 1 (every place does).
            `"drop_letters"` and `"drop_words"` leave at least one letter or word below strength 1.
        seed (`int`, defaults to 0): another seed, another draw.
        dictionary ([`~hf_optical.bitext.Dictionary`], *optional*): for `"code_mixing"`, from words of the query's
            language to English.

    Returns:
        `str`: the perturbed query.

    Raises:
        ValueError: `kind` is unknown, `strength` not from 0 to 1, or the dictionary that `kind` needs missing.
        DataError: nothing is left of the query.
        ImportError: `"transliteration"` without the `anyascii` library. Its tables may differ between its versions.
    """
    if kind not in PERTURBATIONS:
        raise ValueError(f"kind is {kind!r}; it must be one of {', '.join(PERTURBATIONS)}")
    if not 0 <= strength <= 1:
        raise ValueError(f"strength is {strength}; it must be from 0 to 1")
    if kind == "code_mixing":
        if dictionary is None:
            raise ValueError(
                "code_mixing needs a dictionary; pass one to English, e.g. read_muse(file) or "
                "learn_dictionary(..., reverse=True)"
            )
        return CodeSwitcher(dictionary, strength, seed)(text)

    # A query without a letter, digit or symbol, such as "??", has nothing to lose.
    if not _CONTENT.search(text):
        return text
    draw = _draws(seed, kind, text)
    # Every number is drawn whatever the strength, so that a greater one only adds changes.
    edits = [(edit, draw()) for edit in _KINDS[kind][0](text, draw)]
    touched = [edit for edit, number in edits if number < strength]
    if kind in _DROPS and strength < 1 and edits and len(touched) == len(edits):
        touched.remove(max(edits, key=lambda edit: edit[1])[0])
    if not touched:
        return text
    parts, end = [], 0
    for start, stop, replacement in touched:
        parts += [text[end:start], replacement]
        end = stop
    changed = "".join([*parts, text[end:]]).strip()
    if not _CONTENT.search(changed):
        raise DataError(
            f"{kind} at strength {strength} leaves nothing of the query {text!r:.80}; lower the strength, or leave "
            "the query out"
        )
    return changed


def perturb_queries(
    queries: Mapping[str, str],
    kind: str,
    strength: float,
    *,
    seed: int = 0,
    dictionary: Dictionary | None = None,
) -> dict[str, str]:
    """
    Perturbs every query, each by itself: see [`perturb`].

    Args:
        queries (mapping of `str` to `str`): id -> text.
        kind (`str`), strength (`float`), seed (`int`, defaults to 0), dictionary (*optional*): as in [`perturb`].

    Returns:
        `dict[str, str]`: id -> perturbed text, in the order of `queries`.

    Raises:
        DataError: nothing is left of a query. Names its id.
        ValueError, ImportError: as [`perturb`].
    """
    perturbed = {}
    for id, text in queries.items():
        try:
            perturbed[id] = perturb(text, kind, strength, seed=seed, dictionary=dictionary)
        except DataError as error:
            raise DataError(f"query {id!r}: {error}") from error
    return perturbed


def _draws(seed: int, kind: str, text: str) -> _Draw:
    """Numbers from 0 to 1 that every machine draws alike."""
    # Text read from broken files may hold half a surrogate pair.
    digest = hashlib.sha256(f"{seed} {kind} {text}".encode("utf-8", "surrogatepass")).digest()
    return random.Random(int.from_bytes(digest, "big")).random
