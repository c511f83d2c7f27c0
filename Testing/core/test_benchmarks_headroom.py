"""The benchmark of what a model leaves to be won: every pass comes back to where it started, and the figures add up."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from test_segmentation import threshold_network, write_model

from simcvd.images import write_volume
from simcvd.phantom import make_phantom
from simcvd.segmentation import Segmenter

sys.path.append(str(Path(__file__).resolve().parents[1] / "benchmarks"))

import headroom
from changes import Scan


@pytest.fixture(scope="module")
def scan():
    image, label = make_phantom(0, (3.0, 3.0, 3.0))
    return Scan("phantom", image.array.astype(np.float32), label.array.astype(np.uint8), image.geometry)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The folder of a model that finds what is bright, on a grid of 4 mm."""
    return write_model(tmp_path_factory.mktemp("models") / "bright", threshold_network([1.0]), (4.0, 4.0, 4.0))


@pytest.fixture(scope="module")
def segmenter(model):
    return Segmenter(model, "cpu")


@pytest.mark.parametrize(
    "look, tolerance",
    [
        (headroom.mirrored, 0),
        (headroom.moved(4, 12, 8), 0),
        (headroom.scaled(0.9), 0.03),
        (headroom.scaled(1.1), 0.03),
        (headroom.turned(8), 0.03),
    ],
)
def test_what_is_found_in_a_changed_scan_comes_back_to_its_place(look, tolerance):
    k, j, i = np.mgrid[:28, :40, :33]
    # a smooth blob off the centre: interpolation blurs it a little, a wrong way back would move it
    blob = np.exp(-((k - 12) ** 2 + (j - 24) ** 2 + (i - 13) ** 2) / 72).astype(np.float32)
    changed, back = look(blob)
    found = back(np.ascontiguousarray(changed)[None])
    assert found.shape == (1, *blob.shape)
    assert np.abs(found[0] - blob).max() <= tolerance
    # and was changed on the way
    assert changed.shape != blob.shape or np.abs(changed - blob).max() > 0.05


def test_errors_are_counted_by_distance_and_add_up_to_what_dice_leaves(scan, segmenter):
    case = headroom.Case(scan, segmenter)
    assert case.errors(case.truth) == [0] * (len(headroom.LAYERS) + 1)
    # one voxel further along i: all of it lies at the boundary
    found = np.roll(case.truth, 1, axis=2)
    errors = case.errors(found)
    assert errors[0] == errors[-1] == pytest.approx(100 - case.scores(found)["dice"])
    # and a speck far away
    found[:3, :3, :3] = True
    errors = case.errors(found)
    assert errors == sorted(errors)
    assert errors[-1] > errors[-2]
    assert errors[-1] == pytest.approx(100 - case.scores(found)["dice"])


def test_a_grid_as_fine_as_the_scan_allows_everything_and_a_coarse_one_less(scan, segmenter):
    coarse = headroom.Case(scan, segmenter).ceilings()
    assert 80 < coarse["classes"]["dice"] < coarse["shares"]["dice"] < 100
    fine = headroom.Case(replace(scan, geometry=replace(scan.geometry, spacing=(4.0, 4.0, 4.0))), segmenter)
    assert {row["dice"] for row in fine.ceilings().values()} == {100}


def test_the_page_says_what_was_measured(scan, model, tmp_path):
    for name in ("a", "b", "c"):
        folder = tmp_path / "scans" / name
        folder.mkdir(parents=True)
        write_volume(folder / "image.nrrd", scan.image, scan.geometry)
        write_volume(folder / "label.nrrd", scan.labels, scan.geometry)
    headroom.main([str(model), str(tmp_path / "scans"), "--cases", "2", "--output", str(tmp_path / "page.md")])
    page = (tmp_path / "page.md").read_text(encoding="utf-8")
    assert "2 cases (b to c)" in page and str(tmp_path) not in page
    lines = [line.strip("| ").split(" | ") for line in page.splitlines()]
    rows = {cells[0]: cells[1:] for cells in lines}
    plain = next(cells for cells in lines if cells[:2] == [headroom.PLAIN, "1"])
    # the same scan twice: each case is the mean, which what users get agrees with
    assert rows["b"] == rows["c"] and rows["b"][-1] == rows["**mean**"][-1].strip("*")
    assert float(rows["b"][-1]) == pytest.approx(100 - float(plain[2]), abs=0.06)
    assert [rows[name][0] for name in headroom.SETS] == ["1", "2", "4", "3", "3", "8"]
    assert float(rows[headroom.GRID_ROWS["shares"]][1]) > 0
