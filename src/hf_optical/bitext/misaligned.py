"""Sentence pairs that are probably no translations of each other, by the cost of transport between them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from tqdm.auto import tqdm

from ..losses import Geometry, OTAlignmentLoss
from ..model import OpticalModel, OpticalProcessor
from .frequency import inverse_document_frequency
from .loading import check_languages, iter_sentences


# Standard deviations between the costs of translations and of other pairs, below which nobody can tell them apart.
_APART = 2.0
_ITERATIONS = 200
# Sentences by which the cost is fitted to the vectors.
_SAMPLE = 300


@dataclass(eq=False)
class PairCosts:
    """
    Transported costs of sentence pairs.

    Attributes:
        costs (`numpy.ndarray` of shape `(pairs,)`): mean cost of what is aligned, 0 to 2.
        misaligned (`numpy.ndarray` of shape `(pairs,)`):
            Probability that the two sentences are no translations. 0 for all if the student cannot tell.
    """

    costs: np.ndarray
    misaligned: np.ndarray

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
        sentences are no translations of each other; see [`pair_costs`].

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


@torch.no_grad()
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
    pairs are then explained as a mixture of two normal distributions, of which one must look like these.

    Arguments as in [`rank_by_cost`].
    """
    check_languages(pairs, (language, teacher_language))
    new, english = ([*iter_sentences(pairs, code)] for code in (language, teacher_language))
    sides = []
    for model, reader, texts in ((student, processor, new), (teacher, teacher_processor, english)):
        sides.append(_encode(model, reader, texts, batch_size, show_progress))
    lengths = [len(vectors) for vectors, _ in sides[1]]
    by_length = np.argsort(lengths, kind="stable")
    others = np.empty_like(by_length)
    others[by_length] = np.roll(by_length, -1)
    loss = OTAlignmentLoss(reduction="none", center=Geometry.of([each for each, _ in sides[1][:_SAMPLE]]).mean)
    costs = _costs(loss, sides[0], sides[1], batch_size)
    unrelated = _costs(loss, sides[0], [sides[1][other] for other in others], batch_size)
    return PairCosts(costs, _probabilities(costs, unrelated))


def _encode(
    model: OpticalModel, processor: OpticalProcessor, texts: list[str], batch_size: int, show_progress: bool
) -> list[tuple[Tensor, Tensor]]:
    """The vectors of the words of each text, `(tokens, dim)` in half precision, and their weights, `(tokens,)`."""
    weights = inverse_document_frequency(processor, texts)
    special = torch.tensor(sorted({*processor.tokenizer.all_special_ids} - {processor.tokenizer.unk_token_id}))
    order = sorted(range(len(texts)), key=lambda text: len(texts[text]))
    found: list[tuple[Tensor, Tensor]] = [(torch.empty(0), torch.empty(0))] * len(texts)
    training = model.training
    model.eval()
    device = next(model.parameters()).device
    for start in tqdm(range(0, len(order), batch_size), desc="Reading pairs", disable=not show_progress):
        rows = order[start : start + batch_size]
        batch = processor.queries([texts[row] for row in rows])
        words = batch["token_mask"] & ~torch.isin(batch["input_ids"], special)
        words = torch.where(words.any(1, keepdim=True), words, batch["token_mask"])
        vectors = model(**{name: value.to(device) for name, value in batch.items()}).embeddings.cpu()
        for row, mask, own, ids in zip(rows, words, vectors, batch["input_ids"], strict=True):
            found[row] = own[mask].half(), weights[ids[mask]]
    model.train(training)
    return found


def _costs(
    loss: OTAlignmentLoss,
    student: list[tuple[Tensor, Tensor]],
    teacher: list[tuple[Tensor, Tensor]],
    batch_size: int,
) -> np.ndarray:
    costs = []
    for start in range(0, len(student), batch_size):
        vectors, masks, weights = [], [], []
        for side in (student, teacher):
            own = side[start : start + batch_size]
            vectors.append(pad_sequence([each.float() for each, _ in own], batch_first=True))
            weights.append(pad_sequence([each for _, each in own], batch_first=True))
            masks.append(pad_sequence([torch.ones(len(each)) for each, _ in own], batch_first=True))
        costs.append(loss(*vectors, *masks, *weights))
    return torch.cat(costs).double().numpy()


def _probabilities(costs: np.ndarray, unrelated: np.ndarray) -> np.ndarray:
    """
    Probability that each cost is of an unrelated pair: a mixture of two normal distributions, fitted by EM.

    The second one may not be cheaper or wider than the costs of `unrelated` pairs suggest, so that it does not explain
    difficult translations.
    """
    center, width = unrelated.mean(), max(unrelated.std(), 1e-6)
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
        return np.zeros(len(costs))
    # Nothing cheaper than a translation is misaligned, however narrow the first distribution.
    return np.where(costs > means[0], belongs[:, 1], 0.0)
