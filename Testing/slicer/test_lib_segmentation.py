"""A volume node in, a segmentation node and its maps out, whatever the scene does meanwhile; report, export, sample."""

import json
from pathlib import Path

import numpy as np
import pytest
import qt
import slicer
import slicer.util
import vtk
from lib_scenes import (
    OTHER,
    SEGMENT,
    SHAPE,
    ball,
    brightBall,
    drawn,
    segmented,
    shear,
    smallModel,
    waitFor,
    warp,
    withSurface,
    world,
)

from simcvd.errors import SimCVDError
from simcvd.images import read_labels, read_volume
from SimCVDLib import exports, jobs, maps, models, nodes, report, samples, segmentation


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    yield smallModel(tmp_path_factory.mktemp("models") / "bright")
    jobs.closeWorker()


@pytest.fixture(autouse=True)
def emptyScene():
    slicer.mrmlScene.Clear(0)


def overlap(a, b):
    return 2 * (a & b).sum() / (a.sum() + b.sum())


def scratchFolders():
    return set(Path(slicer.app.temporaryPath).glob("SimCVD-*"))


@pytest.mark.parametrize("under", ["nothing", "linear", "non-linear"])
def test_the_result_lies_on_the_structure_under_any_transform(model, under):
    volume = brightBall()
    if under != "nothing":
        transform = shear() if under == "linear" else warp(volume)
        volume.SetAndObserveTransformNodeID(transform.GetID())
    before = slicer.util.arrayFromVolume(volume).copy()
    done = segmented(volume, model)
    node, (identifier,) = done["segmentation"], done["segmentIds"]
    assert overlap(nodes.readSegment(node, identifier, volume), ball()) > 0.9
    assert node.GetTransformNodeID() == volume.GetTransformNodeID()
    assert np.array_equal(slicer.util.arrayFromVolume(volume), before)
    center = node.GetSegmentCenterRAS(identifier)
    assert np.linalg.norm(np.subtract(center, world(volume, (24, 20, 12)))) < 4
    assert node.GetSegmentation().GetSegment(identifier).GetName() == "Left atrium"


def test_the_maps_belong_to_the_result(model):
    volume = brightBall()
    done = segmented(volume, model, uncertainty=True)
    found, (identifier,) = done["maps"], done["segmentIds"]
    mask = nodes.readSegment(done["segmentation"], identifier, volume)
    distance = found.array("distance", identifier)
    assert distance.dtype == np.float32
    assert np.array_equal(distance <= 0, mask)
    assert np.array_equal(found.array("probability", identifier) > 0.5, mask)
    assert found.array("modelDistance", identifier).shape == SHAPE
    uncertainty = found.array("uncertainty", identifier)
    assert uncertainty.shape == SHAPE and 0 <= uncertainty.min() <= uncertainty.max() <= 1
    plain = segmented(volume, model)
    assert not plain["maps"].has("uncertainty", plain["segmentIds"][0])
    assert plain["maps"].array("uncertainty", plain["segmentIds"][0]) is None


def test_a_new_node_by_default_and_the_chosen_one_when_chosen(model):
    volume = brightBall()
    first = segmented(volume, model)
    second = segmented(volume, model)
    assert second["segmentation"] is not first["segmentation"]
    node = first["segmentation"]
    users = node.GetSegmentation().AddEmptySegment("Segment_9", "Mine")
    nodes.writeSegment(node, users, ball(radius=5), volume)
    first["maps"].node("distance", first["segmentIds"][0])
    again = segmented(volume, model, segmentationNode=node)
    assert again["segmentation"] is node
    assert again["segmentIds"] == first["segmentIds"]
    assert list(node.GetSegmentation().GetSegmentIDs()) == [*first["segmentIds"], users]
    assert np.array_equal(nodes.readSegment(node, users, volume), ball(radius=5))
    assert slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode") == [volume]  # the map of the old result is gone


def test_nothing_is_segmented_outside_a_region(model):
    volume = brightBall()
    volume.SetAndObserveTransformNodeID(shear().GetID())
    roi = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsROINode", "Region")
    nodes.fitRoi(roi, volume)
    whole = segmented(volume, model, roiNode=roi)
    part = nodes.readSegment(whole["segmentation"], whole["segmentIds"][0], volume)
    assert overlap(part, ball()) > 0.9
    size = np.array(roi.GetSize())
    roi.SetSize(*(size * (1, 1, 0.25)))
    done = segmented(volume, model, roiNode=roi)
    mask = nodes.readSegment(done["segmentation"], done["segmentIds"][0], volume)
    assert 0 < mask.sum() < 0.8 * part.sum()


