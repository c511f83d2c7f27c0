"""Overlay and corrections over a result: what is seen, what is edited live, and that everything can be taken back."""

import gc
import time
import weakref

import numpy as np
import pytest
import slicer
import slicer.util
import vtk
from lib_scenes import (
    OTHER,
    SEGMENT,
    SHAPE,
    asSurface,
    ball,
    brightBall,
    drawn,
    obliqueMatrix,
    shear,
    warp,
    withSurface,
    world,
)

import host
from simcvd.errors import SimCVDError
from SimCVDLib import maps, nodes
from SimCVDLib.corrections import DEFAULTS, EDIT_AFTER_MS, Corrections, forget
from SimCVDLib.overlay import FAR_MM, Overlay, contours

OUTSIDE, INSIDE = (38, 20, 12), (13, 20, 12)  # voxels (i, j, k) just beyond and just within the ball


@pytest.fixture(autouse=True)
def emptyScene():
    slicer.mrmlScene.Clear(0)


@pytest.fixture(params=["plain", "linear", "non-linear"])
def volume(request):
    node = brightBall()
    if request.param != "plain":
        transform = shear() if request.param == "linear" else warp(node)
        node.SetAndObserveTransformNodeID(transform.GetID())
    return node


class Edited:
    """A drawn ball with corrections on it."""

    def __init__(self, volume, **more):
        self.volume = volume
        self.node, self.identifier, self.maps = drawn(volume, ball())
        self.told = 0
        self.corrections = Corrections(self.node, self.identifier, volume, self.maps, self.tell, **more)

    def tell(self):
        self.told += 1

    def mask(self):
        return nodes.readSegment(self.node, self.identifier, self.volume)

    def set(self, **settings):
        self.corrections.set(**settings)
        self.corrections.apply()
        return self.mask()

    def editElsewhere(self):
        """As in the Segment Editor, which the panel does not follow while it is open."""
        self.corrections.rest()
        nodes.writeSegment(self.node, self.identifier, ball(radius=9.0), self.volume)

    def reopen(self, path):
        """Begin anew in the scene that was saved there."""
        slicer.mrmlScene.Clear(0)
        slicer.util.loadScene(str(path), properties={"clear": True})
        self.volume, self.node = slicer.util.getNode("Scan"), slicer.util.getNode("Drawn")
        self.maps = maps.Maps(self.node, self.volume)
        self.corrections = Corrections(self.node, self.identifier, self.volume, self.maps, self.tell)


@pytest.fixture
def edited(volume):
    found = Edited(volume)
    yield found
    found.corrections.close()


def settle(seconds=0.0):
    """Let the application be idle for so long."""
    end = time.monotonic() + seconds
    host.processEvents(until=lambda: time.monotonic() >= end)


def settleEdits():
    settle(EDIT_AFTER_MS / 1000 + 0.1)


# --- corrections


def test_opening_corrections_changes_nothing_and_keeps_nothing(edited):
    assert np.array_equal(edited.mask(), ball())
    assert not slicer.util.getNodesByClass("vtkMRMLMarkupsFiducialNode")
    assert not edited.corrections.canUndo


def test_closed_corrections_are_held_by_nobody():
    volume = brightBall()
    node, identifier, found = drawn(volume, ball())
    corrections = Corrections(node, identifier, volume, found)
    corrections.set(offset=2.0)
    corrections.close()
    held, mapped = weakref.ref(corrections), weakref.ref(found)
    gc.disable()  # a collector that sees through the timers must not hide what holds them
    try:
        del corrections, found
        assert held() is None and mapped() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("imported", [asSurface, withSurface])
def test_a_surface_is_refused_in_a_sentence(imported):
    volume = brightBall()
    node, identifier, found = drawn(volume, ball())
    with pytest.raises(SimCVDError, match="Left atrium is a surface"):
        Corrections(imported(node), identifier, volume, found)


def test_at_rest_edits_are_only_noted_until_the_panel_is_back():
    edited = Edited(brightBall())
    edited.set(offset=2.0)
    edited.editElsewhere()
    told = edited.told
    settleEdits()
    assert edited.told == told and edited.corrections.settings["offset"] == 2.0
    edited.corrections.wake()
    settleEdits()
    assert edited.told == told + 1 and edited.corrections.settings == DEFAULTS
    assert np.array_equal(edited.mask(), ball(radius=9.0))
    edited.corrections.close()


