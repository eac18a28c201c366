"""The forward pass of a step: all blocks of the student in one call, those of the teacher when a method asks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..methods import Reading
from ..model import OpticalModel, OpticalOutput


def read_batch(student: nn.Module, teacher: OpticalModel, batch: dict[str, Any], wanted: set[str]) -> Reading:
    """Encode the blocks in `wanted` with the student as wrapped for training; cached ones need no `teacher`."""
    blocks = {name: rows for name, rows in batch["blocks"].items() if name in wanted}
    texts = batch["student"]
    if len(blocks) < len(batch["blocks"]):
        rows = [row for start, stop in blocks.values() for row in range(start, stop)]
        texts = {name: tensor[rows] for name, tensor in texts.items()}
    output, start = student(**texts), 0
    outputs, inputs = {}, {}
    for name, (first, last) in blocks.items():
        stop = start + last - first
        outputs[name] = output.rows(start, stop)
        inputs[name] = {key: tensor[start:stop] for key, tensor in texts.items()}
        start = stop

    def read_with_teacher(block: dict[str, Tensor]) -> OpticalOutput:
        if "embeddings" in block:
            return OpticalOutput(embeddings=block["embeddings"].float(), mask=block["token_mask"])
        with torch.no_grad():
            return teacher(**block)

    return Reading(batch["language"], outputs, inputs, batch["teacher"], batch["targets"], read_with_teacher)


def check_finite(values: Tensor, index: Tensor, step: int) -> None:
    """Raise `FloatingPointError`, with the rows in the source, unless values `(roles * pairs,)` are finite."""
    finite = torch.isfinite(values).view(-1, len(index)).all(0)
    if not finite.all():
        rows = index[~finite].tolist()
        raise FloatingPointError(
            f"the loss is not finite at sentence pair {', '.join(map(str, rows[:5]))} (row in the source, counted "
            f"from 0), step {step}. Check the pair; lower the learning rate; if the student trains in half precision, "
            "use bf16 instead of fp16. The last checkpoint is intact"
        )
