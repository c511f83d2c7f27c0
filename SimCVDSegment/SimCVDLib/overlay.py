"""A map of numbers over the slices, its contour lines and its legend, and the user's own layers back afterwards."""

import numpy as np
import slicer
import vtk
from slicer.i18n import tr as _
from vtk.util import numpy_support

from simcvd.boxes import bounding_box, everything
from simcvd.errors import SimCVDError
from SimCVDLib import corrections, maps, nodes

NONE = "none"
KINDS = (NONE, *maps.KINDS)
FAR_MM = 20.0  # distances beyond this have no color and no line
# lowest value, highest value, and whether the colors part at zero
_RANGES = {
    "distance": (-FAR_MM, FAR_MM, True),
    "modelDistance": (-1.0, 1.0, True),
    "probability": (0.0, 1.0, False),
    "uncertainty": (0.0, 1.0, False),
}
_SEEN_FROM = 0.05  # a probability or uncertainty below leaves the scan as it is
_COLOURS = 255  # odd, so that one entry is zero itself
# blue inside, through light grey, to red outside; and from dark violet to yellow
_DIVERGING = (
    (0.0, (0.10, 0.22, 0.58)),
    (0.25, (0.34, 0.58, 0.88)),
    (0.5, (0.94, 0.94, 0.94)),
    (0.75, (0.93, 0.48, 0.36)),
    (1.0, (0.62, 0.06, 0.13)),
)
_SEQUENTIAL = ((0.0, (0.20, 0.07, 0.36)), (0.5, (0.79, 0.27, 0.34)), (1.0, (0.99, 0.90, 0.40)))
_LINE_COLOUR = (1.0, 0.62, 0.1)
_FILL = "SimCVD.Fill"  # attribute of a segmentation's display node


