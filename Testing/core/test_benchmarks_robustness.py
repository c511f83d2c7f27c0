"""The benchmarks of changed scans, of the LA table and of another scanner: what they compute is what they say."""

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from test_segmentation import threshold_network, write_model

from simcvd.boxes import bounding_box
from simcvd.cases import cases_from_folder
from simcvd.grid import Geometry, same_geometry
from simcvd.images import read_volume, write_volume
from simcvd.phantom import make_phantom

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
sys.path.append(str(BENCHMARKS))

import changes  # noqa: E402
import la  # noqa: E402
import robustness  # noqa: E402
import shift  # noqa: E402
from rows import Run, keep  # noqa: E402

RAS = (-1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 1.0)


@pytest.fixture(scope="module")
def scan():
    image, label = make_phantom(0, (3.0, 3.0, 3.0))
    geometry = replace(image.geometry, spacing=(3.0, 3.0, 4.0), origin=(5.0, -7.0, 11.0), direction=RAS)
    return changes.Scan("phantom", image.array.astype(np.float32), label.array.astype(np.uint8), geometry)


def world_of(scan, place):
    """Where the voxel (k, j, i) lies."""
    g = scan.geometry
    return np.asarray(g.origin) + np.reshape(g.direction, (3, 3)) @ np.multiply(place[::-1], g.spacing)


def centre(scan):
    """The middle of the structure in the world (LPS, mm)."""
    return world_of(scan, np.argwhere(scan.labels).mean(0))


def millilitres(scan):
    return (scan.labels > 0).sum() * scan.geometry.voxel_volume / 1000


@pytest.mark.parametrize("letters", ["RAS", "LPS", "RAI", "SLP", "AIR", "PSL"])
def test_another_axis_order_leaves_every_voxel_at_its_place(scan, letters):
    turned = changes.reordered(scan, letters)
    assert changes.letters_of(turned.geometry) == letters
    assert turned.image.shape == turned.labels.shape == turned.geometry.shape
    assert centre(turned) == pytest.approx(centre(scan), abs=1e-6)
    place = np.unravel_index(turned.image.argmax(), turned.image.shape)
    expected = world_of(scan, np.unravel_index(scan.image.argmax(), scan.image.shape))
    assert world_of(turned, place) == pytest.approx(expected, abs=1e-6)
    back, geometry = changes.stored_as(turned.image, turned.geometry, "RAS")
    assert same_geometry(geometry, scan.geometry) and np.array_equal(back, scan.image)


def test_a_header_can_be_changed_without_its_voxels(scan):
    changed = changes.relabelled(scan, "ASR")
    assert changes.letters_of(changed.geometry) == "ASR" and changed.image is scan.image
    # a frame that mirrors nothing
    assert np.linalg.det(np.reshape(changed.geometry.direction, (3, 3))) == pytest.approx(1)


@pytest.mark.parametrize(
    "change",
    [
        changes.tighter,
        lambda scan: changes.cut(scan, 0.0),
        lambda scan: changes.around(scan, 6),
        lambda scan: changes.embedded(scan, (0.5, 0.5, 0.5), (0, 0.25, 0)),
        lambda scan: changes.coarser(scan, (1, 1, 2)),
        lambda scan: changes.coarser(scan, (2, 2, 1)),
    ],
)
def test_fields_and_voxels_change_around_the_structure(scan, change):
    changed = change(scan)
    assert changed.image.shape == changed.labels.shape == changed.geometry.shape != scan.image.shape
    assert centre(changed) == pytest.approx(centre(scan), abs=max(changed.geometry.spacing) / 4)
    assert millilitres(changed) == pytest.approx(millilitres(scan), rel=0.15)


def test_fields_end_where_they_are_said_to(scan):
    smaller = changes.tighter(scan)
    inside = bounding_box(scan.labels > 0)
    for n, before, box in zip(smaller.image.shape, scan.image.shape, inside, strict=True):
        assert n == max(before - round(0.2 * before), box.stop - box.start)
    assert changes.cut(scan, 0.0).labels[:, :, 0].any()
    half = changes.cut(scan, 0.5)
    assert half.labels[:, :, 0].any() and millilitres(half) < millilitres(scan)
    wide = changes.embedded(scan, (0.5, 0, 0), (0, 0, 0))
    assert (wide.image[0] == scan.image.min()).all() and not wide.labels[0].any()


