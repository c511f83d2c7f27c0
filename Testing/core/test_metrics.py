"""metrics.py: equal to MedPy, right by hand, honest about empty masks."""

import math

import numpy as np
import pytest

from simcvd.errors import SimCVDError
from simcvd.metrics import DEFINITIONS, SCORES, compare, compare_labels, surface, surface_distances

SPACINGS = [(1.0, 1.0, 1.0), (0.625, 0.625, 0.625), (0.7, 0.9, 2.5), (1.25, 1.25, 1.37)]


def blobs(seed: int, shape=(14, 19, 23)) -> np.ndarray:
    """A random mask of ragged parts, some of them at the border of the array."""
    from scipy.ndimage import gaussian_filter

    return gaussian_filter(np.random.default_rng(seed).standard_normal(shape), 1.5) > 0.05


def cube(shape=(8, 8, 8), start=(2, 2, 2), side=3) -> np.ndarray:
    mask = np.zeros(shape, bool)
    mask[tuple(slice(s, s + side) for s in start)] = True
    return mask


def assert_equal_to_medpy(reference, prediction, spacing):
    binary = pytest.importorskip("medpy.metric.binary")
    found = compare(reference, prediction, spacing)
    assert found["dice"] == pytest.approx(100 * binary.dc(prediction, reference), abs=1e-6)
    assert found["jaccard"] == pytest.approx(100 * binary.jc(prediction, reference), abs=1e-6)
    for name in ("hd95", "asd", "assd"):
        function = getattr(binary, name)
        assert found[name] == pytest.approx(function(prediction, reference, spacing[::-1]), abs=1e-6)
        assert found[f"{name}_voxel"] == pytest.approx(function(prediction, reference), abs=1e-6)


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("seed", range(4))
def test_ragged_masks_score_as_in_medpy(seed, spacing):
    assert_equal_to_medpy(blobs(seed), blobs(seed + 100), spacing)


@pytest.mark.parametrize(
    "reference, prediction",
    [
        (np.ones((5, 6, 7), bool), np.ones((5, 6, 7), bool)),
        (np.ones((5, 6, 7), bool), cube((5, 6, 7), (1, 1, 1), 2)),
        (cube(side=1), cube(start=(7, 7, 7), side=1)),
        (np.ones((1, 6, 7), bool), cube((1, 6, 7), (0, 2, 2), 2)),
        (np.ones((1, 1, 1), bool), np.ones((1, 1, 1), bool)),
    ],
    ids=["full", "full against part", "one voxel each", "one slice", "one voxel in all"],
)
def test_masks_that_touch_the_border_score_as_in_medpy(reference, prediction):
    assert_equal_to_medpy(reference, prediction, (0.7, 0.9, 2.5))


@pytest.mark.realdata
def test_a_real_atrium_scores_as_in_medpy(shared_data):
    sitk = pytest.importorskip("SimpleITK")
    image = sitk.ReadImage(str(shared_data / "la" / "la071" / "label.nrrd"))
    reference = sitk.GetArrayFromImage(image) > 0
    assert_equal_to_medpy(reference, np.roll(reference, (2, -3, 4), (0, 1, 2)), image.GetSpacing())


def test_a_mask_against_itself_is_perfect():
    found = compare(blobs(0), blobs(0), (0.7, 0.9, 2.5))
    assert (found["dice"], found["jaccard"]) == (100, 100)
    assert all(found[name] == 0 for name in SCORES if name not in ("dice", "jaccard"))
    assert found["note"] is None


def test_scores_of_two_voxels_by_hand():
    reference, prediction = np.zeros((2, 3, 3), bool), np.zeros((2, 3, 3), bool)
    reference[0, 0, 0] = prediction[1, 0, 0] = True
    found = compare(reference, prediction, (1, 1, 2.5))
    assert (found["dice"], found["jaccard"]) == (0, 0)
    assert [found[n] for n in ("hd95", "asd", "assd")] == [2.5, 2.5, 2.5]
    assert [found[n] for n in ("hd95_voxel", "asd_voxel", "assd_voxel")] == [1, 1, 1]


def test_asd_goes_from_the_prediction_to_the_reference():
    reference, prediction = np.zeros((1, 1, 10), bool), np.zeros((1, 1, 10), bool)
    reference[..., [0, 9]] = True
    prediction[..., 0] = True
    assert compare(reference, prediction, (1, 1, 1))["asd"] == 0
    assert compare(prediction, reference, (1, 1, 1))["asd"] == 4.5
    assert compare(prediction, reference, (1, 1, 1))["assd"] == 3


