"""Nodes and arrays: nothing is lost, and all lies where it should, whatever the volume's frame and transforms."""

import numpy as np
import pytest
import slicer
import slicer.util
import vtk
from lib_scenes import OTHER, SEGMENT, SHAPE, asSurface, ball, brightBall, drawn, obliqueMatrix, shear, warp, world

from simcvd.errors import SimCVDError
from simcvd.images import read_volume
from simcvd.labels import roi_box
from SimCVDLib import nodes


@pytest.fixture(params=["plain", "linear", "non-linear"])
def volume(request):
    slicer.mrmlScene.Clear(0)
    node = brightBall()
    if request.param != "plain":
        transform = shear() if request.param == "linear" else warp(node)
        node.SetAndObserveTransformNodeID(transform.GetID())
    return node


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64])
def test_a_volume_is_exported_as_it_is_and_the_scene_is_left_alone(tmp_path, dtype):
    node = brightBall(dtype)
    node.SetAndObserveTransformNodeID(shear().GetID())
    there = slicer.mrmlScene.GetNumberOfNodes()
    nodes.exportVolume(node, tmp_path / "a.nrrd")
    assert slicer.mrmlScene.GetNumberOfNodes() == there
    read = read_volume(tmp_path / "a.nrrd")
    assert read.array.dtype == dtype
    assert np.array_equal(read.array, slicer.util.arrayFromVolume(node))
    assert read.geometry.spacing == pytest.approx(node.GetSpacing())
    again = slicer.util.loadVolume(str(tmp_path / "a.nrrd"), properties={"show": False})
    assert np.abs(nodes.ijkToRas(again) - obliqueMatrix()).max() < 1e-9


def test_what_can_not_be_segmented_is_said(tmp_path):
    with pytest.raises(SimCVDError, match="No volume is chosen"):
        nodes.exportVolume(None, tmp_path / "a.nrrd")
    empty = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "Empty")
    with pytest.raises(SimCVDError, match="Empty has no voxels"):
        nodes.exportVolume(empty, tmp_path / "a.nrrd")
    colours = slicer.util.addVolumeFromArray(
        np.zeros((3, 4, 5, 3), np.uint8), name="Photo", nodeClassName="vtkMRMLVectorVolumeNode"
    )
    with pytest.raises(SimCVDError, match="Photo has several values"):
        nodes.exportVolume(colours, tmp_path / "a.nrrd")
    with pytest.raises(SimCVDError, match="can't be written"):
        nodes.exportVolume(brightBall(), tmp_path / "missing" / "a.nrrd")


def test_a_map_lies_on_the_grid_of_its_volume(volume):
    array = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
    node = nodes.volumeLike(volume, array, "Map")
    assert np.array_equal(slicer.util.arrayFromVolume(node), array)
    assert np.array_equal(nodes.ijkToRas(node), nodes.ijkToRas(volume))
    assert node.GetTransformNodeID() == volume.GetTransformNodeID()
    with pytest.raises(ValueError, match="shape"):
        nodes.volumeLike(volume, array[1:], "Map")


def test_results_stand_beside_the_volume_in_the_subject_hierarchy():
    volume = brightBall()
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    study = hierarchy.CreateStudyItem(hierarchy.GetSceneItemID(), "Study")
    hierarchy.SetItemParent(hierarchy.GetItemByDataNode(volume), study)
    results = nodes.volumeLike(volume, np.zeros(SHAPE, np.uint8), "Map"), nodes.newSegmentation(volume, [], "Result")
    for node in results:
        assert hierarchy.GetItemParent(hierarchy.GetItemByDataNode(node)) == study


