"""HTML of the results; their style is in `style.css`."""

from __future__ import annotations

import base64
import html
import io
import warnings
from collections.abc import Sequence

import matplotlib
from matplotlib.figure import Figure

from ..plots import WordMatch


# Number of word pairs listed below a passage, and the smallest heat of a marked word.
PAIRS, LEAST_HEAT = 4, 0.15

# Start and end of a word in the passage -> its heat and the word of the question.
_Heats = dict[tuple[int, int], tuple[float, str]]


def heading(language: str, documents: int) -> str:
    text = (
        f"A language pack reads the question. The {documents:,} English passages were encoded by the base model, "
        "which never learned the language."
    )
    return f'<header class="heading"><h1>Ask in {html.escape(language)}, read in English</h1><p>{text}</p></header>'


def note(text: str) -> str:
    """A message in place of a result."""
    return f'<p class="note" role="status">{html.escape(text)}</p>'


def passages(cards: Sequence[str], english: str) -> str:
    translation = f'<p class="english">In English: <q>{html.escape(english)}</q></p>' if english else ""
    key = "The darker a word, the closer it is to a word of the question, and the rarer among the passages."
    return f'{translation}<ol class="passages">{"".join(cards)}</ol><p class="key">{key}</p>'


def card(title: str, passage: str, score: float, matches: Sequence[WordMatch], largest_weight: float) -> str:
    """A passage, title first, with the words that match the question marked."""
    heats: _Heats = {}
    for match in matches:
        heat, place = match.similarity * match.weight / largest_weight, (match.start, match.stop)
        if heat >= LEAST_HEAT and heat > heats.get(place, (0.0, ""))[0]:
            heats[place] = heat, match.word
    darkest = sorted(heats, key=heats.__getitem__, reverse=True)[:PAIRS]
    pairs = "".join(
        f"<li><b>{html.escape(heats[place][1])}</b> {html.escape(passage[slice(*place)])}</li>" for place in darkest
    )
    return (
        f'<li class="passage"><h3><span>{_marked(passage, 0, len(title), heats)}</span>'
        f'<span class="score" title="MaxSim">{score:.2f}</span></h3>'
        f"<p>{_marked(passage, len(title), len(passage), heats)}</p>"
        f'<ul class="pairs">{pairs}</ul></li>'
    )


def _marked(passage: str, start: int, stop: int, heats: _Heats) -> str:
    """Part of a passage with its matching words marked."""
    parts, end = [], start
    for place, (heat, word) in sorted(heats.items()):
        if start <= place[0] < stop:
            matched, word = html.escape(passage[slice(*place)]), html.escape(word)
            mark = f'<mark style="--heat: {heat:.2f}" title="{word}">{matched}</mark>'
            parts += [html.escape(passage[end : place[0]]), mark]
            end = place[1]
    return "".join([*parts, html.escape(passage[end:stop])])


def picture(figure: Figure, description: str) -> str:
    """A figure whose text is drawn by the browser with its own fonts."""
    file = io.BytesIO()
    with matplotlib.rc_context({"svg.fonttype": "none"}), warnings.catch_warnings():
        # Missing glyphs on this machine do not matter: the browser draws the text.
        warnings.simplefilter("ignore", UserWarning)
        figure.savefig(file, format="svg", metadata={"Date": None})
    source = "data:image/svg+xml;base64," + base64.b64encode(file.getvalue()).decode()
    key = (
        "The width of a stream is the mass that transport moves from a word to a word of the translation. Darker "
        "streams connect a larger part of the two words."
    )
    image = f'<img src="{source}" alt="{html.escape(description)}">'
    return f'<figure class="plan">{image}<figcaption>{key}</figcaption></figure>'
