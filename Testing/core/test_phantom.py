"""Synthetic atria: the same from the same seed, shaped like atria, and not found by brightness alone."""

import numpy as np
import pytest
from scipy import ndimage

from simcvd.images import ImageError, read_labels, read_volume
from simcvd.phantom import make_phantom, write_cohort

SPACING, SIZE = (1.25, 1.25, 1.25), (96, 96, 44)


@pytest.fixture(scope="module")
def cohort():
    return [make_phantom(seed, SPACING, SIZE) for seed in range(6)]


def dice(a, b):
    return 2 * np.count_nonzero(a & b) / (np.count_nonzero(a) + np.count_nonzero(b))


def test_one_seed_is_one_scan_and_another_seed_another(cohort):
    image, label = make_phantom(0, SPACING, SIZE)
    np.testing.assert_array_equal(image.array, cohort[0][0].array)
    np.testing.assert_array_equal(label.array, cohort[0][1].array)
    assert dice(label.array > 0, cohort[1][1].array > 0) < 0.95
    assert image.name == "phantom-0"


def test_arrays_and_geometry(cohort):
    for image, label in cohort:
        assert image.array.dtype == label.array.dtype == np.uint8
        assert image.array.shape == label.array.shape == SIZE[::-1]
        assert image.geometry == label.geometry
        assert image.geometry.spacing == SPACING
        assert np.unique(label.array).tolist() == [0, 1]


def test_the_anatomy_does_not_depend_on_the_voxels():
    coarse = make_phantom(3, (2.5, 2.5, 2.5), (46, 36, 22))[1].array
    fine = make_phantom(3, (1.25, 1.25, 1.25), (92, 72, 44))[1].array
    assert dice(fine.reshape(22, 2, 36, 2, 46, 2).mean(axis=(1, 3, 5)) >= 0.5, coarse > 0) > 0.95


def test_default_field_of_view_is_that_of_the_real_scans():
    image, _ = make_phantom(0, (2.5, 2.5, 2.5))
    assert image.array.shape == (22, 36, 46)


def test_a_field_of_view_larger_than_the_chest_is_filled():
    image, label = make_phantom(0, (5, 5, 5), (100, 100, 40))
    assert image.array[0].std() > 0
    assert 20 < label.array.sum() * 0.125 < 110


def test_the_atrium_is_one_piece_of_plausible_volume(cohort):
    for _, label in cohort:
        assert ndimage.label(label.array, np.ones((3, 3, 3)))[1] == 1
        assert 20 < label.array.sum() * 1.25**3 / 1000 < 110


def test_blood_outside_the_atrium_is_as_bright(cohort):
    for image, label in cohort:
        inside = image.array[label.array > 0]
        alike = image.array > np.quantile(inside, 0.2)
        assert np.count_nonzero(alike & (label.array == 0)) > 1.5 * inside.size


def test_no_threshold_finds_the_atrium(cohort):
    for image, label in cohort:
        atrium = label.array > 0
        for threshold in np.unique(image.array)[1::3]:
            bright = image.array >= threshold
            parts, _ = ndimage.label(bright)
            largest = parts == 1 + np.argmax(np.bincount(parts.ravel())[1:])
            assert dice(bright, atrium) < 0.6
            assert dice(largest, atrium) < 0.6


def test_cohort_is_laid_out_like_the_real_one(tmp_path):
    cases = write_cohort(tmp_path, 2, seed=5, spacing=(2.5, 2.5, 2.5), size=(48, 40, 24))
    assert cases == [tmp_path / "ph001", tmp_path / "ph002"]
    image, label = make_phantom((5, 1), (2.5, 2.5, 2.5), (48, 40, 24))
    np.testing.assert_array_equal(read_volume(cases[1] / "image.nrrd").array, image.array)
    stored = read_labels(cases[1] / "label.nrrd")
    np.testing.assert_array_equal(stored.array, label.array)
    assert stored.geometry == label.geometry


def test_cohort_never_replaces_a_case(tmp_path):
    (tmp_path / "ph002").mkdir()
    with pytest.raises(ImageError, match="there already"):
        write_cohort(tmp_path, 3, spacing=(5, 5, 5))
    assert [p.name for p in tmp_path.iterdir()] == ["ph002"]


@pytest.mark.realdata
def test_contrast_is_like_the_real_one(shared_data, cohort):
    """Ratios of brightness around the atrium lie within the spread of real scans."""

    def contrast(image, label):
        atrium = label > 0
        shell = ndimage.binary_dilation(atrium, iterations=3) & ~ndimage.binary_dilation(atrium)
        inside = image[atrium]
        return image[shell].mean() / inside.mean(), inside.std() / inside.mean()

    real = []
    for n in (1, 5, 30, 72):
        folder = shared_data / "la" / f"la{n:03d}"
        image, label = read_volume(folder / "image.nrrd").array, read_labels(folder / "label.nrrd").array
        real.append(contrast(image[::2, ::2, ::2], label[::2, ::2, ::2]))
    made = np.mean([contrast(image.array, label.array) for image, label in cohort], axis=0)
    np.testing.assert_allclose(made, np.mean(real, axis=0), rtol=0.4)
