import pytest
import torch
from torch.nn import functional
from torch.profiler import ProfilerActivity, profile

from hf_optical.model import linear as module
from hf_optical.model.linear import faster_linear, linear


@pytest.fixture(autouse=True)
def wide(monkeypatch):
    """Run the code for processors with AVX-512 on any processor."""
    monkeypatch.setattr(module, "_WIDE", True)


def operations(run):
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        run()
    return {event.key for event in profiled.key_averages()}


@pytest.mark.parametrize(
    ("shape", "outputs", "biased"),
    [
        ((300, 24), 40, True),
        ((300, 24), 0, False),
        ((7, 50, 24), 40, False),
        ((2, 3, 60, 24), 1, True),
        ((3, 24), 40, True),
        ((0, 24), 40, True),
        ((0, 5, 24), 0, False),
    ],
)
def test_output_and_gradients_agree_with_torch(shape, outputs, biased):
    tensors = [torch.randn(shape), torch.randn(outputs, 24), torch.randn(outputs) if biased else None]
    tensors = [tensor if tensor is None else tensor.requires_grad_() for tensor in tensors]
    leaves = [tensor for tensor in tensors if tensor is not None]
    ours, theirs = linear(*tensors), functional.linear(*tensors)
    assert ours.shape == theirs.shape and ours.is_contiguous()
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    weights = torch.randn(theirs.shape)
    torch.testing.assert_close(
        torch.autograd.grad((ours * weights).sum(), leaves),
        torch.autograd.grad((theirs * weights).sum(), leaves),
        rtol=1e-5,
        atol=1e-4,
    )


@pytest.mark.parametrize("biased", [True, False])
def test_frozen_map_has_input_gradient_without_storing_the_input(biased):
    layer, rows = torch.nn.Linear(24, 40, bias=biased).requires_grad_(False), torch.randn(300, 24, requires_grad=True)
    stored = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: stored.append(tensor.numel()) or tensor, lambda t: t):
        output = linear(rows, layer.weight, layer.bias)
    assert sum(stored) <= layer.weight.numel()
    target = torch.randn(300, 40)
    (gradient,) = torch.autograd.grad((output * target).sum(), rows)
    torch.testing.assert_close(gradient, target @ layer.weight, rtol=1e-5, atol=1e-5)
    (gradient,) = torch.autograd.grad((linear(rows, layer.weight, layer.bias) ** 2).sum(), rows, create_graph=True)
    assert torch.autograd.grad(gradient.sum(), rows)[0].abs().max() > 0  # and a second derivative


def test_non_contiguous_rows():
    rows, weight = torch.randn(24, 600).T[::2], torch.randn(40, 24)
    torch.testing.assert_close(linear(rows, weight), rows @ weight.T, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("rows", "dtype", "convolved"),
    [(300, torch.float32, True), (20, torch.float32, False), (300, torch.float64, False)],
)
def test_convolution_is_used_only_for_many_rows_in_float32(rows, dtype, convolved):
    tensors = torch.randn(rows, 8, dtype=dtype), torch.randn(4, 8, dtype=dtype)
    assert ("aten::conv2d" in operations(lambda: linear(*tensors))) == convolved


@pytest.mark.parametrize(("rows", "convolved"), [(300, True), (20, False)])
def test_modules_use_the_convolution_only_within_the_context(rows, convolved):
    layer, rows = torch.nn.Linear(8, 4), torch.randn(rows, 8)

    def run():
        with faster_linear(len(rows)):
            layer(rows)

    assert ("aten::conv2d" in operations(run)) == convolved
    assert "aten::conv2d" not in operations(lambda: layer(rows))


def test_nothing_changes_without_avx512(monkeypatch):
    monkeypatch.setattr(module, "_WIDE", False)
    rows, weight = torch.randn(300, 8), torch.randn(4, 8)
    with faster_linear(300):
        assert torch.equal(linear(rows, weight), rows @ weight.T)


def test_tensor_subclasses_keep_their_own_implementation():
    class Quantised(torch.Tensor):
        @classmethod
        def __torch_function__(cls, func, types, args=(), kwargs=None):
            return func  # distinguishes it from the computation

    weight = torch.randn(4, 8).as_subclass(Quantised)
    with faster_linear(300):
        assert functional.linear(torch.randn(300, 8), weight) is functional.linear
