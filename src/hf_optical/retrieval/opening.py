from __future__ import annotations

import os
from collections.abc import Sequence

from ..languages import LanguagePack
from .retriever import OpticalRetriever


DEFAULT_BASE = "sentence-transformers/all-MiniLM-L6-v2"
"""Base that commands open if none is named."""


def open_retriever(
    packs: Sequence[str | os.PathLike], base_model: str | os.PathLike | None = None
) -> OpticalRetriever:
    """
    Open packs of one base. The language of the first one is active.

    Args:
        packs (sequence of `str` or `os.PathLike`):
            Folders or Hub ids of packs. The first may also be a model or a saved retriever. Without any, the bare base
            is opened.
        base_model (`str` or `os.PathLike`, *optional*):
            Folder or Hub id of the base, in place of the one that the first pack names, or of the default one.

    Raises:
        OSError: If a pack, a model or the base is not found.
        ValueError: If the packs are of different bases, two are of one language, or a name is empty.
    """
    if "" in packs:
        raise ValueError(
            "a pack or model must have a name, got ''; if an index names its base so, that was not saved when it "
            "encoded the documents: save it, and pass its folder"
        )
    first, *others = packs or [base_model or DEFAULT_BASE]
    retriever = OpticalRetriever.from_pretrained(first, base_model=base_model if packs else None)
    for name in others:
        pack = LanguagePack.from_pretrained(name)
        retriever.add_language(pack.language, pack)
    return retriever


def open_for_index(
    base_of_index: str, packs: Sequence[str | os.PathLike], base_model: str | os.PathLike | None = None
) -> OpticalRetriever:
    """As [`open_retriever`], but without packs and `base_model`, open the base that encoded the index."""
    return open_retriever(packs or ([] if base_model else [base_of_index]), base_model)
