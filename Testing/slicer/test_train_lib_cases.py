"""The list of cases: from the scene, from folders and lists, its warnings, and what is written for a training."""

import io
import json
import time

import numpy as np
import pytest
import qt
import slicer
import slicer.util
from lib_scenes import asSurface, shear, warp
from train_scenes import ONE, TWO, ballTable, exported, outline, scan

import host
from simcvd.cases import Case, check_cases, count_classes, prepare_cases, read_cases, write_cases
from simcvd.errors import SimCVDError
from simcvd.grid import Geometry
from simcvd.images import read_labels, read_volume, write_volume
from SimCVDLib import caseexport, caserank, cases, nodes
from SimCVDLib.caselist import CaseList
from SimCVDLib.caseload import loadCase
from SimCVDLib.caselook import FileLooks, filesOf
from SimCVDLib.cases import LABELLED, OUT, UNLABELLED, VALIDATION, CaseTable

CARD = {
    "grid": {"spacing": [2.0, 2.0, 2.0]},
    "modality": "LGE-MR",
    "segments": [{"value": 1, "name": "Ball"}],
}


@pytest.fixture(autouse=True)
def emptied():
    slicer.mrmlScene.Clear(0)
    yield
    slicer.mrmlScene.Clear(0)


def written(folder, name, array, spacing=2.0):
    geometry = Geometry(array.shape[::-1], (spacing,) * 3)
    folder.mkdir(parents=True, exist_ok=True)
    write_volume(folder / name, array, geometry)
    return folder / name


# --- finding


def test_volumes_of_the_scene_with_the_outline_made_on_them():
    (first, labels), (second, _labels) = scan(0), scan(1)
    node = outline(first, labels)
    slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "No voxels")
    hidden, _labels = scan(2)
    hidden.SetHideFromEditors(True)
    changes = []
    table = CaseTable(lambda: changes.append(1))
    one, two = table.addVolumes()
    assert (one.volume, one.segmentation, one.role) == (first, node, LABELLED) and one.labelText == "Outline: Ball"
    assert (two.volume, two.segmentation, two.role) == (second, None, UNLABELLED)
    assert [row.id for row in table.rows] == ["case-001", "case-002"] and len(changes) == 1
    assert table.addVolumes() == [] and len(changes) == 1


def test_the_outline_beside_a_volume_or_of_like_name():
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    (first, labels), (second, _labels), (third, _labels) = scan(0, "a"), scan(1, "Case7 LGE"), scan(2, "b")
    beside, alike, other = (outline(first, labels, name=name) for name in ("x", "case7-lge_seg", "elsewhere"))
    role = slicer.vtkMRMLSegmentationNode.GetReferenceImageGeometryReferenceRole()
    for node in (beside, alike, other):
        node.SetNodeReferenceID(role, None)
    folder = hierarchy.CreateFolderItem(hierarchy.GetSceneItemID(), "patient")
    for node in (first, beside):
        hierarchy.SetItemParent(hierarchy.GetItemByDataNode(node), folder)
    one, two, three = CaseTable().addVolumes([first, second, third])
    assert (one.segmentation, two.segmentation, three.segmentation) == (beside, alike, None)


def test_a_result_of_the_model_is_no_outline_until_somebody_says_so():
    volume, labels = scan(0)
    result = nodes.newSegmentation(volume, ONE, "result")
    identifier = result.GetSegmentation().GetNthSegmentID(0)
    nodes.writeSegment(result, identifier, labels > 0, volume)
    table = CaseTable()
    (row,) = table.addVolumes()
    assert row.role == UNLABELLED and not row.hasLabel
    assert table.addLabelledCase(volume, result, identifier) is row
    assert row.role == LABELLED and row.segmentIds == [identifier] and len(table.rows) == 1


