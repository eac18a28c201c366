from __future__ import annotations

import hashlib
import random

from ..checks import check_number
from .dictionaries import Dictionary


class CodeSwitcher:
    """
    Replaces English words by translations, word by word (Litschko et al. 2023, arXiv 2305.05295).

    Each word of the dictionary is replaced with `probability`, by a translation drawn by its probability. All other
    text stays as it is. The draw depends only on seed and text, so that a text is switched the same way in every
    process, on every machine and in every batch. A word that is replaced at a low `probability` is replaced by the
    same translation at every higher one.

    Args:
        dictionary ([`Dictionary`]): words and their translations.
        probability (`float`, defaults to 0.5): of replacing a known word, from 0 to 1.
        seed (`int` or `str`, defaults to 0): seed of the draw.

    Raises:
        ValueError: `probability` is not between 0 and 1.
    """

    def __init__(self, dictionary: Dictionary, probability: float = 0.5, seed: int | str = 0):
        check_number("probability", probability, at_least=0, at_most=1)
        self.dictionary, self.probability, self.seed = dictionary, probability, seed

    def __call__(self, text: str) -> str:
        """Replace some of the words of a text."""
        generator = seeded_random(f"{self.seed} {text}")

        def choose(entries: list[tuple[str, float]]) -> str | None:
            # Draw both numbers for every known word, so that one word's draw does not depend on another's.
            switched, point = generator.random() < self.probability, generator.random()
            return _pick(entries, point) if switched else None

        return self.dictionary.replace(text, choose)


def seeded_random(seed: str) -> random.Random:
    """Make a generator whose numbers are the same on every machine, for a seed that may hold any text."""
    return random.Random(int.from_bytes(hashlib.sha256(seed.encode("utf-8", "surrogatepass")).digest(), "big"))


def _pick(entries: list[tuple[str, float]], point: float) -> str:
    """Pick the translation at `point`, from 0 to 1, of the cumulative distribution."""
    for translation, probability in entries:
        point -= probability
        if point < 0:
            return translation
    return entries[-1][0]
