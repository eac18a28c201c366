"""Several processes: one question a function, and no work where there is but one process."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, str_to_bool
from torch import Tensor
from transformers.integrations import is_deepspeed_zero3_enabled


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
    What `compute` returns on the main process, on every process; the others wait.

    Raises:
        RuntimeError: `compute` failed on the main process. There, its own error is raised.
    """
    state = PartialState()
    if state.num_processes == 1:
        return compute()
    outcome: list[Any] = [None, None]
    error: Exception | None = None
    if state.is_main_process:
        try:
            outcome[0] = compute()
        except Exception as raised:  # the others must not wait for ever
            error, outcome[1] = raised, repr(raised)
    broadcast_object_list(outcome)
    if error is not None:
        raise error
    if outcome[1] is not None:
        raise RuntimeError(f"the main process failed: {outcome[1]}")
    return outcome[0]


def mean_over_processes(value: Tensor) -> float:
    """Mean of a scalar over all processes."""
    if dist.is_initialized():
        # Not all backends reduce to a mean.
        dist.all_reduce(value)
        value = value / dist.get_world_size()
    return value.item()


def any_process(flag: bool, device: torch.device) -> bool:
    """Whether `flag` is set on any process."""
    if not dist.is_initialized():
        return flag
    value = torch.tensor(int(flag), device=device)
    dist.all_reduce(value, op=dist.ReduceOp.MAX)
    return bool(value.item())