def test_cases_of_folders_and_lists(tmp_path):
    volume, labels = scan(0)
    image = slicer.util.arrayFromVolume(volume)
    for n in range(2):
        written(tmp_path / "a" / f"p{n}", "image.nrrd", image + np.int16(n))
    label = written(tmp_path / "a" / "p0", "label.nrrd", labels)
    table = CaseTable()
    one, two = table.addFolder(tmp_path / "a")
    assert (one.name, one.role, one.label, two.role) == ("p0", LABELLED, label, UNLABELLED)
    written(tmp_path / "b", "q1.nrrd", image)
    written(tmp_path / "b", "q1-label.nrrd", labels)
    written(tmp_path / "b", "q2.nrrd", image)
    assert [(row.name, row.hasLabel) for row in table.addFolder(tmp_path / "b")] == [("q1", True), ("q2", False)]
    write_cases(
        tmp_path / "cases.json", [Case("v", one.image, one.label, VALIDATION), Case("w", one.image, None, UNLABELLED)]
    )
    other = CaseTable()
    found = [(row.name, row.role, row.hasLabel) for row in other.addCaseList(tmp_path / "cases.json")]
    assert found == [("v", VALIDATION, True), ("w", UNLABELLED, False)]
    with pytest.raises(SimCVDError):
        other.addFolder(tmp_path / "none")
    volume, labels = scan(0)
    with pytest.raises(SimCVDError, match="lies on disk"):
        other.setLabel(other.rows[1], outline(volume, labels))


def test_roles_need_an_outline():
    volume, labels = scan(0)
    table = CaseTable()
    (row,) = table.addVolumes()
    for role in (LABELLED, VALIDATION):
        with pytest.raises(SimCVDError, match="has no outline"):
            table.setRole([row], role)
    table.setLabel(row, outline(volume, labels))
    assert row.role == LABELLED
    table.setRole([row], VALIDATION)
    table.setLabel(row, None)
    assert row.role == UNLABELLED
    table.setRole([row], OUT)
    empty = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    with pytest.raises(SimCVDError, match="no outline yet"):
        table.setLabel(row, empty)
    table.remove([row])
    assert table.rows == []


# --- warnings


def test_each_oddity_has_its_warning():
    volume, labels = scan(0)
    table = CaseTable()
    row = table.addLabelledCase(volume, outline(volume, labels))
    assert table.check(row, CARD) == [] and row.size == (32, 32, 16) and row.spacing == (2, 2, 2)
    table.setLabel(row, outline(volume, np.zeros_like(labels)))
    assert table.check(row) == ["The outline is empty."]
    far = slicer.util.addVolumeFromArray(slicer.util.arrayFromVolume(volume), ijkToRAS=np.diag([2.0, 2, 2, 1]))
    elsewhere = nodes.ijkToRas(volume)
    elsewhere[:3, 3] += 500
    far.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(elsewhere))
    table.setLabel(row, outline(far, labels))
    assert table.check(row) == ["The outline lies outside the image."]
    shifted = nodes.ijkToRas(volume)
    shifted[:3, 3] += 1
    far.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(shifted))
    table.setLabel(row, outline(far, labels))
    assert "resampled" in table.check(row)[0]
    coarse, _labels = scan(1)
    coarse.SetSpacing(9, 9, 9)
    slicer.util.arrayFromVolume(coarse)[:] -= 1100
    slicer.util.arrayFromVolumeModified(coarse)
    (other,) = table.addVolumes([coarse])
    spacing, intensity = table.check(other, CARD)
    assert "spacing" in spacing and "CT" in intensity and table.check(other) == []
    slicer.mrmlScene.RemoveNode(coarse)
    assert "no longer in the scene" in table.check(other)[0] and "no longer" in table.blocking()


def test_a_label_on_disk_with_another_grid_or_missing(tmp_path):
    volume, labels = scan(0)
    written(tmp_path / "p", "image.nrrd", slicer.util.arrayFromVolume(volume))
    label = written(tmp_path / "p", "label.nrrd", labels[:, :-1])
    table = CaseTable()
    (row,) = table.addFolder(tmp_path)
    assert "another grid" in table.check(row)[0]
    label.unlink()
    assert "label.nrrd does not exist" in table.check(row)[0] and row.size == (32, 32, 16)
    row.image.unlink()
    assert len(table.check(row)) == 1 and "image.nrrd does not exist" in row.warnings[0]


