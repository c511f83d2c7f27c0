import numpy as np
import pytest
import torch

from simcvd.training.sampling import (
    AUGMENTATIONS,
    TrainingCase,
    TwoStreamSampler,
    disturbed_crop,
    random_crop,
    turned_crop,
    warped_crop,
)


def case(shape=(20, 40, 44), name="a", seed=0):
    image = np.random.default_rng(seed).normal(size=shape).astype(np.float16)
    return TrainingCase(name, image, (image > 0).astype(np.uint8))


def marked_cases(n):
    return [
        TrainingCase(str(i), np.full((16, 16, 16), i, np.float16), np.zeros((16, 16, 16), np.uint8)) for i in range(n)
    ]


@pytest.mark.parametrize("augmentation", AUGMENTATIONS)
def test_draws_follow_from_seed_iteration_and_place(augmentation):
    def sampler(seed):
        return TwoStreamSampler([case()], [case(seed=1)], (16, 16, 16), seed, augmentation)

    first, again, other = (sampler(s).draw(1, 7, 2) for s in (3, 3, 4))
    assert all(torch.equal(a.image, b.image) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0].image, other[0].image)
    # a second process draws the second place as one process would
    share = sampler(3).draw(1, 7, 2, first=1, size=1)
    assert torch.equal(share[0].image, first[1].image)


def test_every_labelled_case_comes_once_an_epoch():
    sampler = TwoStreamSampler(marked_cases(6), [], (16, 16, 16), 0, "none")
    for epoch in range(3):
        seen = [c.image[0, 0, 0].item() for i in range(3) for c in sampler.draw(0, 3 * epoch + i, 2)]
        assert sorted(seen) == [0, 1, 2, 3, 4, 5]


def test_small_volume_is_padded_with_its_outermost_voxels_and_background():
    small = case((5, 4, 3))
    crop = random_crop(small, (16, 16, 16), np.random.default_rng(0))
    assert crop.image.shape == (16, 16, 16)
    assert (
        crop.image[0, 0, 0].item() == small.image[0, 0, 0] and crop.image[-1, -1, -1].item() == small.image[-1, -1, -1]
    )
    assert crop.label.sum() == small.label.sum()


@pytest.mark.parametrize("patch", [(16, 16, 16), (16, 16, 32)])
def test_turned_crop_keeps_image_and_label_together(patch):
    for seed in range(10):
        crop = turned_crop(case(), patch, np.random.default_rng(seed))
        assert crop.image.shape == patch
        assert torch.equal(crop.label == 1, crop.image > 0)


def test_turned_crop_turns_by_halves_where_voxels_are_not_square():
    image = np.broadcast_to(np.arange(16, dtype=np.float16)[None, :, None], (16, 16, 16))
    for seed in range(10):
        rng = np.random.default_rng(seed)
        crop = turned_crop(TrainingCase("a", image, None), (16, 16, 16), rng, spacing=(0.5, 1.0, 1.0))
        assert (crop.image == crop.image[:, :, :1]).all()  # rows stay rows


def test_turned_crop_leaves_the_slices_in_order():
    image = np.broadcast_to(np.arange(16, dtype=np.float16)[:, None, None], (16, 16, 16))
    crop = turned_crop(TrainingCase("a", image, None), (16, 16, 16), np.random.default_rng(0))
    assert torch.equal(crop.image[:, 3, 5], torch.arange(16.0))
    assert not crop.label.any()


def test_warped_crop_moves_image_and_label_alike():
    grid = np.indices((32, 48, 48)) - np.reshape([16, 24, 24], (3, 1, 1, 1))
    ball = (grid**2).sum(0) <= 8**2
    cases = TrainingCase("a", ball.astype(np.float16), ball.astype(np.uint8))
    volumes = []
    for seed in range(8):
        crop = warped_crop(cases, (32, 48, 48), np.random.default_rng(seed))
        middle = (crop.image.min() + crop.image.max()) / 2
        apart = ((crop.image > middle) != (crop.label > 0)).sum().item()
        assert apart < 0.15 * crop.label.sum().item()
        volumes.append(crop.label.sum().item())
    assert max(volumes) > 1.2 * min(volumes)


def test_crops_are_warped_in_millimetres():
    """A ball in mm stays a ball but for the scaling, however thick the slices are."""
    spacing, shape = (1.0, 1.0, 4.0), (16, 64, 64)
    grid = np.indices(shape) - np.reshape([8, 32, 32], (3, 1, 1, 1))
    ball = ((grid * np.reshape(spacing[::-1], (3, 1, 1, 1))) ** 2).sum(0) <= 20**2
    cases = TrainingCase("a", ball.astype(np.float16), ball.astype(np.uint8))
    for seed in range(8):
        places = np.argwhere(warped_crop(cases, shape, np.random.default_rng(seed), spacing).label.numpy())
        widths = np.linalg.eigvalsh(np.cov((places * spacing[::-1]).T)) ** 0.5
        assert widths[2] / widths[0] < 1.4  # scaled by 0.9 to 1.1 along each axis


def test_disturbed_crops_stay_finite_and_outline_nothing_in_empty_margins():
    cut, seen = case((32, 48, 48)), 0
    for seed in range(60):
        crop = disturbed_crop(cut, (16, 32, 32), np.random.default_rng(seed))
        assert torch.isfinite(crop.image).all() and crop.image.shape == crop.label.shape == (16, 32, 32)
        rims = [(crop.image.select(a, n), crop.label.select(a, n)) for a in range(3) for n in (0, -1)]
        empty = [label for image, label in rims if image.min() == image.max()]
        assert not any(label.any() for label in empty)
        seen += bool(empty)
    assert 4 < seen < 30


@pytest.mark.parametrize(("augmentation", "least", "most"), [("varied", 100, 100), ("robust", 70, 95)])
def test_some_robust_crops_are_mirrored_left_to_right_and_only_so_but_no_varied_ones(augmentation, least, most):
    label = np.zeros((32, 32, 32), np.uint8)
    label[4:12, 4:12, 4:12] = 1
    low = TrainingCase("low", label.astype(np.float16), label)
    sampler = TwoStreamSampler([low], [], (32, 32, 32), 0, augmentation)
    sides = []
    for iteration in range(100):
        (crop,) = sampler.draw(0, iteration, 1)
        sides.append([places.float().mean() < 16 for places in torch.nonzero(crop.label, as_tuple=True)])
    assert all(head and front for head, front, _ in sides)
    assert least <= sum(left for *_, left in sides) <= most


def test_warped_crop_of_a_volume_smaller_than_the_patch():
    crop = warped_crop(case((6, 7, 5)), (16, 16, 16), np.random.default_rng(0))
    assert crop.image.shape == (16, 16, 16) and torch.isfinite(crop.image).all()


def test_warped_crop_of_a_constant_volume_stays_finite():
    crop = warped_crop(
        TrainingCase("a", np.ones((16, 16, 16), np.float16), None), (16, 16, 16), np.random.default_rng(0)
    )
    assert torch.isfinite(crop.image).all()


def test_unknown_augmentation_is_refused():
    with pytest.raises(ValueError, match="published, strong, varied, robust, none"):
        TwoStreamSampler([case()], [], (16, 16, 16), 0, "wild")