def test_a_volume_that_is_deleted_meanwhile_costs_only_its_result(model):
    before = scratchFolders()
    volume, events = brightBall(), []
    segmentation.startSegmentation(volume, model, events.append)
    slicer.mrmlScene.RemoveNode(volume)
    error = waitFor(events)
    assert error["event"] == "error" and "Scan was removed" in error["message"]
    assert not slicer.util.getNodesByClass("vtkMRMLSegmentationNode")
    assert scratchFolders() == before


def test_a_scene_that_is_closed_and_another_with_the_same_ids_get_no_wrong_result(model):
    volume, events = brightBall(), []
    identifier = volume.GetID()
    segmentation.startSegmentation(volume, model, events.append)
    slicer.mrmlScene.Clear(0)
    assert brightBall().GetID() == identifier
    assert waitFor(events)["event"] == "error"
    assert not slicer.util.getNodesByClass("vtkMRMLSegmentationNode")


def test_a_result_that_is_deleted_meanwhile_is_made_anew(model):
    volume, events = brightBall(), []
    node = nodes.newSegmentation(volume, [SEGMENT], "Old")
    segmentation.startSegmentation(volume, model, events.append, segmentationNode=node)
    slicer.mrmlScene.RemoveNode(node)
    done = waitFor(events)
    assert done["event"] == "done"
    assert slicer.util.getNodesByClass("vtkMRMLSegmentationNode") == [done["segmentation"]]


def test_a_volume_that_got_another_size_meanwhile_is_said(model):
    volume, events = brightBall(), []
    segmentation.startSegmentation(volume, model, events.append)
    slicer.util.updateVolumeFromArray(volume, np.zeros((5, 6, 7), np.int16))
    assert "another size" in waitFor(events)["message"]


def test_cancelling_leaves_nothing(model):
    before = scratchFolders()
    volume, events = brightBall(), []
    segmentation.startSegmentation(volume, model, events.append).cancel()
    assert waitFor(events)["event"] == "cancelled"
    assert not slicer.util.getNodesByClass("vtkMRMLSegmentationNode")
    assert scratchFolders() == before


def test_what_can_not_begin_leaves_nothing(model, tmp_path):
    before = scratchFolders()
    with pytest.raises(SimCVDError, match="No volume"):
        segmentation.startSegmentation(None, model, print)
    with pytest.raises(SimCVDError, match="no model folder"):
        segmentation.startSegmentation(brightBall(), tmp_path, print)
    assert scratchFolders() == before


def test_scratch_files_go_with_the_maps(model):
    before = scratchFolders()
    done = segmented(brightBall(), model)
    assert len(scratchFolders()) == len(before) + 1
    del done
    assert scratchFolders() == before


def test_maps_come_back_with_a_saved_scene(model, tmp_path):
    volume = brightBall()
    done = segmented(volume, model)
    (identifier,) = done["segmentIds"]
    distance = done["maps"].array("distance", identifier)
    done["maps"].node("distance", identifier)
    name = done["segmentation"].GetName()
    assert slicer.util.saveScene(str(tmp_path / "scene.mrb"), properties={})
    slicer.mrmlScene.Clear(0)
    slicer.util.loadScene(str(tmp_path / "scene.mrb"), properties={"clear": True})
    found = maps.Maps(slicer.util.getNode(name), slicer.util.getNode("Scan"))
    assert np.array_equal(found.array("distance", identifier), distance)
    assert not found.has("probability", identifier)


def test_models_are_listed_with_what_they_do_and_what_is_wrong(model, monkeypatch, tmp_path):
    monkeypatch.setenv("SIMCVD_MODELS", str(tmp_path))
    smallModel(tmp_path / "mine")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "card.json").write_text("{")
    qt.QSettings().remove("SimCVD/seconds/mine")
    found = {choice.name: choice for choice in models.choices()}
    assert found["mine"].about == "Left atrium in LGE-MR images, computed at 2 mm"
    assert found["mine"].problem is None
    assert "can't be read" in found["broken"].problem
    models.rememberSeconds("mine", 3.4)
    about = {choice.name: choice.about for choice in models.choices()}["mine"]
    assert about.endswith("about 3 s on this computer")


# --- report


