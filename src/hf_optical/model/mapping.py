"""
A linear map from the vectors of one model into the space of another, in closed form.

Both models read the same texts. Their tokens differ, so a token of the student is paired with the tokens of the
teacher that stand for the same characters; the offsets come from the tokenizers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm.auto import tqdm

from ..checks import check_number
from ..errors import DataError
from .modeling_optical import OpticalModel, evaluating
from .processing_optical import OpticalProcessor
from .texts import as_texts


_BATCH = 32


@dataclass(frozen=True)
class Agreement:
    """
    How alike two models represent the same words.

    Attributes:
        same (`float`): mean cosine of a token of the student and the teacher's vector of the same characters.
        other (`float`): the same for a token of another text.
        tokens (`int`): number of tokens compared.
    """

    same: float
    other: float
    tokens: int


@torch.no_grad()
def fit_map(
    student: OpticalModel,
    processor: OpticalProcessor,
    teacher: OpticalModel,
    teacher_processor: OpticalProcessor,
    texts: Iterable[str],
    *,
    role: str = "query",
    ridge: float = 1e-3,
    show_progress: bool = False,
) -> OpticalModel:
    """
    Fit a projection of a student into the space of a teacher, so that it can search the teacher's index.

    The projection is the linear map, with a bias, from the student's hidden states to the teacher's vectors of the
    same characters with the least squared error (ridge regression). It replaces the student's own projection.

    Args:
        student ([`OpticalModel`]), processor ([`OpticalProcessor`]): the model to project. It is not changed.
        teacher ([`OpticalModel`]), teacher_processor ([`OpticalProcessor`]): the model with the space to reach.
        texts (iterable of `str`): texts that both can read: English sentences, a thousand or more.
        role (`str`, defaults to `"query"`): role in which both read them.
        ridge (`float`, defaults to 1e-3): penalty on the weights, relative to the mean variance of a hidden state.
        show_progress (`bool`, defaults to `False`): whether to show a progress bar.

    Returns:
        [`OpticalModel`]: a model that shares the student's encoder, with vectors of the teacher's size. Until it is
        saved it goes by the student's name.

    Raises:
        DataError: the texts have no token in common.
    """
    check_number("ridge", ridge, above=0)
    inner, outer = student.config.encoder_config.hidden_size, teacher.embedding_dim
    totals = {"x": torch.zeros(inner), "y": torch.zeros(outer)}
    totals |= {"xx": torch.zeros(inner, inner), "xy": torch.zeros(inner, outer)}
    totals = {name: total.double() for name, total in totals.items()}
    count = 0
    pairs = _paired(student, processor, teacher, teacher_processor, as_texts(texts), role, show_progress, hidden=True)
    for own, target in pairs:
        x, y = own.double(), target.double()
        for name, total in (("x", x.sum(0)), ("y", y.sum(0)), ("xx", x.T @ x), ("xy", x.T @ y)):
            totals[name] += total
        count += len(x)
    if count == 0:
        raise DataError("texts must have tokens that both models read; pass sentences of both models' language")
    mean, target_mean = totals["x"] / count, totals["y"] / count
    covariance = totals["xx"] / count - mean.outer(mean)
    penalty = ridge * covariance.diagonal().mean() * torch.eye(inner, dtype=torch.float64)
    weight = torch.linalg.solve(covariance + penalty, totals["xy"] / count - mean.outer(target_mean)).T
    return student.with_projection(weight.float(), (target_mean - weight @ mean).float())


@torch.no_grad()
def agreement(
    student: OpticalModel,
    processor: OpticalProcessor,
    teacher: OpticalModel,
    teacher_processor: OpticalProcessor,
    texts: Iterable[str],
    *,
    role: str = "query",
) -> Agreement:
    """
    Measure whether two models with vectors of one size represent words alike. Arguments as in [`fit_map`].

    Raises:
        DataError: the texts have no token in common.
    """
    pairs = [*_paired(student, processor, teacher, teacher_processor, as_texts(texts), role)]
    if not pairs:
        raise DataError("texts must have tokens that both models read; pass sentences of both models' language")
    own, target = (torch.cat(part) for part in zip(*pairs, strict=True))
    target = torch.nn.functional.normalize(target, dim=-1)
    # Half of all tokens away is another text, unless there is only one.
    other = target.roll(len(target) // 2, 0)
    return Agreement(float((own * target).sum(1).mean()), float((own * other).sum(1).mean()), len(own))


def _paired(
    student: OpticalModel,
    processor: OpticalProcessor,
    teacher: OpticalModel,
    teacher_processor: OpticalProcessor,
    texts: list[str],
    role: str,
    show_progress: bool = False,
    hidden: bool = False,
) -> Iterator[tuple[Tensor, Tensor]]:
    """
    Yield the student's vectors, or its `hidden` states, and the teacher's vectors of the same characters.

    Both are of shape `(tokens, dim)` in float32 on the CPU. A token that overlaps several of the teacher's gets their
    mean, weighted by the number of shared characters.
    """
    # Nearest words would shift the characters.
    readers = [each.nearest_words for each in (processor, teacher_processor) if each.nearest_words is not None]
    texts = [text for text in texts if text.strip() and all(read(text) == text for read in readers)]
    progress = tqdm(total=len(texts), desc="Fitting a projection", unit="text", disable=not show_progress)
    with progress, evaluating(student, teacher):
        for start in range(0, len(texts), _BATCH):
            batch = texts[start : start + _BATCH]
            own = _read(student, processor, batch, role, hidden)
            others = _read(teacher, teacher_processor, batch, role)
            spans = (token_spans(each, batch, role) for each in (processor, teacher_processor))
            for text, (left, right) in enumerate(zip(*spans, strict=True)):
                shares = _overlap(left, right)
                paired = shares.sum(1) > 0
                shares = shares[paired] / shares[paired].sum(1, keepdim=True)
                if paired.any():
                    yield own[text, : len(left)][paired], shares @ others[text, : len(right)]
            progress.update(len(batch))


def _read(
    model: OpticalModel, processor: OpticalProcessor, texts: list[str], role: str, hidden: bool = False
) -> Tensor:
    inputs = {name: tensor.to(model.device) for name, tensor in processor.encode_checked(texts, role).items()}
    if not hidden:
        return model(**inputs).embeddings.cpu()
    del inputs["token_mask"]
    return model.encoder(**inputs).last_hidden_state.float().cpu()


def token_spans(processor: OpticalProcessor, texts: list[str], role: str) -> list[Tensor]:
    """
    Find the characters that each token of the texts stands for.

    Returns:
        `list[Tensor]`: for each text, start and stop of each token that `processor(texts, role)` gives without padding
        and expansion, of shape `(tokens, 2)`. Special tokens before the text are at -1 and those after it at -2;
        tokens of prompts and markers are empty.

    Raises:
        ValueError: the tokenizer gives no offsets.
    """
    opening, closing = processor.frame(role)
    length = processor.query_length if role == "query" else processor.document_length
    prompt = getattr(processor, f"{role}_prompt")
    try:
        offsets = processor.tokenizer(
            [prompt + text for text in texts], add_special_tokens=False, return_offsets_mapping=True, verbose=False
        )["offset_mapping"]
    except NotImplementedError as error:
        raise ValueError("the tokenizer gives no character offsets; use a fast tokenizer") from error
    spans = []
    for own in offsets:
        inside = torch.tensor(own[: length - opening - closing], dtype=torch.long).view(-1, 2) - len(prompt)
        before, after = torch.full((opening, 2), -1), torch.full((closing, 2), -2)
        spans.append(torch.cat([before, inside.clamp_min(0), after]))
    return spans


def _overlap(left: Tensor, right: Tensor) -> Tensor:
    """Number of characters that spans share, of shape `(left, right)`; 1 for special tokens at the same end."""
    starts = torch.maximum(left[:, None, 0], right[None, :, 0])
    stops = torch.minimum(left[:, None, 1], right[None, :, 1])
    special = (left[:, None, 0] == right[None, :, 0]) & (left[:, None, 0] < 0)
    return ((stops - starts).clamp_min(0) + special).float()
