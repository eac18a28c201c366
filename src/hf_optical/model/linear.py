"""
Linear maps in float32 at the full width of a CPU.

Torch leaves them to MKL, which on processors other than Intel's works with vectors of 256 bits even where there are
512, at half the speed. Convolutions go to oneDNN, which uses what there is; and a linear map is a convolution by a
kernel of one point.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode


_WIDE = torch.backends.mkldnn.is_available() and torch.backends.cpu.get_cpu_capability() == "AVX512"
# oneDNN spends 0.3 ms on every size that is new to it, which fewer rows would not win back.
_FEWEST_ROWS = 256


def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """
    As `torch.nn.functional.linear`, faster for many rows in float32 on a CPU with AVX-512 that Intel did not make.

    Args:
        input (`torch.Tensor` of shape `(..., columns)`): the rows.
        weight (`torch.Tensor` of shape `(outputs, columns)`): the map.
        bias (`torch.Tensor` of shape `(outputs,)`, *optional*): what is added.

    Returns:
        `torch.Tensor` of shape `(..., outputs)`: off by the rounding of float32, differentiable.
    """
    many = weight.numel() and input.numel() >= _FEWEST_ROWS * input.shape[-1]
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
    image = input.reshape(1, -1, 1, input.shape[-1]).permute(0, 3, 1, 2)  # its channels last, as the rows lie
    # On one thread torch gives oneDNN only dilated convolutions. With one point there is nothing to dilate.
    output = convolution(image, weight[:, :, None, None], bias, dilation=2)
    return output.permute(0, 2, 3, 1).reshape(*input.shape[:-1], -1)


class _FrozenLinear(torch.autograd.Function):
    """A convolution stores its input for the gradient of its weight, even where nobody asks for one."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(weight)
        return _convolve(input, weight, bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (weight,) = ctx.saved_tensors
        # As `_convolve(gradient, weight.T)`, which would copy the weight.
        return _convolve(gradient, weight, convolution=functional.conv_transpose2d), None, None


def faster_linear(rows: int) -> AbstractContextManager:
    """A context in which every `torch.nn.functional.linear`, in any module, is [`linear`], if `rows` are many."""
    # Looking at every call of torch takes a millisecond in a small model, a tenth of what a short query takes.
    return _FasterLinear() if _WIDE and rows >= _FEWEST_ROWS else nullcontext()


class _FasterLinear(TorchFunctionMode):
    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        # `types` are the tensors that are not torch's own, such as quantised weights: they know what to do.
        func = linear if func is functional.linear and not types else func
        return func(*args, **(kwargs or {}))
