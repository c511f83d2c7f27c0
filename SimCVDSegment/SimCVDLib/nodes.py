"""Between MRML nodes and arrays (slice, row, column): every place where RAS and LPS, or world and volume frame, meet.

The volume's own frame is what the voxels are in before any parent transform. Results are made there and put under the
same transform, so linear and non-linear transforms alike move the volume and its results together.
"""

import itertools

import numpy as np
import slicer
import vtk
from slicer.i18n import tr as _
from vtk.util import numpy_support

from simcvd import nrrd
from simcvd.boxes import bounding_box
from simcvd.errors import SimCVDError
from simcvd.grid import Geometry
from simcvd.labels import distances
from SimCVDLib.writing import writing

LABELMAP = "Binary labelmap"
SURFACE = "Closed surface"
STRUCTURE = "SimCVD.Structure"  # tag of a segment: what of a model card it is


class NodeReference:
    """Remembers a node without keeping it alive; an ID alone may belong to another node after a scene was loaded."""

    def __init__(self, node):
        self._weak = vtk.vtkWeakReference()
        self._weak.Set(node)

    def get(self):
        """The node, or None once it has left the scene."""
        node = self._weak.Get()
        return node if node is not None and node.GetScene() is slicer.mrmlScene else None


def stillThere(nodeId):
    """The node with this ID, or None when there is none (any more)."""
    return slicer.mrmlScene.GetNodeByID(nodeId) if nodeId else None


# --- volumes


def checkVolume(volumeNode):
    """Raise SimCVDError unless the node is a volume with one value a voxel."""
    if volumeNode is None:
        raise SimCVDError(_("No volume is chosen; choose the scan to work on."))
    image = volumeNode.GetImageData()
    if image is None or image.GetNumberOfPoints() == 0:
        raise SimCVDError(_("The volume {name} has no voxels; load it again.").format(name=volumeNode.GetName()))
    if image.GetNumberOfScalarComponents() != 1:
        raise SimCVDError(
            _("The volume {name} has several values a voxel (colors or vectors); choose a scalar volume.").format(
                name=volumeNode.GetName()
            )
        )


def ijkToRas(volumeNode):
    """Matrix (4, 4) from voxel indices (i, j, k) to RAS mm in the volume's own frame."""
    matrix = vtk.vtkMatrix4x4()
    volumeNode.GetIJKToRASMatrix(matrix)
    return slicer.util.arrayFromVTKMatrix(matrix)


def shapeOf(volumeNode):
    """The shape (K, J, I) of a volume's array."""
    return tuple(reversed(volumeNode.GetImageData().GetDimensions()))


def geometryOf(volumeNode):
    """The simcvd.grid.Geometry (LPS) of a volume in its own frame."""
    lps = np.diag([-1.0, -1.0, 1.0]) @ ijkToRas(volumeNode)[:3]
    spacing = np.linalg.norm(lps[:, :3], axis=0)
    direction = (lps[:, :3] / spacing).ravel()
    return Geometry(
        shapeOf(volumeNode)[::-1], *(tuple(float(x) for x in row) for row in (spacing, lps[:, 3], direction))
    )


def gridOf(volumeNode):
    """What two volumes share that have the same voxels in their own frames, to a ten-thousandth of a mm."""
    if volumeNode.GetImageData() is None:
        return None
    return shapeOf(volumeNode), tuple(np.round(ijkToRas(volumeNode), 4).ravel().tolist())


def exportVolume(volumeNode, path):
    """Write a volume as it is stored, in its own frame, as uncompressed NRRD; the scene is not touched.

    Raises SimCVDError when the volume can't be used or the file can't be written.
    """
    checkVolume(volumeNode)
    writeNrrd(path, slicer.util.arrayFromVolume(volumeNode), ijkToRas(volumeNode))


