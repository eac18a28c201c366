"""
Perturbations that imitate how people type queries: misspelt, without accents, in the wrong case, mixed with English.

Every perturbation has a set of places in a text that it can change (letters, words, or pairs of them) and changes each
with probability `strength`. The result depends on `seed`, `kind` and `text` only, and is the same in every process, on
every machine and with every version of Python: random numbers come from SHA-256 through `random.Random.random`, whose
sequence Python guarantees. Letters are grapheme clusters (Unicode Standard Annex 29), so accents, tone marks and vowel
signs stay on their letters. Recent additions to Unicode may be letters in one version of `regex` and not in another.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterator, Mapping

import regex

from ..bitext import CodeSwitcher, Dictionary
from ..bitext.code_switching import seeded_random
from ..checks import check_choice, check_number, import_optional
from ..errors import DataError
from ..model.words import NO_SPACE, Word, find_words


# Start, stop, replacement.
_Edit = tuple[int, int, str]
_Draw = Callable[[], float]

_CLUSTER = regex.compile(r"\X")
_LETTER = regex.compile(r"\p{L}")
_TOKEN = regex.compile(r"\S+")
_CONTENT = regex.compile(r"[\p{L}\p{N}\p{S}]")
_PUNCTUATION = regex.compile(r"^\p{P}+|(?<!\p{P})\p{P}++$")
_MARKS = ",.;:!?"
# Letters of scripts other than Latin; common characters belong to no script.
_OTHER_SCRIPT = regex.compile(r"(?![\p{Latin}\p{Common}])\p{L}")

_ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
# The neighbours of a key: left, right, two above and two below.
_NEIGHBOURS = {
    key: "".join(
        _ROWS[row + down][column + right]
        for down, right in ((0, -1), (0, 1), (-1, 0), (-1, 1), (1, -1), (1, 0))
        if 0 <= row + down < len(_ROWS) and 0 <= column + right < len(_ROWS[row + down])
    )
    for row, keys in enumerate(_ROWS)
    for column, key in enumerate(keys)
}

# Accents, Hebrew points and Arabic vowel signs are optional in writing; the vowel signs of Indic scripts are not.
_DIACRITICS = regex.compile(
    "[\u0300-\u036f\u1ab0-\u1aff\u1dc0-\u1dff\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7\u064b-\u065f\u0670]"
)
# Hooks and strokes, which people omit like accents though Unicode does not treat them as marks.
_HOOKED = str.maketrans("ɓɗƙƴøđłħŧƁƊƘƳØĐŁĦŦ", "bdkyodlhtBDKYODLHT")


def _letters(text: str) -> Iterator[tuple[int, int]]:
    """Start and stop of each letter, including its combining marks."""
    return (match.span() for match in _CLUSTER.finditer(text) if _LETTER.match(match.group()))


def _words(text: str) -> Iterator[Word]:
    """Words between white space, without surrounding punctuation."""
    return find_words(text, joined_by=NO_SPACE)


def _typos(text: str, draw: _Draw) -> Iterator[_Edit]:
    for start, stop in _letters(text):
        # The letter keeps its accents; only the base key is mistyped.
        base, marks = text[start], text[start + 1 : stop]
        base, *own = list(unicodedata.normalize("NFD", base))
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
    return _swap_neighbours(text, [(word.start, word.stop) for word in _words(text)], draw)


def _swap_neighbours(text: str, spans: list[tuple[int, int]], draw: _Draw) -> Iterator[_Edit]:
    """Swap disjoint pairs of spans, starting with the first or the second span."""
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
    for word, start, stop, _ in _words(text):
        if (swapped := word.swapcase()) != word:
            yield start, stop, swapped


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
    anyascii = import_optional("anyascii", "rivals").anyascii
    for word, start, stop, _ in _words(text):
        # Words that the library cannot transliterate come out empty and stay unchanged.
        if _OTHER_SCRIPT.search(word) and (latin := anyascii(word).strip()):
            yield start, stop, latin


_KINDS: dict[str, tuple[Callable[[str, _Draw], Iterator[_Edit]], str]] = {
    "typos": (_typos, "letters are replaced by a QWERTY neighbour (share of the letters a-z, accented or not)"),
    "drop_letters": (_drop_letters, "letters are dropped (share of all letters)"),
    "swap_letters": (_swap_letters, "adjacent letters of a word are swapped (share of the pairs)"),
    "drop_diacritics": (
        _drop_diacritics,
        "letters lose accents, tone marks and hooks (share of the letters with any)",
    ),
    "case": (_case, "the case of words is inverted, as with caps lock (share of the words in scripts with case)"),
    "drop_words": (_drop_words, "words are dropped (share of all words)"),
    "swap_words": (_swap_words, "adjacent words are swapped (share of the pairs)"),
    "punctuation": (_punctuation, "words lose surrounding punctuation, or gain some (share of all words)"),
    "transliteration": (_transliteration, "words are transliterated to Latin (share of the words in other scripts)"),
}
# Below strength 1 these leave at least one letter or word, so that one-word queries survive.
_DROPS = ("drop_letters", "drop_words")

PERTURBATIONS: dict[str, str] = {name: description for name, (_, description) in _KINDS.items()}
"""Kind of perturbation -> what it does to a query."""
PERTURBATIONS["code_mixing"] = "words are translated to English (share of the words in the dictionary)"


def perturb(text: str, kind: str, strength: float, *, seed: int = 0, dictionary: Dictionary | None = None) -> str:
    """
    Perturb one query.

    A greater strength keeps all changes of a smaller one and adds others. White space around a changed text is
    removed. Words are separated by white space, so a sentence in a script without spaces is one word, except for
    `"code_mixing"`. A text without a place that `kind` can change, or with punctuation only, stays as it is.

    Args:
        text (`str`): the query.
        kind (`str`): a key of `PERTURBATIONS`, which describes each kind.
        strength (`float`): probability of changing a place, from 0 (nothing changes) to 1 (everything does).
            `"drop_letters"` and `"drop_words"` leave at least one letter or word below strength 1.
        seed (`int`, defaults to 0): random seed.
        dictionary ([`~hf_optical.bitext.Dictionary`], *optional*): translations from the language of the query to
            English, for `"code_mixing"`.

    Returns:
        `str`: the perturbed query.

    Raises:
        ValueError: `kind` is unknown, `strength` is not between 0 and 1, or `kind` needs a dictionary.
        DataError: nothing is left of the query.
        ImportError: `"transliteration"` without the `anyascii` library. Its tables may differ between versions.
    """
    check_choice("kind", kind, PERTURBATIONS)
    check_number("strength", strength, at_least=0, at_most=1)
    if kind == "code_mixing":
        if dictionary is None:
            raise ValueError("code_mixing needs a dictionary to English; use read_muse or learn_dictionary")
        return CodeSwitcher(dictionary, strength, seed)(text)

    # Punctuation alone, such as "??", stays as it is.
    if not _CONTENT.search(text):
        return text
    draw = seeded_random(f"{seed} {kind} {text}").random
    # All numbers are drawn at any strength, so that a greater strength only adds changes.
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
            f"{kind} at strength {strength} leaves nothing of the query {text!r:.80}; lower the strength or remove "
            "the query"
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
    Perturb every query independently, see [`perturb`].

    Args:
        queries (mapping of `str` to `str`): id -> text.
        kind (`str`), strength (`float`), seed (`int`, defaults to 0), dictionary (*optional*): as in [`perturb`].

    Returns:
        `dict[str, str]`: id -> perturbed text, in the order of `queries`.

    Raises the errors of [`perturb`].
    """
    return {id: perturb(text, kind, strength, seed=seed, dictionary=dictionary) for id, text in queries.items()}
