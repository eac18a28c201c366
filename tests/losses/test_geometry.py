import numpy as np
import pytest
import torch

from hf_optical.losses import Geometry, GreedyAlignmentLoss, OTAlignmentLoss, SentenceMSELoss


def sentences(cone: float = 0.0, count: int = 20) -> list[torch.Tensor]:
    """Token vectors of sentences, in a cone that narrows with `cone`."""
    generator = torch.Generator().manual_seed(0)
    shared = cone * torch.ones(8)
    return [torch.randn(5 + i % 3, 8, generator=generator) + shared for i in range(count)]


@pytest.mark.parametrize("center", [True, False])
def test_spread_is_that_of_a_plain_loop(center):
    units = [(each / each.norm(dim=1, keepdim=True)).double().numpy() for each in sentences(2.0)]
    mean = np.concatenate(units).mean(0) if center else np.zeros(8)
    squares = []
    for unit in units:
        moved = (unit - mean) / np.linalg.norm(unit - mean, axis=1, keepdims=True)
        cost = 1 - moved @ moved.T
        n = len(cost)
        for i in range(n):
            for j in range(n):
                squares.append((cost[i, j] - cost[i].mean() - cost[:, j].mean() + cost.mean()) ** 2)
    found = Geometry.of(sentences(2.0), center)
    assert found.spread == pytest.approx(np.mean(squares) ** 0.5, rel=1e-5)
    assert found.mean.numpy() == pytest.approx(mean, abs=1e-6)


def test_centering_widens_a_narrow_cone():
    wide, narrow = Geometry.of(sentences(0.0), False).spread, Geometry.of(sentences(4.0), False).spread
    assert narrow < 0.2 * wide
    assert Geometry.of(sentences(4.0)).spread > 0.8 * wide


def test_epsilon_is_relative_to_the_spread_with_one_digit():
    assert Geometry(torch.zeros(1), 0.187).epsilon(0.053) == 0.01
    assert Geometry(torch.zeros(1), 0.149).epsilon(0.053) == 0.008
    assert Geometry(torch.zeros(1), 0.0).epsilon(0.053) == 1e-4


@pytest.mark.parametrize("kind", [OTAlignmentLoss, GreedyAlignmentLoss, SentenceMSELoss])
def test_center_is_subtracted_from_both_sides(kind):
    student, teacher, center = torch.randn(3, 6, 8), torch.randn(3, 4, 8), torch.randn(8)
    weights = torch.tensor([[1, 1, 1, 1, 1, 0]]).repeat(3, 1)
    found = kind(center=center)(student, teacher, weights)
    assert found.item() == pytest.approx(kind()(student - center, teacher - center, weights).item(), abs=1e-6)


def test_invalid_input_raises():
    with pytest.raises(ValueError, match="number of sentences must be at least 1, got 0"):
        Geometry.of([])
    with pytest.raises(ValueError, match="center"):
        OTAlignmentLoss(center=torch.zeros(3))(torch.randn(1, 2, 8), torch.randn(1, 2, 8))
