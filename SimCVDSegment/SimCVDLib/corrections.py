"""A segment's boundary, moved as a whole or across points that the user places, live in the slice views.

What was computed or drawn before stays the base: every change starts from it, so that moving a slider back or removing
a point brings back what was there. Edits made elsewhere, as in the Segment Editor, become the new base.

Settings and points are kept with the segmentation, so that each segment finds its own again, also in a saved scene.

Undo is kept here: a segmentation node has none (the Segment Editor keeps its own, which does not know of these).
"""

import json
import time
from typing import NamedTuple

import numpy as np
import qt
import slicer
import vtk
from slicer.i18n import tr as _

from simcvd.errors import SimCVDError
from simcvd.refinement import Point, Refinement, free_of
from SimCVDLib import nodes

DEFAULTS = {"offset": 0.0, "largest": False, "fillHoles": False, "smoothing": 0.0, "radius": 10.0}
EDIT_AFTER_MS = 200  # a stroke in the Segment Editor is many edits: they are taken when the user pauses
SURFACE_AFTER_MS = 500  # a 3D surface takes far longer than a change in the slices: it follows when the user pauses
ONE_STEP_SECONDS = 0.7  # changes of one kind that follow each other this quickly are undone together
_ROLES = {True: "SimCVD.Inside", False: "SimCVD.Outside"}
_SEGMENT = "SimCVD.Segment"
_SETTINGS = "SimCVD.Settings."  # attribute of a segmentation: the settings of one of its segments
_EDITED = "SimCVD.Edited."  # attribute of a segmentation: one of its segments may have been edited since, elsewhere
_COLOURS = {True: (0.30, 0.85, 0.35), False: (0.95, 0.35, 0.85)}
UNTOUCHED = {**DEFAULTS, "inside": (), "outside": ()}


class _Step(NamedTuple):
    when: float
    what: list | None  # the settings that changed; None when a point came or went
    before: dict