class Overlay:
    """What is laid over the slices for one segment.

    Args:
        volumeNode: the scan below.
        found: the maps.Maps of its segmentation.
        segmentId: of the segment whose maps are shown.
    """

    def __init__(self, volumeNode, found, segmentId):
        self._volume = nodes.NodeReference(volumeNode)
        self._maps = found
        self._segmentId = segmentId
        self._before = {}  # layers of each slice view before: by ID of its composite node
        self._shown = None
        self._lines = None
        self._drawn = None  # what the lines were drawn of and how dense

    def show(self, kind, opacity=0.5, legend=True):
        """Show one of KINDS; "none" gives every slice view back the layers it had.

        Raises SimCVDError when there is no such map (for instance because uncertainty was not asked for).
        """
        if kind == NONE:
            self._restore()
            return
        if kind == "distance":
            self._measure()
        node = self._maps.node(kind, self._segmentId)
        if node is None:
            missing = _("This result has no {kind}; segment the scan again to see it.")
            if kind == "uncertainty":
                missing = _("This result has no {kind}; segment again with it switched on.")
            raise SimCVDError(missing.format(kind=maps.title(kind)))
        if self._shown is None or self._shown.get() is not node:
            self._hideLegend()
            _paint(node, kind)
        self._shown = nodes.NodeReference(node)
        for composite in slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode"):
            self._before.setdefault(composite.GetID(), _layers(composite))
            composite.SetForegroundVolumeID(node.GetID())
            composite.SetForegroundOpacity(float(opacity))
            composite.SetCompositing(slicer.vtkMRMLSliceCompositeNode.Alpha)
        self._hideFill()
        self.showLegend(legend)

    def setOpacity(self, opacity):
        """Change the opacity (0 to 1) of what is shown, in the views that still show it."""
        for composite in self._composites():
            composite.SetForegroundOpacity(float(opacity))

    def showLegend(self, on):
        """Show or hide the color legend of what is shown."""
        node = self._shown.get() if self._shown else None
        if node is None:
            return
        legend = slicer.modules.colors.logic().GetColorLegendDisplayNode(node)
        if legend is None and on:
            legend = _newLegend(node)
        if legend is not None:
            legend.SetVisibility(bool(on))

    def showLines(self, on, every=5.0):
        """Show or hide contour lines of the distance, every so many mm on both sides of the boundary.

        They are a surface model that only slice views show. So the lines are as thin at every zoom, lie over any map or
        none, and follow any transform; painted into the colors of the map they would be none of that.
        """
        lines = self._lines.get() if self._lines else None
        if not on:
            if lines is not None:
                lines.GetDisplayNode().SetVisibility(False)
            return
        wanted = float(every), self._maps.changes
        if lines is None or wanted != self._drawn:
            lines = self._makeLines(lines, float(every))
            self._drawn = wanted
        lines.GetDisplayNode().SetVisibility(True)

    def close(self):
        """Give the views their layers back and take the lines away."""
        self._restore()
        lines = self._lines.get() if self._lines else None
        if lines is not None:
            slicer.mrmlScene.RemoveNode(lines)
        self._lines = None

    # --- layers

    def _composites(self):
        """The composite nodes of the views that still show this overlay; the user may have changed the others."""
        shown = self._shown.get() if self._shown else None
        for composite in slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode") if shown else ():
            if composite.GetForegroundVolumeID() == shown.GetID():
                yield composite

    def _restore(self):
        for composite in list(self._composites()):
            volumeId, opacity, compositing = self._before.get(composite.GetID(), (None, 0.0, 0))
            composite.SetForegroundVolumeID(volumeId if nodes.stillThere(volumeId) else None)
            composite.SetForegroundOpacity(opacity)
            composite.SetCompositing(compositing)
        self._before = {}
        self._showFill()
        self._hideLegend()
        self._shown = None

    def _hideLegend(self):
        self.showLegend(False)

    def _hideFill(self):
        """A segment's fill would tint the colors of the map; its outline stays."""
        display = self._display()
        if display is not None and display.GetVisibility2DFill():
            display.SetVisibility2DFill(False)
            display.SetAttribute(_FILL, "hidden")  # so that it comes back also in a scene that was saved meanwhile

    def _showFill(self):
        display = self._display()
        if display is not None and display.GetAttribute(_FILL):
            display.RemoveAttribute(_FILL)
            display.SetVisibility2DFill(True)

    def _display(self):
        segmentation = self._maps.segmentation
        return segmentation.GetDisplayNode() if segmentation else None

    def _measure(self):
        """Have the distance of a segment that no model found or whose maps were not kept, as of one drawn by hand.

        Not of one that was corrected: its distance before that is gone, and settings would count from here twice.
        """
        segmentation, volume = self._maps.segmentation, self._volume.get()
        if segmentation is None or volume is None or self._maps.has("distance", self._segmentId):
            return
        if corrections.isCorrected(segmentation, self._segmentId):
            return
        mask = nodes.readSegment(segmentation, self._segmentId, volume)
        if mask.any():
            self._maps.keep("distance", self._segmentId, nodes.distanceOf(mask, volume))

    # --- lines

    def _makeLines(self, node, every):
        volume = self._volume.get()
        self._measure()
        distance = self._maps.array("distance", self._segmentId)
        if volume is None or distance is None:
            raise SimCVDError(_("This segment has no distance to draw lines of; segment the scan again."))
        surface = contours(distance, nodes.ijkToRas(volume), every)
        if node is None:
            node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLModelNode", _("Distance lines"))
            node.CreateDefaultDisplayNodes()
            node.SetSaveWithScene(False)
            display = node.GetDisplayNode()
            display.SetSaveWithScene(False)
            display.SetVisibility3D(False)
            display.SetVisibility2D(True)
            display.SetColor(*_LINE_COLOUR)
            display.SetSliceIntersectionThickness(1)
        nodes.putBeside(node, volume)  # each time: the scan may be under another transform since
        node.SetAndObservePolyData(surface)
        self._lines = nodes.NodeReference(node)
        return node


