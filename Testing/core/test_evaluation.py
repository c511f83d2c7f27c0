"""evaluation.py: cases are matched by name, brought onto one grid, and nothing is left out in silence."""

import json
import re

import numpy as np
import pytest

from simcvd.errors import SimCVDError
from simcvd.evaluation import REPORT_FILES, EvaluationError, evaluate, match_cases
from simcvd.metrics import compare

sitk = pytest.importorskip("SimpleITK")
SPACING = (0.6, 0.8, 2.5)


def ball(radius: float, shape=(12, 30, 34)) -> np.ndarray:
    return (sum((g - n / 2) ** 2 for g, n in zip(np.indices(shape), shape, strict=True)) <= radius**2).astype(np.uint8)


def save(path, array, origin=(3.0, -4.0, 5.0), direction=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(SPACING)
    image.SetOrigin(origin)
    if direction:
        image.SetDirection(direction)
    sitk.WriteImage(image, str(path))


@pytest.fixture
def folders(tmp_path):
    reference, prediction = tmp_path / "ref", tmp_path / "pred"
    for n, radius in enumerate((5, 4, 3), start=1):
        save(reference / f"c{n}" / "label.nrrd", ball(5))
        save(reference / f"c{n}" / "image.nrrd", np.random.default_rng(n).normal(size=(12, 30, 34)).astype(np.float32))
        save(prediction / f"c{n}.seg.nrrd", ball(radius))
    return reference, prediction


def test_folders_are_matched_by_name_and_reported(folders, tmp_path):
    calls = []
    rows = evaluate(*folders, tmp_path / "out", names={1: "Left atrium"}, progress=lambda *a: calls.append(a))
    assert [(r["case"], r["label"]) for r in rows] == [(f"c{n}", "Left atrium") for n in (1, 2, 3)]
    assert {k: rows[1][k] for k in compare(ball(5), ball(4), SPACING)} == compare(ball(5), ball(4), SPACING)
    assert calls == [(0, 3, "c1"), (1, 3, "c2"), (2, 3, "c3")]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == sorted(REPORT_FILES)
    assert json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))["rows"] == rows
    assert (tmp_path / "out" / "report.html").read_text(encoding="utf-8").count("data:image/png") == 3


def test_two_files_make_one_case_whatever_their_names(folders):
    rows = evaluate(folders[0] / "c1" / "label.nrrd", folders[1] / "c2.seg.nrrd", None)
    assert [r["case"] for r in rows] == ["c2"]


def test_what_segment_writes_beside_the_labels_is_no_prediction(folders):
    for kind in ("sdm", "probability", "uncertainty", "model-sdm"):
        save(folders[1] / f"c1.{kind}.nrrd", ball(5).astype(np.float32))
    pairs, notes = match_cases(*folders)
    assert len(pairs) == 3 and notes == []


def test_names_without_a_partner_are_told(folders, tmp_path):
    (folders[1] / "c2.seg.nrrd").rename(folders[1] / "other.seg.nrrd")
    told = []
    evaluate(*folders, tmp_path / "out", warn=told.append)
    assert told == ["1 reference had no prediction: c2.", "1 prediction had no reference: other."]
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert all(sentence in page for sentence in told)


def test_no_common_name_and_no_folder_are_refused(folders, tmp_path):
    save(tmp_path / "else" / "x.nrrd", ball(5))
    with pytest.raises(SimCVDError, match=r"c1, c2, c3 against x"):
        evaluate(folders[0], tmp_path / "else", None)
    with pytest.raises(SimCVDError, match="does not exist"):
        evaluate(folders[0], tmp_path / "nowhere", None)
    (tmp_path / "empty").mkdir()
    with pytest.raises(SimCVDError, match="no label map"):
        evaluate(folders[0], tmp_path / "empty", None)


def test_two_files_of_one_name_are_refused(folders):
    save(folders[1] / "c1.nii.gz", ball(5))
    with pytest.raises(SimCVDError, match="two files for c1"):
        match_cases(*folders)


def test_a_cropped_or_turned_prediction_scores_as_the_whole_one_and_says_so(folders):
    cropped = ball(4)[2:-1, 5:-4, 6:-3]
    save(folders[1] / "c2.seg.nrrd", cropped, origin=(3 + 6 * 0.6, -4 + 5 * 0.8, 5 + 2 * 2.5))
    turned = np.ascontiguousarray(ball(3)[:, ::-1])
    save(folders[1] / "c3.seg.nrrd", turned, origin=(3, -4 + 29 * 0.8, 5), direction=(1, 0, 0, 0, -1, 0, 0, 0, 1))
    rows = evaluate(*folders, None)
    for row, radius in zip(rows, (5, 4, 3), strict=True):
        assert row["dice"] == compare(ball(5), ball(radius), SPACING)["dice"]
    assert [r["note"] is None for r in rows] == [True, False, False]
    assert "resampled" in rows[1]["note"]


def test_an_empty_prediction_is_a_row_without_scores(folders, tmp_path):
    save(folders[1] / "c1.seg.nrrd", np.zeros((12, 30, 34), np.uint8))
    rows = evaluate(*folders, tmp_path / "out")
    assert rows[0]["dice"] is None and rows[0]["note"] == "the prediction is empty"


