"""Several processes: one question a function, and no work where there is but one process."""

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


# The limit of NCCL's and gloo's own calls, 10 or 30 minutes, is shorter than a teacher may read.
_WAIT = timedelta(days=30)


def check_strategy(train_all_weights: bool) -> None:
    """
    Refuses a distributed strategy that cannot hold the teacher or the adapter, before anything is loaded.

    Raises:
        ValueError: ZeRO stage 3, or FSDP with an adapter.
    """
    if is_deepspeed_zero3_enabled() or os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE") == "3":
        raise ValueError(
            "DeepSpeed ZeRO stage 3 cuts up every model that is opened, the frozen teacher too, which then cannot be "
            "run. Use stage 2 (examples/accelerate_configs/deepspeed_zero2.yaml)"
        )
    if str_to_bool(os.environ.get("ACCELERATE_USE_FSDP", "false")) and not train_all_weights:
        raise ValueError(
            "FSDP cuts up frozen and trainable weights together, and the adapter could not be saved from it. An "
            "adapter needs no such cutting: use several GPUs without it (examples/accelerate_configs/multi_gpu.yaml), "
            "or pass --train_all_weights"
        )


def from_main_process(compute: Callable[[], Any]) -> Any:
    """
    What `compute` returns on the main process, on every process. The others wait for as long as it takes
    (`ddp_timeout` does not count); if the main process dies, they end at once.

    Raises:
        RuntimeError: `compute` failed on the main process. There, its own error is raised.
    """
    if not dist.is_initialized():
        return compute()
    # To make a group all must be there, and for that the usual limit holds: one that has died is not waited for.
    dist.barrier()
    group = dist.new_group(backend="gloo", timeout=_WAIT)
    outcome: list[Any] = [None, None]
    error: Exception | None = None
    if PartialState().is_main_process:
        try:
            outcome[0] = compute()
        except Exception as raised:  # the others must not wait for ever
            error, outcome[1] = raised, repr(raised)
    dist.broadcast_object_list(outcome, group=group, device=torch.device("cpu"))
    dist.destroy_process_group(group)
    if error is not None:
        raise error
    if outcome[1] is not None:
        raise RuntimeError(f"the main process failed: {outcome[1]}")
    return outcome[0]


def any_process(flag: bool, device: torch.device) -> bool:
    """Whether `flag` is set on any process."""
    if not dist.is_initialized():
        return flag
    value = torch.tensor(int(flag), device=device)
    dist.all_reduce(value, op=dist.ReduceOp.MAX)
    return bool(value.item())


def pair_weights(pairs: int) -> Tensor | None:
    """
    What each sentence pair of the batch that was drawn last counts for in the loss.

    Where the pairs do not divide evenly, accelerate goes back to the first ones, so that in an epoch's last step every
    process has a whole batch. With these weights that step is the one of a single process: repeated pairs count for
    nothing, the others for so much more that the mean over processes is that over the pairs.

    Args:
        pairs (`int`): number of pairs in the batch of this process.

    Returns:
        `torch.Tensor` of shape `(pairs,)`, on the CPU; `None` if each counts for 1.
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
    """Means over the sentence pairs of all processes, by name. On the device: nothing waits until they are taken."""

    def __init__(self) -> None:
        self._sums: dict[str, list[Tensor]] = defaultdict(list)
        self._counts: dict[str, int] = defaultdict(int)

    def add(self, name: str, values: Tensor, weights: Tensor | None = None) -> None:
        """
        Args:
            values (`torch.Tensor` of shape `(roles * pairs,)`): what was found for each pair.
            weights (`torch.Tensor` of shape `(pairs,)`, *optional*): from [`pair_weights`].
        """
        values = values.detach().float()
        if weights is not None:
            values = values.view(-1, len(weights))[:, weights > 0]
        self._sums[name].append(values.sum())
        self._counts[name] += values.numel()

    def take(self) -> dict[str, float]:
        """The means since the last time. All processes must ask, and for the same names."""
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
