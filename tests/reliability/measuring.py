"""What a process holds on to."""

from __future__ import annotations

import gc
import os
from typing import NamedTuple

import psutil
import torch


class Footprint(NamedTuple):
    """
    Attributes:
        memory (`int`): bytes of this process in memory.
        tensors (`int`), tensor_bytes (`int`): all tensors, and what they occupy; those that share memory count once.
        objects (`int`): everything else that the collector knows.
        files (`int`): open file handles.
    """

    memory: int
    tensors: int
    tensor_bytes: int
    objects: int
    files: int


def footprint() -> Footprint:
    gc.collect()
    objects = gc.get_objects()
    tensors = [each for each in objects if issubclass(type(each), torch.Tensor)]
    storages = {each.untyped_storage().data_ptr(): each.untyped_storage().nbytes() for each in tensors}
    process = psutil.Process(os.getpid())
    return Footprint(
        process.memory_info().rss, len(tensors), sum(storages.values()), len(objects) - len(tensors), process.num_fds()
    )