def test_a_turned_patient_keeps_volume_and_middle_of_the_turn(scan):
    even = replace(scan, geometry=replace(scan.geometry, spacing=(3.0, 3.0, 3.0)))
    there = changes.rotated(even, 10)
    assert millilitres(there) == pytest.approx(millilitres(even), rel=0.03)
    assert not np.array_equal(there.labels, even.labels)
    back = changes.rotated(there, -10).labels
    assert 2 * (back & even.labels).sum() / (back.sum() + even.labels.sum()) > 0.95
    assert np.array_equal(changes.rotated(even, 0).labels, even.labels)


def test_a_turn_is_one_in_the_world_where_voxels_are_not_square():
    labels = np.zeros((4, 40, 80), np.uint8)
    labels[:, 18:22, 20:60] = 1
    bar = changes.Scan("bar", labels.astype(np.float32), labels, Geometry((80, 40, 4), (1.0, 2.0, 1.0)))
    points = np.argwhere(changes.rotated(bar, 90).labels) * (1, 2, 1)
    # a bar of 40 x 8 mm stands upright now
    assert np.ptp(points, axis=0)[1:].tolist() == pytest.approx([40, 8], abs=3)


def test_intensities_change_and_nothing_else_does(scan):
    for change in (changes.with_bias, lambda s: changes.with_noise(s, 0.5), lambda s: changes.with_gamma(s, 0.6)):
        changed = change(scan)
        assert changed.labels is scan.labels and changed.geometry is scan.geometry
        assert changed.image.dtype == np.float32 and np.isfinite(changed.image).all()
        assert np.array_equal(change(scan).image, changed.image) and not np.array_equal(changed.image, scan.image)
    factor = changes.with_bias(scan).image[scan.image > 1] / scan.image[scan.image > 1]
    assert 0.6 - 1e-5 <= factor.min() < 0.7 and 1.3 < factor.max() <= 1.4 + 1e-5
    gamma = changes.with_gamma(scan, 1.6).image
    assert (gamma.min(), gamma.max()) == pytest.approx((scan.image.min(), scan.image.max()))


def test_mirroring_swaps_left_and_right(scan):
    mirrored = changes.mirrored(scan)
    assert np.array_equal(mirrored.image[:, :, ::-1], scan.image)
    turned = changes.mirrored(changes.reordered(scan, "SLP"))
    assert np.array_equal(changes.stored_as(turned.image, turned.geometry, "RAS")[0], mirrored.image)


def write_scan(folder, seed, spacing=(4.0, 4.0, 4.0)):
    image, label = make_phantom(seed, spacing)
    folder.mkdir(parents=True)
    write_volume(folder / "image.nrrd", image.array, image.geometry)
    write_volume(folder / "label.nrrd", label.array.astype(np.uint8), label.geometry)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "la"
    for n in range(3):
        write_scan(folder / f"la{n:03}", n)
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("model") / "model", threshold_network([1.0]))


def cells_of(page, name):
    """The cells of the line that begins with a name."""
    return next(line.strip("| ").split(" | ") for line in page.splitlines() if line.startswith(f"| {name} |"))


def test_the_robustness_page_has_a_row_for_every_change(data, model, tmp_path, monkeypatch, capsys):
    kept = dict(list(robustness.CHANGES.items())[-2:])
    harmless = {name: robustness.HARMLESS[name] for name in ("intensity times 4", "stored as SLP")}
    monkeypatch.setattr(robustness, "CHANGES", kept)
    monkeypatch.setattr(robustness, "HARMLESS", harmless)
    robustness.main([str(model), str(data), "--cases", "2", "--output", str(tmp_path / "page.md")])
    page = (tmp_path / "page.md").read_text(encoding="utf-8")
    assert "la001" in capsys.readouterr().err and "2 cases (la001 to la002)" in page
    for name in (robustness.UNCHANGED, *harmless, *kept):
        assert len(cells_of(page, name)) >= 5
    assert cells_of(page, "stored as SLP")[-1] == "0, 0"
    assert "0 in float32" in page and str(tmp_path) not in page


def test_nothing_found_counts_as_zero(data, tmp_path):
    model = write_model(tmp_path / "blind", threshold_network([1e3]))
    rows = la.score(la.Segmenter(model), sorted(data.iterdir()))["rows"]
    assert [row["dice"] for row in rows] == [None] * 6
    mean = la.mean_scores(rows, "all")
    assert (mean["dice"], mean["jaccard"], mean["hd95"], mean["empty"]) == (0.0, 0.0, None, 3)
    line = robustness.cells("x", [{"case": "a", "dice": 0.0, "hd95": None}, {"case": "b", "dice": 50, "hd95": 2}], 30.0)
    assert line[1:5] == ["25.00", "-5.00", "2.00 (1 empty)", "a: 0.0"]


