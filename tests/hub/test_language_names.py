from __future__ import annotations

from hf_optical.hub.language_names import language_name, named_code


def test_languages_are_named_in_english():
    named = {"ha": "Hausa", "nso": "Northern Sotho", "swa-Latn": "Swahili", "sw_TZ": "Swahili"}
    for code, name in (named | {code: code for code in ("bare", "", "\u202ex")}).items():
        assert language_name(code) == name
        assert named_code(code) == (code if code == name else f"{name} ({code})")
