from __future__ import annotations

import pytest
import torch

from hf_optical.losses import SentenceMSELoss


def test_loss_equals_squared_distance_of_mean_pooled_vectors():
    from sentence_transformers.sentence_transformer.modules import Pooling

    torch.manual_seed(0)
    student, teacher = torch.randn(3, 5, 8), torch.randn(3, 7, 8)
    student_mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 0, 0, 0, 0]])
    teacher_mask = torch.ones(3, 7, dtype=torch.long)
    pooling = Pooling(8, "mean")
    means = [
        pooling({"token_embeddings": vectors, "attention_mask": mask})["sentence_embedding"]
        for vectors, mask in ((student, student_mask), (teacher, teacher_mask))
    ]
    expected = torch.nn.functional.mse_loss(*means, reduction="none").sum(1)
    found = SentenceMSELoss(reduction="none")(student, teacher, student_mask, teacher_mask)
    assert found.tolist() == pytest.approx(expected.tolist(), abs=1e-5)
    assert SentenceMSELoss()(student, teacher, student_mask, teacher_mask).item() == pytest.approx(
        expected.mean().item(), abs=1e-5
    )


def test_padding_is_ignored_and_weights_are_used():
    student = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [torch.nan, torch.inf]]])
    teacher = torch.tensor([[[1.0, 0.0]]])
    mask = torch.tensor([[1, 1, 0]])
    assert SentenceMSELoss()(student, teacher, mask).item() == pytest.approx(0.5)
    weights = torch.tensor([[3.0, 1.0, 5.0]])
    assert SentenceMSELoss()(student, teacher, mask, student_weights=weights).item() == pytest.approx(2 / 16)


@pytest.mark.parametrize("scale", [1e-36, 1e36])
def test_loss_is_independent_of_the_scale_of_weights(scale):
    student, teacher = (1e3 * torch.randn(2, 3, 4)).requires_grad_(), torch.randn(2, 5, 4)
    weights = torch.rand(2, 3)
    losses = [SentenceMSELoss()(student, teacher, student_weights=weights * size) for size in (1.0, scale)]
    gradients = [torch.autograd.grad(loss, student)[0] for loss in losses]
    assert losses[1].item() == pytest.approx(losses[0].item(), rel=1e-5)
    assert torch.allclose(*gradients, rtol=1e-4)


def test_invalid_input_raises():
    with pytest.raises(ValueError, match="teacher has no token with mass.*batch entries \\[0\\]"):
        SentenceMSELoss()(torch.randn(1, 2, 3), torch.randn(1, 2, 3), teacher_mask=torch.zeros(1, 2))
    with pytest.raises(
        ValueError, match="student has .* weights that are negative or not finite.*batch entries \\[0\\]"
    ):
        SentenceMSELoss()(torch.randn(1, 2, 3), torch.randn(1, 2, 3), student_weights=torch.full((1, 2), 3e38))
    with pytest.raises(ValueError, match="student_embeddings are not finite.*\\[1\\]"):
        SentenceMSELoss()(torch.tensor([[[1.0]], [[torch.inf]]]), torch.ones(2, 1, 1))
