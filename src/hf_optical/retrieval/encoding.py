from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from tqdm.auto import tqdm

from ..model import OpticalModel, OpticalProcessor
from ..model.texts import as_texts
from .vectors import TokenVectors


@torch.no_grad()
def encode_texts(
    model: OpticalModel,
    processor: OpticalProcessor,
    texts: Iterable[str],
    role: str,
    *,
    batch_size: int = 32,
    show_progress: bool = False,
    dtype: torch.dtype = torch.float32,
) -> TokenVectors:
    """
    Encodes texts as `role`, longest first so that a batch holds texts of like length. Each is tokenized twice, first
    to learn its length.

    Args:
        model ([`OpticalModel`]), processor ([`OpticalProcessor`]): what reads the texts.
        texts (iterable of `str`): the texts, such as a list or a data frame's column.
        role (`str`): `"query"` or `"document"`.
        batch_size (`int`, defaults to 32): texts at a time.
        show_progress (`bool`, defaults to `False`): whether to show a progress bar.
        dtype (`torch.dtype`, defaults to `torch.float32`): type of the stored vectors.

    Returns:
        [`TokenVectors`]: on the CPU, in the order of `texts`; tokens that take no part in matching are left out. Empty
        if there are no texts.

    Raises:
        TypeError: `texts` is one string, or holds something else than strings.
        DataError: a text holds half a character.
        ValueError: `batch_size` is below 1.
    """
    texts = as_texts(texts)
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; it must be at least 1")
    if not texts:
        return TokenVectors(torch.empty(0, model.embedding_dim, dtype=dtype), torch.empty(0))
    read, kept = _sizes(processor, texts, role)
    order = read.argsort(descending=True, stable=True).tolist()
    vectors = TokenVectors(torch.empty(int(kept.sum()), model.embedding_dim, dtype=dtype), kept)
    was_training = model.training
    model.eval()
    try:
        with tqdm(total=len(texts), desc=f"Encoding {role} texts", unit="text", disable=not show_progress) as progress:
            for start in range(0, len(texts), batch_size):
                batch = order[start : start + batch_size]
                inputs = processor([texts[i] for i in batch], role)
                output = model(**{name: tensor.to(model.device) for name, tensor in inputs.items()})
                found = output.embeddings[output.mask].to("cpu", dtype)
                for i, rows in zip(batch, found.split(kept[batch].tolist()), strict=True):
                    vectors[i].copy_(rows)
                progress.update(len(batch))
    finally:
        model.train(was_training)
    return vectors


def _sizes(processor: OpticalProcessor, texts: Sequence[str], role: str) -> tuple[Tensor, Tensor]:
    """Of each text the tokens that the model reads, and those of them that get a vector."""
    read, kept = [], []
    for start in range(0, len(texts), 256):
        inputs = processor(texts[start : start + 256], role)
        read.append((inputs["attention_mask"].bool() | inputs["token_mask"]).sum(1).clamp(min=1))
        kept.append(inputs["token_mask"].sum(1))
    return torch.cat(read), torch.cat(kept)
