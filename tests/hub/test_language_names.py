from __future__ import annotations

import pytest

from hf_optical.hub.language_names import language_name, named_code


@pytest.mark.parametrize(
    ("code", "name"),
    [
        *(("ha", "Hausa"), ("nso", "Northern Sotho"), ("swa-Latn", "Swahili"), ("sw_TZ", "Swahili")),
        *(("bare", "bare"), ("", ""), ("\u202ex", "\u202ex")),
    ],
)
def test_languages_are_named_in_english(code, name):
    assert language_name(code) == name
    assert named_code(code) == (code if code == name else f"{name} ({code})")