def test_a_label_on_disk_is_looked_into(tmp_path):
    volume, labels = scan(0)
    image = slicer.util.arrayFromVolume(volume)
    for name, label in (("empty", np.zeros_like(labels)), ("full", labels)):
        written(tmp_path / name, "image.nrrd", image)
        written(tmp_path / name, "label.nrrd", label)
    written(tmp_path / "outside", "image.nrrd", image - np.int16(1500))
    geometry = Geometry(labels.shape[::-1], (2.0,) * 3, (900.0, 0.0, 0.0))
    write_volume(tmp_path / "outside" / "label.nrrd", labels, geometry)
    table = CaseTable()
    empty, full, outside = table.addFolder(tmp_path)
    assert table.structures() == 0 and table.mismatch(CARD) is None  # nobody has looked yet
    assert table.check(empty) == ["The outline is empty."] and table.check(full, CARD) == []
    assert table.check(outside)[0] == "The outline lies outside the image." and "CT" in table.check(outside, CARD)[1]
    assert table.structures() == 2 and "1 in the model and 2 in the outlines" in table.mismatch(CARD)
    assert table.mismatch({**CARD, "segments": CARD["segments"] * 2}) is None
    (same,) = [sentence for sentence in table.problems() if "same image" in sentence]
    assert "empty and full" in same
    table.addVolumes([volume])
    assert sum("same image" in sentence for sentence in table.problems()) == 2  # a file, and what was loaded from it


def test_intensities_that_are_no_ct():
    volume, _labels = scan(0)
    table = CaseTable()
    (row,) = table.addVolumes([volume])
    (warning,) = table.check(row, {**CARD, "modality": "CT"})
    assert "don't look like CT" in warning
    slicer.util.arrayFromVolume(volume)[:] -= 1100
    slicer.util.arrayFromVolumeModified(volume)
    assert table.check(row, {**CARD, "modality": "CT"}) == []


def test_what_is_odd_about_the_list():
    table = CaseTable()
    assert "No case is labelled" in table.blocking()
    volume, labels = scan(0)
    row = table.addLabelledCase(volume, outline(volume, labels))
    assert table.blocking() is None
    said = " ".join(table.problems())
    assert "Only one" in said and "learns from the labelled ones alone" in said and "No case is for validation" in said
    twin = slicer.util.addVolumeFromArray(slicer.util.arrayFromVolume(volume), name="Twin")
    table.addVolumes([twin, scan(3)[0]])
    (same,) = [sentence for sentence in table.problems() if "same image" in sentence]
    assert "Scan0 and Twin" in same
    table.setRole([table.rows[1]], OUT)
    assert not any("same image" in sentence for sentence in table.problems())
    slicer.mrmlScene.RemoveNode(row.segmentation)
    assert "no outline any more" in table.blocking()


def test_classes_are_matched_by_name():
    table = ballTable(segments=TWO)
    assert table.classNames() == ["Ball", "Core"]
    assert [(s["value"], s["name"]) for s in table.segments()] == [(1, "Ball"), (2, "Core")]
    volume, labels = scan(9)
    turned = (TWO[1], {**TWO[0], "name": "BALL"})
    other = table.addLabelledCase(volume, outline(volume, labels, turned))
    found = cases.readLabel(other, table.values())
    np.testing.assert_array_equal(found, labels)
    card = {**CARD, "segments": [{"value": 2, "name": "ball"}, {"value": 1, "name": "core"}]}
    np.testing.assert_array_equal(cases.readLabel(other, table.values(card)), np.array([0, 2, 1])[labels])
    assert "is 1 in the model and 2 in the outlines" in " ".join(table.problems(CARD))
    part = outline(volume, labels, (TWO[0],))
    table.setLabel(other, part)
    assert "has no outline of: core" in " ".join(table.problems())


def test_a_single_segment_is_one_class_whatever_its_name():
    table = CaseTable()
    for number, name in enumerate(("LA", "Left atrium")):
        volume, labels = scan(number)
        table.addLabelledCase(volume, outline(volume, labels, ({**ONE[0], "name": name},)))
    assert table.classNames() == ["LA"]
    assert all(set(np.unique(cases.readLabel(row, table.values()))) == {0, 1} for row in table.rows)


