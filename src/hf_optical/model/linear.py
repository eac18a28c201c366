"""
Fast linear maps in float32 on CPUs with AVX-512 that are not made by Intel.

PyTorch computes linear maps with MKL. On processors not made by Intel, MKL uses vectors of 256 bits even if 512 are
available, at half the speed. Convolutions are computed with oneDNN, which uses the full width, and a linear map is a
convolution with a kernel of size one.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode


def _made_by_intel() -> bool:
    """Whether Linux or Windows names Intel as the maker of the processor."""
    file = Path("/proc/cpuinfo")
    return "GenuineIntel" in (file.read_text() if file.is_file() else platform.processor())


_WIDE = (
    torch.backends.mkldnn.is_available()
    and torch.backends.cpu.get_cpu_capability() == "AVX512"
    and not _made_by_intel()
)
# oneDNN needs 0.3 ms for every new size, which does not pay off for fewer rows.
_MIN_ROWS = 256


def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Compute `torch.nn.functional.linear`, up to rounding, faster for many rows in float32 on such CPUs."""
    many = weight.numel() and input.numel() >= _MIN_ROWS * input.shape[-1]
    exact = input.device.type == "cpu" and input.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    if not (_WIDE and many and exact):
        return functional.linear(input, weight, bias)
    frozen = not weight.requires_grad and (bias is None or not bias.requires_grad)
    return _FrozenLinear.apply(input, weight, bias) if frozen else _convolve(input, weight, bias)


def _convolve(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    convolution: Callable[..., Tensor] = functional.conv2d,
) -> Tensor:
    image = input.reshape(1, -1, 1, input.shape[-1]).permute(0, 3, 1, 2)  # channels last, so no copy
    # On one thread PyTorch uses oneDNN only for dilated convolutions. Dilation has no effect on a kernel of size one.
    output = convolution(image, weight[:, :, None, None], bias, dilation=2)
    return output.permute(0, 2, 3, 1).reshape(*input.shape[:-1], -1)


class _FrozenLinear(torch.autograd.Function):
    """Convolution that does not store its input, since a frozen weight needs no gradient."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(weight)
        return _convolve(input, weight, bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (weight,) = ctx.saved_tensors
        # Equals `_convolve(gradient, weight.T)`, without copying the weight.
        return _convolve(gradient, weight, convolution=functional.conv_transpose2d), None, None


def faster_linear(rows: int) -> AbstractContextManager:
    """Return a context in which all modules use [`linear`], if there are enough rows for that to be faster."""
    # Intercepting all calls of PyTorch takes a millisecond in a small model, a tenth of the time of a short query.
    return _FasterLinear() if _WIDE and rows >= _MIN_ROWS else nullcontext()


class _FasterLinear(TorchFunctionMode):
    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        # `types` are tensor subclasses, such as quantized weights, which have their own implementation.
        func = linear if func is functional.linear and not types else func
        return func(*args, **(kwargs or {}))
