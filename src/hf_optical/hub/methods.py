"""What a card says of the method that a student was trained by, and whom it asks to cite."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .quoting import prose, span


@dataclass(frozen=True)
class MethodText:
    """
    Args:
        text (`str`): a sentence or two, with blanks that [`describe`] fills in.
        tags (`tuple[str, ...]`): tags of the card.
        citations (`tuple[str, ...]`): BibTeX entries.
    """

    text: str
    tags: tuple[str, ...]
    citations: tuple[str, ...]


_OPTICAL = """@inproceedings{huang2023optical,
  title={Improving Cross-lingual Information Retrieval on Low-Resource Languages via Optimal Transport Distillation},
  author={Huang, Zhiqi and Yu, Puxuan and Allan, James},
  booktitle={Proceedings of the Sixteenth ACM International Conference on Web Search and Data Mining},
  year={2023}
}"""
_DR_DECR = """@article{li2021learning,
  title={Learning Cross-Lingual {IR} from an {E}nglish Retriever},
  author={Li, Yulong and Franz, Martin and Sultan, Md Arafat and Iyer, Bhavani and Lee, Young-Suk and Sil, Avirup},
  journal={arXiv:2112.08185},
  year={2021}
}"""
_SENTENCE = """@inproceedings{reimers2020making,
  title={Making Monolingual Sentence Embeddings Multilingual using Knowledge Distillation},
  author={Reimers, Nils and Gurevych, Iryna},
  booktitle={Proceedings of the 2020 Conference on Empirical Methods in Natural Language Processing},
  year={2020}
}"""
_CODE_SWITCH = """@article{litschko2023boosting,
  title={Boosting Zero-shot Cross-lingual Retrieval by Training on Artificially Code-Switched Data},
  author={Litschko, Robert and Artemova, Ekaterina and Plank, Barbara},
  journal={arXiv:2305.05295},
  year={2023}
}"""
_PAIR = "the frozen teacher reads the {teacher_language} sentence, the student its translation; the loss is "
_TRANSPORT = _PAIR + "the cost of the optimal transport between their token vectors (OPTICAL-style)"
_OWN_LOSS = _PAIR + "{loss}, which the trainer was given"
_SWITCHED = (
    "the student is to rank {teacher_language} texts, some words of which were switched by a dictionary, {target}"
)

METHODS = {
    "ot": MethodText(_TRANSPORT + ". No relevance labels were used.", ("optimal-transport",), (_OPTICAL,)),
    "greedy": MethodText(
        _PAIR + "the distance of token vectors that a greedy one-to-one alignment puts together (as in Dr.DECR{but}).",
        (),
        (_DR_DECR,),
    ),
    "sentence": MethodText(_PAIR + "the distance of their mean vectors.", (), (_SENTENCE,)),
    "code_switch": MethodText(_SWITCHED + ".", ("code-switching",), (_CODE_SWITCH,)),
    "hybrid": MethodText(
        _TRANSPORT + ". Beside it, " + _SWITCHED + ".",
        ("optimal-transport", "code-switching"),
        (_OPTICAL, _CODE_SWITCH),
    ),
}


_OWN = {
    False: MethodText(_OWN_LOSS + ".", (), ()),
    True: MethodText(_OWN_LOSS + ". Beside it, " + _SWITCHED + ".", ("code-switching",), (_CODE_SWITCH,)),
}
# Of a later version, or of nobody.
_UNKNOWN = MethodText("", (), ())


def method_of(settings: dict[str, Any]) -> MethodText:
    """What there is to say of a method, if it is known; of transport nothing, where the loss is another's."""
    method = settings.get("method", "ot")
    return _OWN[method == "hybrid"] if "loss" in settings else METHODS.get(method, _UNKNOWN)


def describe(settings: dict[str, Any], teacher_language: str) -> str:
    """
    How a student was trained, for its card; `""` if the method is not known.

    Args:
        settings (`dict`): those of the run, as far as they are known.
        teacher_language (`str`): code of the language that the teacher reads.
    """
    target = "as the frozen teacher ranks them"
    if settings.get("ranking_target") == "labels":
        target = "the relevant one for a query before all others"
    changes = []
    if settings.get("marginals") == "idf":
        changes.append("tokens weighed by inverse document frequency")
    if settings.get("align_special_tokens") is False:
        changes.append("special tokens left out")
    but = f", but with {' and '.join(changes)}" if changes else ""
    text = method_of(settings).text
    loss = span(settings.get("loss"))
    return text.format(teacher_language=prose(teacher_language), target=target, but=but, loss=loss)
