"""The parts that the contrastive methods share, on cases worked out by hand."""

import math

import pytest
import torch
import torch.nn.functional as F

from simcvd.training.centres import assign_centres, cosine_temperature, moved_means, simplex
from simcvd.training.heads import mlp, unit
from simcvd.training.losses import centred_contrast, contrast, soft_label_distillation
from simcvd.training.memory import MemoryQueue
from simcvd.training.pairs import Who, global_pairs, local_pairs, partition_of, slab_starts
from simcvd.training.views import intensity_view, zoomed_view
from simcvd.training.voxels import class_means, draw_confusable, draw_voxels, hard_voxels, read_maps


def chance(seed=0):
    return torch.Generator().manual_seed(seed)


def unit_rows(*shape, seed=0):
    return F.normalize(torch.randn(*shape, generator=chance(seed)), dim=-1)


# --- contrast -------------------------------------------------------------------------------------------------------


def test_contrast_at_uniform_similarity_is_log_of_one_more_than_the_negatives():
    same = unit(torch.ones(6, 4))
    positive = torch.zeros(6, 6, dtype=torch.bool)
    positive[:, 0] = True
    negative = torch.zeros_like(positive)
    negative[:, 2:] = True
    assert contrast(same, same, positive, negative, 0.1).item() == pytest.approx(math.log(5), rel=1e-5)


def test_contrast_leaves_other_positives_out_of_the_sum():
    anchor, others = torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    positive, negative = torch.tensor([[True, True, False]]), torch.tensor([[False, False, True]])
    expected = (math.log(1 + math.exp(-4)) + math.log(1 + math.exp(-2))) / 2  # similarities 2, 0 and -2
    assert contrast(anchor, others, positive, negative, 0.5).item() == pytest.approx(expected, rel=1e-5)


def test_contrast_without_negatives_or_positives_is_zero_with_a_gradient():
    vectors = unit_rows(3, 4).requires_grad_()
    nothing = torch.zeros(3, 3, dtype=torch.bool)
    for positive, negative in ((torch.eye(3).bool(), nothing), (nothing, torch.eye(3).bool())):
        loss = contrast(vectors, vectors, positive, negative, 0.1)
        loss.backward()
        assert loss.item() == 0 and torch.isfinite(vectors.grad).all()


# --- soft labels ----------------------------------------------------------------------------------------------------


def test_soft_labels_of_equal_distributions_cost_nothing():
    vectors, anchors = unit_rows(2, 3, 8), unit_rows(5, 3, 8, seed=1)
    assert soft_label_distillation(vectors, vectors, anchors, 0.1, 0.1).item() == pytest.approx(0, abs=1e-6)
    assert soft_label_distillation(vectors, vectors, anchors, 0.1, 0.01) > 0.1


def test_soft_labels_by_hand():
    student, teacher = torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[0.0, 1.0]]])
    anchors = torch.eye(2)[:, None]
    p = torch.tensor([0.0, 1 / 0.5]).softmax(0)  # the teacher is near the second anchor
    q = torch.tensor([1 / 0.5, 0.0]).softmax(0)
    expected = (p * (p / q).log()).sum().item()
    assert soft_label_distillation(student, teacher, anchors, 0.5, 0.5).item() == pytest.approx(expected, rel=1e-5)


def test_soft_labels_compare_each_location_with_anchors_of_its_own():
    vectors = unit_rows(1, 2, 4)
    anchors = torch.stack([vectors[0], -vectors[0]])  # at both locations the first anchor is the near one
    near = soft_label_distillation(vectors, vectors, anchors, 0.1, 0.01)
    moved = soft_label_distillation(vectors.flip(1), vectors, anchors, 0.1, 0.01)
    assert near < moved


def test_an_empty_memory_teaches_nothing():
    vectors = unit_rows(2, 3, 8).requires_grad_()
    loss = soft_label_distillation(vectors, vectors.detach(), MemoryQueue(4).items, 0.1, 0.01)
    loss.backward()
    assert loss.item() == 0 and not vectors.grad.any()


