"""Segmentation: passes over arrays agree with each other, and results lie on the grid of the scan."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from simcvd import segmentation
from simcvd.errors import NotEnoughMemoryError, SimCVDError
from simcvd.grid import Geometry, ImageError, Volume
from simcvd.images import read_volume
from simcvd.inference import (
    Predictor,
    count_tiles,
    count_windows,
    padded_shape,
    predict_tiles,
    predict_whole,
    published_stride,
    reference_prediction,
    sliding_windows,
    tile_shape,
    window_starts,
)
from simcvd.labels import SegmentationError, classify, entropy, keep_inside, keep_largest, roi_box
from simcvd.models import ModelError, save_model
from simcvd.network import VNet
from simcvd.segmentation import Segmenter, Settings, with_fallback

PATCH = (16, 32, 32)
OBLIQUE = (0.96, -0.28, 0.0, 0.28, 0.96, 0.0, 0.0, 0.0, 1.0)


def random_network(n_classes: int = 2, n_filters: int = 4) -> VNet:
    """A network whose batch norms hold statistics worth folding."""
    torch.manual_seed(0)
    network = VNet(n_classes=n_classes, n_filters=n_filters)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm3d):
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 2)
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, 0, 0.2)
    return network.eval()


def constant_network(bias: list[float]) -> VNet:
    network = random_network(len(bias))
    torch.nn.init.zeros_(network.segmentation_head.weight)
    network.segmentation_head.bias.data = torch.tensor(bias)
    return network


def threshold_network(levels: list[float]) -> VNet:
    """Class c where the smoothed image lies between level c - 1 and level c, by weights set by hand.

    Channel 0 of the first stage is a 3x3x3 mean, kept positive by a shift, and goes through the top skip to the heads.
    """
    network = VNet(n_classes=len(levels) + 1, n_filters=4).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
        for block in [*network.encoder, *network.downs, *network.ups, *network.decoder]:
            for norm in (m for m in block.modules() if isinstance(m, torch.nn.BatchNorm3d)):
                norm.weight.fill_(1)
        first, last = network.encoder[0][0], network.decoder[-1][0]
        first[0].weight[0, 0] = 1 / 27
        first[1].bias[0] = 10
        last[0].weight[0, 0, 1, 1, 1] = 1
        # logits c * x - sum of the levels up to c: neighbouring classes cross at their level
        for value, total in enumerate(np.cumsum([level + 10 for level in levels]), start=1):
            network.segmentation_head.weight[value, 0] = 8.0 * value
            network.segmentation_head.bias[value] = -8.0 * float(total)
            # and the distance falls through zero there
            network.distance_head.weight[value - 1, 0] = -0.2
            network.distance_head.bias[value - 1] = 0.2 * (levels[value - 1] + 10)
    return network


def write_model(folder, network: VNet, spacing=(1.0, 1.0, 1.0), patch=PATCH):
    names = ["Atrium", "Appendage"][: network.settings["n_classes"] - 1]
    segments = [
        {"value": n, "name": name, "color": [1, 0, 0], "terminology": None} for n, name in enumerate(names, start=1)
    ]
    card = {
        "name": folder.name,
        "version": "1",
        "segments": segments,
        "grid": {"spacing": list(spacing), "axes": "LPS"},
        "normalisation": {"kind": "zscore"},
        "patch": list(patch),
        "network": {"kind": "vnet", **network.settings},
    }
    save_model(folder, card, {name: value.numpy() for name, value in network.state_dict().items()})
    return folder


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory) -> Segmenter:
    """Everything brighter than one standard deviation above the mean is the atrium."""
    return Segmenter(write_model(tmp_path_factory.mktemp("models") / "bright", threshold_network([1.0])), "cpu")


@pytest.fixture(scope="module")
def two_classes(tmp_path_factory) -> Segmenter:
    """Two classes by brightness, the second inside the first."""
    return Segmenter(write_model(tmp_path_factory.mktemp("models") / "two", threshold_network([0.5, 2.0])), "cpu")


def noisy_balls(shape, seed=0) -> tuple[np.ndarray, np.ndarray]:
    """An image of balls hard to see in noise, normalised, and where they are."""
    rng = np.random.default_rng(seed)
    count = max(3, shape[2] // 20)
    truth = balls(shape, rng.uniform(0, shape, (count, 3)), rng.uniform(5, 13, count)) > 0
    image = truth * 2.5 + rng.normal(0, 1.0, shape)
    return ((image - image.mean()) / image.std()).astype(np.float32), truth


@pytest.fixture(scope="module")
def fitted() -> VNet:
    """A small network after a few steps of learning to find balls in noise."""
    torch.manual_seed(0)
    network = VNet(n_filters=4, dropout=0.2).train()
    optimiser = torch.optim.Adam(network.parameters(), 1e-2)
    for step in range(30):
        image, truth = noisy_balls((32, 32, 32), seed=step)
        logits = network(torch.from_numpy(image)[None, None]).logits
        loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(truth).long()[None])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return network.eval()


def balls(shape=(40, 48, 56), centres=((20, 24, 20),), radii=(10,), noise=0.0) -> np.ndarray:
    """Bright balls, brightest in their middle, on a dark ground."""
    k, j, i = np.indices(shape)
    array = np.random.default_rng(0).normal(0, noise, shape) if noise else np.zeros(shape)
    for centre, radius in zip(centres, radii, strict=True):
        distance = np.sqrt((k - centre[0]) ** 2 + (j - centre[1]) ** 2 + (i - centre[2]) ** 2)
        array += np.clip(radius - distance + 0.5, 0, radius) * 10
    return array.astype(np.float32)


def volume(array: np.ndarray, spacing=(1.0, 1.0, 1.0), direction=(1, 0, 0, 0, 1, 0, 0, 0, 1)) -> Volume:
    geometry = Geometry(array.shape[::-1], tuple(spacing), (-30.0, 12.5, 7.0), tuple(map(float, direction)))
    return Volume(array, geometry, "scan")


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return 200 * np.sum((a > 0) & (b > 0)) / (np.sum(a > 0) + np.sum(b > 0))


def smooth_noise(shape, seed=0) -> np.ndarray:
    from scipy.ndimage import gaussian_filter

    array = gaussian_filter(np.random.default_rng(seed).normal(size=shape), 3)
    return ((array - array.mean()) / array.std()).astype(np.float32)


# --- the fast network


@pytest.mark.parametrize("n_classes", [2, 3])
def test_folded_network_equals_the_network(n_classes):
    network = random_network(n_classes)
    x = torch.randn(1, 1, 32, 16, 48)
    folded = Predictor(network, "cpu", torch.float32)(x)
    assert folded.shape == (n_classes - 1, 32, 16, 48)
    assert torch.allclose(folded, reference_prediction(network)(x), atol=1e-5)


def test_folding_leaves_the_network_as_it_was():
    network = random_network().train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    Predictor(network, "cpu", torch.bfloat16)(torch.randn(1, 1, 16, 16, 16))
    assert all(module.training for module in network.modules())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(parameter.requires_grad for parameter in network.parameters())


def test_half_precision_gives_nearly_the_same():
    network = random_network()
    x = torch.randn(1, 1, 32, 32, 32)
    half = Predictor(network, "cpu", torch.bfloat16)(x)
    assert half.dtype == torch.float32
    assert torch.allclose(half, Predictor(network, "cpu", torch.float32)(x), atol=0.03)


def test_views_vary_by_dropout_and_are_the_same_each_time():
    network = random_network()
    x = torch.randn(1, 1, 16, 16, 16)
    predictor = Predictor(network, "cpu", torch.float32, views=2)
    once, again = predictor(x), predictor(x)
    assert once.shape == (2, 16, 16, 16)
    assert torch.equal(once, again)
    assert torch.allclose(once[:1], Predictor(network, "cpu", torch.float32)(x), atol=1e-6)
    assert (once[1] - once[0]).abs().max() > 1e-3


def test_views_without_dropout_equal_the_plain_pass():
    network = random_network()
    network.bottleneck_dropout.p = network.head_dropout.p = 0.0
    plain, views = Predictor(network, "cpu", torch.float32, views=2)(torch.randn(1, 1, 16, 16, 16))
    assert torch.allclose(plain, views, atol=1e-6)


@pytest.mark.parametrize(("n_classes", "views"), [(2, 0), (3, 0), (3, 2)])
def test_the_distance_head_is_appended_and_changes_nothing_else(n_classes, views):
    network = random_network(n_classes)
    x = torch.randn(1, 1, 32, 16, 48)
    found = Predictor(network, "cpu", torch.float32, views, model_sdm=True)(x)
    assert torch.equal(found[: 1 - n_classes], Predictor(network, "cpu", torch.float32, views)(x))
    with torch.inference_mode():
        expected = network(x).sdm[0]
    assert expected.std() > 0.01
    assert torch.allclose(found[1 - n_classes :], expected, atol=1e-5)


# --- passes over arrays


@pytest.mark.parametrize("shape", [(5, 4, 3), (16, 32, 32), (18, 20, 110), (1, 100, 17)])
@pytest.mark.parametrize("bias", [[0.0, 1.0], [0.5, -1.0, 2.0]])
def test_constant_network_gives_its_constant_everywhere(shape, bias):
    predictor = Predictor(constant_network(bias), "cpu", torch.float32)
    array = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    expected = torch.tensor(bias).softmax(0)[1:].numpy()[:, None, None, None]
    for found in (
        predict_whole(predictor, array, PATCH),
        predict_tiles(predictor, array, (32, 96, 96), PATCH),
        sliding_windows(predictor, array, PATCH, (8, 24, 24)),
    ):
        assert found.shape == (len(bias) - 1, *shape)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, np.broadcast_to(expected, found.shape), atol=1e-5)


def test_each_voxel_keeps_its_place_in_every_pass():
    predictor = Predictor(threshold_network([0.0]), "cpu", torch.float32)
    array = smooth_noise((17, 30, 150))
    expected = predict_whole(predictor, array)[0]
    assert dice(expected > 0.5, array > 0) > 90
    for found in (
        predict_tiles(predictor, array, (32, 32, 96))[0],
        sliding_windows(predictor, array, (16, 16, 64), (15, 13, 31))[0],
    ):
        # the hand-made network looks at 3x3x3 voxels, so that windows differ along their faces only
        assert np.median(np.abs(found - expected)) < 1e-4
        assert dice(found > 0.5, expected > 0.5) > 95


def test_tiles_differ_less_than_a_tenth_of_a_dice_from_the_whole(fitted):
    predictor = Predictor(fitted, "cpu", torch.float32)
    array, truth = noisy_balls((32, 40, 200))
    tile = (32, 48, 96)
    assert count_tiles(array.shape, tile) == 4
    whole = predict_whole(predictor, array)[0] > 0.5
    tiles = predict_tiles(predictor, array, tile)[0] > 0.5
    assert dice(whole, truth) > 80
    assert dice(whole, tiles) > 99.9


def test_windows_start_as_published():
    assert window_starts(88, 80, 4) == [0, 4, 8]
    assert window_starts(150, 112, 18) == [0, 18, 36, 38]
    assert window_starts(112, 112, 18) == [0]
    assert count_windows((88, 140, 183), (80, 112, 112), (4, 18, 18)) == 3 * 3 * 5
    assert count_windows((20, 30, 40), (80, 112, 112), (4, 18, 18)) == 1


def test_windows_see_what_is_smaller_as_training_shows_it():
    array, seen = np.random.default_rng(0).normal(5, 1, (6, 40, 40)).astype(np.float32), []
    sliding_windows(lambda x, _: seen.append(x) or x[0], array, (16, 32, 32), (4, 8, 8))
    assert len(seen) == 4 and all(torch.equal(x[0, 0, :5], x[0, 0, 5].expand(5, -1, -1)) for x in seen)


def test_stride_follows_the_spacing():
    assert published_stride((0.625, 0.625, 0.625)) == (4, 18, 18)
    assert published_stride((1.25, 1.25, 1.25)) == (2, 9, 9)
    assert published_stride((50.0, 50.0, 50.0)) == (1, 1, 1)


def test_tiles_stay_within_their_number_of_voxels():
    shape = (88, 640, 640)
    tile = tile_shape(shape, 3_000_000)
    assert np.prod(tile) <= 3_000_000
    assert all(side % 16 == 0 for side in tile)
    assert tile_shape(shape, 10**9) == padded_shape(shape, (16, 16, 16)) == (96, 640, 640)
    assert min(tile_shape(shape, 1)) == 96
    assert tile_shape((5, 4, 3), 1, PATCH) == PATCH


# --- labels


def test_classes_are_those_of_the_highest_probability():
    probability = np.array([[0.2, 0.5, 0.3, 0.1], [0.2, 0.1, 0.4, 0.6]], np.float32).reshape(2, 1, 1, 4)
    assert classify(probability).ravel().tolist() == [0, 1, 2, 2]
    assert classify(np.array([0.4, 0.5, 0.6], np.float32).reshape(1, 1, 1, 3)).ravel().tolist() == [0, 0, 1]


def test_entropy_is_none_when_sure_and_one_when_torn():
    probability = np.array([0.0, 0.5, 1.0], np.float32).reshape(1, 1, 1, 3)
    np.testing.assert_allclose(entropy(probability).ravel(), [0, 1, 0], atol=1e-5)
    torn = np.full((2, 1, 1, 1), 1 / 3, np.float32)
    assert entropy(torn).item() == pytest.approx(1, abs=1e-5)


def test_largest_part_of_each_class_stays():
    labels = np.zeros((6, 6, 20), np.uint8)
    labels[1:5, 1:5, 1:5] = 1
    labels[1:3, 1:3, 8:10] = 1
    labels[1:4, 1:4, 12:15] = 2
    labels[5, 5, 19] = 2
    kept = keep_largest(labels)
    assert np.sum(kept == 1) == 64
    assert np.sum(kept == 2) == 27
    assert not keep_largest(np.zeros((3, 3, 3), np.uint8)).any()


def test_region_in_world_space_keeps_the_voxels_inside():
    labels = np.ones((10, 12, 14), np.uint8)
    geometry = Geometry((14, 12, 10), (2.0, 1.0, 3.0), (-5.0, 4.0, 1.0), (-1, 0, 0, 0, 1, 0, 0, 0, 1))
    roi = (-15.0, -9.0, 6.0, 100.0, 1.0, 7.0)  # x = -5 - 2 i
    kept = keep_inside(labels, geometry, roi)
    k, j, i = np.nonzero(kept)
    assert (i.min(), i.max()) == (2, 5)
    assert (j.min(), j.max()) == (2, 11)
    assert (k.min(), k.max()) == (0, 2)
    assert kept.sum() == 4 * 10 * 3


def test_region_on_an_oblique_scan_cuts_along_the_world():
    labels = np.ones((4, 30, 30), np.uint8)
    geometry = Geometry((30, 30, 4), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), OBLIQUE)
    roi = (2.0, 9.0, 5.0, 14.0, -1.0, 2.0)
    kept = keep_inside(labels, geometry, roi)
    index = np.argwhere(np.ones_like(labels))[:, ::-1]
    world = index @ np.reshape(OBLIQUE, (3, 3)).T
    inside = np.all((world >= np.array(roi[::2]) - 1e-6) & (world <= np.array(roi[1::2]) + 1e-6), axis=1)
    assert np.array_equal(kept.ravel() > 0, inside)
    assert inside.any()


def test_region_beside_the_scan_is_refused():
    with pytest.raises(SegmentationError, match="misses the scan"):
        roi_box(Geometry((10, 10, 10), (1.0, 1.0, 1.0)), (20, 30, 0, 5, 0, 5))


# --- a volume in, a result out


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.8, 1.1, 2.5)])
@pytest.mark.parametrize("direction", [(1, 0, 0, 0, 1, 0, 0, 0, 1), OBLIQUE, (0, 0, 1, -1, 0, 0, 0, -1, 0)])
def test_result_lies_on_the_grid_of_the_scan(segmenter, spacing, direction):
    array = balls((22, 48, 40), ((11, 24, 18),), (8,))
    scan = volume(array, spacing, direction)
    result = segmenter.segment(scan)
    assert result.geometry == scan.geometry
    assert result.labels.shape == result.sdm.shape == array.shape
    assert result.probability.shape == (1, *array.shape)
    assert (result.labels.dtype, result.sdm.dtype, result.probability.dtype) == (np.uint8, np.float32, np.float32)
    assert result.uncertainty is None and result.device == "cpu"
    assert dice(result.labels, array > array.mean() + array.std()) > 90
    assert np.array_equal(result.sdm < 0, result.labels == 1)
    assert set(result.seconds) == {"prepare", "search", "network", "back", "distance", "total"}
    assert result.notes == []


def test_flipped_storage_gives_the_same_mask_in_the_world(segmenter):
    array = balls((22, 48, 40), ((11, 20, 18),), (8,))
    plain = segmenter.segment(volume(array))
    stored = volume(array[::-1, :, ::-1].transpose(1, 2, 0))  # i, j, k now run along -z, -x, y
    origin = (-30.0 + 39, 12.5, 7.0 + 21)
    stored.geometry = Geometry((22, 40, 48), (1.0, 1.0, 1.0), origin, (0, -1, 0, 0, 0, 1, -1, 0, 0))
    turned = segmenter.segment(stored)
    assert np.array_equal(turned.labels.transpose(2, 0, 1)[::-1, :, ::-1], plain.labels)
    assert plain.labels.any()


@pytest.mark.realdata
def test_real_scan_in_tiles_and_at_once(segmenter, shared_data):
    scan = read_volume(shared_data / "la" / "la001" / "image.nrrd")
    whole, tiles = (segmenter.segment(scan, Settings(memory_limit_mb=mb)) for mb in (None, 20))
    assert whole.geometry == scan.geometry
    assert whole.labels.shape == scan.array.shape
    assert dice(whole.labels, tiles.labels) > 99.9


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.float64])
def test_scalar_type_changes_nothing(segmenter, dtype):
    array = balls()
    expected = segmenter.segment(volume(np.rint(array))).labels
    assert np.array_equal(segmenter.segment(volume(np.rint(array).astype(dtype))).labels, expected)


@pytest.mark.parametrize("shape", [(5, 4, 3), (2, 2, 2), (3, 200, 4)])
def test_scan_smaller_than_a_patch(segmenter, shape):
    array = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    for settings in (Settings(), Settings(windows=True), Settings(memory_limit_mb=1)):
        result = segmenter.segment(volume(array), settings)
        assert result.labels.shape == result.sdm.shape == shape
        assert np.isfinite(result.sdm).all()


def test_windows_and_tiles_give_the_mask_of_the_whole_pass(segmenter):
    scan = volume(balls((20, 40, 130), ((10, 20, 40), (10, 24, 80)), (9, 8), noise=1))
    whole = segmenter.segment(scan).labels
    assert whole.any()
    assert dice(whole, segmenter.segment(scan, Settings(windows=True)).labels) > 98
    assert dice(whole, segmenter.segment(scan, Settings(memory_limit_mb=1)).labels) > 99.9
    assert dice(whole, segmenter.segment(scan, Settings(precision="float32")).labels) > 99


def test_two_foreground_classes(two_classes):
    scan = volume(balls())
    result = two_classes.segment(scan, Settings(largest=True, uncertainty=True))
    assert set(np.unique(result.labels)) == {0, 1, 2}
    assert result.probability.shape == result.sdm.shape == (2, *scan.array.shape)
    for value in (1, 2):
        assert np.array_equal(result.sdm[value - 1] < 0, result.labels == value)
    total = result.probability.sum(0)
    assert total.max() <= 1 + 1e-4
    assert result.probability.min() >= 0


def test_two_classes_moved_outwards_stay_apart(two_classes):
    scan = volume(balls())
    plain, wider = (two_classes.segment(scan, Settings(offset=mm)).labels for mm in (0.0, 2.0))
    assert np.all(wider[plain > 0] == plain[plain > 0])
    assert np.sum(wider > 0) > np.sum(plain > 0)


def test_offset_moves_the_boundary_by_millimetres(segmenter):
    scan = volume(balls())
    masks = [segmenter.segment(scan, Settings(offset=mm)).labels > 0 for mm in (-3, -1, 0, 1, 3)]
    for smaller, larger in itertools.pairwise(masks):
        assert np.all(larger[smaller])
        assert larger.sum() > smaller.sum()
    plain = segmenter.segment(scan).sdm
    assert np.array_equal(masks[4], plain <= 3)


def test_offset_that_swallows_everything_is_no_error(segmenter):
    outcome = segmenter.segment(volume(balls()), Settings(offset=-50))
    assert not outcome.labels.any()
    assert "Nothing was found of Atrium" in outcome.notes[0]
    assert segmenter.segment(volume(balls()), Settings(offset=500)).labels.all()


def test_largest_drops_the_smaller_ball(segmenter):
    scan = volume(balls((40, 48, 80), ((20, 24, 20), (20, 24, 60)), (10, 7)))
    both, one = (segmenter.segment(scan, Settings(largest=on)).labels for on in (False, True))
    assert both[20, 24, 60] and not one[20, 24, 60]
    assert both[20, 24, 20] and one[20, 24, 20]


def test_the_card_says_whether_a_structure_is_in_one_piece(segmenter, monkeypatch):
    scan = volume(balls((40, 48, 80), ((20, 24, 20), (20, 24, 60)), (10, 7)))
    assert segmenter.segment(scan).labels[20, 24, 60]
    monkeypatch.setitem(segmenter.card, "largest", True)
    assert not segmenter.segment(scan).labels[20, 24, 60]
    assert segmenter.segment(scan, Settings(largest=False)).labels[20, 24, 60]


@pytest.mark.parametrize(
    ("learned", "doubted"), [([1, 3], False), ([2.5, 20], False), ([12, 20], True), ([1, 2], True)]
)
def test_a_structure_far_from_what_was_learned_is_doubted(segmenter, monkeypatch, learned, doubted):
    scan = volume(balls(radii=(12,)))
    assert not segmenter.segment(scan).notes
    monkeypatch.setitem(segmenter.card["segments"][0], "volume_ml", learned)
    outcome = segmenter.segment(scan)
    assert [note.startswith("Atrium measures") for note in outcome.notes] == [True] * doubted
    inside = segmenter.segment(scan, Settings(roi=(-30, 26, 12, 60, 7, 30)))
    assert inside.labels.any() and not inside.notes


@pytest.mark.parametrize(("learned", "searched"), [(None, False), ([1, 500], False), ([1, 20], True)])
def test_a_scan_far_wider_than_those_learned_from_is_searched(segmenter, monkeypatch, learned, searched):
    scan = volume(balls(radii=(12,)))
    monkeypatch.setitem(segmenter.card, "scan_ml", learned)
    notes = segmenter.segment(scan).notes
    assert ["at most 0.02, so it was searched" in note for note in notes] == [True] * searched
    notes = segmenter.segment(scan, Settings(windows=True)).notes
    assert ["at most 0.02: give a region" in note for note in notes] == [True] * searched
    assert not segmenter.segment(scan, Settings(roi=(-30, 26, 12, 60, 7, 30))).notes


def test_axes_stand_above_a_wrong_header(two_classes):
    scan = volume(balls((40, 48, 56), ((14, 24, 20), (30, 30, 40)), (10, 6)), (1.0, 1.5, 2.0))
    header = replace(scan, geometry=replace(scan.geometry, direction=(0, 0, -1, 1, 0, 0, 0, -1, 0)))
    told = two_classes.segment(header, Settings(axes="lps"))
    assert told.geometry == header.geometry
    assert np.array_equal(told.labels, two_classes.segment(scan).labels)
    assert np.array_equal(told.sdm, two_classes.segment(scan).sdm)


def wide_scan() -> tuple[Volume, np.ndarray]:
    """A ball in a wide scan that something tiny and far brighter hides, and where the ball is."""
    ball = balls((48, 64, 160), ((24, 30, 30),), (7,))
    return volume(ball + 10_000 * (balls(ball.shape, ((24, 32, 130),), (2,)) > 0)), ball > 10


def test_a_search_finds_what_has_a_plausible_size(segmenter, monkeypatch):
    scan, truth = wide_scan()
    assert not segmenter.segment(scan).labels[truth].any()
    monkeypatch.setitem(segmenter.card, "scan_ml", [20, 30])
    monkeypatch.setitem(segmenter.card["segments"][0], "volume_ml", [1, 3])
    seen = []
    found = segmenter.segment(scan, Settings(uncertainty=True, model_sdm=True), seen.append)
    assert (found.labels[truth] > 0).mean() > 0.9 and not found.labels[:, :, 60:].any()
    assert found.model_sdm[0, :, :, 100:].min() == 1 and found.uncertainty[:, :, 100:].max() < 1e-5
    assert seen == sorted(seen) and seen[-1] == 1.0
    assert [note.startswith("The scan shows 0.49 litres") for note in found.notes] == [True]


def test_what_a_window_cuts_is_followed_to_its_end(segmenter, monkeypatch):
    image = np.zeros((40, 48, 260), np.float32)
    image[16:24, 20:28, 40:200] = 10
    monkeypatch.setitem(segmenter.card, "scan_ml", [20, 30])
    found = segmenter.segment(volume(image))
    assert "searched" in found.notes[0]
    assert (found.labels[17:23, 21:27, 41:199] > 0).mean() > 0.9


def test_a_search_that_finds_nothing_plausible_leaves_the_whole_scan(segmenter, monkeypatch):
    scan, _ = wide_scan()
    plain = segmenter.segment(scan)
    monkeypatch.setitem(segmenter.card, "scan_ml", [20, 30])
    monkeypatch.setitem(segmenter.card["segments"][0], "volume_ml", [2000, 3000])
    found = segmenter.segment(scan)
    assert np.array_equal(found.labels, plain.labels)
    assert "give a region of interest around the structure if" in found.notes[0]


def test_a_search_can_be_cancelled_and_retreats_from_a_full_memory(segmenter, monkeypatch):
    scan, truth = wide_scan()
    monkeypatch.setitem(segmenter.card, "scan_ml", [20, 30])
    monkeypatch.setitem(segmenter.card["segments"][0], "volume_ml", [1, 3])

    def cancel(fraction):
        if fraction > 0.2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        segmenter.segment(scan, progress=cancel)
    tried = []

    def search(predict, *rest):
        tried.append(1)
        if len(tried) == 1:
            raise MemoryError
        return real(predict, *rest)

    real = segmentation.search
    monkeypatch.setattr(segmentation, "search", search)
    found = segmenter.segment(scan)
    assert len(tried) == 2 and (found.labels[truth] > 0).mean() > 0.9
    assert "Memory ran out" in found.notes[0]


def test_a_region_of_interest_is_normalised_by_itself(segmenter):
    scan, truth = wide_scan()
    x0, y0, z0 = scan.geometry.origin
    roi = (x0 + 15, x0 + 45, y0 + 15, y0 + 45, z0 + 9, z0 + 39)
    assert (segmenter.segment(scan, Settings(roi=roi)).labels[truth] > 0).mean() > 0.9
    roi = (x0 + 70, x0 + 90, y0 + 15, y0 + 45, z0 + 9, z0 + 39)
    with pytest.raises(SegmentationError, match="shows a single value"):
        segmenter.segment(scan, Settings(roi=roi))


def test_region_of_interest_leaves_the_rest_background(segmenter):
    array = balls((40, 48, 80), ((20, 24, 20), (20, 24, 60)), (10, 10))
    scan = volume(array)
    x0, y0, z0 = scan.geometry.origin
    roi = (x0 + 5, x0 + 25, y0, y0 + 47, z0, z0 + 39)
    plain, cut = segmenter.segment(scan), segmenter.segment(scan, Settings(roi=roi, offset=1.0))
    inside = np.zeros(array.shape, bool)
    inside[:, :, 5:26] = True
    assert not cut.labels[~inside].any()
    assert cut.labels[20, 24, 20]
    assert np.all(cut.labels[(plain.labels > 0) & inside])
    outside = segmenter.segment(scan, Settings(roi=(x0 + 38, x0 + 41, y0, y0 + 4, z0, z0 + 4)))
    assert not outside.labels.any()


def test_uncertainty_is_between_none_and_one_and_highest_at_the_boundary(fitted, tmp_path):
    segmenter = Segmenter(write_model(tmp_path / "fitted", fitted), "cpu")
    scan = volume(noisy_balls((32, 40, 48))[0])
    result = segmenter.segment(scan, Settings(uncertainty=True))
    assert result.uncertainty.shape == result.labels.shape
    assert result.uncertainty.dtype == np.float32
    assert result.uncertainty.min() >= 0 and result.uncertainty.max() <= 1
    near, far = np.abs(result.sdm) < 1, np.abs(result.sdm) > 3
    assert result.uncertainty[near].mean() > 1.5 * result.uncertainty[far].mean()
    assert np.array_equal(result.labels, segmenter.segment(scan).labels)


@pytest.mark.parametrize("way", [Settings(), Settings(windows=True), Settings(memory_limit_mb=1)])
@pytest.mark.parametrize("uncertainty", [False, True])
def test_the_models_own_distance_lies_on_the_grid_of_the_scan(two_classes, way, uncertainty):
    array = balls((20, 40, 130), ((10, 20, 40), (10, 24, 80)), (9, 8), noise=1)
    scan = volume(array[:, :, ::-1], direction=(-1, 0, 0, 0, 1, 0, 0, 0, 1))
    way = replace(way, uncertainty=uncertainty)
    plain, result = two_classes.segment(scan, way), two_classes.segment(scan, replace(way, model_sdm=True))
    assert plain.model_sdm is None
    assert np.array_equal(plain.labels, result.labels) and np.array_equal(plain.probability, result.probability)
    assert uncertainty is False or np.array_equal(plain.uncertainty, result.uncertainty)
    found = result.model_sdm
    assert found.dtype == np.float32 and found.shape == (2, *array.shape)
    assert found.min() >= -1 and found.max() <= 1
    from scipy.ndimage import uniform_filter

    image = uniform_filter((scan.array - scan.array.mean()) / scan.array.std(), 3)
    middle = (slice(2, -2),) * 3  # the network pads with zeros, the filter does not
    for one, level in zip(found, (0.5, 2.0), strict=True):
        expected = np.tanh(-0.2 * (image - level))[middle]
        assert np.median(np.abs(one[middle] - expected)) < 0.02  # bfloat16 beside a shift of 10
        assert np.corrcoef(one[middle].ravel(), expected.ravel())[0, 1] > 0.99


def test_outside_a_region_the_models_distance_is_far_outside(segmenter):
    scan = volume(balls((40, 48, 120)))
    x0, y0, z0 = scan.geometry.origin
    found = segmenter.segment(scan, Settings(roi=(x0, x0 + 40, y0, y0 + 47, z0, z0 + 39), model_sdm=True)).model_sdm
    assert (found[..., 80:] == 1).all() and (found[..., :40] != 1).all()


def test_nothing_found_gives_a_finite_map_and_a_note(tmp_path):
    segmenter = Segmenter(write_model(tmp_path / "none", constant_network([5.0, -5.0])), "cpu")
    scan = volume(balls((20, 24, 30)), (1.0, 2.0, 3.0))
    result = segmenter.segment(scan, Settings(largest=True, offset=2.0))
    assert not result.labels.any()
    assert np.all(result.sdm == pytest.approx(np.sqrt(30**2 + 48**2 + 60**2)))
    assert result.notes == ["Nothing was found of Atrium in this scan."]


def test_everything_found_gives_a_negative_map(tmp_path):
    segmenter = Segmenter(write_model(tmp_path / "all", constant_network([-5.0, 5.0])), "cpu")
    result = segmenter.segment(volume(balls((20, 24, 30))))
    assert result.labels.all()
    assert np.all(result.sdm < 0) and np.isfinite(result.sdm).all()


def test_constant_scan_is_refused(segmenter):
    with pytest.raises(ImageError, match="constant"):
        segmenter.segment(volume(np.ones((20, 20, 20), np.float32)))


def test_progress_rises_to_one_and_can_cancel(segmenter):
    seen = []
    segmenter.segment(volume(balls((18, 34, 40), ((9, 17, 20),), (7,))), Settings(windows=True), seen.append)
    assert seen == sorted(seen) and seen[-1] == 1
    assert len(seen) > 10

    class StopError(RuntimeError):
        pass

    def stop(fraction):
        if fraction > 0.3:
            raise StopError("out of memory, says the user")

    with pytest.raises(StopError):
        segmenter.segment(volume(balls()), progress=stop)
    assert segmenter.segment(volume(balls())).labels.any()


# --- settings, devices and memory


@pytest.mark.parametrize(
    "settings",
    [
        Settings(precision="int3"),
        Settings(device="abacus"),
        Settings(device="cpu:1"),
        Settings(device="cuda:x"),
        Settings(offset=float("nan")),
        Settings(memory_limit_mb=0),
        Settings(roi=(0, 1, 2)),
        Settings(roi=(1, 0, 0, 1, 0, 1)),
        Settings(roi=(500, 600, 0, 1, 0, 1)),
        Settings(axes="LP"),
        Settings(axes="LPSI"),
        Settings(axes="LRS"),
        Settings(axes="xyz"),
        Settings(axes="LPS", roi=(-30, 26, 12, 60, 7, 30)),
    ],
)
def test_settings_that_cannot_be_are_refused_with_a_sentence(segmenter, settings):
    with pytest.raises(SimCVDError, match=r"^[A-Z].*\.$"):
        segmenter.segment(volume(balls()), settings)


@pytest.mark.parametrize("words", ["CUDA out of memory.", "could not create a primitive", "std::bad_alloc"])
def test_out_of_memory_falls_back_to_smaller_tiles(words):
    tried, notes = [], []

    def attempt(device, limit):
        tried.append((device, limit))
        if limit > 300:
            raise torch.OutOfMemoryError(words)
        return np.zeros(1)

    with_fallback(attempt, "cpu", 4096, notes)
    assert tried == [("cpu", 4096), ("cpu", 1024), ("cpu", 256)]
    assert len(notes) == 1 and "smaller tiles" in notes[0]


def test_failing_gpu_falls_back_to_the_cpu():
    notes = []

    def attempt(device, limit):
        if device != "cpu":
            raise RuntimeError("no kernel image is available\nmore lines")
        return np.ones(1)

    assert with_fallback(attempt, "mps", 1000, notes) == 1
    assert notes == ["The scan was segmented on the CPU, because mps failed (no kernel image is available)."]


def test_too_little_memory_on_the_cpu_is_said():
    def attempt(device, limit):
        raise MemoryError

    with pytest.raises(NotEnoughMemoryError, match="not enough memory"):
        with_fallback(attempt, "cpu", 100, [])


def test_a_model_of_no_numbers_is_said(tmp_path):
    network = random_network()
    for norm in (m for m in network.modules() if isinstance(m, torch.nn.BatchNorm3d)):
        norm.weight.data.fill_(6e4)  # finite as stored, not in use
    with pytest.raises(ModelError, match="not finite"):
        Segmenter(write_model(tmp_path / "odd", network), "cpu").segment(volume(balls()), Settings(precision="float32"))


def test_errors_of_the_cpu_are_not_hidden():
    def attempt(device, limit):
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        with_fallback(attempt, "cpu", 100, [])
