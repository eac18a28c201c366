from __future__ import annotations

import hashlib
import random

from .dictionaries import Dictionary


class CodeSwitcher:
    """
    Writes an English text half in another language, word by word (Litschko et al. 2023, arXiv 2305.05295).

    Each word that the dictionary holds is replaced with `probability`, by one of its translations drawn by their
    probabilities; all else stays as it is. What is drawn depends on seed and text alone: a text is switched alike in
    every process, on every machine and whatever stands beside it. A word replaced under a low `probability` is
    replaced under every higher one, by the same translation.

    Args:
        dictionary ([`Dictionary`]): words and their translations.
        probability (`float`, defaults to 0.5): of each known word to be replaced, from 0 to 1.
        seed (`int` or `str`, defaults to 0): another seed, another draw.

    Raises:
        ValueError: `probability` is not between 0 and 1.
    """

    def __init__(self, dictionary: Dictionary, probability: float = 0.5, seed: int | str = 0):
        if not 0 <= probability <= 1:
            raise ValueError(f"probability is {probability}; it must be from 0 to 1")
        self.dictionary, self.probability, self.seed = dictionary, probability, seed

    def __call__(self, text: str) -> str:
        """The text with some of its words replaced."""
        digest = hashlib.sha256(f"{self.seed} {text}".encode("utf-8", "surrogatepass")).digest()
        generator = random.Random(int.from_bytes(digest, "big"))

        def choose(entries: list[tuple[str, float]]) -> str | None:
            # Both numbers are drawn for every known word, so that what one becomes does not hang on another's fate.
            switched, point = generator.random() < self.probability, generator.random()
            return _at(point, entries) if switched else None

        return self.dictionary.replace(text, choose)


def _at(point: float, entries: list[tuple[str, float]]) -> str:
    """The translation in whose share of the line from 0 to 1 the point lies."""
    for translation, probability in entries:
        point -= probability
        if point < 0:
            return translation
    return entries[-1][0]