class Corrections:
    """Offset, clean-up and points for one segment.

    Args:
        segmentationNode, segmentId: what is edited. Nothing is written until something changes.
        volumeNode: on whose grid; both must be under the same transform.
        found: the maps.Maps of the segmentation; without a distance map the segment's own distance is computed once.
        onChanged: called when settings changed here rather than by `set`: after undo, and when an edit from elsewhere
            became the new base (then all settings are back at their defaults and the points are gone).
        onError: called with a sentence when a live change can't be made.

    Raises SimCVDError when the segment can't be edited here.
    """

    def __init__(self, segmentationNode, segmentId, volumeNode, found, onChanged=None, onError=None):
        if segmentationNode.GetTransformNodeID() != volumeNode.GetTransformNodeID():
            raise SimCVDError(
                _("The segmentation and the volume are under different transforms; put them under the same one.")
            )
        _checkVoxels(segmentationNode, segmentId)
        if nodes.reachesBeyond(segmentationNode, segmentId, volumeNode):
            name = segmentationNode.GetSegmentation().GetSegment(segmentId).GetName()
            raise SimCVDError(
                _(
                    "The segment {name} reaches beyond the volume {volume}, where it would be cut off; choose the scan "
                    "that it was drawn on as the input."
                ).format(name=name, volume=volumeNode.GetName())
            )
        self._segmentation = nodes.NodeReference(segmentationNode)
        self._segmentId = segmentId
        self._volume = nodes.NodeReference(volumeNode)
        self._maps = found
        self._onChanged = onChanged or (lambda: None)
        self._onError = onError or (lambda sentence: slicer.util.showStatusMessage(sentence, 5000))
        kept = _kept(segmentationNode, segmentId)
        self.settings = {**DEFAULTS, **kept}
        self._frame = _frame(segmentationNode, volumeNode)
        self._original = None  # the segment on a grid of its own, as it was before the first change
        self._refinement = None  # made at the first change
        self._taken = None  # voxels of other segments, which are never taken
        self._applied = self._state() if kept else UNTOUCHED  # what the segment shows
        self._undo = []
        self._order = []  # (inside, ID) of every point in the order of placing
        self._writing = False
        self._resting = self._missed = False
        self._observed = []
        self._slots = []  # (timer, what it calls)
        self._soon = self._timer(self._onSoon)
        self._edited = self._timer(self._onEdited)
        self._surface = self._timer(self._showSurface)
        self._observe(segmentationNode.GetSegmentation(), slicer.vtkSegmentation.SourceRepresentationModified)
        if segmentationNode.GetAttribute(_EDITED + segmentId):
            self._edited.start(0)
        for inside in (True, False):
            if self._list(inside) is not None:
                self._watch(self._list(inside))

    # --- what a panel calls

    def set(self, **settings):
        """Change any of offset (mm), largest, fillHoles, smoothing (mm), radius (mm of new bumps around all points).

        The segment follows as soon as the application is idle, so that a slider is never ahead of it by much.
        """
        if unknown := settings.keys() - DEFAULTS.keys():
            raise TypeError(f"unknown settings: {', '.join(sorted(unknown))}")
        self.settings.update(settings)
        self._keep()
        self._soon.start(0)

    def place(self, inside):
        """Let the user place points inside (or outside) the segment by clicking, until placing is switched off."""
        points = self.points(inside)
        selection = slicer.app.applicationLogic().GetSelectionNode()
        interaction = slicer.app.applicationLogic().GetInteractionNode()
        selection.SetReferenceActivePlaceNodeClassName("vtkMRMLMarkupsFiducialNode")
        selection.SetActivePlaceNodeID(points.GetID())
        interaction.SetPlaceModePersistence(1)
        interaction.SetCurrentInteractionMode(slicer.vtkMRMLInteractionNode.Place)

    def addPoint(self, position, inside):
        """Place a point at a world position (RAS mm)."""
        self.points(inside).AddControlPointWorld(vtk.vtkVector3d(*(float(x) for x in position)))

    def removePoint(self):
        """Remove the point that was placed last; returns whether there was one."""
        self._sortPoints()
        if not self._order:
            return False
        inside, identifier = self._order[-1]
        node = self._list(inside)
        node.RemoveNthControlPoint(node.GetNthControlPointIndexByID(identifier))
        return True

    def points(self, inside):
        """The markups node of the points inside (or outside), made when it is first asked for."""
        node = self._list(inside)
        if node is None:
            node = self._newList(inside)
        return node

    @property
    def isCurrent(self):
        """Whether scan and segmentation still lie as they did; else the corrections have to be made anew."""
        segmentation, volume = self._segmentation.get(), self._volume.get()
        return segmentation is not None and volume is not None and _frame(segmentation, volume) == self._frame

    def lookAtPoints(self):
        """A list of points was removed from the scene: the segment follows."""
        self._soon.start(0)

    @property
    def canUndo(self):
        """Whether there is something to undo."""
        return bool(self._undo)

    def undo(self):
        """Take the last change back."""
        self.takeEdits()
        if self._undo:
            self._restore(self._undo.pop().before)
            self._change(self._state())
            self._onChanged()

    def apply(self):
        """Bring the segment in line with settings and points now; raises SimCVDError when it can't be edited."""
        self._soon.stop()
        self.takeEdits()
        self._sortPoints()
        state = self._state()
        if state == self._applied or (self._refinement is None and not self._open()):
            return
        self._remember(state)
        self._change(state)

    def rest(self):
        """From now on only note that the segment was edited elsewhere: its distance takes seconds on a large scan."""
        self._resting = True
        self._missed |= self._edited.isActive()
        self._edited.stop()

    def takeEdits(self):
        """Take in now what was edited elsewhere, so that settings and points are those of the segment as it is."""
        if self._wasEdited():
            self._onEdited()

    def wake(self):
        """Take in what was edited meanwhile, and follow again."""
        self._resting = False
        if self._missed:
            self._edited.start(0)

    def close(self):
        """Stop following; what was done stays, and so do the points, unless an edit from elsewhere came after them."""
        edited, self._onChanged = self._wasEdited(), lambda: None
        self.takeEdits()
        if self._soon.isActive() and not edited and self.isCurrent:  # else it is what was edited that stays
            self._onSoon()
        if self._surface.isActive():
            self._showSurface()
        for timer, slot in self._slots:
            timer.stop()
            timer.disconnect("timeout()", slot)  # what is connected holds this object, and nothing would ever free it
        self._slots = []
        self._refinement = self._taken = self._maps = None  # large, and whoever closed this may hold it still
        for thing, tag in self._observed:
            thing.RemoveObserver(tag)
        self._observed = []

    # --- the segment

    def _change(self, state):
        segmentation, volume = self._nodes()
        self._applied = state
        box = self._refine(state)
        if box is not None:
            self._write(segmentation, volume, box, state == UNTOUCHED)

    def _open(self):
        """Get ready to edit; False where the settings began anew, as what they had made was edited elsewhere."""
        segmentation, volume = self._nodes()
        now = nodes.readSegment(segmentation, self._segmentId, volume)
        distance = self._maps.array("distance", self._segmentId)
        if distance is not None:
            self._begin(distance, now)
            if np.array_equal(now, self._mask()):
                self._applied = UNTOUCHED
                self._keepOriginal()
                return True
            self._refine(self._applied)
            if np.array_equal(now, self._mask()):
                return True
        if self._applied != UNTOUCHED:
            self._beginAnew(now)
            return False
        self._begin(nodes.distanceOf(now, volume), now)
        self._keepOriginal()
        return True

    def _begin(self, distance, now):
        """Take a distance map as the base, and keep it with the scene so that changes can be taken back later."""
        segmentation, volume = self._nodes()
        self._maps.keep("distance", self._segmentId, distance)
        self._refinement = Refinement(distance, volume.GetSpacing())
        self._original = None
        self._findOthers(segmentation, volume, now)

    def _keepOriginal(self):
        """Keep what is on a grid of its own, finer than the scan's maybe: on the scan's it would not come back."""
        segmentation, volume = self._nodes()
        if not nodes.sharesGrid(segmentation, self._segmentId, volume):
            self._original = nodes.imageOf(segmentation, self._segmentId)

    def _refine(self, state):
        return self._refinement.update(
            offset=state["offset"],
            points=self._marks(state),
            largest=state["largest"],
            fill_holes=state["fillHoles"],
            smoothing=state["smoothing"],
        ).box

    def _write(self, segmentation, volume, box, untouched):
        self._writing = True
        try:
            if segmentation.GetSegmentation().ContainsRepresentation(nodes.SURFACE):
                segmentation.GetSegmentation().RemoveRepresentation(nodes.SURFACE)
                self._surface.start(SURFACE_AFTER_MS)
            elif self._surface.isActive():
                self._surface.start(SURFACE_AFTER_MS)
            if untouched and self._original is not None:
                nodes.restoreImage(segmentation, self._segmentId, self._original)
            else:
                part = box if nodes.sharesGrid(segmentation, self._segmentId, volume) else None
                nodes.writeSegment(segmentation, self._segmentId, self._mask(), volume, part)
        finally:
            self._writing = False

    def _mask(self):
        mask = self._refinement.mask
        return mask if self._taken is None else free_of(mask, [self._taken])

    def _findOthers(self, segmentation, volume, now):
        """What the other segments hold; what this one shares with them already stays its own."""
        others = [i for i in segmentation.GetSegmentation().GetSegmentIDs() if i != self._segmentId]
        masks = [nodes.readSegment(segmentation, i, volume) for i in others]
        self._taken = np.logical_or.reduce(masks) & ~now if masks else None

    def _nodes(self):
        segmentation, volume = self._segmentation.get(), self._volume.get()
        if segmentation is None or volume is None:
            raise SimCVDError(_("The segmentation or its volume is no longer in the scene; segment again."))
        if segmentation.GetSegmentation().GetSegment(self._segmentId) is None:
            raise SimCVDError(_("The segment was removed; choose another or segment again."))
        _checkVoxels(segmentation, self._segmentId)  # they may have become surfaces since
        if not self.isCurrent:
            raise SimCVDError(
                _("The scan or the segmentation was moved or cropped meanwhile; choose the segment again to go on.")
            )
        return segmentation, volume

    def _showSurface(self):
        segmentation = self._segmentation.get()
        if segmentation is not None:
            self._writing = True
            segmentation.GetSegmentation().CreateRepresentation(nodes.SURFACE)
            self._writing = False

    # --- edits from elsewhere

    def _wasEdited(self):
        """Whether there is an edit that was not taken in yet."""
        return self._missed or self._edited.isActive()

    def _onEdited(self):
        """Make the segment as it is now the base, unless the edit was one of another segment."""
        self._edited.stop()
        self._missed = False
        segmentation, volume = self._segmentation.get(), self._volume.get()
        if segmentation is None or volume is None or slicer.mrmlScene.IsClosing():
            return
        if segmentation.GetSegmentation().GetSegment(self._segmentId) is None or not nodes.isOfVoxels(segmentation):
            return
        if not self.isCurrent:  # what is made anew takes it in
            return
        segmentation.RemoveAttribute(_EDITED + self._segmentId)
        if self._refinement is None:
            if self._open():  # the maps now fit what the segment is
                self._onChanged()
            return
        now = nodes.readSegment(segmentation, self._segmentId, volume)
        if np.array_equal(now, self._mask()):
            self._findOthers(segmentation, volume, now)  # it was one of them
        else:
            self._beginAnew(now)

    def _beginAnew(self, now):
        """What the segment is now becomes the base, and all settings are back at their defaults."""
        self._maps.keep("distance", self._segmentId, nodes.distanceOf(now, self._volume.get()))
        self._refinement = None
        self._applied = UNTOUCHED
        self._undo = []
        self._restore(UNTOUCHED)
        self._onChanged()

    # --- points

    def _list(self, inside):
        segmentation = self._segmentation.get()
        return _pointList(segmentation, self._segmentId, inside) if segmentation is not None else None

    def _newList(self, inside):
        segmentation, volume = self._nodes()
        name = segmentation.GetSegmentation().GetSegment(self._segmentId).GetName()
        title = _("{segment}: inside") if inside else _("{segment}: outside")
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", title.format(segment=name))
        node.CreateDefaultDisplayNodes()
        node.SetAttribute(_SEGMENT, self._segmentId)
        node.SetControlPointLabelFormat("%d")
        display = node.GetDisplayNode()
        display.SetSelectedColor(*_COLOURS[inside])
        display.SetColor(*_COLOURS[inside])
        display.SetPointLabelsVisibility(False)
        nodes.putBeside(node, volume)  # under its transform, so that the points go where the scan goes
        segmentation.AddNodeReferenceID(_ROLES[inside], node.GetID())
        self._watch(node)
        return node

    def _watch(self, points):
        for event in (
            points.PointPositionDefinedEvent,
            points.PointPositionUndefinedEvent,
            points.PointModifiedEvent,
            points.PointRemovedEvent,
        ):
            self._observe(points, event)

    def _sortPoints(self):
        there = [
            (inside, node.GetNthControlPointID(n))
            for inside in (True, False)
            if (node := self._list(inside)) is not None
            for n in _defined(node)
        ]
        self._order = [p for p in self._order if p in there] + [p for p in there if p not in self._order]

    def _positions(self, inside):
        """Where the points are, in the frame of their node."""
        node = self._list(inside)
        return tuple(tuple(node.GetNthControlPointPosition(n)) for n in _defined(node)) if node else ()

    def _marks(self, state):
        volume, marks = self._volume.get(), []
        for inside, name in ((True, "inside"), (False, "outside")):
            if state[name]:
                indices = nodes.nodeToIjk(self._list(inside), volume, state[name])
                marks += [Point(tuple(index[::-1]), inside, state["radius"]) for index in indices.tolist()]
        return marks

    # --- undo

    def _state(self):
        return {**self.settings, "inside": self._positions(True), "outside": self._positions(False)}

    def _remember(self, state):
        before = self._applied
        added = any(len(state[name]) != len(before[name]) for name in ("inside", "outside"))
        what = None if added else [name for name in state if state[name] != before[name]]
        now = time.monotonic()
        if self._undo and what and self._undo[-1].what == what and now - self._undo[-1].when < ONE_STEP_SECONDS:
            self._undo[-1] = self._undo[-1]._replace(when=now)
        else:
            self._undo.append(_Step(now, what, before))

    def _restore(self, state):
        self.settings = {name: state[name] for name in DEFAULTS}
        for inside, name in ((True, "inside"), (False, "outside")):
            if state[name] != self._positions(inside):
                node = self.points(inside)
                node.RemoveAllControlPoints()
                for position in state[name]:
                    node.AddControlPoint(vtk.vtkVector3d(*position))
        self._keep()
        self._soon.stop()

    def _keep(self):
        """Write the settings to the segmentation."""
        segmentation = self._segmentation.get()
        if segmentation is not None:
            segmentation.SetAttribute(_SETTINGS + self._segmentId, json.dumps(self.settings))

    # --- events

    def _timer(self, slot):
        timer = qt.QTimer()
        timer.setSingleShot(True)
        timer.connect("timeout()", slot)
        self._slots.append((timer, slot))
        return timer

    def _observe(self, thing, event):
        self._observed.append((thing, thing.AddObserver(event, self._onEvent)))

    def _onEvent(self, caller, _event):
        if slicer.mrmlScene.IsClosing() or self._writing:
            return
        if not caller.IsA("vtkSegmentation"):
            self._soon.start(0)
            return
        self._markAll()
        if self._resting:
            self._missed = True
        else:
            self._edited.start(EDIT_AFTER_MS)

    def _markAll(self):
        """Note the edit with the segmentation, for whichever segment it is of, to be looked at when that is chosen.

        The scene may be saved before it is taken in, and nothing says so.
        """
        segmentation = self._segmentation.get()
        if segmentation is None:
            return
        for segmentId in segmentation.GetSegmentation().GetSegmentIDs():
            if isCorrected(segmentation, segmentId) or self._maps.isKept("distance", segmentId):
                segmentation.SetAttribute(_EDITED + segmentId, "1")  # the same again tells nobody

    def _onSoon(self):
        try:
            self.apply()
        except SimCVDError as error:
            self._onError(str(error))


