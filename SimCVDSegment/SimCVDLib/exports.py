"""Segmentations and distance maps as files for other programs; the scene and its transforms stay as they are."""

import contextlib
import re
from pathlib import Path

import numpy as np
import slicer
import vtk
from slicer.i18n import tr as _

from simcvd.errors import SimCVDError
from simcvd.files import atomic_path
from simcvd.images import write_volume
from SimCVDLib import nodes
from SimCVDLib.writing import writing

KINDS = ("seg.nrrd", "nii.gz", "stl")


def exportSegmentation(segmentationNode, place, kind, volumeNode=None):
    """Write a segmentation in its own frame, as the scan's file has it; a parent transform is ignored.

    Args:
        place: a folder, where the file gets a name that is free, or the path of the file, which is replaced.
        kind: "seg.nrrd" (segments with names, colors and terminology), "nii.gz" (label map: 1, 2, ... in the order of
            the segments) or "stl" (surfaces of all segments).
        volumeNode: the scan on whose grid a label map is written; without it the one that the segmentation names.

    Returns:
        the path written. Raises SimCVDError when there is nothing to write or it can't be written.
    """
    if segmentationNode is None or segmentationNode.GetSegmentation().GetNumberOfSegments() == 0:
        raise SimCVDError(_("There is no segmentation to export; segment a volume first."))
    path = _target(place, segmentationNode.GetName(), kind)
    if kind == "nii.gz":
        _writeLabels(segmentationNode, path, volumeNode)
    elif kind == "stl":
        _writeSurfaces(segmentationNode, path)
    else:
        _writeSegments(segmentationNode, path)
    return path


def exportDistance(segmentationNode, segmentId, volumeNode, place):
    """Write the signed distance in mm to a segment's boundary, as it is now, on a volume's grid, as NRRD (float32).

    `place` is as in `exportSegmentation`. Returns the path written; raises SimCVDError when it can't be written.
    """
    if segmentationNode is None or segmentationNode.GetSegmentation().GetSegment(segmentId) is None:
        raise SimCVDError(_("There is no segment to export; segment a volume first."))
    nodes.checkVolume(volumeNode)
    segment = segmentationNode.GetSegmentation().GetSegment(segmentId).GetName()
    path = _target(place, f"{volumeNode.GetName()} {segment} sdm", "nrrd")
    mask = nodes.readSegment(segmentationNode, segmentId, volumeNode)
    if not mask.any():
        raise SimCVDError(_("The segment {name} is empty, so there is no distance to it.").format(name=segment))
    distance = nodes.distanceOf(mask, volumeNode)
    write_volume(path, distance, nodes.geometryOf(volumeNode))
    return path


def _target(place, name, kind):
    place = Path(place)
    if not place.is_dir():
        if not place.name.lower().endswith("." + kind):
            raise SimCVDError(
                _("{path} is no folder and does not end in .{kind}; choose another place.").format(
                    path=place, kind=kind
                )
            )
        return place
    stem = re.sub(r'[\\/:*?"<>|\s]+', "-", name).strip("-.") or "segmentation"
    path, count = place / f"{stem}.{kind}", 1
    while path.exists():
        count += 1
        path = place / f"{stem}-{count}.{kind}"
    return path


def _writeSegments(segmentationNode, path):
    if not nodes.isOfVoxels(segmentationNode):
        raise SimCVDError(
            _(
                "The segmentation {name} is made of surfaces: export it as .stl, or make Binary labelmap the source in "
                "Segmentations."
            ).format(name=segmentationNode.GetName())
        )
    with _whole(path) as temporary:
        if not slicer.util.exportNode(segmentationNode, str(temporary), properties={"useCompression": 1}):
            raise OSError(_("the disk may be full"))


def _writeLabels(segmentationNode, path, volume):
    if volume is None:
        role = slicer.vtkMRMLSegmentationNode.GetReferenceImageGeometryReferenceRole()
        volume = segmentationNode.GetNodeReference(role)
    if volume is None:
        raise SimCVDError(_("The volume of the segmentation is no longer in the scene; export it as .seg.nrrd."))
    labels = np.zeros(nodes.shapeOf(volume), np.uint8)
    for value, identifier in enumerate(segmentationNode.GetSegmentation().GetSegmentIDs(), start=1):
        labels[nodes.readSegment(segmentationNode, identifier, volume)] = value
    write_volume(path, labels, nodes.geometryOf(volume))


def _writeSurfaces(segmentationNode, path):
    segmentation = slicer.vtkSegmentation()  # a copy, so that the user's does not get a surface by this
    segmentation.DeepCopy(segmentationNode.GetSegmentation())
    for identifier in segmentation.GetSegmentIDs():
        if nodes.isEmpty(segmentation.GetSegment(identifier)):
            segmentation.RemoveSegment(identifier)
    if not segmentation.GetNumberOfSegments():
        raise SimCVDError(_("All segments are empty, so there is no surface to export; segment a volume first."))
    segmentation.CreateRepresentation(nodes.SURFACE)
    joined = vtk.vtkAppendPolyData()
    for identifier in segmentation.GetSegmentIDs():
        joined.AddInputData(segmentation.GetSegment(identifier).GetRepresentation(nodes.SURFACE))
    toLps = vtk.vtkTransform()
    toLps.Scale(-1, -1, 1)
    turned = vtk.vtkTransformPolyDataFilter()
    turned.SetTransform(toLps)
    turned.SetInputConnection(joined.GetOutputPort())
    writer = vtk.vtkSTLWriter()
    writer.SetFileTypeToBinary()
    writer.SetHeader("SPACE=LPS")  # by which Slicer knows how to read it
    writer.SetInputConnection(turned.GetOutputPort())
    with _whole(path) as temporary:
        writer.SetFileName(str(temporary))
        writer.Write()


@contextlib.contextmanager
def _whole(path):
    """A temporary path to write to, which becomes `path`; SimCVDError when nothing was written."""
    with writing(path), atomic_path(path) as temporary:
        yield temporary
        if temporary.stat().st_size == 0:
            raise OSError(_("the disk may be full"))