def test_a_segment_that_became_a_surface_meanwhile_is_left_alone():
    told = []
    edited = Edited(brightBall(), onError=told.append)
    edited.set(offset=2.0)
    surface = withSurface(edited.node).GetClosedSurfaceInternalRepresentation(edited.identifier)
    edited.corrections.set(offset=3.0)
    settle()
    assert "is a surface" in told[-1]
    assert edited.node.GetClosedSurfaceInternalRepresentation(edited.identifier) is surface
    edited.corrections.close()


@pytest.mark.parametrize("ending", ["close", "takeEdits"])
def test_what_is_left_of_a_segment_edited_at_rest_fits_it(ending):
    """Closed, as when another is chosen, or before the next change."""
    edited = Edited(brightBall())
    edited.corrections.addPoint(world(edited.volume, OUTSIDE), True)
    edited.set(offset=2.0)
    edited.editElsewhere()
    getattr(edited.corrections, ending)()
    again = Corrections(edited.node, edited.identifier, edited.volume, edited.maps)
    assert again.settings == DEFAULTS
    assert again.points(True).GetNumberOfControlPoints() == 0
    again.set(offset=3.0)
    again.apply()
    assert again.settings["offset"] == 3.0 and edited.mask().sum() > ball(radius=9.0).sum()
    for corrections in (again, edited.corrections):
        corrections.close()


def test_a_change_after_an_edit_that_was_noted_starts_from_the_edit():
    edited = Edited(brightBall())
    edited.corrections.rest()
    painted = ball(radius=9.0)
    nodes.writeSegment(edited.node, edited.identifier, painted, edited.volume)
    grown = edited.set(offset=2.0)
    assert painted.sum() < grown.sum() < ball().sum() and grown[painted].all()
    edited.corrections.close()


def test_an_edit_that_was_noted_stays_when_the_corrections_are_closed():
    edited = Edited(brightBall())
    edited.editElsewhere()
    edited.corrections.set(offset=2.0)
    edited.corrections.close()
    assert np.array_equal(edited.mask(), ball(radius=9.0))


def test_an_offset_is_the_distance_map_cut_elsewhere_and_zero_is_what_was(edited):
    distance = edited.maps.array("distance", edited.identifier)
    for offset in (3.0, -4.0):
        assert np.array_equal(edited.set(offset=offset), distance <= offset)
    assert np.array_equal(edited.set(offset=0.0), ball())


def test_a_slider_is_followed_when_the_application_is_idle_and_undone_in_one_step(edited):
    for n in range(1, 9):
        edited.corrections.set(offset=n / 2)
    assert np.array_equal(edited.mask(), ball())
    settle()
    assert edited.mask().sum() > ball().sum()
    edited.corrections.undo()
    assert np.array_equal(edited.mask(), ball())
    assert edited.corrections.settings == DEFAULTS and edited.told == 1


def test_the_boundary_goes_across_a_point_and_back_when_it_is_removed(edited):
    i, j, k = OUTSIDE
    assert not ball()[k, j, i]
    edited.corrections.addPoint(world(edited.volume, OUTSIDE), True)
    settle()
    grown = edited.mask()
    assert grown[k, j, i] and (grown >= ball()).all()
    assert edited.corrections.removePoint()
    settle()
    assert np.array_equal(edited.mask(), ball())
    i, j, k = INSIDE
    assert ball()[k, j, i]
    edited.corrections.addPoint(world(edited.volume, INSIDE), False)
    settle()
    assert not edited.mask()[k, j, i]
    edited.corrections.undo()
    assert np.array_equal(edited.mask(), ball())
    assert edited.corrections.points(False).GetNumberOfControlPoints() == 0
    assert not edited.corrections.removePoint()


def test_the_boundary_follows_a_point_that_is_dragged(edited):
    edited.corrections.addPoint(world(edited.volume, (36, 20, 12)), True)
    settle()
    before = edited.mask()
    edited.corrections.points(True).SetNthControlPointPositionWorld(0, *world(edited.volume, OUTSIDE))
    settle()
    assert edited.mask().sum() > before.sum() and edited.mask()[12, 20, 38]


