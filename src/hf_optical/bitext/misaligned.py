"""Sentence pairs that are probably no translations of each other, by the cost of transport between them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from datasets import Dataset

from ..model import OpticalModel, OpticalProcessor
from .frequency import inverse_document_frequency
from .loading import check_languages, iter_sentences
from .reading import fitted_loss, other_rows, pair_costs_of, read_sentences


# Standard deviations between the costs of translations and of other pairs, below which nobody can tell them apart.
_APART = 2.0
# Share of the cost of unrelated pairs below which the two sides are the same text, or blank.
_SAME = 0.25
# Share of translations below which the mixture has rather split the translations in two. Half of the pairs may be
# misaligned, and the estimate is not exact.
_FEWEST = 0.4
_ITERATIONS = 200
# Pairs whose vectors are in memory at a time: about 0.4 GB of 384 numbers in half precision.
_AT_A_TIME = 10_000


@dataclass(eq=False)
class PairCosts:
    """
    Transported costs of sentence pairs.

    Attributes:
        costs (`numpy.ndarray` of shape `(pairs,)`): mean cost of what is aligned, 0 to 2.
        misaligned (`numpy.ndarray` of shape `(pairs,)`):
            Probability that the two sentences are not translations. 0 for all if the student cannot tell, or if most
            pairs look misaligned.
        mostly (`bool`): whether most pairs look misaligned, which makes the estimate unreliable.
    """

    costs: np.ndarray
    misaligned: np.ndarray
    mostly: bool = False

    @property
    def share(self) -> float:
        """Estimated share of misaligned pairs."""
        return float(self.misaligned.mean())


def rank_by_cost(
    pairs: Dataset,
    student: OpticalModel,
    processor: OpticalProcessor,
    teacher: OpticalModel,
    teacher_processor: OpticalProcessor,
    language: str,
    teacher_language: str = "en",
    *,
    batch_size: int = 64,
    show_progress: bool = False,
) -> Dataset:
    """
    Rank sentence pairs by the cost of transport between their tokens, the most expensive first.

    Args:
        pairs (`datasets.Dataset`): sentence pairs from [`load_bitext`].
        student ([`OpticalModel`]), processor ([`OpticalProcessor`]):
            Read the new language; a base with untrained new words ([`learn_vocabulary`]) will do. Its active language
            pack is used.
        teacher ([`OpticalModel`]), teacher_processor ([`OpticalProcessor`]):
            Read the translation. A different object than `student`, if a pack is active there.
        language (`str`), teacher_language (`str`, defaults to `"en"`): language codes.
        batch_size (`int`, defaults to 64), show_progress (`bool`, defaults to `False`): for encoding.

    Returns:
        `datasets.Dataset`: the pairs with two more columns, `cost` and `misaligned`, the probability that the two
        sentences are not translations of each other; see [`pair_costs`].

    Raises:
        DataError: a language is not in the pairs.
    """
    found = pair_costs(
        *(pairs, student, processor, teacher, teacher_processor, language, teacher_language),
        batch_size=batch_size,
        show_progress=show_progress,
    )
    order = np.argsort(-found.costs, kind="stable")
    ranked = pairs.select(order).add_column("cost", found.costs[order].tolist())
    return ranked.add_column("misaligned", found.misaligned[order].tolist())


def pair_costs(
    pairs: Dataset,
    student: OpticalModel,
    processor: OpticalProcessor,
    teacher: OpticalModel,
    teacher_processor: OpticalProcessor,
    language: str,
    teacher_language: str = "en",
    *,
    batch_size: int = 64,
    show_progress: bool = False,
) -> PairCosts:
    """
    Compute the transported cost of sentence pairs, and how probably each is misaligned.

    Each sentence is also compared with a sentence of similar length that is not its translation. The costs of the
    pairs are then explained as a mixture of two normal distributions, of which one must look like these. Pairs that
    cost next to nothing, since their sides are the same text or blank, are not part of it.

    Arguments as in [`rank_by_cost`].
    """
    check_languages(pairs, (language, teacher_language))
    readers = ((student, processor, language), (teacher, teacher_processor, teacher_language))
    weights = [inverse_document_frequency(reader, iter_sentences(pairs, code)) for _, reader, code in readers]
    loss, found = None, []
    for start in range(0, len(pairs), _AT_A_TIME):
        part = pairs.select(range(start, min(start + _AT_A_TIME, len(pairs))))
        own, translations = (
            read_sentences(
                *(model, reader, [*iter_sentences(part, code)], each),
                batch_size=batch_size,
                show_progress=show_progress,
            )
            for (model, reader, code), each in zip(readers, weights, strict=True)
        )
        loss = loss or fitted_loss(translations)
        others = [translations[row] for row in other_rows(translations)]
        found.append([pair_costs_of(loss, own, side, batch_size).double().numpy() for side in (translations, others)])
    costs, unrelated = map(np.concatenate, zip(*found, strict=True))
    return PairCosts(costs, *_probabilities(costs, unrelated))


def _probabilities(costs: np.ndarray, unrelated: np.ndarray) -> tuple[np.ndarray, bool]:
    """
    Probability that each cost is of an unrelated pair, and whether most are: a mixture of two normal distributions,
    fitted by EM.

    The second one may not be cheaper or wider than the costs of `unrelated` pairs suggest, so that it does not explain
    difficult translations.
    """
    center, width = unrelated.mean(), max(unrelated.std(), 1e-6)
    # The first distribution would otherwise explain these alone, and the second one the translations.
    fitted = costs > _SAME * center
    probabilities = np.zeros(len(costs))
    if not fitted.any():
        return probabilities, False
    costs = costs[fitted]
    means = np.array([min(np.quantile(costs, 0.25), center), center])
    spreads = np.array([max(costs.std(), 1e-6), width])
    shares = np.array([0.8, 0.2])
    for _ in range(_ITERATIONS):
        densities = shares * np.exp(-0.5 * ((costs[:, None] - means) / spreads) ** 2) / spreads + 1e-12
        belongs = densities / densities.sum(1, keepdims=True)
        sums = belongs.sum(0) + 1e-9
        shares = sums / len(costs)
        means = (belongs * costs[:, None]).sum(0) / sums
        spreads = np.sqrt((belongs * (costs[:, None] - means) ** 2).sum(0) / sums) + 1e-3 * width
        means[1], spreads[1] = max(means[1], center - width), min(spreads[1], width)
    if center - means[0] < _APART * width:
        return probabilities, False
    if shares[0] < _FEWEST:
        return probabilities, True
    # Nothing cheaper than a translation is misaligned, however narrow the first distribution.
    probabilities[fitted] = np.where(costs > means[0], belongs[:, 1], 0.0)
    return probabilities, False