def test_the_terminology_goes_into_the_card():
    from lib_scenes import SEGMENT

    volume, labels = scan(0)
    table = CaseTable()
    node = nodes.newSegmentation(volume, [SEGMENT], "x")
    nodes.writeSegment(node, node.GetSegmentation().GetNthSegmentID(0), labels > 0, volume)
    table.addLabelledCase(volume, node)
    (segment,) = table.segments()
    assert segment["terminology"] == SEGMENT["terminology"]
    assert segment["color"] == pytest.approx(SEGMENT["color"], abs=1e-3)


# --- writing


def test_the_export_is_lossless_and_names_nobody(tmp_path):
    table = ballTable(segments=TWO)
    for row in table.rows:
        row.volume.SetName(f"Doe^Jane^{row.name}")
        row.volume.SetAttribute("DICOM.PatientName", "Doe")
    table.setRole([table.rows[2]], OUT)
    export = exported(table, tmp_path / "out")
    found = read_cases(export.caseList)
    assert [c.id for c in found] == ["case-001", "case-002", "case-004", "case-005"]
    assert [c.role for c in found] == [LABELLED, LABELLED, UNLABELLED, VALIDATION]
    assert export.names["case-001"] == table.rows[0].name and export.notes == [] and export.fraction == 1
    for case, row in zip(found, [r for r in table.rows if r.role != OUT], strict=True):
        volume = read_volume(case.image)
        np.testing.assert_array_equal(volume.array, slicer.util.arrayFromVolume(row.volume))
        assert volume.array.dtype == np.int16 and volume.geometry.spacing == (2, 2, 2)
        if case.label:
            expected = cases.readLabel(row, table.values())
            np.testing.assert_array_equal(read_labels(case.label).array, expected)
    for path in (tmp_path / "out").iterdir():
        assert b"Doe" not in path.read_bytes() and "Doe" not in path.name
    assert check_cases(found) == [] and count_classes(found) == 3


@pytest.mark.parametrize("transform", [shear, warp])
def test_transforms_and_other_grids_are_honoured(tmp_path, transform):
    volume, labels = scan(0)
    node = outline(volume, labels)
    move = transform() if transform is shear else transform(volume)
    for one in (volume, node):
        one.SetAndObserveTransformNodeID(move.GetID())
    other, _labels = scan(0)
    finer = slicer.util.addVolumeFromArray(np.zeros((32, 64, 64), np.int16), ijkToRAS=np.diag([-1.0, -1, 1, 1]))
    drawn = nodes.newSegmentation(finer, [], "finer")
    identifier = drawn.GetSegmentation().AddEmptySegment("", "Ball")
    nodes.writeSegment(drawn, identifier, labels.repeat(2, 0).repeat(2, 1).repeat(2, 2) > 0, finer)
    table = CaseTable()
    table.addLabelledCase(volume, node)
    table.addLabelledCase(other, drawn)
    export = exported(table, tmp_path / "out")
    one, two = (read_labels(case.label) for case in read_cases(export.caseList))
    np.testing.assert_array_equal(one.array, labels > 0)
    image = read_volume(read_cases(export.caseList)[0].image)
    np.testing.assert_array_equal(np.reshape(image.geometry.direction, (3, 3)), np.eye(3))  # the volume's own frame
    overlap = 2 * np.sum((two.array > 0) & (labels > 0)) / (np.sum(two.array > 0) + np.sum(labels > 0))
    assert overlap > 0.8 and two.array.shape == labels.shape
    assert len(export.notes) == 1 and "Scan0 " in export.notes[0] and "resampled" in export.notes[0]