def test_volumes_are_in_millilitres():
    found = compare(cube(side=5, start=(0, 0, 0)), cube(side=2), (1, 2, 5))
    assert found["volume_reference_ml"] == pytest.approx(1.25)
    assert found["volume_prediction_ml"] == pytest.approx(0.08)


@pytest.mark.parametrize("empty, note", [("reference", "the reference is empty"), ("prediction", "the prediction is")])
def test_an_empty_mask_gives_no_score_and_says_why(empty, note):
    masks = {"reference": cube(), "prediction": cube(), empty: np.zeros((8, 8, 8), bool)}
    found = compare(**masks, spacing=(1, 1, 1))
    assert all(found[name] is None for name in SCORES)
    assert found["note"].startswith(note)
    assert found[f"volume_{empty}_ml"] == 0


def test_two_empty_masks_give_no_score():
    empty = np.zeros((3, 3, 3), bool)
    found = compare(empty, empty, (1, 1, 1))
    assert found["note"] == "the reference and the prediction are empty"
    assert all(found[name] is None for name in SCORES)


@pytest.mark.parametrize("reference, prediction", [((2, 3, 4), (2, 3, 5)), ((3, 4), (3, 4))])
def test_masks_that_are_not_two_volumes_of_one_shape_are_refused(reference, prediction):
    with pytest.raises(SimCVDError, match="same shape"):
        compare(np.ones(reference, bool), np.ones(prediction, bool), (1, 1, 1))


@pytest.mark.parametrize("spacing", [(1, 1), (1, 0, 1), (1, -1, 1), (1, math.nan, 1)])
def test_a_spacing_that_is_no_spacing_is_refused(spacing):
    with pytest.raises(SimCVDError, match="spacing"):
        compare(cube(), cube(), spacing)


def test_every_number_has_a_definition():
    assert set(compare(cube(), cube(), (1, 1, 1))) == {*DEFINITIONS, "note"}


def test_the_arguments_are_left_as_they_are():
    reference, prediction = blobs(1), blobs(2)
    compare(reference, prediction, (1, 1, 1))
    assert np.array_equal(reference, blobs(1)) and np.array_equal(prediction, blobs(2))


def test_any_number_type_and_memory_order_is_a_mask():
    reference, prediction = blobs(1), blobs(2)
    expected = compare(reference, prediction, (1, 1, 2))
    turned = np.asfortranarray(reference.astype(np.float64) * 7)
    assert compare(turned, prediction.astype(np.int16)[::-1][::-1], (1, 1, 2)) == expected


def test_surface_is_what_has_a_face_outside():
    mask = np.zeros((5, 5, 5), bool)
    mask[1:4, 1:4, 1:4] = True
    inner = np.zeros_like(mask)
    inner[2, 2, 2] = True
    assert np.array_equal(surface(mask), mask & ~inner)
    assert surface(np.ones((3, 3, 3), bool)).sum() == 26


def test_surface_distances_keep_the_order_of_the_surface_voxels():
    reference, prediction = np.zeros((1, 1, 9), bool), np.zeros((1, 1, 9), bool)
    reference[..., 0] = True
    prediction[..., [0, 2, 7]] = True
    to_reference, to_prediction = surface_distances(reference, prediction, (0.5, 1, 1))
    assert to_reference.tolist() == [0, 1, 3.5]
    assert to_prediction.tolist() == [0]


def test_labels_are_scored_one_by_one_under_their_names():
    reference = cube() * 1 + cube(start=(5, 5, 5)) * 2
    prediction = reference.copy()
    prediction[prediction == 2] = 0
    rows = compare_labels(reference, prediction, (1, 1, 1), {1: "Anterior", 2: "Posterior"})
    assert [row["label"] for row in rows] == ["Anterior", "Posterior"]
    assert rows[0]["dice"] == 100
    assert rows[1]["dice"] is None and rows[1]["note"] == "the prediction is empty"


def test_labels_without_a_name_are_not_passed_over():
    rows = compare_labels(cube() * 3, cube() * 1, (1, 1, 1), {1: "Left atrium"})
    assert [row["label"] for row in rows] == ["Left atrium", "Label 3"]
    assert compare_labels(np.zeros((3, 3, 3), int), np.zeros((3, 3, 3), int), (1, 1, 1)) == []


def test_label_maps_of_different_shape_are_refused():
    with pytest.raises(SimCVDError, match="same shape"):
        compare_labels(np.ones((2, 2, 2), int), np.ones((2, 2, 3), int), (1, 1, 1))