# --- memory ---------------------------------------------------------------------------------------------------------


def test_memory_is_first_in_first_out():
    memory = MemoryQueue(3)
    for pushed, held in (([1, 2], [1, 2]), ([3, 4], [2, 3, 4]), ([5, 6, 7, 8], [6, 7, 8])):
        memory.push(torch.tensor(pushed)[:, None])
        assert memory.items[:, 0].tolist() == held


def test_memory_comes_back_with_its_shape():
    memory, other = MemoryQueue(3), MemoryQueue(3)
    memory.push(unit_rows(2, 5, 4).requires_grad_())
    other.load_state_dict(memory.state_dict())
    assert torch.equal(other.items, memory.items) and not memory.items.requires_grad
    other.load_state_dict(MemoryQueue(3).state_dict())
    assert not len(other.items)


# --- pairs ----------------------------------------------------------------------------------------------------------

# two scans (0 and 1 are of the first), two partitions, as images 0 to 3; views x, x~, x^ of each
IMAGE, PARTITION = torch.arange(4).repeat(3), torch.tensor([0, 1, 0, 1]).repeat(3)
WHO = Who(IMAGE, torch.arange(3).repeat_interleave(4), IMAGE // 2, PARTITION)


def pairs_of(mask, row):
    """(image, view) of what a row's mask marks."""
    return {(n % 4, n // 4) for n in mask[row].nonzero()[:, 0].tolist()}


def test_random_pairs_two_views_and_pushes_all_other_images_away():
    two = Who(*(part[4:] if part is not None else None for part in WHO))
    positive, negative = global_pairs("random", two, two)
    assert positive[0].nonzero()[:, 0].tolist() == [4] and positive[4].nonzero()[:, 0].tolist() == [0]
    assert negative[0].nonzero()[:, 0].tolist() == [1, 2, 3, 5, 6, 7]


def test_partition_minus_spares_the_same_partition():
    positive, negative = global_pairs("partition-", WHO, WHO)
    assert pairs_of(positive, 0) == {(0, 1), (0, 2)} and pairs_of(positive, 4) == {(0, 0), (0, 2)}
    assert pairs_of(negative, 0) == {(n, view) for n in (1, 3) for view in range(3)}


def test_partition_pulls_plain_and_second_views_of_the_same_partition_together():
    positive, negative = global_pairs("partition", WHO, WHO)
    assert pairs_of(positive, 0) == {(0, 1), (0, 2), (2, 0)}
    assert pairs_of(positive, 4) == {(0, 0), (0, 2)}
    assert pairs_of(positive, 8) == {(0, 0), (0, 1), (2, 2)}
    assert torch.equal(positive, positive.T) and not (positive & negative).any()
    assert torch.equal(negative, global_pairs("partition-", WHO, WHO)[1])


def test_two_slabs_of_one_scan_are_no_pair_across_scans():
    who = WHO._replace(partition=torch.zeros_like(PARTITION))
    positive, negative = global_pairs("partition", who, who)
    assert pairs_of(positive, 0) == {(0, 1), (0, 2), (2, 0), (3, 0)} and not negative.any()


def test_local_pairs_are_the_same_place_in_the_other_view_or_in_other_scans():
    image = torch.tensor([0, 0, 1, 1, 2, 2]).repeat(2)
    view, place = torch.arange(2).repeat_interleave(6), torch.tensor([0, 1]).repeat(6)
    who = Who(image, view, image, (image == 2).long(), place)
    positive, negative = local_pairs(False, who, who)
    assert positive[0].nonzero()[:, 0].tolist() == [6]
    assert negative[0].nonzero()[:, 0].tolist() == [1, 7]
    across, same_negative = local_pairs(True, who, who)
    assert across[0].nonzero()[:, 0].tolist() == [2, 6, 8]  # not the third image: it is of another partition
    assert torch.equal(same_negative, negative)


def test_partitions_follow_the_height_in_the_scan():
    axial = torch.tensor([[0.0, 1.0], [0.5, 1.0], [-0.2, 1.2]])
    assert partition_of(axial, 0.5, 4).tolist() == [2, 3, 2]
    assert partition_of(axial, 0.0, 4).tolist() == [0, 2, 0]
    assert partition_of(axial, 1.0, 4).tolist() == [3, 3, 3]


def test_slabs_come_one_from_each_part():
    for seed in range(20):
        starts = slab_starts(80, 16, 4, chance(seed))
        assert [(start + 8) * 4 // 80 for start in starts] == [0, 1, 2, 3] and starts[0] >= 0 and starts[-1] <= 64
    assert slab_starts(16, 16, 4, chance()) == [0]


# --- views ----------------------------------------------------------------------------------------------------------


def test_intensity_views_move_nothing():
    images = torch.randn(3, 1, 4, 6, 6, generator=chance())
    view = intensity_view(images, chance(1), 0.3)
    flat, seen = images.flatten(1), view.flatten(1)
    slope = (seen[:, 1] - seen[:, 0]) / (flat[:, 1] - flat[:, 0])
    torch.testing.assert_close(seen, flat * slope[:, None] + (seen[:, 0] - flat[:, 0] * slope)[:, None])
    assert (slope - 1).abs().max() <= 0.3 and len(set(slope.tolist())) == 3


def test_zoomed_views_show_a_part_in_plane_and_keep_the_height():
    ramp = torch.arange(8.0).view(1, 1, 8, 1, 1).expand(2, 1, 8, 20, 20)
    torch.testing.assert_close(zoomed_view(ramp, chance(), 0.5), ramp.contiguous())
    across = torch.linspace(-1, 1, 20).expand(4, 1, 8, 20, 20)
    seen = zoomed_view(across, chance(), 0.5)[:, 0, 0, 0]
    span = seen[:, -1] - seen[:, 0]
    assert (span > 0.9).all() and (span < 2).all() and len(set(span.tolist())) == 4
    torch.testing.assert_close(zoomed_view(across, chance(), 1.0), across.contiguous(), atol=1e-4, rtol=1e-4)


# --- voxels ---------------------------------------------------------------------------------------------------------


def test_hard_voxels_are_of_the_class_and_unsure():
    classes = torch.tensor([1, 1, 1, 0, 255], dtype=torch.uint8).view(1, 1, 1, 5)
    foreground = torch.tensor([0.99, 0.97, 0.2, 0.5, 0.5]).view(1, 1, 1, 1, 5)
    probability = torch.cat([1 - foreground, foreground], 1)
    assert hard_voxels(classes, probability, 1, 0.97).flatten().tolist() == [False, True, True, False, False]
    assert hard_voxels(classes, probability, 1, 1.0).flatten().tolist() == [True, True, True, False, False]


def test_voxels_are_drawn_where_marked():
    where = torch.zeros(2, 3, 4, 5, dtype=torch.bool)
    assert draw_voxels(where, 7, chance()).shape == (0, 4)
    where[1, 2, 3, 4] = where[0, 1, 2, 3] = True
    drawn = draw_voxels(where, 50, chance())
    assert {tuple(row) for row in drawn.tolist()} == {(1, 2, 3, 4), (0, 1, 2, 3)} and len(drawn) == 50


def test_maps_are_read_at_the_cell_a_voxel_lies_in():
    fine = torch.arange(2 * 4 * 8 * 8.0).view(2, 1, 4, 8, 8)
    coarse = F.avg_pool3d(fine, 4)
    places = torch.tensor([[1, 2, 7, 3], [0, 0, 0, 0]])
    expected = torch.stack(
        [torch.stack([coarse[b, 0, k // 4, j // 4, i // 4], fine[b, 0, k, j, i]]) for b, k, j, i in places]
    )
    for layout in (torch.contiguous_format, torch.channels_last_3d):
        maps = [x.to(memory_format=layout) for x in (coarse, fine)]
        assert torch.equal(read_maps(maps, places), expected)


def test_class_means_are_unit_and_zero_for_a_class_that_is_nowhere():
    vectors = torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[0.0, 3.0], [0.0, 3.0]], [[5.0, 5.0], [5.0, 5.0]]])
    means = class_means(vectors, torch.tensor([True, True, False]))
    torch.testing.assert_close(means, torch.tensor([[0.5**0.5, 0.5**0.5], [0.0, 1.0], [0.0, 0.0]]))


def test_confusable_classes_come_more_often():
    means = torch.tensor([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [1.0, 0.0]])
    present = torch.tensor([True, True, True, False])
    drawn = draw_confusable(means, 0, present, 4000, chance())
    assert set(drawn.tolist()) == {1, 2}
    expected = math.exp(1) / (math.exp(1) + math.exp(-1))
    assert (drawn == 1).float().mean().item() == pytest.approx(expected, abs=0.03)
    assert not len(draw_confusable(means, 0, torch.tensor([True, False, False, False]), 5, chance()))


# --- centres --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "width"), [(2, 2), (3, 128), (5, 8)])
def test_simplex_corners_are_equally_far_from_each_other(count, width):
    corners = simplex(count, width)
    cosines = corners @ corners.T
    expected = torch.full((count, count), -1 / (count - 1)).fill_diagonal_(1)
    torch.testing.assert_close(cosines, expected, atol=1e-5, rtol=1e-5)


def test_classes_get_the_centres_that_lie_nearest_together():
    centres = simplex(4, 8)
    order = torch.tensor([2, 0, 3, 1])
    means = unit(centres[order] + 0.1 * torch.randn(4, 8, generator=chance()))
    assert torch.equal(assign_centres(centres, means), order)
    # both classes are nearest to the first centre: the one that loses less takes the other
    means = unit(torch.tensor([[1.0, 0.1], [1.0, 0.5]]))
    assert assign_centres(torch.eye(2), means).tolist() == [0, 1]


def test_means_move_at_their_rate_and_start_where_a_class_is_first_seen():
    running, means = (
        torch.tensor([[1.0, 0.0], [0.0, 0.0], [0.0, 1.0]]),
        torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.0, 0.0]]),
    )
    moved = moved_means(running, means, 0.1)
    torch.testing.assert_close(moved, torch.stack([unit(torch.tensor([0.9, 0.1])), means[1], running[2]]))


def test_centred_contrast_at_uniform_similarity():
    queries, keys = unit(torch.ones(2, 4)), unit(torch.ones(6, 4))
    positive = torch.tensor([[True] * 3 + [False] * 3, [False] * 3 + [True] * 3])
    loss = centred_contrast(queries, keys, positive, queries, 0.2, 0.07)
    assert loss.item() == pytest.approx(1.2 * math.log(6), rel=1e-5)


def test_centred_contrast_by_hand():
    queries, keys, centres = torch.tensor([[1.0, 0.0]]), torch.eye(2), torch.tensor([[-1.0, 0.0]])
    every = math.log(math.exp(2) + 1)
    loss = centred_contrast(queries, keys, torch.tensor([[True, False]]), centres, 0.5, 0.5)
    assert loss.item() == pytest.approx((every - 2) + 0.5 * (every + 2), rel=1e-5)


def test_temperature_falls_to_the_middle_and_rises_again():
    values = [cosine_temperature(t, 0.1, 1.0) for t in (0, 0.25, 0.5, 0.75, 1)]
    assert values == pytest.approx([1, 0.55, 0.1, 0.55, 1])


def test_heads_are_linear_layers_with_relu_between():
    kinds = [type(layer).__name__ for layer in mlp(4, 3, 2)]
    assert kinds == ["Linear", "ReLU", "Linear"]
