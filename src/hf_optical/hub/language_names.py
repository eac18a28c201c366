"""English names of languages, from the Unicode CLDR."""

from __future__ import annotations

import re

from babel import Locale
from babel.core import get_global


def language_name(code: str) -> str:
    """Name a language in English: `"Swahili"` for `"swa-Latn"`. An unknown code is its own name."""
    language = re.split("[-_]", code)[0].lower()
    language = get_global("language_aliases").get(language, language)
    return Locale("en").languages.get(language, code)


def named_code(code: str) -> str:
    """Name a language with its code: `"Hausa (ha)"`, or the code alone if it is unknown."""
    name = language_name(code)
    return code if name == code else f"{name} ({code})"