def test_points_go_where_the_volume_goes(edited):
    edited.corrections.addPoint(world(edited.volume, OUTSIDE), True)
    settle()
    grown = edited.mask()
    edited.volume.SetAndObserveTransformNodeID(None)
    for node in (edited.node, edited.corrections.points(True)):
        node.SetAndObserveTransformNodeID(None)
    settle()
    assert np.array_equal(edited.mask(), grown)
    position = edited.corrections.points(True).GetNthControlPointPositionWorld(0)
    assert np.abs(np.subtract(position, world(edited.volume, OUTSIDE))).max() < 0.01


def test_the_point_that_follows_the_mouse_while_placing_counts_for_nothing(edited):
    node = edited.corrections.points(True)
    node.AddControlPointWorld(vtk.vtkVector3d(*world(edited.volume, OUTSIDE)))
    node.SetNthControlPointPositionMissing(0)
    settle()
    assert np.array_equal(edited.mask(), ball())
    assert not edited.corrections.removePoint()


def test_neighbours_are_never_taken():
    volume = brightBall()
    node = nodes.newSegmentation(volume, [SEGMENT, OTHER], "Two")
    one, two = node.GetSegmentation().GetSegmentIDs()
    neighbour = ball(center=(12, 20, 36), radius=8.0) & ~ball()
    nodes.writeSegment(node, one, ball(), volume)
    nodes.writeSegment(node, two, neighbour, volume)
    corrections = Corrections(node, one, volume, maps.Maps(node, volume))
    for offset in (4.0, 8.0, -3.0, 2.0):
        corrections.set(offset=offset)
        corrections.apply()
        assert np.array_equal(nodes.readSegment(node, two, volume), neighbour)
        assert not (nodes.readSegment(node, one, volume) & neighbour).any()
    corrections.set(offset=0.0)
    corrections.close()
    assert np.array_equal(nodes.readSegment(node, one, volume), ball())


def test_undo_goes_back_step_by_step():
    edited = Edited(brightBall())
    states = [edited.mask()]
    edited.corrections.set(offset=2.0)
    edited.corrections.apply()
    states.append(edited.mask())
    for voxel in (OUTSIDE, (24, 36, 12)):
        edited.corrections.addPoint(world(edited.volume, voxel), True)
        edited.corrections.apply()
        states.append(edited.mask())
    edited.corrections.set(largest=True, smoothing=1.0)
    edited.corrections.apply()
    while edited.corrections.canUndo:
        edited.corrections.undo()
        assert np.array_equal(edited.mask(), states.pop())
    assert not states
    settle()
    assert np.array_equal(edited.mask(), ball())
    edited.corrections.close()


def test_an_edit_from_elsewhere_is_kept_and_becomes_the_base():
    edited = Edited(brightBall())
    edited.set(offset=3.0)
    by_hand = edited.mask()
    by_hand[:10] = False
    nodes.writeSegment(edited.node, edited.identifier, by_hand, edited.volume)
    settleEdits()
    assert edited.told == 1 and edited.corrections.settings == DEFAULTS
    assert np.array_equal(edited.mask(), by_hand)
    assert edited.set(offset=1.0).sum() > by_hand.sum()
    assert np.array_equal(edited.set(offset=0.0), by_hand)
    edited.corrections.close()


def test_settings_and_points_come_back_with_a_saved_scene(tmp_path):
    edited = Edited(brightBall())
    edited.set(offset=2.0)
    edited.corrections.addPoint(world(edited.volume, OUTSIDE), True)
    settle()
    saved = edited.mask()
    edited.corrections.close()
    assert slicer.util.saveScene(str(tmp_path / "scene.mrb"), properties={})
    edited.reopen(tmp_path / "scene.mrb")
    assert edited.corrections.settings == {**DEFAULTS, "offset": 2.0}
    settle()
    assert np.array_equal(edited.mask(), saved)
    edited.set(offset=3.0)
    assert np.array_equal(edited.set(offset=2.0), saved)
    assert edited.corrections.removePoint()
    settle()
    assert np.array_equal(edited.set(offset=0.0), ball())
    assert edited.told == 0
    edited.corrections.close()


