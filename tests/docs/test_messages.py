"""The pages on troubleshooting explain messages that exist, and every message says what to do or is explained."""

from __future__ import annotations

import re
import sys

from tiny import REPOSITORY


sys.path.insert(0, str(REPOSITORY / "docs" / "_site"))

import messages  # noqa: E402


PAGES = {path.name: path.read_text(encoding="utf-8") for path in (REPOSITORY / "docs/troubleshooting").glob("*.md")}
MESSAGES = messages.messages()
EXPLAINED = messages.explained(PAGES)


def test_explained_messages_exist():
    assert EXPLAINED
    gone = [heading for heading in EXPLAINED if not any(each.text.startswith(heading) for each in MESSAGES)]
    assert not gone


def test_every_message_says_what_to_do_or_is_explained():
    says = re.compile(r"\b(must|expected|needs|takes|lacks)\b")
    silent = [
        message
        for message in MESSAGES
        if not (message.parts[1] or says.search(message.text) or any(map(message.text.startswith, EXPLAINED)))
    ]
    assert not silent, "end the message with '; ' and what to do, or explain it in docs/troubleshooting/"


def test_messages_are_found_in_every_form(tmp_path, monkeypatch):
    (tmp_path / "room").mkdir()
    (tmp_path / "room" / "file.py").write_text(
        "END = 'it is closed: {}'\n"
        "def reason(x):\n    return f'is {x} long' if x else 'is no folder'\n"
        "def f(x, self):\n"
        "    if x == 1: raise ValueError(f'x must be 1, got {x}')\n"
        "    if x == 2: raise OSError(END.format(x))\n"
        "    if found := reason(x): raise KeyError(f'{x} ' + f'{found}; stop')\n"
        "    message = 'too many words'\n"
        "    raise self.error('place', message if x else 'no word')\n"
        "def g():\n    raise NotImplementedError('a method to write')\n",
        encoding="utf-8",
    )
    monkeypatch.setattr(messages, "SOURCE", tmp_path)
    found = {message.text: message for message in messages.messages()}
    assert set(found) == {
        *(
            "x must be 1, got …",
            "it is closed: …",
            "… is … long; stop",
            "… is no folder; stop",
            "too many words",
            "no word",
        )
    }
    message = found["… is no folder; stop"]
    assert (message.room, message.kind, message.parts) == ("room", "KeyError", ("… is no folder", "stop"))
