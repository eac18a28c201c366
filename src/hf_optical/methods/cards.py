"""The words of training methods on a card, from the settings that a pack stores."""

from __future__ import annotations

from typing import Any, NamedTuple

from .alignment import PAIR, Alignment
from .registry import method_classes


class CardText(NamedTuple):
    """Sentences on how the student was trained, `""` for an unknown method; tags of the card; BibTeX entries."""

    text: str
    tags: tuple[str, ...]
    citations: tuple[str, ...]


def card_text(settings: dict[str, Any], teacher_language: str, loss: str) -> CardText:
    """
    Describe the training that a pack's settings stand for.

    `loss` is the name of a loss that was used in place of the method's own.
    """
    clauses: list[str] = []
    tags: list[str] = []
    citations: list[str] = []
    methods = method_classes(settings.get("method", "ot"))
    for method in methods:
        if "loss" in settings and issubclass(method, Alignment):
            clauses.append(f"{PAIR.format(teacher_language=teacher_language)}{loss}, which the trainer was given")
        else:
            clauses.append(method.describe(settings, teacher_language=teacher_language))
            tags += method.tags
            citations += method.citations
    text = ". In addition, ".join(clauses) + "." if clauses else ""
    if methods and not any(method.uses_labels for method in methods) and "loss" not in settings:
        text += " No relevance labels were used."
    return CardText(text, tuple(tags), tuple(citations))
