import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from simcvd.training.ema import decay_at, make_teacher, update_teacher
from simcvd.training.losses import (
    ProjectionHead,
    dice_loss,
    info_nce,
    pairwise_distillation,
    ramp_up,
    segmentation_loss,
)


def test_dice_by_hand():
    probability = torch.tensor([[[[[0.5, 0.0]]], [[[0.5, 1.0]]]]])
    target = torch.tensor([[[[0, 1]]]])
    expected = 1 - (2 * 1.0 + 1e-5) / (1.25 + 1 + 1e-5)
    assert dice_loss(probability, target).item() == pytest.approx(expected)


def test_dice_sums_over_the_batch_and_averages_classes():
    target = torch.tensor([[[[1, 2]]], [[[0, 0]]]])
    perfect = F.one_hot(target, 3).movedim(-1, 1).float()
    assert dice_loss(perfect, target).item() == pytest.approx(0, abs=1e-5)
    without_second = perfect.clone()
    without_second[:, 2] = 0
    assert dice_loss(without_second, target).item() == pytest.approx(0.5, abs=1e-4)


def test_segmentation_loss_is_half_the_sum_and_weights_count_voxels():
    torch.manual_seed(0)
    logits, target = torch.randn(2, 2, 4, 4, 4), torch.randint(0, 2, (2, 4, 4, 4))
    plain = segmentation_loss(logits, target)
    expected = 0.5 * (F.cross_entropy(logits, target) + dice_loss(logits.softmax(1), target))
    assert plain.item() == pytest.approx(expected.item())
    assert segmentation_loss(logits, target, torch.ones(2, 4, 4, 4)).item() == pytest.approx(plain.item(), abs=1e-6)
    first_only = torch.zeros(2, 4, 4, 4)
    first_only[0] = 1
    alone = segmentation_loss(logits[:1], target[:1])
    assert segmentation_loss(logits, target, first_only).item() == pytest.approx(alone.item(), abs=1e-6)


@pytest.mark.parametrize("count", [64, 160])
def test_info_nce_of_identical_vectors_is_two_log_count(count):
    same = F.normalize(torch.ones(count, 8), dim=1)
    assert info_nce(same, same, 0.5).item() == pytest.approx(2 * math.log(count), rel=1e-5)


def test_info_nce_of_orthonormal_pairs_by_hand():
    vectors = torch.eye(16)
    expected = 2 * math.log(1 + 15 * math.exp(-2))
    assert info_nce(vectors, vectors, 0.5).item() == pytest.approx(expected, rel=1e-5)
    swapped = vectors.roll(1, 0)
    assert info_nce(vectors, swapped, 0.5) > info_nce(vectors, vectors, 0.5)


def test_pairwise_distillation_of_constant_features_is_log_of_voxels():
    features = torch.ones(2, 256, 5, 7, 7)
    assert pairwise_distillation(features, features).item() == pytest.approx(math.log(245), rel=1e-5)
    assert pairwise_distillation(features, features, "sum").item() == pytest.approx(245 * math.log(245), rel=1e-5)


def test_pairwise_distillation_rises_when_the_teacher_voxels_are_permuted():
    torch.manual_seed(0)
    features = torch.randn(1, 32, 3, 4, 4)
    permuted = features.flatten(2)[:, :, torch.randperm(48)].view(features.shape)
    assert pairwise_distillation(features, permuted) > pairwise_distillation(features, features) + 0.5


def test_ramp_up_values():
    expected = {0: 0.0067, 0.1: 0.0174, 0.25: 0.060, 0.5: 0.287, 0.75: 0.732, 1: 1}
    for progress, value in expected.items():
        assert ramp_up(progress) == pytest.approx(value, abs=6e-4)
    assert ramp_up(1.5) == 1


def test_alpha_dropout_of_the_head_keeps_mean_and_variance():
    torch.manual_seed(0)
    head = ProjectionHead(pool_size=16, hidden=8, width=4)
    x = torch.randn(2, 32, 64, 64)
    dropped, again = head.dropout(x), head.dropout(x)
    assert dropped.mean().item() == pytest.approx(0, abs=0.01)
    assert dropped.var().item() == pytest.approx(1, abs=0.02)
    assert not torch.equal(dropped, again)
    head.eval()
    assert torch.equal(head.dropout(x), x)


def test_head_gives_unit_vectors_one_a_slice():
    head = ProjectionHead(pool_size=32, hidden=16, width=8)
    vectors = head(torch.randn(2, 5, 20, 24))
    assert vectors.shape == (10, 8)
    np.testing.assert_allclose(vectors.norm(dim=1).detach(), 1, rtol=1e-5)


def test_head_order_is_volume_then_slice():
    head = ProjectionHead(pool_size=16, hidden=16, width=8).eval()
    x = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(head(x)[4], head(x[1:, 1:2])[0])


def test_published_head_has_8_7_million_parameters():
    assert (
        sum(p.numel() for p in ProjectionHead().parameters()) == 16384 * 512 + 512 + 512 * 512 + 512 + 512 * 128 + 128
    )


def test_teacher_copies_the_student_first_and_averages_later():
    assert decay_at(0, 0.999) == 0
    assert decay_at(1, 0.999) == 0.5
    assert decay_at(10_000, 0.999) == 0.999
    student = torch.nn.Linear(1, 1, bias=False)
    teacher = make_teacher(student)
    assert not any(p.requires_grad for p in teacher.parameters())
    with torch.no_grad():
        teacher.weight.fill_(0)
        student.weight.fill_(1)
    update_teacher(teacher, student, 0.75)
    assert teacher.weight.item() == pytest.approx(0.25)
    for _ in range(1000):
        update_teacher(teacher, student, 0.999)
    assert teacher.weight.item() == pytest.approx(1 - 0.75 * 0.999**1000, rel=1e-3)