def test_scores_are_those_of_all_parts_and_of_the_largest(data, model, tmp_path, capsys):
    la.main(["score", str(model), str(data), "--cases", "2", "--json", str(tmp_path / "scores.json")])
    page, scores = capsys.readouterr().out, json.loads((tmp_path / "scores.json").read_text())
    assert [(row["case"], row["part"]) for row in scores["rows"]] == [
        (case, part) for case in ("la001", "la002") for part in ("all", "largest")
    ]
    assert scores["on"] == "2 cases (la001 to la002)" and scores["learned"] == []
    first = scores["rows"][0]
    assert cells_of(page, "la001")[1] == f"{first['dice']:.2f}"
    assert first["hd95"] == pytest.approx(4 * first["hd95_voxel"])


def test_scores_by_the_published_windows_say_so(data, model, tmp_path, monkeypatch):
    asked, plain = [], la.Segmenter.segment

    def segment(self, volume, settings):
        asked.append(settings.windows)
        return plain(self, volume, replace(settings, windows=False))  # they take their time

    monkeypatch.setattr(la.Segmenter, "segment", segment)
    la.main(["score", str(model), str(data), "--cases", "1", "--windows", "--json", str(tmp_path / "scores.json")])
    assert asked == [True]
    assert json.loads((tmp_path / "scores.json").read_text())["on"] == "la002, sliding windows"


