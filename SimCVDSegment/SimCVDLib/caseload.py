"""A case that lies on disk, taken into the scene to look at it and to correct its outline."""

import numpy as np
import slicer
from slicer.i18n import tr as _

from SimCVDLib import nodes

COLORS = ((0.86, 0.37, 0.34), (0.35, 0.66, 0.40), (0.30, 0.51, 0.80), (0.93, 0.73, 0.29), (0.62, 0.44, 0.73))


def loadCase(table, row):
    """Load the scan of a case, and its label as a segmentation; from then on it is one of the scene.

    The files are read as a training reads them, and stay as they are. Raises SimCVDError.
    """
    from simcvd.images import Volume, read_labels, read_volume, resample_labels, same_geometry

    # both are read before the scene changes: a label that can't be read leaves no scan in it
    scan = read_volume(row.image)
    labels = read_labels(row.label) if row.label is not None else None
    volume = slicer.util.addVolumeFromArray(_plain(scan.array), ijkToRAS=_ijkToRas(scan.geometry), name=row.name)
    volume.CreateDefaultDisplayNodes()
    if labels is None:
        table.setVolume(row, volume)
        return
    array = labels.array
    if not same_geometry(labels.geometry, scan.geometry, 0.01):
        array = resample_labels(Volume(array, labels.geometry), scan.geometry)
    node = newOutline(table, row, volume) if not array.any() else _segmentation(table, row, volume, array)
    role, row.label = row.role, None
    table.setVolume(row, volume)
    table.setLabel(row, node)
    if row.role != role:  # a look at an outline that was to stay unseen is no reason to learn from it
        table.setRole([row], role)


def newOutline(table, row, volumeNode=None):
    """A segmentation for the outline of a case, with an empty segment for each structure of the list.

    volumeNode: its scan, where the case is not one of the scene yet.
    """
    names = table.segments() or [{"value": 1, "name": _("Structure"), "color": [0.87, 0.36, 0.33]}]
    segments = [{"terminology": None, **segment} for segment in names]
    return nodes.newSegmentation(volumeNode or row.volume, segments, _("{volume} outline").format(volume=row.name))


def _segmentation(table, row, volume, array):
    """The labels of a case as a segmentation, under the names that the list knows of their values."""
    node = nodes.newSegmentation(volume, [], _("{volume} outline").format(volume=row.name))
    named = {segment["value"]: segment for segment in table.segments()}
    for value in np.unique(array[array > 0]).tolist():
        name = named[value]["name"] if value in named else _("Structure {value}").format(value=value)
        color = named[value]["color"] if value in named else COLORS[(value - 1) % len(COLORS)]
        identifier = node.GetSegmentation().AddEmptySegment("", name, color)
        nodes.writeSegment(node, identifier, array == value, volume)
    return node


def _ijkToRas(geometry):
    """Matrix (4, 4) from voxel indices (i, j, k) to RAS mm."""
    matrix = np.eye(4)
    matrix[:3, :3] = np.reshape(geometry.direction, (3, 3)) * geometry.spacing
    matrix[:3, 3] = geometry.origin
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ matrix


def _plain(array):
    """In a type that a volume node takes."""
    kinds = {"bool": np.uint8, "float16": np.float32}
    return array.astype(kinds.get(array.dtype.name, array.dtype), copy=False)