def writeNrrd(path, array, matrix):
    """Write an array (K, J, I) with its matrix from (i, j, k) to RAS mm as uncompressed NRRD in LPS; lossless."""
    array = np.ascontiguousarray(array)
    header = nrrdHeader(array, matrix)
    with writing(path), open(path, "wb") as file:
        file.write(header)
        file.write(array.data)


def nrrdHeader(array, matrix):
    """What stands before the voxels of an array (K, J, I) in such a file, as bytes."""
    lps = np.diag([-1.0, -1.0, 1.0]) @ matrix[:3]
    directions = " ".join(_vector(lps[:, axis]) for axis in range(3))
    lines = [
        "NRRD0004",
        f"type: {nrrd.TYPES[array.dtype.str[1:]]}",
        "dimension: 3",
        f"space: {nrrd.SPACE}",
        "sizes: " + " ".join(str(n) for n in reversed(array.shape)),
        f"space directions: {directions}",
        f"kinds: {nrrd.KINDS}",
        "endian: " + ("big" if array.dtype.str[0] == ">" else "little"),
        "encoding: raw",
        f"space origin: {_vector(lps[:, 3])}",
    ]
    return ("\n".join(lines) + "\n\n").encode("ascii")


def _vector(numbers):
    return "(" + ",".join(repr(float(n)) for n in numbers) + ")"


def volumeLike(volumeNode, array, name, attributes=None):
    """A new scalar volume of an array (K, J, I) on a volume's grid, under its transform and beside it in the hierarchy.

    The voxels are copied. Nothing of what is displayed changes. It has the attributes, texts by name, from the moment
    it is in the scene. Raises ValueError for an array of another shape.
    """
    if array.shape != shapeOf(volumeNode):
        raise ValueError(f"array of shape {array.shape} for a volume of shape {shapeOf(volumeNode)}")
    node = slicer.vtkMRMLScalarVolumeNode()
    node.SetName(_freeName(name))
    for key, value in (attributes or {}).items():
        node.SetAttribute(key, value)
    slicer.mrmlScene.AddNode(node)
    node.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(ijkToRas(volumeNode)))
    node.CreateDefaultDisplayNodes()
    node.GetDisplayNode().SetAutoWindowLevel(False)  # finding one takes most of a second in a large volume
    slicer.util.updateVolumeFromArray(node, array.astype(np.uint8) if array.dtype == bool else array)
    putBeside(node, volumeNode)
    return node


def putBeside(node, volumeNode):
    """Give a node the volume's parent transform and its place in the subject hierarchy."""
    node.SetAndObserveTransformNodeID(volumeNode.GetTransformNodeID())
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    parent = hierarchy.GetItemParent(hierarchy.GetItemByDataNode(volumeNode)) or hierarchy.GetSceneItemID()
    item = hierarchy.GetItemByDataNode(node)
    if item:
        hierarchy.SetItemParent(item, parent)
    else:
        hierarchy.CreateItem(parent, node)


def _freeName(name):
    return slicer.mrmlScene.GetUniqueNameByString(name)


# --- segmentations


def newSegmentation(volumeNode, segments, name):
    """A new segmentation on a volume's grid, with empty segments.

    Args:
        volumeNode: whose geometry, parent transform and place in the subject hierarchy it takes.
        segments: as in a model card: dictionaries of "value", "name", "color" and "terminology".
        name: of the node; a number is added where it is taken.

    Returns:
        the vtkMRMLSegmentationNode.
    """
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", _freeName(name))
    node.CreateDefaultDisplayNodes()
    node.GetDisplayNode().SetSliceIntersectionThickness(2)  # one pixel is lost over a scan
    adoptGeometry(node, volumeNode)
    for segment in segments:
        addSegment(node, segment)
    return node


def adoptGeometry(segmentationNode, volumeNode):
    """Give a segmentation a volume's transform, place and reference geometry."""
    putBeside(segmentationNode, volumeNode)  # first: the geometry is taken over from one transform to the other
    segmentationNode.SetReferenceImageGeometryParameterFromVolumeNode(volumeNode)
    role = slicer.vtkMRMLSegmentationNode.GetReferenceImageGeometryReferenceRole()
    segmentationNode.SetNodeReferenceID(role, volumeNode.GetID())