def _frame(segmentationNode, volumeNode):
    """Where scan and segmentation lie: corrections are made in the voxels of the scan."""
    return nodes.gridOf(volumeNode), volumeNode.GetTransformNodeID(), segmentationNode.GetTransformNodeID()


def movePoints(segmentationNode, volumeNode, transformId):
    """Put the points that lie under a transform (ID) under the scan's, after that was put under another."""
    for role in _ROLES.values():
        for n in range(segmentationNode.GetNumberOfNodeReferences(role)):
            points = segmentationNode.GetNthNodeReference(role, n)
            if points is not None and points.GetTransformNodeID() == transformId:
                points.SetAndObserveTransformNodeID(volumeNode.GetTransformNodeID())


def isPointList(node):
    """Whether a node holds points that correct a segment."""
    return node.IsA("vtkMRMLMarkupsFiducialNode") and node.GetAttribute(_SEGMENT) is not None


def _kept(segmentationNode, segmentId):
    """The settings that a segment was left with; none of one that was never corrected."""
    return json.loads(segmentationNode.GetAttribute(_SETTINGS + segmentId) or "{}")


def isCorrected(segmentationNode, segmentId):
    """Whether a segment is not as it was found or drawn: its settings were changed or points placed."""
    lists = (_pointList(segmentationNode, segmentId, inside) for inside in (True, False))
    moved = {**DEFAULTS, **_kept(segmentationNode, segmentId)} != DEFAULTS
    return moved or any(points is not None and _defined(points) for points in lists)


