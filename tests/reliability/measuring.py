"""Resources that a process holds."""

from __future__ import annotations

import gc
import os
from typing import NamedTuple

import psutil
import torch


class Footprint(NamedTuple):
    """
    Attributes:
        memory (`int`): resident bytes of this process.
        tensors (`int`), tensor_bytes (`int`): number and size of all tensors; shared memory counts once.
        objects (`int`): other objects tracked by the garbage collector.
        files (`int`): open file handles.
    """

    memory: int
    tensors: int
    tensor_bytes: int
    objects: int
    files: int


def open_files() -> int:
    """Number of open file handles of this process."""
    return psutil.Process(os.getpid()).num_fds()


def footprint() -> Footprint:
    gc.collect()
    objects = gc.get_objects()
    tensors = [each for each in objects if issubclass(type(each), torch.Tensor)]
    storages = {each.untyped_storage().data_ptr(): each.untyped_storage().nbytes() for each in tensors}
    memory = psutil.Process(os.getpid()).memory_info().rss
    return Footprint(memory, len(tensors), sum(storages.values()), len(objects) - len(tensors), open_files())
