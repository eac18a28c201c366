from __future__ import annotations

import pytest

from hf_optical.errors import error_summary, format_names, short_repr


@pytest.mark.promise("Text", "Error messages about the content of a file are short and printable.")
def test_values_are_shown_on_one_short_printable_line():
    deep: list = []
    for _ in range(5000):
        deep = [deep]
    for value in (
        deep,
        "x" * 10**6,
        "\ud800\n\u202e",
        {"a" * 999: deep} | dict.fromkeys(range(999)),
        None,
        float("nan"),
    ):
        text = short_repr(value)
        assert len(text) <= 200 and text.isprintable() and text.encode()
    assert short_repr("it's") == '"it\'s"' and short_repr({"a": [1]}) == "{'a': [1]}"


def test_names_are_joined_on_one_short_printable_line():
    assert format_names(["en", "\ud800", 3]) == "en, \\ud800, 3" and len(format_names(["x" * 200] * 999)) == 300
    assert format_names(["\x1b[2Ja\nb", "it's", "ƙ"]) == "\\x1b[2Ja\\nb, it's, ƙ"


def test_error_summaries_are_short_and_printable():
    assert error_summary(ValueError("a\n  b")) == "a b" and error_summary(MemoryError()) == "MemoryError"
    assert error_summary(ValueError("\x1b[2J")) == "\\x1b[2J" and len(error_summary(ValueError("x" * 9999))) == 500