def addSegment(segmentationNode, segment):
    """The ID of the segment that an earlier result of the same structure has, else of a new, empty one.

    Args:
        segment: as in a model card: a dictionary of "value", "name", "color" and "terminology".
    """
    segmentation = segmentationNode.GetSegmentation()
    mark = f"{segment['value']} {segment['name']}"
    for identifier in segmentation.GetSegmentIDs():
        value = vtk.reference("")
        if segmentation.GetSegment(identifier).GetTag(STRUCTURE, value) and str(value) == mark:
            return identifier
    identifier = segmentation.GenerateUniqueSegmentID(f"Segment_{segment['value']}")
    segmentation.AddEmptySegment(identifier, segment["name"], [float(c) for c in segment["color"]])
    added = segmentation.GetSegment(identifier)
    added.SetTag(STRUCTURE, mark)
    if segment.get("terminology"):
        added.SetTag(added.GetTerminologyEntryTagName(), terminologyEntry(segment))
    return identifier


def terminologyEntry(segment):
    """Slicer's serialized terminology of a segment of a model card: "" where the card has none."""
    terminology = segment.get("terminology")
    if not terminology:
        return ""
    category, kind, modifier, region = (
        "^".join(terminology.get(key) or ("", "", "")) for key in ("category", "type", "modifier", "region")
    )
    context = "Segmentation category and type - 3D Slicer General Anatomy list"
    return f"{context}~{category}~{kind}~{modifier}~Anatomic codes - DICOM master list~{region}~^^"


def writeSegment(segmentationNode, segmentId, mask, volumeNode, box=None):
    """Write a mask (K, J, I) on a volume's grid into a segment; other segments stay as they are, even where they meet.

    Args:
        box: three slices (K, J, I): only these voxels are written, the others keep what they had.
    """
    logic = slicer.modules.segmentations.logic()
    whole = box is None or not _onGrid(segmentationNode, segmentId, volumeNode)
    if whole and box is not None:
        full = readSegment(segmentationNode, segmentId, volumeNode)
        full[box] = mask[box]
        mask = full
    box = (box if not whole else bounding_box(mask)) or (slice(0, 1),) * 3
    part, extent = _orientedImage(mask, box, volumeNode)
    if whole or _covers(extent, _segmentImage(segmentationNode, segmentId).GetExtent()):
        modes = [logic.MODE_REPLACE]
    else:
        inside = mask[box]
        modes = ([logic.MODE_MERGE_MASK] if inside.any() else []) + ([logic.MODE_MERGE_MIN] if not inside.all() else [])
    for mode in modes:
        if not logic.SetBinaryLabelmapToSegment(part, segmentationNode, segmentId, mode, extent):
            raise RuntimeError(f"segment {segmentId} of {segmentationNode.GetName()} can't be written")


def readSegment(segmentationNode, segmentId, volumeNode):
    """A segment as a mask, bool (K, J, I), on a volume's grid, wherever the two nodes' transforms put them.

    Raises SimCVDError for a segment that has neither voxels nor a surface.
    """
    if isSurface(segmentationNode, segmentId):
        return _filled(segmentationNode, segmentId, volumeNode)
    if sharesGrid(segmentationNode, segmentId, volumeNode):
        return _pasted(segmentationNode, segmentId, shapeOf(volumeNode))
    names = vtk.vtkStringArray()
    names.InsertNextValue(segmentId)
    merged = slicer.vtkOrientedImageData()
    slicer.vtkSlicerSegmentationsModuleLogic.GenerateMergedLabelmapInReferenceGeometry(
        segmentationNode, volumeNode, names, slicer.vtkSegmentation.EXTENT_REFERENCE_GEOMETRY, merged
    )
    return _array(merged) > 0