def test_cases_on_disk_stay_where_they_are_and_can_be_trained_from(tmp_path):
    volume, labels = scan(0)
    written(tmp_path / "in" / "p", "image.nrrd", slicer.util.arrayFromVolume(volume))
    written(tmp_path / "in" / "p", "label.nrrd", labels)
    table = ballTable(segments=TWO)
    table.addFolder(tmp_path / "in")
    found = read_cases(exported(table, tmp_path / "out").caseList)
    assert (
        found[-1].image == tmp_path / "in" / "p" / "image.nrrd" and len(list((tmp_path / "out").iterdir())) == 5 + 3 + 1
    )
    assert len(prepare_cases(found[:2], (2.0,) * 3, 3, tmp_path / "prepared", {"kind": "zscore"})) == 2


def test_cancelled_and_failed_exports_leave_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(caseexport, "BLOCK_BYTES", 1 << 10)
    table = ballTable()
    export = caseexport.Export(table, tmp_path / "out", lambda: export.fraction > 0.3 and export.cancel())
    export.start()
    host.processEvents(until=lambda: export.finished, seconds=30)
    assert export.cancelled and export.error is None and not (tmp_path / "out").exists()
    assert 0.3 < export.fraction < 0.6
    export = caseexport.Export(table, tmp_path / "again")
    export.start()
    slicer.mrmlScene.RemoveNode(table.rows[-1].volume)
    host.processEvents(until=lambda: export.finished, seconds=30)
    assert "left the scene" in export.error and not (tmp_path / "again").exists()
    with pytest.raises(SimCVDError, match="no longer in the scene"):
        caseexport.Export(table, tmp_path / "third").start()
    table.remove([table.rows[-1]])
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("")
    export = caseexport.Export(table, tmp_path / "full")
    with pytest.raises(SimCVDError, match="not empty"):
        export.start()
    export.cancel()
    assert (tmp_path / "full" / "mine").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(SimCVDError, match="can't be written"):
        caseexport.Export(table, tmp_path / "file").start()


@pytest.mark.parametrize("exists", [True, False])
def test_a_cancelled_export_leaves_what_others_put_into_its_folder(tmp_path, monkeypatch, exists):
    monkeypatch.setattr(caseexport, "BLOCK_BYTES", 1 << 10)
    folder = tmp_path if exists else tmp_path / "new"
    export = caseexport.Export(ballTable(), folder, lambda: export.fraction > 0.3 and export.cancel())
    export.start()
    (folder / "mine").write_text("")
    host.processEvents(until=lambda: export.finished, seconds=30)
    assert export.cancelled and [path.name for path in folder.iterdir()] == ["mine"]


def test_whatever_stops_an_export_is_its_error(tmp_path, monkeypatch):
    def fails(*_args):
        raise ValueError("odd")

    monkeypatch.setattr(cases, "readLabel", fails)
    export = caseexport.Export(ballTable(), tmp_path / "out")
    export.start()
    host.processEvents(until=lambda: export.finished, seconds=30)
    assert "can't be written (odd)" in export.error and not (tmp_path / "out").exists()


def test_a_ranking_ends_where_its_cases_can_not_be_read(tmp_path, monkeypatch):
    def fails(_path):
        raise SimCVDError("No cases here.")

    monkeypatch.setattr(caserank, "read_cases", fails)
    ranking = caserank.Ranking(ballTable(), tmp_path / "model", lambda: None)
    ranking.start()
    host.processEvents(until=lambda: ranking.finished, seconds=30)
    assert ranking.sentence == "No cases here."


def test_an_outline_that_is_only_a_surface_is_written(tmp_path):
    volume, labels = scan(0)
    table = CaseTable()
    asSurface(outline(volume, labels))
    (row,) = table.addVolumes()
    (note,) = table.check(row)
    assert "another grid" in note
    (case,) = read_cases(exported(table, tmp_path / "out").caseList)
    found = read_labels(case.label).array > 0
    assert 2 * (found & (labels > 0)).sum() / (found.sum() + (labels > 0).sum()) > 0.9


