"""Typing errors in sentences to train on."""

from __future__ import annotations

from ..checks import check_number
from ..model.words import clusters
from .code_switching import seeded_random


class Mistyper:
    """
    Mistype sentences with a random share of errors.

    A letter is doubled, left out, swapped with the next one, replaced by any letter of the same sentence, or followed
    by one; at the end of a word, the space after it may be left out. These errors know no keyboard, and differ in kind
    and draw from those of [`~hf_optical.evaluation.perturb_queries`], which measure robustness.

    The result depends only on seed and text, so it is the same in every process and epoch.

    Args:
        strength (`float`, defaults to 0.2): the largest share of letters with an error; each text draws its own share.
        seed (`int` or `str`, defaults to 0): seed of the draw.

    Raises:
        ValueError: `strength` is not between 0 and 1.
    """

    def __init__(self, strength: float = 0.2, seed: int | str = 0):
        check_number("strength", strength, at_least=0, at_most=1)
        self.strength, self.seed = strength, seed

    def __call__(self, text: str) -> str:
        """Return the text with errors; at least one of its characters stays."""
        draw = seeded_random(f"{self.seed} noise {text}").random
        share = self.strength * draw()
        letters = [cluster for cluster in clusters(text) if cluster[0].isalpha()]
        rest = clusters(text)[::-1]
        typed: list[str] = []
        while rest:
            letter = rest.pop()
            after = rest[-1] if rest else ""
            if not letter[0].isalpha() or draw() >= share:
                typed.append(letter)
                continue
            other, kind = letters[int(draw() * len(letters))], int(draw() * 6)
            if kind == 0:
                typed += [letter, letter]
            elif kind == 1 and len(letters) > 1:
                continue
            elif kind == 2 and after and after[0].isalpha():
                typed += [rest.pop(), letter]
            elif kind == 3:
                typed.append(other)
            elif kind == 4 and after == " ":
                typed.append(letter)
                rest.pop()
            else:
                typed += [letter, other]
        return "".join(typed) if "".join(typed).strip() else text