def test_a_segment_is_written_and_read_back_and_neighbours_stay(volume):
    node = nodes.newSegmentation(volume, [SEGMENT, OTHER], "Result")
    one, two = node.GetSegmentation().GetSegmentIDs()
    first, second = ball(), ball(center=(12, 20, 34))
    nodes.writeSegment(node, one, first, volume)
    nodes.writeSegment(node, two, second, volume)
    assert np.array_equal(nodes.readSegment(node, one, volume), first)
    assert np.array_equal(nodes.readSegment(node, two, volume), second)
    box = slice(8, 16), slice(10, 30), slice(20, 40)
    changed = ball(center=(12, 18, 28))
    nodes.writeSegment(node, one, changed, volume, box)
    expected = first.copy()
    expected[box] = changed[box]
    assert np.array_equal(nodes.readSegment(node, one, volume), expected)
    assert np.array_equal(nodes.readSegment(node, two, volume), second)
    nodes.writeSegment(node, one, np.zeros(SHAPE, bool), volume)
    assert not nodes.readSegment(node, one, volume).any()
    nodes.writeSegment(node, one, changed, volume, box)
    assert np.array_equal(nodes.readSegment(node, one, volume)[box], changed[box])
    assert np.array_equal(nodes.readSegment(node, two, volume), second)


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("overlapping", [False, True])
def test_a_part_of_a_segment_that_shares_a_layer_is_written_as_its_own(volume, which, overlapping):
    node = nodes.newSegmentation(volume, [SEGMENT, OTHER], "Result")
    masks = [ball(center=(12, 14, 24), radius=5.0), ball(center=(12, 26, 24), radius=5.0)]
    segmentIds = node.GetSegmentation().GetSegmentIDs()
    for identifier, mask in zip(segmentIds, masks, strict=True):
        nodes.writeSegment(node, identifier, mask, volume)
    assert node.GetSegmentation().GetNumberOfLayers() == 1
    mine, its = segmentIds[which], segmentIds[1 - which]
    changed = masks[which].copy()
    changed[12, 20, 20:28] = True  # between the two
    if overlapping:
        changed |= masks[1 - which] & ball(center=(12, 20, 24), radius=4.0)
    changed[13] = False
    box = slice(11, 14), slice(10, 30), slice(19, 29)
    nodes.writeSegment(node, mine, changed, volume, box)
    expected = masks[which].copy()
    expected[box] = changed[box]
    assert np.array_equal(nodes.readSegment(node, mine, volume), expected)
    assert np.array_equal(nodes.readSegment(node, its, volume), masks[1 - which])
    nodes.writeSegment(node, mine, masks[which], volume, box)
    assert np.array_equal(nodes.readSegment(node, mine, volume), masks[which])
    assert np.array_equal(nodes.readSegment(node, its, volume), masks[1 - which])


def test_slicer_reads_a_segment_as_we_do_and_it_lies_where_the_volume_does(volume):
    node = nodes.newSegmentation(volume, [SEGMENT], "Result")
    identifier = node.GetSegmentation().GetNthSegmentID(0)
    nodes.writeSegment(node, identifier, ball(), volume)
    slicers = slicer.util.arrayFromSegmentBinaryLabelmap(node, identifier, volume)
    assert np.array_equal(slicers > 0, ball())
    assert node.GetTransformNodeID() == volume.GetTransformNodeID()
    assert np.linalg.norm(np.subtract(node.GetSegmentCenterRAS(identifier), world(volume, (24, 20, 12)))) < 2.5


def test_a_segment_on_another_grid_and_under_another_transform_is_brought_over():
    volume = brightBall()
    volume.SetAndObserveTransformNodeID(shear().GetID())
    node = nodes.newSegmentation(volume, [SEGMENT], "Result")
    identifier = node.GetSegmentation().GetNthSegmentID(0)
    nodes.writeSegment(node, identifier, ball(), volume)
    node.HardenTransform()
    assert node.GetTransformNodeID() is None
    read = nodes.readSegment(node, identifier, volume)
    assert (read ^ ball()).sum() < 0.02 * ball().sum()
    half = slicer.util.addVolumeFromArray(
        np.zeros((12, 20, 24), np.uint8), ijkToRAS=obliqueMatrix() @ np.diag([2, 2, 2, 1.0]), name="Half"
    )
    half.SetAndObserveTransformNodeID(volume.GetTransformNodeID())
    assert nodes.readSegment(node, identifier, half).sum() == pytest.approx(ball().sum() / 8, rel=0.1)


def test_a_box_is_written_into_a_segment_of_another_grid():
    volume = brightBall()
    node = nodes.newSegmentation(volume, [SEGMENT], "Result")
    identifier = node.GetSegmentation().GetNthSegmentID(0)
    shifted = obliqueMatrix()
    shifted[:3, 3] += 0.3
    other = slicer.util.addVolumeFromArray(np.zeros(SHAPE, np.uint8), ijkToRAS=shifted, name="Shifted")
    nodes.writeSegment(node, identifier, ball(), other)
    box = slice(10, 14), slice(18, 22), slice(22, 26)
    nodes.writeSegment(node, identifier, np.zeros(SHAPE, bool), volume, box)
    read = nodes.readSegment(node, identifier, volume)
    assert not read[box].any()
    assert read.sum() > 0.9 * (ball().sum() - 64)