def write_run(folder, seed, dice, steps=6000, **config):
    """A finished run on LA that says what a test wants to be said."""
    cases = [{"id": f"la{n:03}", "role": role, "prepared": "x.npz"} for n, role in enumerate(("labelled",) * 8)]
    cases.append({"id": "la071", "role": "validation", "prepared": "y.npz"})
    config = {
        "method": "simcvd",
        "recipe": "published",
        "iterations": 6000,
        "batch": [2, 2],
        "optimiser": {},
        "settings": {},
        "patch": [80, 112, 112],
        "spacing": [0.625] * 3,
        "seed": seed,
        "cases": cases,
        **config,
    }
    figures = {"dice": dice, "jaccard": dice - 10, "hd95": 5.0, "asd": 1.25, "empty": 0}
    events = [
        {"event": "start", "time": 0, "iteration": 0, "device": "cuda", "threads": 1},
        {"event": "done", "time": 600, "iteration": steps, "peak_memory_mb": 4000.0, **figures},
    ]
    folder.mkdir()
    (folder / "run.json").write_text(json.dumps(config))
    (folder / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    return folder


def test_seeds_of_one_setting_make_one_row_beside_the_published(tmp_path):
    runs = [write_run(tmp_path / f"s{seed}", seed, dice) for seed, dice in ((1, 88.0), (2, 90.0))]
    runs.append(write_run(tmp_path / "other", 1, 85.0, iterations=100))
    page = "\n".join(la.page([Run.read(run) for run in runs]))
    lines = [line for line in page.splitlines() if line.startswith("| simcvd")]
    assert len(lines) == 2
    cells = dict(zip(la.HEADS, next(line for line in lines if "s1, s2" in line).strip("| ").split(" | "), strict=True))
    assert (cells["runs"], cells["Dice [%]"]) == ("s1, s2 (seeds 1, 2)", "89.00 ± 1.41")
    assert (cells["95HD [voxel]"], cells["memory"], cells["training"]) == ("8.00 ± 0.00", "4000", "10 min")
    assert page.index("*SimCVD*") < page.index("s1, s2") < page.index("## 16 labelled")


def test_rows_are_missing_until_their_recipe_was_done_in_full(tmp_path):
    runs = [
        write_run(tmp_path / "full", 1, 88.0),
        write_run(tmp_path / "coarse", 1, 88.0, method="mean_teacher", spacing=[1.25] * 3),
        write_run(tmp_path / "cut", 1, 88.0, 5999, method="supervised"),
        write_run(tmp_path / "short", 1, 88.0, 4000, method="supervised", recipe="short"),
        write_run(tmp_path / "own", 1, 88.0, method="mean_teacher", augmentation="robust"),
    ]
    page = "\n".join(la.page([Run.read(run) for run in runs]))
    published, short = (line for line in page.splitlines() if line.startswith("Rows still missing at 0.625 mm"))
    assert "published: supervised with 4, " in published and "short: supervised with 4, " in short
    told = [
        (name in published, name in short) for name in ("simcvd with 8,", "mean_teacher with 8,", "supervised with 8,")
    ]
    assert told == [(False, True), (True, True), (True, False)]
    assert "supervised with 80" in published and "supervised with 80" not in short
    assert "80 labelled need --test" in page


def test_scores_in_a_run_folder_stand_above_its_own(tmp_path):
    run = write_run(tmp_path / "run", 1, 88.0)
    scores = dict.fromkeys(la.FIGURES, 4.0)
    rows = [{"case": "t1", "part": "all", **scores}, {"case": "t1", "part": "largest", **scores, "dice": 91.5}]
    (run / "scores.json").write_text(json.dumps({"model": "m", "on": "1 case", "learned": [], "rows": rows}))
    found = la.scores_of(*la.with_scores([Run.read(run)]))
    assert (found["dice"], found["largest"]["dice"], found["where"]) == (4.0, 91.5, "1 case")
    before = la.page(la.with_scores([Run.read(run)]))
    keep(Run.read(run), tmp_path / "kept")
    kept = tmp_path / "kept" / "run"
    assert la.page(la.with_scores([Run.read(kept)]))[:-1] == before[:-1]  # the last line is the machine's
    (run / "scores.json").unlink()
    keep(Run.read(run), tmp_path / "kept")
    assert not (kept / "scores.json").exists()


def test_what_a_run_measured_of_the_largest_part_stands_there(tmp_path):
    run = Run.read(write_run(tmp_path / "run", 1, 88.0, model={"largest": True}))
    found = la.scores_of(run)
    assert "dice" not in found and found["largest"]["dice"] == 88.0


def test_changed_scans_lie_as_a_training_takes_them(data, tmp_path):
    roles = {"labelled": ["la000"], "unlabelled": ["la001"], "validation": ["la002"]}
    shift.write_changed(data, roles, tmp_path / "scans", changes.other_scanner)
    cases = cases_from_folder(tmp_path / "scans", 1, 1)
    assert [(case.id, case.role, case.label is None) for case in cases] == [
        ("la000", "labelled", False),
        ("la001", "unlabelled", True),
        ("la002", "validation", False),
    ]
    assert not (tmp_path / "scans" / "la001" / "label.nrrd").exists()
    assert read_volume(cases[0].image).geometry.spacing == pytest.approx((4.0, 4.0, 16.0))


def test_the_cases_of_the_shift_are_new_to_the_model_and_in_order():
    labelled, unlabelled, validation = shift.CASES.values()
    assert (len(labelled), len(unlabelled), len(validation)) == (3, 10, 10)
    # the first are taken as labelled, the last as validation cases
    assert labelled + unlabelled + validation == sorted({*labelled, *unlabelled, *validation})
    assert labelled[0] > "la008"
    wishes = {"model": "left-atrium", "method": "simcvd", "minutes": 0.5, "seed": 1}
    unset = dict.fromkeys(("threads", "iterations", "augmentation"))
    words = shift.training_command(argparse.Namespace(**wishes, **unset), shift.CASES, Path("scans"), Path("run"))
    assert words[words.index("--labelled") + 1] == "3" and words[words.index("--minutes") + 1] == "0.5"
    assert not {"--threads", "--iterations", "--augmentation"} & {*words}
    given = {"threads": 1, "iterations": 9, "augmentation": "varied"}
    words = shift.training_command(argparse.Namespace(**wishes, **given), shift.CASES, Path("scans"), Path("run"))
    assert words[-4:] == ["--threads", "1", "--augmentation", "varied"] and "--minutes" not in words
    assert words[words.index("--iterations") + 1] == "9"


def test_the_page_of_the_shift_tells_which_cases_its_start_model_knew():
    assert "from 10 of the validation cases" in shift.known("left-atrium", shift.CASES["validation"])
    assert shift.known("left-atrium", ["la081"]) == ""


def test_the_page_of_the_shift_says_before_and_after(tmp_path):
    run = write_run(tmp_path / "run", 1, 80.0)
    with (run / "events.jsonl").open("a") as file:
        file.write(json.dumps({"event": "validation", "time": 601, "iteration": 0, "dice": 50.0, "hd95": 9.0}) + "\n")
    before, after = ([{"case": "la071", "dice": dice, "hd95": hd95}] for dice, hd95 in ((50.0, None), (80.0, 3.0)))
    page = "\n".join(shift.page(Run.read(run), [("changed scans", [before, after])], "left-atrium", "Note. "))
    assert cells_of(page, "changed scans") == ["changed scans", "50.00 / – (1 empty)", "80.00 / 3.00", "+30.00"]
    assert "method simcvd (published), 6000 steps" in page and "Note. Scored" in page
    assert "50.00 / 9.00 at iteration 0 and 80.00 / 5.00 at the end" in page
    assert cells_of(page, "la071")[1:3] == ["50.00", "80.00"]