def test_a_scene_saved_while_a_segment_is_edited_elsewhere_comes_back_as_it_was_edited(tmp_path):
    edited = Edited(brightBall())
    edited.corrections.addPoint(world(edited.volume, OUTSIDE), True)
    edited.set(offset=2.0)
    edited.editElsewhere()
    assert slicer.util.saveScene(str(tmp_path / "scene.mrb"), properties={})
    edited.corrections.close()
    edited.reopen(tmp_path / "scene.mrb")
    settle()
    assert edited.told == 1 and edited.corrections.settings == DEFAULTS
    assert edited.corrections.points(True).GetNumberOfControlPoints() == 0
    assert np.array_equal(edited.mask(), ball(radius=9.0))
    assert edited.set(offset=1.0).sum() > ball(radius=9.0).sum() and edited.corrections.settings["offset"] == 1.0
    edited.corrections.close()


def test_an_edit_of_a_segment_that_is_not_chosen_is_found_when_it_is():
    edited = Edited(brightBall())
    edited.set(offset=2.0)
    edited.corrections.close()
    other = edited.node.GetSegmentation().AddEmptySegment("other", "other")
    chosen = Corrections(edited.node, other, edited.volume, edited.maps)
    chosen.rest()
    nodes.writeSegment(edited.node, edited.identifier, ball(radius=9.0), edited.volume)
    chosen.close()
    again = Corrections(edited.node, edited.identifier, edited.volume, edited.maps)
    settle()
    assert again.settings == DEFAULTS and np.array_equal(edited.mask(), ball(radius=9.0))
    again.close()


def test_settings_outlive_an_edit_of_another_segment():
    edited = Edited(brightBall())
    edited.set(offset=2.0)
    shown = edited.mask()
    edited.corrections.close()
    other = edited.node.GetSegmentation().AddEmptySegment("other", "other")
    chosen = Corrections(edited.node, other, edited.volume, edited.maps)
    chosen.rest()
    corner = np.zeros_like(shown)
    corner[0, 0, 0] = True
    nodes.writeSegment(edited.node, other, corner, edited.volume)
    chosen.close()
    again = Corrections(edited.node, edited.identifier, edited.volume, edited.maps)
    settle()
    assert again.settings == {**DEFAULTS, "offset": 2.0} and np.array_equal(edited.mask(), shown)
    again.close()


def test_what_was_done_to_a_result_that_is_replaced_can_be_forgotten():
    edited = Edited(brightBall())
    edited.set(offset=2.0)
    edited.corrections.addPoint(world(edited.volume, OUTSIDE), True)
    settle()
    edited.corrections.close()
    forget(edited.node, edited.identifier)
    assert not slicer.util.getNodesByClass("vtkMRMLMarkupsFiducialNode")
    again = Corrections(edited.node, edited.identifier, edited.volume, edited.maps)
    assert again.settings == DEFAULTS
    again.close()


def test_a_live_change_that_fails_is_said():
    edited, said = Edited(brightBall()), []
    corrections = Corrections(edited.node, edited.identifier, edited.volume, edited.maps, onError=said.append)
    corrections.set(offset=1.0)
    edited.node.GetSegmentation().RemoveSegment(edited.identifier)
    settle()
    assert len(said) == 1 and "was removed" in said[0]
    corrections.close()
    edited.corrections.close()


def test_a_segment_without_maps_can_be_edited_too():
    volume = brightBall()
    node = nodes.newSegmentation(volume, [SEGMENT], "By hand")
    (identifier,) = node.GetSegmentation().GetSegmentIDs()
    nodes.writeSegment(node, identifier, ball(), volume)
    corrections = Corrections(node, identifier, volume, maps.Maps(node, volume))
    corrections.set(offset=2.0)
    corrections.apply()
    assert nodes.readSegment(node, identifier, volume).sum() > ball().sum()
    corrections.undo()
    assert np.array_equal(nodes.readSegment(node, identifier, volume), ball())
    corrections.close()