@pytest.mark.parametrize("theirs, ours", [(255, 1), (1, 255)])
def test_a_mask_that_is_255_inside_is_scored_against_one_that_is_1_and_says_so(tmp_path, theirs, ours):
    save(tmp_path / "a.nrrd", ball(5) * theirs)
    save(tmp_path / "b.nrrd", ball(4) * ours)
    (row,) = evaluate(tmp_path / "a.nrrd", tmp_path / "b.nrrd", None, names={1: "Left atrium"})
    assert row["dice"] == compare(ball(5), ball(4), SPACING)["dice"] and row["label"] == "Left atrium"
    assert f"the {'reference' if theirs == 255 else 'prediction'}'s value 255 was taken for 1" in row["note"]


def test_a_scan_in_place_of_a_label_map_is_refused(tmp_path):
    save(tmp_path / "labels.nrrd", ball(5.0).astype(np.uint8))
    scan = np.random.default_rng(0).integers(0, 900, ball(5.0).shape).astype(np.int16)
    save(tmp_path / "scan.nrrd", scan)
    for reference, prediction in (("scan", "labels"), ("labels", "scan")):
        with pytest.raises(EvaluationError, match=r"scan\.nrrd looks like a scan"):
            evaluate(tmp_path / f"{reference}.nrrd", tmp_path / f"{prediction}.nrrd", None)
    blocks = np.arange(1, 121).reshape(4, 5, 6).repeat(3, 0).repeat(6, 1).repeat(6, 2)  # many structures are no scan
    save(tmp_path / "many.nrrd", blocks.astype(np.int16))
    save(tmp_path / "one.nrrd", (blocks == 7).astype(np.uint8))
    for name in ("many", "one"):
        assert len(evaluate(tmp_path / "many.nrrd", tmp_path / f"{name}.nrrd", None)) == 120


def test_other_values_are_other_structures(tmp_path):
    save(tmp_path / "a.nrrd", ball(5) * 2)
    save(tmp_path / "b.nrrd", ball(4))
    rows = evaluate(tmp_path / "a.nrrd", tmp_path / "b.nrrd", None)
    assert len(rows) == 2 and all(row["dice"] is None for row in rows)


def test_a_prediction_that_lies_elsewhere_is_not_called_empty(folders):
    save(folders[1] / "far.seg.nrrd", ball(5), origin=(900.0, 900.0, 900.0))
    (row,) = evaluate(folders[0] / "c1" / "label.nrrd", folders[1] / "far.seg.nrrd", None)
    assert row["dice"] is None and "lies outside the reference's grid" in row["note"]


def test_the_scan_of_a_single_pair_may_have_any_name(folders, tmp_path):
    pair = folders[0] / "c1" / "label.nrrd", folders[1] / "c1.seg.nrrd"
    evaluate(*pair, tmp_path / "grey")
    evaluate(*pair, tmp_path / "seen", images=folders[0] / "c1" / "image.nrrd")
    sizes = [(tmp_path / name / "report.html").stat().st_size for name in ("grey", "seen")]
    assert sizes[1] > 1.1 * sizes[0]


def test_a_report_that_can_not_be_written_leaves_no_part_of_it(folders, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("simcvd.evaluation.write_html", full)
    with pytest.raises(OSError):
        evaluate(*folders, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_report_is_replaced_only_when_allowed(folders, tmp_path):
    out = tmp_path / "out"
    evaluate(*folders, out)
    before = (out / "report.csv").read_bytes()
    (folders[1] / "c3.seg.nrrd").unlink()
    with pytest.raises(SimCVDError, match="already holds a report"):
        evaluate(*folders, out)
    assert (out / "report.csv").read_bytes() == before
    evaluate(*folders, out, overwrite=True)
    assert (out / "report.csv").read_bytes() != before


def test_an_image_on_another_grid_is_left_out_of_the_picture(folders, tmp_path):
    save(tmp_path / "images" / "c1.nrrd", np.random.default_rng(0).normal(size=(5, 6, 7)))
    evaluate(*folders, tmp_path / "out", images=tmp_path / "images")
    assert (tmp_path / "out" / "report.html").read_text(encoding="utf-8").count("data:image/png") == 3


@pytest.mark.parametrize("orientation", ["RAS", "PIR", "SAL"])
def test_pictures_stand_upright_for_any_orientation(folders, tmp_path, orientation):
    evaluate(*folders, tmp_path / "out")
    for path in [*folders[0].rglob("*.nrrd"), *folders[1].rglob("*.nrrd")]:
        sitk.WriteImage(sitk.DICOMOrient(sitk.ReadImage(str(path)), orientation), str(path))
    evaluate(*folders, tmp_path / "turned")
    pages = [(tmp_path / name / "report.html").read_text(encoding="utf-8") for name in ("out", "turned")]
    pictures = [re.findall('data:image/png[^"]*', page) for page in pages]
    assert len(pictures[0]) == 3 and pictures[0] == pictures[1]


def test_flat_references_are_no_scans(tmp_path):
    for n, truth in enumerate((ball(5), ball(5) * 0)):
        save(tmp_path / "ref" / f"c{n}.nrrd", truth)
        save(tmp_path / "pred" / f"c{n}.nrrd", ball(4))
    assert len(evaluate(tmp_path / "ref", tmp_path / "pred", tmp_path / "out")) == 2


def test_a_scan_that_cannot_be_read_is_missing_in_the_picture_alone(folders, tmp_path):
    save(folders[0] / "c2" / "image.nrrd", np.full((12, 30, 34), 3.0, np.float32))
    assert len(evaluate(*folders, tmp_path / "out")) == 3
    notes = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))["meta"]["notes"]
    assert [note.startswith("c2 is shown without its scan: ") for note in notes] == [True]
