"""What every loss does with the embeddings, masks and weights that it is given."""

from __future__ import annotations

import torch
from torch import Tensor


def check_reduction(reduction: str) -> None:
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"reduction must be 'mean', 'sum' or 'none', but is {reduction!r}.")


def reduced(losses: Tensor, reduction: str) -> Tensor:
    return losses if reduction == "none" else losses.mean() if reduction == "mean" else losses.sum()


def check_shapes(student_embeddings: Tensor, teacher_embeddings: Tensor) -> None:
    shapes = student_embeddings.shape, teacher_embeddings.shape
    if any(len(shape) != 3 for shape in shapes) or shapes[0][::2] != shapes[1][::2]:
        raise ValueError(
            "student_embeddings and teacher_embeddings must have shapes (batch, n, dim) and (batch, m, dim) of "
            f"equal batch and dim, but have shapes {tuple(shapes[0])} and {tuple(shapes[1])}."
        )


def working_dtype(*tensors: Tensor) -> torch.dtype:
    """float32, or float64 if one of them is."""
    return torch.float64 if any(tensor.dtype == torch.float64 for tensor in tensors) else torch.float32


def token_mass(
    side: str, embeddings: Tensor, mask: Tensor | None, weights: Tensor | None, dtype: torch.dtype
) -> Tensor:
    """Mass of each token, zero for padding, shape `(batch, tokens)`."""
    for name, values in ((f"{side}_mask", mask), (f"{side}_weights", weights)):
        if values is not None and values.shape != embeddings.shape[:2]:
            raise ValueError(
                f"{name} must have shape {tuple(embeddings.shape[:2])}, as {side}_embeddings, but has shape "
                f"{tuple(values.shape)}."
            )
    if weights is None:
        weights = embeddings.new_ones(embeddings.shape[:2])
    mass = weights.detach().to(embeddings.device, dtype)
    return mass if mask is None else mass.masked_fill(~mask.to(embeddings.device, torch.bool), 0.0)


def prepare(
    student_embeddings: Tensor,
    teacher_embeddings: Tensor,
    student_mask: Tensor | None,
    teacher_mask: Tensor | None,
    student_weights: Tensor | None,
    teacher_weights: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Student and teacher in the working type, with zeros for padding; the masses of their tokens."""
    check_shapes(student_embeddings, teacher_embeddings)
    dtype = working_dtype(student_embeddings, teacher_embeddings)
    student_mass = token_mass("student", student_embeddings, student_mask, student_weights, dtype)
    teacher_mass = token_mass("teacher", teacher_embeddings, teacher_mask, teacher_weights, dtype)
    student = without_padding("student", student_embeddings, student_mass, dtype)
    teacher = without_padding("teacher", teacher_embeddings, teacher_mass, dtype)
    return student, teacher, student_mass, teacher_mass


def require_mass(side: str, mass: Tensor) -> None:
    """Raises `ValueError` if a weight is negative, or not finite even in sum, or a sentence has no token with mass."""
    for fault, wrong in (
        ("weights that are negative or not finite", ~torch.isfinite(mass.sum(1)) | (mass < 0).any(1)),
        ("no token with mass", mass.sum(1) <= 0),
    ):
        if wrong.any():
            raise ValueError(
                f"{side} has {fault} in batch entries {wrong.nonzero()[:5, 0].tolist()}; leave these sentences out, "
                f"or look at {side}_mask and {side}_weights."
            )


def without_padding(side: str, embeddings: Tensor, mass: Tensor, dtype: torch.dtype) -> Tensor:
    """
    Embeddings in the working type; with zeros for what has no mass, if anything is too large to be left alone.

    Raises `ValueError` if the length of a token's embedding is not finite: its cosines would be 0 or `nan`.
    """
    embeddings = embeddings.to(dtype)
    if torch.linalg.vector_norm(embeddings.detach()).isfinite():
        return embeddings
    embeddings = embeddings.masked_fill((mass <= 0).unsqueeze(2), 0.0)
    wrong = ~torch.linalg.vector_norm(embeddings.detach(), dim=2).isfinite().all(1)
    if wrong.any():
        raise ValueError(
            f"{side}_embeddings are not finite, or too large to be squared, in batch entries "
            f"{wrong.nonzero()[:5, 0].tolist()}; the model may have diverged: lower the learning rate."
        )
    return embeddings


def lengths(embeddings: Tensor) -> Tensor:
    """
    Lengths of the vectors, `(batch, tokens, 1)`; 1 for a zero vector, so that it can be divided by.

    What is shorter than 1e-15, in float32, is a zero vector too: gradients are divided by its square, an underflow.
    """
    norm = torch.linalg.vector_norm(embeddings, dim=2, keepdim=True)
    return norm.masked_fill(norm < torch.finfo(norm.dtype).tiny ** 0.4, 1.0)


def unit_vectors(embeddings: Tensor) -> Tensor:
    """Embeddings at unit length, and zeros for zero vectors, with finite gradients for all."""
    return embeddings / lengths(embeddings)
