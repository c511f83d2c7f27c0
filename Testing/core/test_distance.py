import numpy as np
import pytest
import torch
from scipy import ndimage

from simcvd.distance import _lower_envelope, signed_distance, signed_distance_crops, squared_distance


def ball(shape=(24, 30, 28), radius=8, centre=None):
    centre = centre or [n // 2 for n in shape]
    grid = np.indices(shape) - np.reshape(centre, (3, 1, 1, 1))
    return (grid**2).sum(0) <= radius**2


def reference_map(mask):
    """The definition of DTC, written with SciPy."""
    outside, inside = ndimage.distance_transform_edt(~mask), ndimage.distance_transform_edt(mask)
    result = outside / outside.max() - inside / inside.max()
    result[mask & ~ndimage.binary_erosion(mask, border_value=1)] = 0
    return result


def test_sphere_is_negative_inside_and_spans_the_range():
    mask = ball()
    sdm = signed_distance_crops(torch.from_numpy(mask)[None])[0].numpy()
    assert sdm.min() == -1 and sdm.max() == 1
    assert (sdm[~mask] > 0).all() and (sdm[mask] <= 0).all()
    inner = mask & ~ndimage.binary_erosion(mask, border_value=1)
    assert (sdm[inner] == 0).all() and (sdm[mask & ~inner] < 0).all()


@pytest.mark.parametrize("seed", range(4))
def test_crops_agree_with_scipy(seed):
    rng = np.random.default_rng(seed)
    smooth = ndimage.gaussian_filter(rng.normal(size=(2, 17, 22, 40)), (0, 2, 2, 2))
    masks = smooth > np.quantile(smooth, 0.8)
    sdm = signed_distance_crops(torch.from_numpy(masks)).numpy()
    for mine, mask in zip(sdm, masks, strict=True):
        np.testing.assert_allclose(mine, reference_map(mask), atol=1e-6)


def test_object_in_a_far_corner():
    mask = np.zeros((1, 20, 48, 64), bool)
    mask[0, 0, 0, 0] = True
    squared = squared_distance(torch.from_numpy(mask)).numpy()
    assert squared[0, 19, 47, 63] == 19**2 + 47**2 + 63**2
    np.testing.assert_allclose(np.sqrt(squared[0]), ndimage.distance_transform_edt(~mask[0]), atol=1e-4)


def test_empty_and_full_crops_give_zeros_beside_a_usual_one():
    masks = torch.stack(
        [torch.zeros(24, 30, 28, dtype=torch.bool), torch.from_numpy(ball()), torch.ones(24, 30, 28) > 0]
    )
    sdm = signed_distance_crops(masks)
    assert not sdm[0].any() and not sdm[2].any()
    assert sdm[1].any()


def test_nothing_to_measure_is_no_error_on_another_device():
    nothing = torch.empty((1, 0, 0, 0), device="meta")
    assert _lower_envelope(nothing, 2).shape == nothing.shape


def test_crops_want_a_bool_batch():
    with pytest.raises(ValueError, match="bool"):
        signed_distance_crops(torch.zeros(4, 4, 4))


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.625, 0.625, 0.625), (0.7, 1.1, 3.0)])
def test_whole_volume_in_mm(spacing):
    mask = ball()
    sdm = signed_distance(mask, spacing)
    outside = ndimage.distance_transform_edt(~mask, sampling=spacing[::-1])
    inside = ndimage.distance_transform_edt(mask, sampling=spacing[::-1])
    half = min(spacing) / 2
    np.testing.assert_allclose(sdm, np.where(mask, half - inside, outside - half), atol=1e-5)
    assert sdm.dtype == np.float32
    assert np.array_equal(sdm < 0, mask)


def test_sphere_radius_in_mm():
    mask = ball((40, 40, 40), 12)
    sdm = signed_distance(mask, (2.0, 2.0, 2.0))
    assert sdm[20, 20, 20] == pytest.approx(-24, abs=2)
    assert sdm[20, 20, 0] == pytest.approx(40 - 24, abs=2)


@pytest.mark.parametrize("value", [0, 1])
def test_no_boundary_no_distance(value):
    with pytest.raises(ValueError, match="inside and outside"):
        signed_distance(np.full((4, 5, 6), value), (1, 1, 1))
