"""The teacher of the open packs, whose index they search, if it is not their base."""

from __future__ import annotations

import os
from collections.abc import Mapping

import torch

from ..errors import printable
from ..languages.pack import LanguagePack, Teacher
from ..model import OpticalModel, OpticalProcessor
from ..storage.fetching import packaged_copy
from .retriever_folder import open_base


def check_one_teacher(packs: Mapping[str, LanguagePack], pack: LanguagePack) -> None:
    """Raise `ValueError` if the queries of the open packs search another index than those of `pack`."""
    for language, other in packs.items():
        teachers = (pack.teacher, other.teacher)
        ours, theirs = (teacher and teacher.digest for teacher in teachers)
        if ours != theirs:
            own, open_ones = (teacher.name_or_path if teacher else "its base" for teacher in teachers)
            raise ValueError(
                f"the pack for {pack.language!r} searches the index of {own}, that for {language!r} the index of "
                f"{open_ones}; open them in separate retrievers"
            )


def open_teacher(teacher: Teacher, place: str | os.PathLike | None) -> tuple[OpticalModel, OpticalProcessor]:
    """Open the teacher of a pack, at `place` or where the pack says."""
    name = place or teacher.name_or_path
    revision = None if place or packaged_copy(teacher.name_or_path) else teacher.revision
    try:
        model, processor = open_base(name, revision, torch.float32)
    except OSError as error:
        raise OSError(
            f"cannot open the teacher of the packs, which encodes the documents: {error}. Pass its place as "
            "teacher_model, or vectors that it has encoded"
        ) from error
    found = model.fingerprint()
    if found != teacher.digest:
        expected = f"{printable(teacher.name_or_path)} (fingerprint {printable(teacher.digest[:12])})"
        cure = "pass its place as teacher_model"
        raise ValueError(f"the teacher must be {expected}, got {name} (fingerprint {found[:12]}); {cure}")
    return model, processor
