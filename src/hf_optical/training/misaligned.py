"""Sentence pairs that are left out of training because they are probably no translations of each other."""

from __future__ import annotations

import logging
from functools import partial

import numpy as np
from datasets import Dataset

from ..bitext.loading import sample_evenly
from ..bitext.misaligned import PairCosts, pair_costs
from ..languages import activate
from ..methods import Alignment, Method
from ..model import OpticalModel, OpticalProcessor
from .config import OTDistillationConfig
from .distributed import from_main_process


logger = logging.getLogger(__name__)

# Pairs that are looked at first, and the share of misaligned ones among them above which all pairs are. With fewer
# pairs than `_FEWEST` the share cannot be estimated.
_FIRST, _FEWEST, _TOLERATED = 1000, 500, 0.03
# Share of pairs above which the estimate must be wrong. Of pairs of which half are misaligned, 53 % are left out.
_MOST = 0.6
_SHOWN = 3


def aligned_pairs(
    args: OTDistillationConfig,
    methods: list[Method],
    pairs: dict[str, Dataset],
    student: OpticalModel,
    processors: dict[str, OpticalProcessor],
    teacher: OpticalModel,
    teacher_processor: OpticalProcessor,
) -> dict[str, Dataset]:
    """
    Leave out the pairs that the untrained student finds more likely misaligned than not, see [`pair_costs`].

    A thousand pairs are compared first, and the others only if more than 3 % of these look misaligned. With fewer than
    five hundred pairs none is left out, nor if no method aligns sentences, or no words were added, without which the
    student cannot tell. If most look misaligned, the estimate is unreliable and all are kept, with a line in the log.

    Returns:
        `dict[str, Dataset]`: the pairs of the languages that lost some.
    """
    kept: dict[str, Dataset] = {}
    if not args.new_words or not any(isinstance(method, Alignment) for method in methods):
        return kept

    def costs(language: str, own: Dataset) -> PairCosts:
        activate(student, args.pack_of(language))
        readers = (student, processors[language], teacher, teacher_processor)
        return pair_costs(own, *readers, language, args.teacher_language, show_progress=not args.disable_tqdm)

    def misaligned(language: str, own: Dataset) -> list[int] | None:
        """The rows to leave out; `None` if most pairs look misaligned."""
        student.to(args.device)
        teacher.to(args.device)
        first = costs(language, sample_evenly(own, _FIRST))
        if first.mostly or first.share <= _TOLERATED:
            return None if first.mostly else []
        found = costs(language, own)
        rows = np.flatnonzero(found.misaligned > 0.5)
        if found.mostly or len(rows) > _MOST * len(own):
            return None
        return rows[np.argsort(-found.costs[rows])].tolist()

    for language, own in pairs.items():
        found: list[int] | None = []
        if len(own) >= _FEWEST:
            found = from_main_process(partial(misaligned, language, own))
        if found is None:
            logger.warning(
                "Most of the %d sentence pairs for %s look like no translations of each other, or the student reads "
                "too little to tell. All are kept; check the pairs, which bitext.rank_by_cost lists.",
                len(own),
                language,
            )
        elif found:
            logger.warning(
                "%d of the %d sentence pairs for %s are left out, since their sentences are probably no translations "
                "of each other, such as %s. bitext.rank_by_cost lists them; pass --keep_misaligned to train on them.",
                len(found),
                len(own),
                language,
                "; ".join(f"{own[row]['translation']}" for row in found[:_SHOWN]),
            )
            kept[language] = own.select(sorted({*range(len(own))} - {*found}))
    return kept