def test_a_comparison_gives_the_cores_figures_in_a_table_and_files(model, tmp_path):
    volume = brightBall()
    volume.SetAndObserveTransformNodeID(shear().GetID())
    reference, one, _maps = drawn(volume, ball())
    result, two, _maps = drawn(volume, ball(radius=12.0))
    events = []
    report.compare(reference, one, result, two, volume, events.append)
    done = waitFor(events)
    assert done["event"] == "done", done
    found = done["report"]
    assert found.rows[0]["dice"] == pytest.approx(100 * overlap(ball(), ball(radius=12.0)))
    assert found.rows[0]["label"] == "Left atrium"
    table = found.table
    figures = {table.GetCellText(n, 0): table.GetCellText(n, 1) for n in range(table.GetNumberOfRows())}
    assert figures["Dice [%]"] == f"{found.rows[0]['dice']:.2f}"
    assert "Dice" in found.sentence
    for name in ("a.csv", "a.html", "a.json"):
        assert found.save(str(tmp_path / name)).stat().st_size > 100
    assert json.loads((tmp_path / "a.json").read_text())["rows"][0]["dice"] == found.rows[0]["dice"]
    with pytest.raises(SimCVDError, match="does not end in"):
        found.save(tmp_path / "a.txt")
    with pytest.raises(SimCVDError, match="can't be written"):
        found.save(tmp_path / "missing" / "a.csv")


def test_an_empty_segment_gives_no_figures_and_the_reason(model):
    volume = brightBall()
    reference, one, _maps = drawn(volume, ball())
    result = nodes.newSegmentation(volume, [SEGMENT], "Empty")
    events = []
    report.compare(reference, one, result, result.GetSegmentation().GetNthSegmentID(0), volume, events.append)
    found = waitFor(events)["report"]
    assert "no figures, because the prediction is empty" in found.sentence
    assert found.table.GetCellText(0, 1) == "-"


def test_what_can_not_be_compared_is_said(model):
    volume = brightBall()
    reference, one, _maps = drawn(volume, ball())
    with pytest.raises(SimCVDError, match="same segment"):
        report.compare(reference, one, reference, one, volume, print)
    with pytest.raises(SimCVDError, match="Choose the reference"):
        report.compare(None, "", reference, one, volume, print)


# --- export and sample


def test_a_segmentation_is_exported_and_read_back_the_same(tmp_path):
    volume = brightBall()
    volume.SetAndObserveTransformNodeID(shear().GetID())
    node, _identifier, _maps = drawn(volume, ball())
    nodes.exportVolume(volume, tmp_path / "scan.nrrd")
    geometry = read_volume(tmp_path / "scan.nrrd").geometry
    for kind in exports.KINDS[:2]:
        path = exports.exportSegmentation(node, tmp_path, kind)
        assert path == tmp_path / f"Drawn.{kind}"
        labels = read_labels(path)
        if labels.array.shape == SHAPE:
            assert np.array_equal(labels.array == 1, ball())
            assert np.allclose(labels.geometry.origin, geometry.origin, atol=1e-4)
        assert labels.array.sum() == ball().sum()
        assert exports.exportSegmentation(node, tmp_path, kind) == tmp_path / f"Drawn-2.{kind}"
    assert exports.exportSegmentation(node, tmp_path / "b.nii.gz", "nii.gz") == tmp_path / "b.nii.gz"


def test_what_is_made_of_surfaces_is_neither_replaced_nor_written_as_voxels(model, tmp_path):
    volume = brightBall()
    node, identifier, _maps = drawn(volume, ball())
    before = withSurface(node).GetClosedSurfaceInternalRepresentation(identifier).GetNumberOfPoints()
    with pytest.raises(SimCVDError, match="Drawn is made of surfaces, not of voxels"):
        segmentation.startSegmentation(volume, model, print, segmentationNode=node)
    with pytest.raises(SimCVDError, match=r"made of surfaces: export it as \.stl"):
        exports.exportSegmentation(node, tmp_path, "seg.nrrd")
    assert node.GetClosedSurfaceInternalRepresentation(identifier).GetNumberOfPoints() == before
    assert exports.exportSegmentation(node, tmp_path, "stl").stat().st_size > 1000
    assert [path.name for path in tmp_path.iterdir()] == ["Drawn.stl"]


def test_an_export_that_fails_leaves_no_file_and_says_so(tmp_path, monkeypatch):
    node, _identifier, _maps = drawn(brightBall(), ball())

    def fails(_node, path, **_more):  # as the application's own, which logs why and returns
        Path(path).write_bytes(b"half of it")
        return False

    monkeypatch.setattr(slicer.util, "exportNode", fails)
    with pytest.raises(SimCVDError, match="can't be written"):
        exports.exportSegmentation(node, tmp_path, "seg.nrrd")
    assert list(tmp_path.iterdir()) == []


def test_a_surface_lies_where_the_segment_does_in_the_file(tmp_path):
    volume = brightBall()
    node, identifier, _maps = drawn(volume, ball())
    path = exports.exportSegmentation(node, tmp_path, "stl")
    surface = slicer.util.loadModel(str(path))
    center = slicer.util.arrayFromModelPoints(surface).mean(0)
    assert np.linalg.norm(center - node.GetSegmentCenter(identifier)) < 2
    assert not node.GetSegmentation().ContainsRepresentation("Closed surface")


