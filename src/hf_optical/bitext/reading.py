"""The token vectors of sentences, and the cost of transport between those of a sentence and of its translation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from tqdm.auto import tqdm

from ..losses import OTAlignmentLoss
from ..losses.geometry import mean_vector
from ..model import OpticalModel, OpticalProcessor
from ..model.special_tokens import special_ids, words_mask
from .frequency import inverse_document_frequency


# Sentences by which the cost is fitted to the vectors.
_SAMPLE = 300


@dataclass(eq=False)
class ReadSentence:
    """
    A sentence without its special tokens.

    Attributes:
        vectors (`Tensor` of shape `(tokens, dim)`): in half precision.
        weights (`Tensor` of shape `(tokens,)`): inverse document frequencies.
        ids (`Tensor` of shape `(tokens,)`), positions (`Tensor` of shape `(tokens,)`):
            the tokens, and their positions in the processor's output.
    """

    vectors: Tensor
    weights: Tensor
    ids: Tensor
    positions: Tensor


@torch.no_grad()
def read_sentences(
    model: OpticalModel,
    processor: OpticalProcessor,
    texts: list[str],
    weights: Tensor | None = None,
    *,
    batch_size: int = 64,
    show_progress: bool = False,
) -> list[ReadSentence]:
    """
    Encode sentences as queries, with the active language pack of the model.

    `weights` are those of the tokens, shape `(vocabulary,)`, by default their inverse document frequency in the texts.
    """
    weights = inverse_document_frequency(processor, texts) if weights is None else weights
    special = special_ids(processor)
    order = sorted(range(len(texts)), key=lambda text: len(texts[text]))
    found: dict[int, ReadSentence] = {}
    training = model.training
    model.eval()
    device = next(model.parameters()).device
    for start in tqdm(range(0, len(order), batch_size), desc="Reading pairs", disable=not show_progress):
        rows = order[start : start + batch_size]
        batch = processor.queries([texts[row] for row in rows])
        words = words_mask(batch["input_ids"], batch["token_mask"], special)
        vectors = model(**{name: value.to(device) for name, value in batch.items()}).embeddings.cpu()
        for row, mask, own, ids in zip(rows, words, vectors, batch["input_ids"], strict=True):
            found[row] = ReadSentence(own[mask].half(), weights[ids[mask]], ids[mask], mask.nonzero()[:, 0])
    model.train(training)
    return [found[row] for row in range(len(texts))]


def other_rows(sentences: Sequence[ReadSentence]) -> list[int]:
    """For each sentence the position of another one of similar length."""
    by_length = np.argsort([len(sentence.vectors) for sentence in sentences], kind="stable")
    others = np.empty_like(by_length)
    others[by_length] = np.roll(by_length, -1)
    return others.tolist()


def fitted_loss(teacher: Sequence[ReadSentence]) -> OTAlignmentLoss:
    """The transport loss of each pair, centered by the teacher's vectors."""
    center = mean_vector([sentence.vectors for sentence in teacher[:_SAMPLE]])
    return OTAlignmentLoss(center=center, reduction="none")


def pair_costs_of(
    loss: OTAlignmentLoss, student: Sequence[ReadSentence], teacher: Sequence[ReadSentence], batch_size: int = 64
) -> Tensor:
    """Compute the transported costs of sentence pairs, shape `(pairs,)`."""
    return torch.cat([loss(*inputs) for inputs in _batches(student, teacher, batch_size)])


def _batches(
    student: Sequence[ReadSentence], teacher: Sequence[ReadSentence], batch_size: int
) -> Iterator[tuple[Tensor, ...]]:
    """Yield vectors, masks and weights of both sides, as losses take them."""
    for start in range(0, len(student), batch_size):
        sides = [side[start : start + batch_size] for side in (student, teacher)]
        vectors = (pad_sequence([each.vectors.float() for each in side], batch_first=True) for side in sides)
        masks = (pad_sequence([torch.ones(len(each.vectors)) for each in side], batch_first=True) for side in sides)
        weights = (pad_sequence([each.weights for each in side], batch_first=True) for side in sides)
        yield (*vectors, *masks, *weights)