def forget(segmentationNode, segmentId):
    """Remove settings and points of a segment: they belonged to a result that is replaced."""
    for attribute in (_SETTINGS, _EDITED):
        segmentationNode.RemoveAttribute(attribute + segmentId)
    for inside in (True, False):
        points = _pointList(segmentationNode, segmentId, inside)
        if points is not None:
            slicer.mrmlScene.RemoveNode(points)


def _checkVoxels(segmentationNode, segmentId):
    """Raise SimCVDError for a segment whose voxels are derived: what is written into them is lost."""
    if not nodes.isOfVoxels(segmentationNode):
        raise SimCVDError(
            _(
                "The segment {name} is a surface; make Binary labelmap the source in Segmentations to correct it."
            ).format(name=segmentationNode.GetSegmentation().GetSegment(segmentId).GetName())
        )


def _pointList(segmentationNode, segmentId, inside):
    role = _ROLES[inside]
    count = segmentationNode.GetNumberOfNodeReferences(role)
    found = [segmentationNode.GetNthNodeReference(role, n) for n in range(count)]
    return next((node for node in found if node and node.GetAttribute(_SEGMENT) == segmentId), None)


def _defined(node):
    """Numbers of the points that were placed; the one that follows the mouse while placing is none."""
    defined = slicer.vtkMRMLMarkupsNode.PositionDefined
    count = node.GetNumberOfControlPoints()
    return [n for n in range(count) if node.GetNthControlPointPositionStatus(n) == defined]
