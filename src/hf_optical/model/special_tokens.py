"""Tokens that are no words: special ones, and the markers of roles."""

from __future__ import annotations

import torch
from torch import Tensor

from .processing_optical import OpticalProcessor


def words_mask(ids: Tensor, mask: Tensor, special: Tensor) -> Tensor:
    """Leave special tokens out of a mask `(batch, tokens)`, but for a sentence that has no others."""
    words = mask & ~torch.isin(ids, special)
    # Transport needs some mass.
    return torch.where(words.any(1, keepdim=True), words, mask)


def special_ids(processor: OpticalProcessor) -> Tensor:
    """Ids of special tokens and role markers, of shape `(ids,)`; the unknown token counts as a word."""
    tokenizer = processor.tokenizer
    markers = [marker for marker in (processor.query_marker, processor.document_marker) if marker is not None]
    ids = {*tokenizer.all_special_ids, *map(tokenizer.convert_tokens_to_ids, markers)} - {tokenizer.unk_token_id}
    return torch.tensor(sorted(ids))
