"""Training on several processes. Every function answers one question and does nothing in a single process."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from accelerate import PartialState
from accelerate.state import GradientState
from accelerate.utils import str_to_bool
from torch import Tensor
from transformers.integrations import is_deepspeed_zero3_enabled

from ..checks import check_choice


# A teacher may read for longer than the default timeouts of NCCL and gloo, 10 and 30 minutes.
_WAIT = timedelta(days=30)


def check_strategy(train_all_weights: bool) -> None:
    """Check, before anything is loaded, that the distributed strategy can hold the teacher and the adapter."""
    stage = "3" if is_deepspeed_zero3_enabled() else os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", "0")
    reason = (
        "since stage 3 shards every model, and the frozen teacher could not be run; use stage 2 "
        "(examples/accelerate_configs/deepspeed_zero2.yaml)"
    )
    check_choice("the DeepSpeed ZeRO stage", stage, ["0", "1", "2"], reason)
    if str_to_bool(os.environ.get("ACCELERATE_USE_FSDP", "false")):
        reason = (
            "since FSDP shards frozen and trainable weights together, and the adapter could not be saved; use several "
            "GPUs without FSDP (examples/accelerate_configs/multi_gpu.yaml), or pass --train_all_weights"
        )
        check_choice("train_all_weights", train_all_weights, [True], reason)


def from_main_process(compute: Callable[[], Any]) -> Any:
    """Call `compute` on the main process alone and return its result on every process, however long that takes."""
    if not dist.is_initialized():
        return compute()
    # All processes must join before the group is created, within the usual timeout, in case one has died.
    dist.barrier()
    group = dist.new_group(backend="gloo", timeout=_WAIT)
    outcome: list[Any] = [None, None]
    error: Exception | None = None
    if PartialState().is_main_process:
        try:
            outcome[0] = compute()
        except Exception as raised:  # or the other processes would wait for ever
            error, outcome[1] = raised, repr(raised)
    dist.broadcast_object_list(outcome, group=group, device=torch.device("cpu"))
    dist.destroy_process_group(group)
    if error is not None:
        raise error
    if outcome[1] is not None:
        raise RuntimeError(f"the main process failed: {outcome[1]}")
    return outcome[0]


def any_process(flag: bool, device: torch.device) -> bool:
    """Return whether `flag` is set on any process."""
    if not dist.is_initialized():
        return flag
    value = torch.tensor(int(flag), device=device)
    dist.all_reduce(value, op=dist.ReduceOp.MAX)
    return bool(value.item())


def pair_weights(pairs: int) -> Tensor | None:
    """
    Return the weight in the loss of each sentence pair in the batch that was drawn last; `None` if every weight is 1.

    If the pairs do not divide evenly, accelerate repeats the first ones, so that every process has a full batch in the
    last step of an epoch. With these weights, that step equals that of a single process: repeated pairs get weight 0,
    and the others a weight above 1, so that the mean over the processes is the mean over the pairs.
    """
    state, drawn = PartialState(), GradientState()
    if state.num_processes == 1 or not drawn.end_of_dataloader:
        return None
    together = pairs * state.num_processes
    last = len(drawn.active_dataloader.dataset) % together
    if last == 0:
        return None
    places = torch.arange(pairs) + pairs * state.process_index
    return (places < last) * (together / last)


class PairMeans:
    """Means over the sentence pairs of all processes, by name; nothing is synchronised before [`~PairMeans.take`]."""

    def __init__(self) -> None:
        self._sums: dict[str, list[Tensor]] = defaultdict(list)
        self._counts: dict[str, int] = defaultdict(int)

    def add(self, name: str, values: Tensor, weights: Tensor | None = None) -> None:
        """Add values `(roles * pairs,)` to a mean; `weights`, of shape `(pairs,)`, are from [`pair_weights`]."""
        values = values.detach().float()
        if weights is not None:
            values = values.view(-1, len(weights))[:, weights > 0]
        self._sums[name].append(values.sum())
        self._counts[name] += values.numel()

    def take(self) -> dict[str, float]:
        """Return the means since the last call. Every process must call it, with the same names."""
        if not self._sums:
            return {}
        sums = torch.stack([torch.stack(values).sum() for values in self._sums.values()])
        totals = torch.stack([sums, sums.new_tensor(list(self._counts.values()))])
        if dist.is_initialized():
            dist.all_reduce(totals)
        means = dict(zip(self._sums, (totals[0] / totals[1]).tolist(), strict=True))
        self._sums.clear()
        self._counts.clear()
        return means