def isOfVoxels(segmentationNode):
    """Whether voxels are what the segments are made of; else they are derived from surfaces or contours, and whatever
    is written into them is neither shown nor saved."""
    segmentation = segmentationNode.GetSegmentation()
    return not segmentation.GetNumberOfSegments() or segmentation.GetSourceRepresentationName() == LABELMAP


def isSurface(segmentationNode, segmentId):
    """Whether a segment has no image of its own, as one that was imported from a surface."""
    return _segmentImage(segmentationNode, segmentId) is None


def isEmpty(segment):
    """Whether a vtkSegment has no voxels (or, where it was not made of voxels, no points)."""
    image = segment.GetRepresentation(LABELMAP)
    if image is not None:
        return image.IsEmpty() or not (_array(image) == segment.GetLabelValue()).any()
    surface = segment.GetRepresentation(SURFACE)
    return surface is None or surface.GetNumberOfPoints() == 0


def hasVoxels(segmentationNode, segmentIds):
    """Whether any of the segments has a voxel, or a surface where it has no voxels."""
    segmentation = segmentationNode.GetSegmentation()
    return any(not isEmpty(segmentation.GetSegment(identifier)) for identifier in segmentIds)


def sharesGrid(segmentationNode, segmentId, volumeNode):
    """Whether a segment's voxels are a volume's, so that nothing has to be resampled between them."""
    return segmentationNode.GetTransformNodeID() == volumeNode.GetTransformNodeID() and _onGrid(
        segmentationNode, segmentId, volumeNode
    )


def reachesBeyond(segmentationNode, segmentId, volumeNode):
    """Whether voxels of a segment lie outside a volume under the same transform: on its grid they would be lost."""
    image = _segmentImage(segmentationNode, segmentId)
    if image is None or image.IsEmpty() or _onGrid(segmentationNode, segmentId, volumeNode):
        return False
    matrix = vtk.vtkMatrix4x4()
    image.GetImageToWorldMatrix(matrix)
    value = segmentationNode.GetSegmentation().GetSegment(segmentId).GetLabelValue()
    places = np.argwhere(_array(image) == value)[:, ::-1] + image.GetExtent()[::2]
    toIjk = np.linalg.inv(ijkToRas(volumeNode)) @ slicer.util.arrayFromVTKMatrix(matrix)
    indices = places @ toIjk[:3, :3].T + toIjk[:3, 3]
    return bool(((indices < -1) | (indices > shapeOf(volumeNode)[::-1])).any())


def imageOf(segmentationNode, segmentId):
    """A copy of a segment's voxels on their own grid, a vtkOrientedImageData, for `restoreImage`."""
    image = slicer.vtkOrientedImageData()
    segmentationNode.GetBinaryLabelmapRepresentation(segmentId, image)
    return image


def restoreImage(segmentationNode, segmentId, image):
    """Give a segment back the voxels that `imageOf` copied, on the grid that they were on."""
    logic = slicer.modules.segmentations.logic()
    if not logic.SetBinaryLabelmapToSegment(image, segmentationNode, segmentId, logic.MODE_REPLACE, image.GetExtent()):
        raise RuntimeError(f"segment {segmentId} of {segmentationNode.GetName()} can't be written")


def distanceOf(mask, volumeNode):
    """Signed distance in mm, float32 (K, J, I), to the boundary of a mask on a volume's grid; negative inside."""
    return distances(mask.astype(np.uint8), 2, geometryOf(volumeNode))[0]


def _segmentImage(segmentationNode, segmentId):
    """The image a segment lies in, maybe together with others; None for a segment that was made otherwise."""
    return segmentationNode.GetSegmentation().GetSegment(segmentId).GetRepresentation(LABELMAP)