def test_a_large_export_never_holds_the_application_for_long(tmp_path):
    rng = np.random.default_rng(0)
    array = rng.integers(0, 500, (88, 400, 400), np.int16)
    volume = slicer.util.addVolumeFromArray(array, name="Large")
    labels = np.zeros(array.shape, np.uint8)
    labels[30:60, 100:250, 100:250] = 1
    table = CaseTable()
    row = table.addLabelledCase(volume, outline(volume, labels))
    turns = []
    export = caseexport.Export(table, tmp_path / "out")
    export.start()
    while not export.finished:
        start = time.thread_time()  # of this thread's work: the machine may be busy with other things
        slicer.app.processEvents()
        turns.append(time.thread_time() - start)
    assert export.error is None and len(turns) > 4 and max(turns) < 0.1
    start = time.thread_time()
    table.thumbnail(row)
    assert time.thread_time() - start < 0.2


def test_a_case_whose_label_can_not_be_read_leaves_no_scan_in_the_scene(tmp_path):
    image = written(tmp_path / "case", "image.nrrd", np.arange(24, dtype=np.int16).reshape(2, 3, 4))
    image.with_name("label.nrrd").write_text("no image")
    table = CaseTable()
    (row,) = table.addFolder(tmp_path)
    with pytest.raises(SimCVDError, match=r"label\.nrrd"):
        loadCase(table, row)
    assert row.isOnDisk and slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode") == []


# --- for others


def test_shapes_and_disk_need():
    table = ballTable()
    table.setRole([table.rows[0]], OUT)
    shapes = table.shapes()
    assert len(shapes) == 4 and shapes[0]["size"] == [32, 32, 16] and json.dumps(shapes)
    assert table.diskNeed([1, 1, 1], 2) > table.diskNeed([2, 2, 2], 2) > 0


def test_a_thumbnail_shows_the_outline():
    from matplotlib import image

    (row, *_others) = ballTable().rows
    pixels = (image.imread(io.BytesIO(CaseTable().thumbnail(row, 96)))[..., :3] * 255).round().astype(int)
    assert pixels.shape[:2] == (96, 96) and (pixels == (230, 159, 0)).all(-1).sum() > 20
    slicer.mrmlScene.RemoveNode(row.volume)
    assert CaseTable().thumbnail(row) is None


def test_a_case_without_voxels_is_said_and_keeps_no_other_waiting():
    table = ballTable(labelled=2, unlabelled=1, validation=0)
    tree = qt.QTreeWidget()
    tree.setColumnCount(3)
    bare, *others = table.rows
    bare.volume.SetAndObserveImageData(None)
    assert "Scan0 has no voxels" in table.blocking() and "Scan0 has no voxels" in table.check(bare)[0]
    assert table.thumbnail(bare) is None and not any("same image" in sentence for sentence in table.problems())
    drawn = []

    def draw(row):
        if row is bare:
            raise ValueError("odd")
        drawn.append(row)

    shown = CaseList(tree, lambda: None, lambda rows, role: None, draw)
    shown.show(table.rows)
    host.processEvents(until=lambda: not shown.isLooking, seconds=10)
    host.complaints.clear()
    assert drawn == others
    shown.close()


def test_cases_on_disk_are_looked_at_beside_the_application(tmp_path):
    from matplotlib import image

    rng = np.random.default_rng(0)
    array = rng.integers(0, 500, (88, 400, 400), np.int16)
    labels = np.zeros(array.shape, np.uint8)
    labels[30:60, 100:250, 100:250] = 1
    written(tmp_path / "large", "image.nrrd", array)
    written(tmp_path / "large", "label.nrrd", labels)
    written(tmp_path / "plain", "image.nrrd", array[:20, :40, :40])
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "image.nrrd").write_text("no image")
    table, seen, turns = CaseTable(), {}, []
    rows = table.addFolder(tmp_path)
    looks = FileLooks(lambda files, found: seen.update({files: found}))
    for row in [*rows, *rows]:
        looks.ask(row)
    end = time.monotonic() + 60
    while len(seen) < 3:
        assert time.monotonic() < end
        begin = time.thread_time()
        slicer.app.processEvents()
        turns.append(time.thread_time() - begin)
        time.sleep(0.002)
    looks.close()
    assert max(turns) < 0.1
    for row in rows:
        row.seen = seen[filesOf(row)]
    large, plain, text = rows
    assert table.check(large) == [] and large.size == (400, 400, 88) and table.check(plain) == []
    assert "cannot be read as an image" in table.check(text)[0] and table.thumbnail(text) is None
    outlined = [image.imread(io.BytesIO(table.thumbnail(row)))[..., :3] for row in (large, plain)]
    orange = [((pixels * 255).round() == (230, 159, 0)).all(-1).sum() for pixels in outlined]
    assert orange[0] > 50 and orange[1] == 0