def contours(distance, ijkToRas, every, far=FAR_MM):
    """Surfaces of equal distance, vtkPolyData in RAS mm, at every multiple of `every` up to `far` mm but zero.

    Large maps are read at every other voxel: distances change evenly. No lines where `every` is beyond `far`.
    """
    if every > far:
        return vtk.vtkPolyData()  # without a level the filter would draw the boundary itself
    levels = [sign * n * every for n in range(1, int(far / every) + 1) for sign in (-1, 1)]
    near = np.abs(distance) <= far + every
    box = bounding_box(near) or everything(near.shape)
    step = 2 if distance[box].size > 2_000_000 else 1
    part = np.ascontiguousarray(distance[box][::step, ::step, ::step], np.float32)
    image = vtk.vtkImageData()
    image.SetDimensions(*reversed(part.shape))
    image.GetPointData().SetScalars(numpy_support.numpy_to_vtk(part.ravel()))
    surfaces = vtk.vtkFlyingEdges3D()
    surfaces.SetInputData(image)
    surfaces.ComputeNormalsOff()
    surfaces.ComputeScalarsOff()
    for n, level in enumerate(levels):
        surfaces.SetValue(n, level)
    surfaces.Update()
    placed = np.array(ijkToRas, float)
    placed[:3, 3] += placed[:3, :3] @ [s.start for s in reversed(box)]
    placed[:3, :3] *= step
    transform = vtk.vtkTransform()
    transform.SetMatrix(slicer.util.vtkMatrixFromArray(placed))
    mover = vtk.vtkTransformPolyDataFilter()
    mover.SetInputData(surfaces.GetOutput())
    mover.SetTransform(transform)
    mover.Update()
    return mover.GetOutput()


# --- colors


def _paint(node, kind):
    low, high, parted = _RANGES[kind]
    display = node.GetDisplayNode()
    display.SetAndObserveColorNodeID(_colours("SimCVDDiverging" if parted else "SimCVDSequential").GetID())
    display.SetAutoWindowLevel(False)
    display.SetWindowLevelMinMax(low, high)
    display.SetInterpolate(True)
    display.SetAutoThreshold(False)
    display.SetThreshold(low if parted else _SEEN_FROM, high)
    display.SetApplyThreshold(True)


def _newLegend(node):
    legend = slicer.modules.colors.logic().AddDefaultColorLegendDisplayNode(node)
    if legend is not None:
        kind = node.GetAttribute(maps.KIND)
        legend.SetTitleText(_unit(kind))
        legend.SetLabelFormat("%.0f" if kind == "distance" else "%.2f")
        legend.SetNumberOfLabels(5)
        legend.SetMaxNumberOfColors(_COLOURS)
        legend.SetSize(0.06, 0.4)  # its letters grow with its width: any larger and they cover the scan
        for letters in (legend.GetTitleTextProperty(), legend.GetLabelTextProperty()):
            letters.SetFontFamilyToArial()
    return legend


def _unit(kind):
    """What stands above the legend; the panel says which map it is."""
    return {
        "distance": _("mm"),
        "modelDistance": _("-1 to 1"),
        "probability": _("probability"),
        "uncertainty": _("uncertainty"),
    }[kind]


def _colours(name):
    """One of the two color tables, made once in a scene."""
    node = slicer.mrmlScene.GetSingletonNode(name, "vtkMRMLColorTableNode")
    if node is not None:
        return node
    node = slicer.vtkMRMLColorTableNode()
    node.SetSingletonTag(name)
    node.SetName(name)
    node.SetTypeToUser()
    node.SetAttribute("Category", "SimCVD")
    node.SetNumberOfColors(_COLOURS)
    stops, values = zip(*(_DIVERGING if name == "SimCVDDiverging" else _SEQUENTIAL), strict=True)
    places = np.linspace(0, 1, _COLOURS)
    colours = np.stack([np.interp(places, stops, channel) for channel in np.transpose(values)], axis=1)
    for n, colour in enumerate(colours.tolist()):
        node.SetColor(n, f"{n}", *colour, 1.0)
    return slicer.mrmlScene.AddNode(node)


def _layers(composite):
    """Foreground, opacity and compositing of a view; a map that the scene was saved with is none of the user's."""
    node = nodes.stillThere(composite.GetForegroundVolumeID())
    if node is not None and maps.isMap(node):
        return None, 0.0, composite.GetCompositing()
    return composite.GetForegroundVolumeID(), composite.GetForegroundOpacity(), composite.GetCompositing()