def test_surfaces_leave_out_empty_segments(tmp_path):
    volume = brightBall()
    node, _identifier, _maps = drawn(volume, ball(), (SEGMENT, OTHER))
    path = exports.exportSegmentation(node, tmp_path, "stl")
    assert slicer.util.loadModel(str(path)).GetPolyData().GetNumberOfPoints() > 100
    assert len(node.GetSegmentation().GetSegmentIDs()) == 2


def test_a_distance_map_is_exported_of_what_is_there_now(tmp_path):
    volume = brightBall()
    node, identifier, _maps = drawn(volume, ball())
    nodes.writeSegment(node, identifier, ball(radius=10.0), volume)
    path = exports.exportDistance(node, identifier, volume, tmp_path)
    read = read_volume(path)
    assert read.array.dtype == np.float32
    assert np.array_equal(read.array <= 0, ball(radius=10.0))


def test_what_can_not_be_exported_is_said_and_leaves_nothing(tmp_path):
    volume = brightBall()
    node, identifier, _maps = drawn(volume, ball())
    with pytest.raises(SimCVDError, match="no segmentation"):
        exports.exportSegmentation(None, tmp_path, "stl")
    with pytest.raises(SimCVDError, match="does not end in"):
        exports.exportSegmentation(node, tmp_path / "a.txt", "stl")
    blocked = tmp_path / "file"
    blocked.write_text("")
    for kind in exports.KINDS:
        with pytest.raises(SimCVDError, match=r"(can't|cannot) be written"):
            exports.exportSegmentation(node, blocked / f"a.{kind}", kind)
    nodes.writeSegment(node, identifier, np.zeros(SHAPE, bool), volume)
    complaints = vtk.vtkStringOutputWindow()
    before = vtk.vtkOutputWindow.GetInstance()
    vtk.vtkOutputWindow.SetInstance(complaints)
    try:
        with pytest.raises(SimCVDError, match="empty"):
            exports.exportSegmentation(node, tmp_path, "stl")
    finally:
        vtk.vtkOutputWindow.SetInstance(before)
    assert not complaints.GetOutput()
    with pytest.raises(SimCVDError, match="empty"):
        exports.exportDistance(node, identifier, volume, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_the_sample_is_registered_once_and_drawn_here():
    samples.registerSampleData()
    samples.registerSampleData()
    registered = slicer.modules.sampleDataSources[samples.CATEGORY]
    assert [source.sampleName for source in registered] == ["SimCVDAtrium"]
    volume, reference = registered[0].customDownloader(registered[0])
    assert volume.GetName() == samples.NAME and samples.loadSample is registered[0].customDownloader
    assert volume.GetSpacing() == pytest.approx(samples.SPACING)
    assert nodes.readSegment(reference, reference.GetSegmentation().GetNthSegmentID(0), volume).sum() > 10000
    assert reference.GetNodeReference(reference.GetReferenceImageGeometryReferenceRole()) is volume


def test_maps_of_several_segments_are_told_apart(tmp_path):
    volume = brightBall()
    node = nodes.newSegmentation(volume, [SEGMENT, OTHER], "Two")
    one, two = node.GetSegmentation().GetSegmentIDs()
    stored = np.random.default_rng(0).normal(size=(2, *SHAPE)).astype(np.float32)
    np.save(tmp_path / "sdm.npy", stored)
    np.save(tmp_path / "uncertainty.npy", stored[0])
    files = {"sdm": str(tmp_path / "sdm.npy"), "uncertainty": str(tmp_path / "uncertainty.npy")}
    found = maps.Maps(node, volume, files, [one, two])
    second = found.node("distance", two)
    assert np.array_equal(slicer.util.arrayFromVolume(second), stored[1])
    assert np.array_equal(found.array("distance", one), stored[0])
    assert found.node("distance", one) is not second
    assert found.node("uncertainty", one) is found.node("uncertainty", two)
    assert not found.has("distance", "no such segment")
    maps.removeNodes(node)
    assert slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode") == [volume]


def test_maps_that_are_no_longer_on_disk_are_said(tmp_path):
    volume = brightBall()
    node = nodes.newSegmentation(volume, [SEGMENT], "One")
    (identifier,) = node.GetSegmentation().GetSegmentIDs()
    found = maps.Maps(node, volume, {"sdm": str(tmp_path / "gone.npy")}, [identifier])
    with pytest.raises(SimCVDError, match="no longer on disk"):
        found.array("distance", identifier)