def test_a_case_that_ends_the_process_does_not_keep_the_others(tmp_path, monkeypatch):
    package = tmp_path / "fake" / "SimCVDLib"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "filelook.py").write_text(
        "import json, os, sys\nfor line in sys.stdin:\n"
        "    if 'bad' in line: os._exit(3)\n"
        "    print('a library says hello')\n"
        "    print(json.dumps({'size': [1, 2, 3]}), flush=True)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(package.parent))
    seen = []
    looks = FileLooks(lambda files, found: seen.append((files[0], found)))
    for name in ("one", "bad", "two"):
        looks.ask(cases.CaseRow("case-001", name, image=name))
    host.processEvents(until=lambda: len(seen) == 3, seconds=30)
    looks.close()
    assert [name for name, _found in seen] == ["one", "bad", "two"]
    assert seen[0][1] == seen[2][1] == {"size": [1, 2, 3]} and "could not be looked at" in seen[1][1]["error"]


def test_the_list_is_saved_with_the_scene(tmp_path):
    table = ballTable()
    table.setRole([table.rows[3]], OUT)
    volume, _labels = scan(0)
    written(tmp_path / "in" / "p", "image.nrrd", slicer.util.arrayFromVolume(volume))
    slicer.mrmlScene.RemoveNode(volume)
    table.addFolder(tmp_path / "in")
    table.save()
    before = [(r.id, r.name, r.role, r.labelText, r.image) for r in table.rows]
    for node in slicer.util.getNodesByClass("vtkMRMLStorableNode"):
        node.AddDefaultStorageNode()
    again = CaseTable.load()
    assert [(r.id, r.name, r.role, r.labelText, r.image) for r in again.rows] == before
    assert slicer.util.saveScene(str(tmp_path / "scene.mrb"), properties={})
    slicer.mrmlScene.Clear(0)
    assert CaseTable.load().rows == []
    scan(7)  # IDs are taken when the scene comes back
    slicer.util.loadScene(str(tmp_path / "scene.mrb"), properties={})
    loaded = CaseTable.load()
    assert [(r.id, r.name, r.role, r.labelText, r.image) for r in loaded.rows] == before
    assert loaded.rows[0].volume.GetName() == "Scan0" and loaded.blocking() is None


def test_the_list_is_in_the_scenes_own_file(tmp_path):
    """As a file of its own it would be that of every scene saved into the same folder."""
    table = ballTable()
    table.save()
    (node,) = [n for n in slicer.util.getNodesByClass("vtkMRMLTextNode") if n.GetAttribute(cases.LIST)]
    assert not node.GetText()  # a long one wants a file
    node.AddDefaultStorageNode()
    assert node.GetStorageNode() is None
    before = [(row.id, row.name, row.role) for row in table.rows]
    slicer.mrmlScene.SetRootDirectory(str(tmp_path))
    slicer.mrmlScene.Commit(str(tmp_path / "scene.mrml"))
    assert all(row.id in (tmp_path / "scene.mrml").read_text() for row in table.rows)
    # as scenes of earlier versions have it
    node.SetText(node.GetAttribute(cases.ROWS))
    node.RemoveAttribute(cases.ROWS)
    assert [(row.id, row.name, row.role) for row in CaseTable.load().rows] == before


def test_a_damaged_list_is_empty():
    ballTable().save()
    (node,) = [n for n in slicer.util.getNodesByClass("vtkMRMLTextNode") if n.GetAttribute(cases.LIST)]
    node.SetAttribute(cases.ROWS, "{")
    assert CaseTable.load().rows == []
