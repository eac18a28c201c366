from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor
from tqdm.auto import tqdm

from ..checks import check_choice, check_number
from ..model import OpticalModel, OpticalProcessor
from ..model.modeling_optical import evaluating
from ..model.texts import as_texts
from .reader import LanguageReader
from .vectors import TokenVectors
from .weights import apply_weights, frequency_weights


# Texts to tokenize at a time.
_CHUNK = 256


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
    Encode texts as queries or documents.

    Texts are encoded longest first, so that the texts of a batch have similar lengths. Dropout is off, whatever the
    mode of the model.

    Args:
        model ([`OpticalModel`]): The model.
        processor ([`OpticalProcessor`]): The processor.
        texts (iterable of `str`): The texts, such as a list or a data frame's column.
        role (`str`): `"query"` or `"document"`.
        batch_size (`int`, defaults to 32): Number of texts per batch.
        show_progress (`bool`, defaults to `False`): Whether to show a progress bar.
        dtype (`torch.dtype`, defaults to `torch.float32`): Data type of the stored vectors.

    Returns:
        [`TokenVectors`]: The vectors on the CPU, in the order of `texts`, without the tokens that are skipped in
        matching. Empty if there are no texts.

    Raises:
        TypeError: If `texts` is a single string or holds something other than strings.
        DataError: If a text holds an unpaired surrogate.
        ValueError: If `role` is unknown or `batch_size` is below 1.
    """
    texts = as_texts(texts)
    check_choice("role", role, ("query", "document"))
    check_number("batch_size", batch_size, at_least=1)
    with evaluating(model):
        return encode_checked(model, processor, texts, role, batch_size, show_progress, dtype)


@torch.no_grad()
def encode_checked(
    model: OpticalModel | LanguageReader,
    processor: OpticalProcessor,
    texts: list[str],
    role: str,
    batch_size: int,
    show_progress: bool = False,
    dtype: torch.dtype = torch.float32,
) -> TokenVectors:
    """[`encode_texts`] with arguments that were checked before and a model in evaluation mode."""
    if not texts:
        return TokenVectors(torch.empty(0, model.embedding_dim, dtype=dtype), torch.empty(0))
    inputs = _tokenize(processor, texts, role)
    matched = torch.stack([own["token_mask"].sum() for own in inputs])
    vectors = TokenVectors(torch.empty(int(matched.sum()), model.embedding_dim, dtype=dtype), matched)
    order = sorted(range(len(texts)), key=lambda i: -inputs[i]["input_ids"].shape[1])
    with tqdm(total=len(texts), desc=f"Encoding {role} texts", unit="text", disable=not show_progress) as progress:
        for start in range(0, len(texts), batch_size):
            batch = order[start : start + batch_size]
            padded = processor.pad([inputs[i] for i in batch])
            output = model(**{name: tensor.to(model.device) for name, tensor in padded.items()})
            found = output.embeddings[output.mask].to("cpu", dtype)
            for i, rows in zip(batch, found.split(matched[batch].tolist()), strict=True):
                vectors[i].copy_(rows)
            progress.update(len(batch))
    return vectors


def encode_by_language(
    model: OpticalModel,
    processor_of: Callable[[str], OpticalProcessor],
    texts: list[str],
    languages: list[str],
    role: str,
    batch_size: int,
    show_progress: bool = False,
    weighted: bool = False,
) -> list[Tensor]:
    """Encode each text in its language; with `weighted`, its tokens have [`frequency_weights`]."""
    vectors: dict[int, Tensor] = {}
    for language in dict.fromkeys(languages):
        reader = LanguageReader(model, language, processor_of)
        group = [i for i, own in enumerate(languages) if own == language]
        own_texts = [texts[i] for i in group]
        weights = frequency_weights(reader.processor, own_texts) if weighted else None
        encoded = encode_checked(reader, reader.processor, own_texts, role, batch_size, show_progress).to_list()
        vectors.update(zip(group, encoded if weights is None else apply_weights(encoded, weights), strict=True))
    return [vectors[i] for i in range(len(texts))]


def _tokenize(processor: OpticalProcessor, texts: list[str], role: str) -> list[dict[str, Tensor]]:
    """Model inputs of each text, of shape `(1, tokens)`, without padding."""
    inputs = []
    for start in range(0, len(texts), _CHUNK):
        chunk = processor.encode_checked(texts[start : start + _CHUNK], role)
        lengths = (chunk["attention_mask"].bool() | chunk["token_mask"]).sum(1).tolist()
        inputs += [
            {name: tensor[i : i + 1, :length].clone() for name, tensor in chunk.items()}
            for i, length in enumerate(lengths)
        ]
    return inputs
