from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_optical.losses import GreedyAlignmentLoss, greedy_alignment


def literal_alignment(cost):
    """Repeated global minimum of one matrix, by loops (Dr.DECR, arXiv 2112.08185, section 3.2)."""
    rows, columns, pairs = set(range(len(cost))), set(range(len(cost[0]))), []
    while rows and columns:
        best = min((cost[i][j], i, j) for i in sorted(rows) for j in sorted(columns))
        pairs.append(best[1:])
        rows.remove(best[1])
        columns.remove(best[2])
    return pairs


def literal_loss(student, teacher):
    """Mean squared distance of the aligned unit vectors of one pair of sentences, in float64."""
    student = torch.nn.functional.normalize(student.double(), dim=1)
    teacher = torch.nn.functional.normalize(teacher.double(), dim=1)
    pairs = literal_alignment((1 - student @ teacher.T).tolist())
    return sum(((student[i] - teacher[j]) ** 2).sum() for i, j in pairs) / len(pairs)


@settings(deadline=None, max_examples=25)
@given(st.lists(st.tuples(st.integers(1, 12), st.integers(1, 12)), min_size=1, max_size=5), st.integers(0, 10**6))
def test_loss_equals_a_plain_loop_over_pairs(lengths, seed):
    generator = torch.Generator().manual_seed(seed)
    n, m = (max(length[side] for length in lengths) for side in (0, 1))
    student = torch.randn(len(lengths), n, 6, generator=generator)
    teacher = torch.randn(len(lengths), m, 6, generator=generator)
    student_mask = torch.tensor([[i < length[0] for i in range(n)] for length in lengths])
    teacher_mask = torch.tensor([[i < length[1] for i in range(m)] for length in lengths])
    found = GreedyAlignmentLoss(reduction="none")(student, teacher, student_mask, teacher_mask)
    expected = [literal_loss(student[i][:a], teacher[i][:b]) for i, (a, b) in enumerate(lengths)]
    assert found.tolist() == pytest.approx([loss.item() for loss in expected], abs=1e-5)


def test_loss_is_independent_of_padding_and_batch():
    torch.manual_seed(1)
    student, teacher = torch.randn(1, 4, 5), torch.randn(1, 6, 5)
    loss = GreedyAlignmentLoss(reduction="none")
    alone = loss(student, teacher)
    padded_student = torch.cat([student, torch.full((1, 3, 5), torch.nan)], 1)
    padded = torch.cat([padded_student, torch.randn(1, 7, 5)])
    mask = torch.tensor([[1] * 4 + [0] * 3, [1] * 7])
    together = loss(padded, torch.cat([teacher, torch.randn(1, 6, 5)]), mask)
    assert torch.equal(together[:1], alone)


def test_weights_scale_the_aligned_pairs():
    student = torch.eye(2).unsqueeze(0)
    teacher = torch.tensor([[[1.0, 0.0], [0.6, 0.8]]])
    loss = GreedyAlignmentLoss()
    assert loss(student, teacher).item() == pytest.approx((0 + 0.4) / 2)
    heavy = torch.tensor([[3.0, 1.0]])
    # Shares 3/4 and 1/4 on the student's side, halves on the teacher's.
    assert loss(student, teacher, student_weights=heavy).item() == pytest.approx(0.4 * 0.75 / 2)
    assert loss(student, teacher, student_weights=heavy, teacher_weights=heavy).item() == pytest.approx(0.4 / 4)


def test_tokens_with_zero_weight_are_not_aligned():
    student = torch.tensor([[[1.0, 0.0], [1.0, 0.0]]])
    teacher = torch.tensor([[[1.0, 0.0], [-1.0, 0.0]]])
    assert GreedyAlignmentLoss()(student, teacher, student_weights=torch.tensor([[1.0, 0.0]])).item() == 0


def test_masks_without_tokens_raise():
    cost, nothing = torch.rand(2, 3, 4), torch.zeros(2, 4, dtype=torch.bool)
    assert all(part.shape == (2, 0) for part in greedy_alignment(cost, torch.ones(2, 3, dtype=torch.bool), nothing))
    nothing[1, 2] = True
    rows, columns, aligned = greedy_alignment(cost, torch.ones(2, 3, dtype=torch.bool), nothing)
    assert aligned.tolist() == [[False], [True]] and columns[1].item() == 2
    assert all(part.shape == (0, 0) for part in greedy_alignment(cost[:0], nothing[:0, :3], nothing[:0]))


def test_invalid_input_raises():
    student, teacher = torch.randn(2, 3, 5), torch.randn(2, 4, 5)
    with pytest.raises(ValueError, match="student has no token with mass.*batch entries \\[0, 1\\]"):
        GreedyAlignmentLoss()(student, teacher, student_mask=torch.zeros(2, 3))
    student[1, 0, 0] = torch.nan
    with pytest.raises(ValueError, match="student_embeddings are not finite.*\\[1\\]"):
        GreedyAlignmentLoss()(student, teacher)