def test_name_colour_terminology_and_reference_geometry_come_from_card_and_volume(volume):
    node = nodes.newSegmentation(volume, [SEGMENT], "Result")
    segment = node.GetSegmentation().GetSegment(node.GetSegmentation().GetNthSegmentID(0))
    assert segment.GetName() == "Left atrium"
    assert segment.GetColor() == pytest.approx((0.87, 0.36, 0.33))
    entry = nodes.terminologyEntry(SEGMENT)
    assert entry.split("~")[1:3] == ["SCT^123037004^Anatomical Structure", "SCT^82471001^Left atrium"]
    assert len(entry.split("~")) == 7
    tag = vtk.reference("")
    assert segment.GetTag(segment.GetTerminologyEntryTagName(), tag)
    assert str(tag) == entry
    assert nodes.terminologyEntry(OTHER) == ""
    role = slicer.vtkMRMLSegmentationNode.GetReferenceImageGeometryReferenceRole()
    assert node.GetNodeReference(role) is volume
    numbers = node.GetSegmentation().GetConversionParameter("Reference image geometry").split(";")
    assert np.allclose(np.reshape([float(x) for x in numbers[:16]], (4, 4)), nodes.ijkToRas(volume))


def test_a_structure_is_found_again_and_a_segment_of_the_users_never_taken():
    volume = brightBall()
    node = nodes.newSegmentation(volume, [], "Result")
    users = node.GetSegmentation().AddEmptySegment("Segment_1", "Mine")
    ours = nodes.addSegment(node, SEGMENT)
    assert ours != users
    assert nodes.addSegment(node, SEGMENT) == ours


def test_a_segment_that_is_only_a_surface_is_read_as_what_lies_within(volume):
    node, identifier, _found = drawn(volume, ball())
    asSurface(node)
    assert nodes.hasVoxels(node, [identifier])
    read = nodes.readSegment(node, identifier, volume)
    assert read.shape == SHAPE and 2 * (read & ball()).sum() / (read.sum() + ball().sum()) > 0.95
    assert not node.GetSegmentation().ContainsRepresentation(nodes.LABELMAP)
    node.HardenTransform()
    assert 2 * (nodes.readSegment(node, identifier, volume) & read).sum() / (2 * read.sum()) > 0.95
    node.GetSegmentation().GetSegment(identifier).RemoveAllRepresentations()
    with pytest.raises(SimCVDError, match="neither voxels nor a surface"):
        nodes.readSegment(node, identifier, volume)


def test_a_region_fitted_to_a_volume_holds_all_of_it(volume, tmp_path):
    roi = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsROINode", "Region")
    nodes.fitRoi(roi, volume)
    bounds = nodes.roiBounds(roi, volume)
    nodes.exportVolume(volume, tmp_path / "a.nrrd")
    geometry = read_volume(tmp_path / "a.nrrd").geometry
    assert roi_box(geometry, bounds) == tuple(slice(0, n) for n in SHAPE)


def test_a_region_around_a_place_is_around_that_place(volume, tmp_path):
    roi = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsROINode", "Region")
    roi.SetSize(6, 6, 6)
    roi.SetCenter(*world(volume, (24, 20, 12)))
    bounds = nodes.roiBounds(roi, volume)
    nodes.exportVolume(volume, tmp_path / "a.nrrd")
    box = roi_box(read_volume(tmp_path / "a.nrrd").geometry, bounds)
    for part, center in zip(box, (12, 20, 24), strict=True):
        assert part.start <= center < part.stop
        assert part.stop - part.start < 20


def test_a_region_without_size_is_said():
    roi = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsROINode", "Region")
    roi.SetSize(0, 0, 0)
    with pytest.raises(SimCVDError, match="no size"):
        nodes.roiBounds(roi, brightBall())


def test_positions_go_to_the_world_and_back(volume):
    index = np.array([[3.2, 4.7, 5.1], [40, 30, 20]])
    matrix = nodes.ijkToRas(volume)
    positions = nodes.volumeToWorld(volume, index @ matrix[:3, :3].T + matrix[:3, 3])
    assert np.abs(nodes.worldToIjk(volume, positions) - index).max() < 1e-3


def test_a_node_that_is_gone_is_not_mistaken_for_its_successor():
    slicer.mrmlScene.Clear(0)
    volume = brightBall()
    reference, identifier = nodes.NodeReference(volume), volume.GetID()
    assert reference.get() is volume
    slicer.mrmlScene.Clear(0)
    successor = brightBall()
    assert successor.GetID() == identifier
    assert reference.get() is None
    assert nodes.stillThere(identifier) is successor
    assert nodes.stillThere(None) is None