def test_a_segment_on_a_finer_grid_comes_back_as_it_was_drawn():
    volume = brightBall()
    thrice = obliqueMatrix() @ np.diag([1 / 3, 1 / 3, 1 / 3, 1.0])
    shape = tuple(3 * n for n in SHAPE)
    fine = slicer.util.addVolumeFromArray(np.zeros(shape, np.uint8), ijkToRAS=thrice, name="Fine")
    mask = ball(center=(36, 60, 72), radius=6.0, spacing=(1.1 / 3, 0.9 / 3, 2.5 / 3), shape=shape)
    node = nodes.newSegmentation(fine, [SEGMENT], "Fine")
    (identifier,) = node.GetSegmentation().GetSegmentIDs()
    nodes.writeSegment(node, identifier, mask, fine)
    corrections = Corrections(node, identifier, volume, maps.Maps(node, volume))
    for offset in (1.0, 2.0, 0.0, -1.0):
        corrections.set(offset=offset)
        corrections.apply()
        assert np.array_equal(nodes.readSegment(node, identifier, fine), mask) == (offset == 0.0)
    wanted = nodes.readSegment(node, identifier, volume)
    corrections.set(offset=1.0, largest=True)  # of another kind: a step of its own
    corrections.apply()
    corrections.undo()
    assert np.array_equal(nodes.readSegment(node, identifier, volume), wanted)
    while corrections.canUndo:
        corrections.undo()
    assert np.array_equal(nodes.readSegment(node, identifier, fine), mask)
    corrections.close()


def test_a_corrected_segment_that_got_a_grid_of_its_own_goes_back_to_what_was_drawn():
    edited = Edited(brightBall())
    corrected = edited.set(offset=2.0)
    edited.corrections.close()
    halves = np.diag([0.5, 0.5, 0.5, 1.0])
    halves[:3, 3] = -0.25
    shape = tuple(2 * n for n in SHAPE)
    fine = slicer.util.addVolumeFromArray(np.zeros(shape, np.uint8), ijkToRAS=obliqueMatrix() @ halves, name="Fine")
    whole = corrected.repeat(2, 0).repeat(2, 1).repeat(2, 2)
    nodes.writeSegment(edited.node, edited.identifier, whole, fine)
    edited.corrections = Corrections(edited.node, edited.identifier, edited.volume, edited.maps)
    assert edited.corrections.settings["offset"] == 2.0
    assert edited.set(offset=1.0).sum() < corrected.sum()
    assert np.array_equal(edited.set(offset=0.0), ball())
    edited.corrections.close()


def test_a_3d_surface_follows_after_the_slices():
    edited = Edited(brightBall())
    edited.node.CreateClosedSurfaceRepresentation()
    edited.set(offset=3.0)
    host.processEvents(until=lambda: edited.node.GetSegmentation().ContainsRepresentation("Closed surface"), seconds=5)
    surface = edited.node.GetClosedSurfaceInternalRepresentation(edited.identifier)
    assert surface is not None and surface.GetNumberOfPoints() > 100
    edited.corrections.close()


def test_different_transforms_are_refused_and_removed_nodes_are_said():
    edited = Edited(brightBall())
    with pytest.raises(TypeError):
        edited.corrections.set(offsett=1)
    edited.corrections.set(offset=1.0)
    slicer.mrmlScene.RemoveNode(edited.node)
    with pytest.raises(SimCVDError, match="no longer in the scene"):
        edited.corrections.apply()
    edited.corrections.close()
    volume = brightBall()
    node, identifier, found = drawn(volume, ball())
    volume.SetAndObserveTransformNodeID(shear().GetID())
    with pytest.raises(SimCVDError, match="different transforms"):
        Corrections(node, identifier, volume, found)


def test_closing_the_scene_or_the_corrections_leaves_nothing_behind():
    edited = Edited(brightBall())
    edited.corrections.addPoint(world(edited.volume, OUTSIDE), True)
    settle()
    edited.corrections.set(offset=4.0)
    slicer.mrmlScene.Clear(0)
    edited.corrections.close()
    settle()
    assert not edited.corrections._observed
    assert not any(t.isActive() for t in vars(edited.corrections).values() if hasattr(t, "isActive"))


# --- overlay


def composites():
    return slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode")


@pytest.fixture
def shown():
    """A ball with a map of every kind, and its volume in the slice views."""
    volume = brightBall()
    node, identifier, found = drawn(volume, ball())
    found.keep("probability", identifier, 1 / (1 + np.exp(found.array("distance", identifier))))
    for name in ("Red", "Green", "Yellow"):
        host.grabSlice(name, (300, 300))
    slicer.util.setSliceViewerLayers(background=volume, foreground=None, label=None, fit=True)
    overlay = Overlay(volume, found, identifier)
    yield volume, node, overlay, found
    overlay.close()


def picture(volume, voxel=(24, 20, 12)):
    for node in slicer.util.getNodesByClass("vtkMRMLSliceNode"):
        node.JumpSlice(*world(volume, voxel))
    return host.grabSlice("Red", (300, 300)).astype(int)


