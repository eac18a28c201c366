"""A projection of the student into the space of the teacher, where their vectors differ."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
from datasets import Dataset

from ..bitext.loading import iter_sentences, sample_evenly
from ..checks import check_choice
from ..languages import LanguagePack
from ..model import OpticalModel, OpticalProcessor
from ..model.mapping import agreement, fit_map
from .config import OTDistillationConfig
from .distributed import from_main_process


logger = logging.getLogger(__name__)

# At most so many English sentences are read; a projection is measured on every tenth, and fitted on the others.
_SENTENCES, _EVERY = 5500, 10
# Spaces agree if the cosine of the same words is so much higher than that of others. 1 is the most; models that were
# not trained from one another have 0.
_AGREE = 0.5


def project_student(
    args: OTDistillationConfig,
    student: OpticalModel,
    processor: OpticalProcessor,
    teacher: OpticalModel,
    teacher_processor: OpticalProcessor,
    pairs: dict[str, Dataset],
    english: Sequence[str] = (),
    relative: LanguagePack | None = None,
) -> tuple[OpticalModel, str | None]:
    """
    Give the student a projection into the teacher's space, if `args` or the vectors of both ask for one.

    It is fitted on the English side of the sentence pairs, or else on `english` sentences. With the pack of a
    `relative`, it is that of the pack, if this has one.

    Returns:
        `tuple[OpticalModel, str | None]`: the student, and a sentence on its projection for the card.

    Raises:
        ValueError: there is nothing to fit a projection on, or the vectors differ in size and `args` forbid one.
    """
    same_size = student.embedding_dim == teacher.embedding_dim
    if relative is not None and relative.projection:
        return student.with_projection(**relative.projection), relative.details.get("projection")
    if relative is not None and same_size:
        return student, None
    if same_size and not args.fit_projection:
        if args.fit_projection is False or student.fingerprint() == teacher.fingerprint():
            return student, None
    texts = _sentences(pairs, args.teacher_language) or list(english)
    if not same_size and (args.fit_projection is False or not texts):
        cure = "pass a train_dataset or english_texts, or a student from fit_map"
        raise ValueError(
            f"the vectors of the student must have the size of the teacher's, {teacher.embedding_dim}, got "
            f"{student.embedding_dim}; {'leave out fit_projection=False' if texts else cure}"
        )
    if not texts:
        check_choice("fit_projection", args.fit_projection, [None, False], "since there are no sentences to fit it on")
        logger.warning(
            "Student and teacher are different models, and there are no sentences to tell whether their vectors are "
            "alike. Pass a train_dataset or english_texts, or else check that both read English alike."
        )
        return student, None
    measured, fitted = texts[::_EVERY], [text for i, text in enumerate(texts) if i % _EVERY] or texts
    models = (student, processor, teacher, teacher_processor)

    def fit() -> tuple[dict, str] | None:
        for model in (student, teacher):
            model.to(args.device)
        before = agreement(*models, measured) if same_size else None
        if before and before.same - before.other >= _AGREE and not args.fit_projection:
            return None
        projected = fit_map(*models, fitted, show_progress=not args.disable_tqdm)
        assert projected.projection is not None
        after = agreement(projected, *models[1:], measured)
        change = f"{after.same:.2f}" + (f", before {before.same:.2f}" if before else "")
        return projected.projection.state_dict(), (
            f"into the teacher's space, fitted on {len(fitted):,} sentences; the mean cosine of the same words is "
            f"{change} (of different words {after.other:.2f})"
        )

    found = from_main_process(fit)
    if found is None:
        return student, None
    weights, description = found
    logger.info("Student and teacher have different spaces. The student gets a projection %s.", description)
    return student.with_projection(**weights), description


def _sentences(pairs: dict[str, Dataset], teacher_language: str) -> list[str]:
    """English sentences of all languages, evenly spaced and without duplicates."""
    found = [iter_sentences(sample_evenly(own, _SENTENCES), teacher_language) for own in pairs.values()]
    texts = [*dict.fromkeys(text for own in found for text in own if text.strip())]
    if len(texts) > _SENTENCES:
        texts = [texts[i] for i in np.linspace(0, len(texts) - 1, _SENTENCES).astype(np.int64)]
    return texts
