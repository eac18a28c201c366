"""Preparation of the embeddings, masks and weights that every loss takes."""

from __future__ import annotations

import torch
from torch import Tensor

from ..checks import check_entries, check_shape


def reduced(losses: Tensor, reduction: str) -> Tensor:
    """Apply a reduction, `"mean"`, `"sum"` or `"none"`, to losses of shape `(batch,)`."""
    return losses if reduction == "none" else losses.mean() if reduction == "mean" else losses.sum()


def working_dtype(*tensors: Tensor) -> torch.dtype:
    """Return float32, or float64 if one of the tensors has it."""
    return torch.float64 if any(tensor.dtype == torch.float64 for tensor in tensors) else torch.float32


def prepare(
    student_embeddings: Tensor,
    teacher_embeddings: Tensor,
    student_mask: Tensor | None,
    teacher_mask: Tensor | None,
    student_weights: Tensor | None,
    teacher_weights: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """
    Check the inputs of [`PairLoss.forward`] and convert them to the working dtype.

    Returns student `(batch, n, dim)` and teacher `(batch, m, dim)`, and the masses of their tokens, `(batch, n)` and
    `(batch, m)`, zero at padding.
    """
    check_shape("student_embeddings", student_embeddings, ("batch", "n", "dim"))
    batch, _, dim = student_embeddings.shape
    check_shape("teacher_embeddings", teacher_embeddings, (batch, "m", dim))
    dtype = working_dtype(student_embeddings, teacher_embeddings)
    student_mass = _token_mass("student", student_embeddings, student_mask, student_weights, dtype)
    teacher_mass = _token_mass("teacher", teacher_embeddings, teacher_mask, teacher_weights, dtype)
    student = without_padding("student", student_embeddings, student_mass, dtype)
    teacher = without_padding("teacher", teacher_embeddings, teacher_mass, dtype)
    return student, teacher, student_mass, teacher_mass


def _token_mass(
    side: str, embeddings: Tensor, mask: Tensor | None, weights: Tensor | None, dtype: torch.dtype
) -> Tensor:
    """Mass of each token, zero at padding, shape `(batch, tokens)`."""
    for name, values in ((f"{side}_mask", mask), (f"{side}_weights", weights)):
        if values is not None:
            check_shape(name, values, embeddings.shape[:2])
    mass = embeddings.new_ones(embeddings.shape[:2]) if weights is None else weights.detach()
    mass = mass.to(embeddings.device, dtype)
    if mask is not None:
        mass = mass.masked_fill(~mask.to(embeddings.device, torch.bool), 0.0)
    total = mass.sum(1)
    check_entries(
        ~total.isfinite() | (total <= 0) | (mass < 0).any(1),
        f"{side} has no token with mass, or weights that are negative or not finite; leave these sentences out, or "
        f"check {side}_mask and {side}_weights",
    )
    return mass


def without_padding(side: str, embeddings: Tensor, mass: Tensor, dtype: torch.dtype) -> Tensor:
    """Return embeddings in the working dtype, with zeros at padding if anything there is not finite."""
    embeddings = embeddings.to(dtype)
    if torch.linalg.vector_norm(embeddings.detach()).isfinite():
        return embeddings
    embeddings = embeddings.masked_fill((mass <= 0).unsqueeze(2), 0.0)
    check_entries(
        ~torch.linalg.vector_norm(embeddings.detach(), dim=2).isfinite().all(1),
        f"{side}_embeddings are not finite, or too large to be squared; the model may have diverged: lower the "
        "learning rate",
    )
    return embeddings


def lengths(embeddings: Tensor) -> Tensor:
    """
    Lengths of the vectors, `(batch, tokens, 1)`; 1 for a zero vector, so that it can be divided by.

    In float32, a vector shorter than 1e-15 is a zero vector too: gradients are divided by the square of the length,
    which would underflow.
    """
    norm = torch.linalg.vector_norm(embeddings, dim=2, keepdim=True)
    return norm.masked_fill(norm < torch.finfo(norm.dtype).tiny ** 0.4, 1.0)


def unit_vectors(embeddings: Tensor) -> Tensor:
    """Embeddings at unit length, and zeros for zero vectors, with finite gradients for all."""
    return embeddings / lengths(embeddings)