def pixel(volume, voxel):
    """The colour that the red view shows at a voxel."""
    image = picture(volume)
    node = slicer.mrmlScene.GetNodeByID("vtkMRMLSliceNodeRed")
    matrix = slicer.util.arrayFromVTKMatrix(node.GetXYToRAS())
    x, y, *_rest = np.linalg.inv(matrix) @ [*world(volume, voxel), 1]
    return image[image.shape[0] - 1 - round(y), round(x)]


def test_distance_is_blue_inside_red_outside_and_neutral_at_zero(shown):
    volume, _node, overlay, found = shown
    overlay.show("distance", opacity=1.0, legend=False)
    display = found.node("distance", overlay._segmentId).GetDisplayNode()
    assert (display.GetWindowLevelMin(), display.GetWindowLevelMax()) == (-FAR_MM, FAR_MM)
    assert not display.GetAutoWindowLevel()
    table = display.GetColorNode().GetLookupTable()
    count = table.GetNumberOfTableValues()
    middle = np.array(table.GetTableValue(count // 2)[:3])
    assert count % 2 == 1 and np.ptp(middle) < 0.02
    inside, outside = pixel(volume, (24, 20, 12)), pixel(volume, (46, 20, 12))
    assert inside[2] > inside[0] + 40 and outside[0] > outside[2] + 20


def test_the_users_layers_come_back(shown):
    volume, _node, overlay, _found = shown
    other = nodes.volumeLike(volume, np.ones(SHAPE, np.uint8), "Other")
    slicer.util.setSliceViewerLayers(foreground=other, foregroundOpacity=0.3)
    before = picture(volume)
    for kind in ("distance", "probability", "distance"):
        overlay.show(kind, legend=True)
        overlay.setOpacity(0.7)
        assert all(c.GetForegroundVolumeID() != other.GetID() for c in composites())
        assert all(c.GetForegroundOpacity() == pytest.approx(0.7) for c in composites())
    overlay.show("none")
    assert all(c.GetForegroundVolumeID() == other.GetID() for c in composites())
    assert all(c.GetForegroundOpacity() == pytest.approx(0.3) for c in composites())
    assert np.abs(picture(volume) - before).max() <= 2


def test_a_view_that_the_user_changed_meanwhile_is_left_alone(shown):
    volume, _node, overlay, _found = shown
    other = nodes.volumeLike(volume, np.ones(SHAPE, np.uint8), "Other")
    overlay.show("distance")
    composites()[0].SetForegroundVolumeID(other.GetID())
    overlay.show("none")
    assert composites()[0].GetForegroundVolumeID() == other.GetID()
    assert all(c.GetForegroundVolumeID() is None for c in composites()[1:])


def test_the_fill_is_hidden_while_a_map_is_shown(shown):
    _volume, node, overlay, _found = shown
    overlay.show("distance")
    assert not node.GetDisplayNode().GetVisibility2DFill() and node.GetDisplayNode().GetVisibility2DOutline()
    overlay.show("none")
    assert node.GetDisplayNode().GetVisibility2DFill()


def test_switching_makes_no_second_volume(shown):
    _volume, _node, overlay, _found = shown
    for kind in ("distance", "probability", "none"):
        overlay.show(kind)
    there = slicer.mrmlScene.GetNumberOfNodes()
    for kind in ("distance", "probability") * 5:
        overlay.show(kind)
    assert slicer.mrmlScene.GetNumberOfNodes() == there


def test_a_map_that_is_missing_or_deleted_is_said_or_made_again(shown):
    _volume, _node, overlay, found = shown
    with pytest.raises(SimCVDError, match="no uncertainty"):
        overlay.show("uncertainty")
    overlay.show("distance")
    slicer.mrmlScene.RemoveNode(found.node("distance", overlay._segmentId))
    overlay.setOpacity(0.5)
    overlay.show("none")


def distanceLines():
    (node,) = [n for n in slicer.util.getNodesByClass("vtkMRMLModelNode") if n.GetName() == "Distance lines"]
    return node


def test_lines_lie_at_their_distance_whatever_the_grid():
    distance = np.linalg.norm(np.mgrid[:40, :40, :40] - 20.0, axis=0).astype(np.float32) - 10
    matrix = np.eye(4)
    matrix[:3] = [[0, -1, 0, 5], [1, 0, 0, -7], [0, 0, 1, 9]]
    surface = contours(distance, matrix, 4.0, far=8.0)
    from vtk.util.numpy_support import vtk_to_numpy

    center = matrix[:3, :3] @ [20, 20, 20] + matrix[:3, 3]
    away = np.linalg.norm(vtk_to_numpy(surface.GetPoints().GetData()) - center, axis=1) - 10
    assert np.abs(away - 4 * np.rint(away / 4)).max() < 0.1
    assert set(np.rint(away / 4).astype(int)) == {-2, -1, 1, 2}
    assert contours(distance, matrix, 9.0, far=8.0).GetNumberOfPoints() == 0


def test_lines_are_seen_with_and_without_a_map_and_go_again(shown):
    volume, node, overlay, _found = shown
    node.SetDisplayVisibility(False)
    plain = picture(volume)
    overlay.showLines(True, 5.0)
    lined = picture(volume)
    orange = (lined[..., 0] > 180) & (lined[..., 2] < 90)
    assert orange.sum() > 100 and not ((plain[..., 0] > 180) & (plain[..., 2] < 90)).any()
    overlay.show("distance", legend=False)
    assert ((picture(volume) - lined) != 0).any()
    overlay.show("none")
    there = slicer.mrmlScene.GetNumberOfNodes()
    overlay.showLines(True, 10.0)
    assert slicer.mrmlScene.GetNumberOfNodes() == there
    assert ((picture(volume)[..., 0] > 180) & (picture(volume)[..., 2] < 90)).sum() < orange.sum()
    overlay.showLines(False)
    assert np.abs(picture(volume) - plain).max() <= 2


def test_lines_follow_a_segment_that_is_edited_elsewhere(shown):
    volume, node, overlay, found = shown
    identifier = overlay._segmentId
    corrections = Corrections(node, identifier, volume, found, lambda: overlay.showLines(True, 5.0))
    overlay.showLines(True, 5.0)
    lines = distanceLines()
    before = np.array(lines.GetPolyData().GetBounds())
    nodes.writeSegment(node, identifier, ball(radius=9.0), volume)
    settleEdits()
    after = np.array(lines.GetPolyData().GetBounds())
    np.testing.assert_allclose(found.array("distance", identifier) <= 0, ball(radius=9.0))
    assert np.abs(after - before).max() > 3
    corrections.close()


def test_lines_follow_the_transform_of_the_volume():
    volume = brightBall()
    volume.SetAndObserveTransformNodeID(warp(volume).GetID())
    _node, identifier, found = drawn(volume, ball())
    overlay = Overlay(volume, found, identifier)
    overlay.showLines(True)
    lines = distanceLines()
    assert lines.GetTransformNodeID() == volume.GetTransformNodeID()
    overlay.close()
    assert lines.GetScene() is None


def test_the_legend_says_the_unit_is_small_and_goes_with_its_map(shown):
    volume, _node, overlay, found = shown
    overlay.show("distance", legend=False)
    plain = picture(volume)
    overlay.show("distance", legend=True)
    legend = slicer.modules.colors.logic().GetColorLegendDisplayNode(found.node("distance", overlay._segmentId))
    assert legend.GetVisibility() and legend.GetTitleText() == "mm"
    covered = np.argwhere((picture(volume) != plain).any(-1))
    size = np.ptp(covered, axis=0) / plain.shape[:2]
    assert 0.2 < size[0] < 0.5 and 0.02 < size[1] < 0.2
    overlay.showLegend(False)
    assert not legend.GetVisibility()
    overlay.showLegend(True)
    overlay.show("none")
    assert not legend.GetVisibility()


def test_the_outline_lies_on_the_edge_of_what_is_bright(shown):
    volume, node, _overlay, _found = shown
    node.GetDisplayNode().SetVisibility2DFill(False)
    node.GetSegmentation().GetNthSegment(0).SetColor(0, 1, 0)
    assert node.GetDisplayNode().GetSliceIntersectionThickness() == 2
    image = picture(volume)
    green = (image[..., 1] > image[..., 0] + 80) & (image[..., 1] > image[..., 2] + 80)
    node.SetDisplayVisibility(False)
    bare = picture(volume)[..., 0]
    edge = np.hypot(*np.gradient(bare.astype(float)))
    assert green.sum() > 100
    assert edge[green].mean() > 5 * edge[~green].mean()
