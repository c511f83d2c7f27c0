"""Looking for structures in scans that show far more than those a model learned from."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from simcvd.boxes import at_least, moved, size
from simcvd.search import expected_dice, outgrown, search, window_boxes, window_shape

ANY = [(0.0, np.inf)]


@pytest.mark.parametrize(
    ("patch", "voxels", "window"),
    [
        ((64, 96, 96), 320_000, (64, 96, 96)),
        ((48, 64, 64), 320_000, (64, 80, 80)),
        ((16, 32, 32), 131_072, (32, 64, 64)),
    ],
)
def test_a_window_holds_a_usual_scan(patch, voxels, window):
    assert window_shape(patch, voxels) == window


@pytest.mark.parametrize(
    ("shape", "count"), [((40, 40, 40), 27), ((20, 20, 20), 1), ((5, 21, 60), 1 * 2 * 5), ((1, 1, 1), 1)]
)
def test_windows_cover_everything_and_overlap_by_half(shape, count):
    boxes = window_boxes(shape, (20, 20, 20))
    seen = np.zeros(shape, int)
    for box in boxes:
        assert size(box) == tuple(min(20, n) for n in shape)
        seen[box] += 1
    assert len(boxes) == count and seen.min() >= 1
    # what is no larger than half a window lies whole in one
    for corner in itertools.product(*[range(0, max(n - 10, 0) + 1, 3) for n in shape]):
        inner = tuple(slice(c, min(c + 10, n)) for c, n in zip(corner, shape, strict=True))
        assert any(
            all(o.start <= i.start and i.stop <= o.stop for o, i in zip(box, inner, strict=True)) for box in boxes
        )


def test_expected_dice_is_the_soft_dice_of_what_was_found():
    probability = np.zeros((1, 2, 2, 2))
    probability[0, 0] = 0.9
    probability[0, 1, 0] = 0.4
    labels = (probability[0] > 0.5).astype(np.uint8)
    assert expected_dice(probability, labels, ANY) == pytest.approx(2 * 3.6 / (4 + 3.6 + 0.8))
    assert expected_dice(probability, labels, [(4, 4)]) > 0
    assert expected_dice(probability, labels, [(5, 9)]) == expected_dice(probability, labels, [(1, 3)]) == 0
    assert expected_dice(probability, np.zeros_like(labels), ANY) == 0


def test_every_structure_must_be_there():
    probability = np.zeros((2, 2, 2, 2))
    probability[0, 0], probability[1, 1] = 1.0, 0.8
    labels = np.zeros((2, 2, 2), np.uint8)
    labels[0], labels[1] = 1, 2
    assert expected_dice(probability, labels, ANY * 2) == pytest.approx((1 + 2 * 3.2 / 7.2) / 2)
    assert expected_dice(probability, np.minimum(labels, 1), ANY * 2) == 0


def two_blobs() -> np.ndarray:
    array = np.zeros((20, 20, 80), np.float32)
    array[8:12, 8:12, 8:12] = 10
    array[8:13, 8:13, 58:63] = 6
    return array


def test_the_surest_plausible_window_wins():
    def predict(array):
        return np.clip(array / array.max(), 0, 1)[None] * (0.95 if (array > 1).sum() == 64 else 0.9)

    def found(volumes):
        return search(predict, two_blobs(), (20, 20, 20), {"kind": "zscore"}, volumes, True, lambda: None)

    assert found(ANY) == (slice(8, 12), slice(8, 12), slice(8, 12))
    assert found([(100, 200)]) == (slice(8, 13), slice(8, 13), slice(58, 63))
    assert found([(1000, 2000)]) is None


def test_air_is_passed_by_and_every_window_is_told():
    steps, shapes = [], []

    def predict(array):
        shapes.append(array.shape)
        return np.zeros((1, *array.shape))

    array = two_blobs()
    assert search(predict, array, (20, 20, 20), {"kind": "zscore"}, ANY, True, lambda: steps.append(1)) is None
    assert len(steps) == len(window_boxes(array.shape, (20, 20, 20))) == 7
    assert len(shapes) == 5  # two windows see the one, three the other


def test_what_is_flat_but_for_rounding_is_passed_by():
    array = two_blobs()
    array[array == 0] = -1000 + np.random.default_rng(0).choice([0, 6e-5], (array == 0).sum())
    found = search(lambda part: part[None] / part.max(), array, (20, 20, 20), {"kind": "zscore-filled"}, ANY, True, int)
    assert found == (slice(8, 12), slice(8, 12), slice(8, 12))


def test_all_parts_count_where_a_structure_has_several():
    array = np.zeros((20, 20, 20), np.float32)
    array[2:5, 4:8, 4:8] = array[14:18, 4:8, 4:8] = 1

    def found(largest):
        return search(lambda part: part[None] / part.max(), array, (20, 20, 20), {"kind": "zscore"}, ANY, largest, int)

    assert found(True)[0] == slice(14, 18) and found(False)[0] == slice(2, 18)


def test_a_box_grows_where_what_is_in_it_goes_on():
    labels = np.zeros((10, 10, 10), np.uint8)
    labels[4:, 3:6, 0] = 1
    box = (slice(20, 30), slice(5, 15), slice(3, 13))
    assert outgrown(labels, box, (34, 40, 40), (16, 16, 16)) == (slice(20, 34), slice(5, 15), slice(0, 13))
    assert outgrown(labels * 0, box, (34, 40, 40), (16, 16, 16)) == box


def test_boxes_grow_to_a_size_and_move():
    box = (slice(4, 6), slice(0, 3), slice(8, 10))
    assert at_least(box, (6, 6, 6), (10, 10, 10)) == (slice(2, 8), slice(0, 6), slice(4, 10))
    assert at_least(box, (20, 2, 2), (10, 10, 10)) == (slice(0, 10), slice(0, 3), slice(8, 10))
    assert moved(box, (1, 2, 3)) == (slice(5, 7), slice(2, 5), slice(11, 13))