def _onGrid(segmentationNode, segmentId, volumeNode):
    image = _segmentImage(segmentationNode, segmentId)
    if image is None:
        return False
    if image.IsEmpty():
        return True
    matrix = vtk.vtkMatrix4x4()
    image.GetImageToWorldMatrix(matrix)
    mine, its = slicer.util.arrayFromVTKMatrix(matrix), ijkToRas(volumeNode)
    corners = np.array(list(itertools.product(*((0, n - 1) for n in reversed(shapeOf(volumeNode))), (1,))), float)
    apart = np.abs((mine - its) @ corners.T).max()
    return apart < 1e-3 * np.linalg.norm(its[:3, :3], axis=0).min()


def _pasted(segmentationNode, segmentId, shape):
    mask = np.zeros(shape, bool)
    image = slicer.vtkOrientedImageData()
    segmentationNode.GetBinaryLabelmapRepresentation(segmentId, image)
    if image.IsEmpty():
        return mask
    first, last = image.GetExtent()[::2][::-1], image.GetExtent()[1::2][::-1]
    low = [max(0, a) for a in first]
    high = [min(n, b + 1) for n, b in zip(shape, last, strict=True)]
    if all(a < b for a, b in zip(low, high, strict=True)):
        source = tuple(slice(a - f, b - f) for a, b, f in zip(low, high, first, strict=True))
        mask[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = _array(image)[source] > 0
    return mask


def _filled(segmentationNode, segmentId, volumeNode):
    """What lies within the surface of a segment; the segment stays the surface that it is."""
    segment = segmentationNode.GetSegmentation().GetSegment(segmentId)
    surface = segment.GetRepresentation(SURFACE)
    if surface is None:
        raise SimCVDError(
            _("The segment {name} has neither voxels nor a surface; make it a labelmap in Segmentations.").format(
                name=segment.GetName()
            )
        )
    shape = shapeOf(volumeNode)
    if surface.GetNumberOfPoints() == 0:
        return np.zeros(shape, bool)
    points = vtk.vtkPoints()
    indices = nodeToIjk(segmentationNode, volumeNode, numpy_support.vtk_to_numpy(surface.GetPoints().GetData()))
    points.SetData(numpy_support.numpy_to_vtk(np.ascontiguousarray(indices), deep=True))
    placed = vtk.vtkPolyData()
    placed.SetPoints(points)
    placed.SetPolys(surface.GetPolys())
    placed.SetStrips(surface.GetStrips())
    stencil = vtk.vtkPolyDataToImageStencil()
    stencil.SetInputData(placed)
    stencil.SetOutputWholeExtent([x for n in reversed(shape) for x in (0, n - 1)])
    image = vtk.vtkImageStencilToImage()
    image.SetInputConnection(stencil.GetOutputPort())
    image.SetInsideValue(1)
    image.Update()
    return _array(image.GetOutput()) > 0


def _array(image):
    shape = tuple(reversed(image.GetDimensions()))
    return numpy_support.vtk_to_numpy(image.GetPointData().GetScalars()).reshape(shape)


def _orientedImage(mask, box, volumeNode):
    """A box of a mask as Slicer's oriented image on the volume's grid, and its extent (i0, i1, j0, j1, k0, k1)."""
    part = np.ascontiguousarray(mask[box], np.uint8)
    low = [s.indices(n)[0] for s, n in zip(box, mask.shape, strict=True)]
    extent = [x for a, n in zip(reversed(low), reversed(part.shape), strict=True) for x in (a, a + n - 1)]
    image = slicer.vtkOrientedImageData()
    image.SetExtent(extent)
    image.GetPointData().SetScalars(numpy_support.numpy_to_vtk(part.ravel(), deep=True))
    image.SetGeometryFromImageToWorldMatrix(slicer.util.vtkMatrixFromArray(ijkToRas(volumeNode)))
    return image, extent


def _covers(outer, inner):
    return all(outer[n] <= inner[n] and inner[n + 1] <= outer[n + 1] for n in (0, 2, 4))


# --- regions and positions


def worldToVolume(volumeNode, points):
    """World positions (N, 3) in RAS mm, in the volume's own frame."""
    return _between(None, volumeNode.GetParentTransformNode(), points)


def volumeToWorld(volumeNode, points):
    """Positions (N, 3) in RAS mm of the volume's own frame, in the world."""
    return _between(volumeNode.GetParentTransformNode(), None, points)


def worldToIjk(volumeNode, points):
    """World positions (N, 3) in RAS mm as voxel indices (i, j, k), not rounded."""
    return _toIjk(volumeNode, worldToVolume(volumeNode, points))


def nodeToIjk(node, volumeNode, points):
    """Positions (N, 3) in RAS mm of a node's own frame as voxel indices (i, j, k) of a volume, not rounded."""
    return _toIjk(volumeNode, _between(node.GetParentTransformNode(), volumeNode.GetParentTransformNode(), points))


def _toIjk(volumeNode, points):
    inverse = np.linalg.inv(ijkToRas(volumeNode))
    return points @ inverse[:3, :3].T + inverse[:3, 3]


def _between(source, target, points):
    points = np.asarray(points, float).reshape(-1, 3)
    if source is target:
        return points
    transform = vtk.vtkGeneralTransform()
    slicer.vtkMRMLTransformNode.GetTransformBetweenNodes(source, target, transform)
    return np.array([transform.TransformPoint(p) for p in points.tolist()]).reshape(-1, 3)


def newRoi(name):
    """A new markups ROI that is drawn as a frame, so that it does not tint the scan."""
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsROINode", _freeName(name))
    node.CreateDefaultDisplayNodes()
    node.GetDisplayNode().SetFillVisibility(False)
    node.GetDisplayNode().SetPropertiesLabelVisibility(False)
    return node


def roiBounds(roiNode, volumeNode):
    """LPS bounds (x0, x1, y0, y1, z0, z1) in mm, in the volume's own frame, around a markups ROI wherever it lies.

    Bounds lie along the axes of that frame: around a region that is turned against them they are larger than it. Raises
    SimCVDError when the region has no size.
    """
    size = np.array(roiNode.GetSize())
    if not (size > 0).all():
        raise SimCVDError(
            _("The region {name} has no size; draw it or fit it to the volume.").format(name=roiNode.GetName())
        )
    # more than the corners, because a non-linear transform bends the faces
    steps = np.array(list(itertools.product(np.linspace(-0.5, 0.5, 5), repeat=3)))
    matrix = vtk.vtkMatrix4x4()
    matrix.DeepCopy(roiNode.GetObjectToNodeMatrix())
    placed = slicer.util.arrayFromVTKMatrix(matrix)
    inNode = (steps * size) @ placed[:3, :3].T + placed[:3, 3]
    ras = _between(roiNode.GetParentTransformNode(), volumeNode.GetParentTransformNode(), inNode)
    lps = ras * (-1, -1, 1)
    return [float(x) for pair in zip(lps.min(0), lps.max(0), strict=True) for x in pair]


def fitRoi(roiNode, volumeNode):
    """Lay a markups ROI around a volume, along the axes of its own frame, which are those the region is used in."""
    checkVolume(volumeNode)
    edges = [(-0.5, n / 2, n - 0.5) for n in reversed(shapeOf(volumeNode))]
    matrix = ijkToRas(volumeNode)
    points = np.array(list(itertools.product(*edges))) @ matrix[:3, :3].T + matrix[:3, 3]
    transform = volumeNode.GetParentTransformNode()
    linear = transform is None or transform.IsTransformToWorldLinear()
    if not linear:  # a region under a bending transform would not be drawn as it is used: it stands in the world
        points = volumeToWorld(volumeNode, points)
    roiNode.SetAndObserveTransformNodeID(volumeNode.GetTransformNodeID() if linear else None)
    roiNode.SetAndObserveObjectToNodeMatrix(vtk.vtkMatrix4x4())
    roiNode.SetSize(*(float(n) for n in np.ptp(points, axis=0)))
    roiNode.SetCenter(*(float(n) for n in (points.min(0) + points.max(0)) / 2))
