"""The numbers behind a segmentation: distance, probability and uncertainty of every voxel.

They lie in files until somebody asks for them. As volume nodes, made when first shown or edited, they are saved with
the scene and found again after it was loaded.
"""

import weakref

import numpy as np
import slicer
from slicer.i18n import tr as _

from simcvd.errors import SimCVDError
from SimCVDLib import jobs, nodes

# kind: (name in the worker's answer, one array per segment)
KINDS = {
    "distance": ("sdm", True),
    "modelDistance": ("model_sdm", True),
    "probability": ("probability", True),
    "uncertainty": ("uncertainty", False),
}
_ROLE = "SimCVD.Map"
KIND = "SimCVD.Map.Kind"  # attributes of the nodes
SEGMENT = "SimCVD.Map.Segment"


class Maps:
    """The maps of one segmentation.

    Args:
        segmentationNode: the segmentation they belong to.
        volumeNode: the volume on whose grid they are.
        files: paths of .npy files by the worker's names ("sdm", ...); none for a segmentation from a scene.
        segmentIds: the segments in the order of the files' first axis.
        folder: scratch folder of the files, removed when these maps are let go.
    """

    def __init__(self, segmentationNode, volumeNode, files=None, segmentIds=(), folder=None):
        self._segmentation = nodes.NodeReference(segmentationNode)
        self._volume = nodes.NodeReference(volumeNode)
        self._grid = nodes.gridOf(volumeNode)
        self._files = dict(files or {})
        self._segmentIds = list(segmentIds)
        self.changes = 0  # how often a map that was there was replaced
        self.close = weakref.finalize(self, jobs.removeFolder, folder) if folder else lambda: None

    @property
    def segmentation(self):
        """The segmentation node, or None once it is gone."""
        return self._segmentation.get()

    @property
    def isCurrent(self):
        """Whether the volume still has the grid that the maps were made on."""
        volume = self._volume.get()
        return volume is not None and nodes.gridOf(volume) == self._grid

    @property
    def volume(self):
        """The volume node on whose grid they are, or None once it is gone."""
        return self._volume.get()

    def has(self, kind, segmentId):
        """Whether there is a map of this kind ("distance", "modelDistance", "probability", "uncertainty")."""
        return self._node(kind, segmentId) is not None or self._inFiles(kind, segmentId)

    def isKept(self, kind, segmentId):
        """Whether a map is a volume node, which was shown or edited."""
        return self._node(kind, segmentId) is not None

    def array(self, kind, segmentId):
        """The map of a segment, float32 (K, J, I), or None; distances in mm, the model's own from -1 to 1."""
        node = self._node(kind, segmentId)
        if node is not None:
            return slicer.util.arrayFromVolume(node)
        if not self._inFiles(kind, segmentId):
            return None
        name, perSegment = KINDS[kind]
        try:
            stored = np.load(self._files[name], mmap_mode="r")
        except (OSError, ValueError) as error:
            raise SimCVDError(_("The maps of this result are no longer on disk; segment again.")) from error
        if perSegment and stored.ndim == 4:
            stored = stored[self._segmentIds.index(segmentId)]
        return np.array(stored, np.float32)

    def node(self, kind, segmentId):
        """The map as a volume node beside the scan, made when it is first asked for; None where there is no map."""
        node = self._node(kind, segmentId)
        if node is not None:
            return node
        array, volume = self.array(kind, segmentId), self._volume.get()
        return None if array is None or volume is None else self.keep(kind, segmentId, array)

    def keep(self, kind, segmentId, array):
        """Make a map, float32 (K, J, I), a volume node that is saved with the scene, in place of the one there was."""
        segmentation, volume = self._segmentation.get(), self._volume.get()
        node = self._node(kind, segmentId, current=False)
        if node is not None:
            self.changes += 1
            slicer.util.updateVolumeFromArray(node, array)
            node.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(nodes.ijkToRas(volume)))
            nodes.putBeside(node, volume)
            return node
        name = _("{volume} {kind}").format(volume=volume.GetName(), kind=title(kind))
        node = nodes.volumeLike(volume, array, name, {KIND: kind, SEGMENT: segmentId if KINDS[kind][1] else ""})
        segmentation.AddNodeReferenceID(_ROLE, node.GetID())
        return node

    def _inFiles(self, kind, segmentId):
        return KINDS[kind][0] in self._files and (not KINDS[kind][1] or segmentId in self._segmentIds)

    def _node(self, kind, segmentId, current=True):
        """The volume node of a map; with `current` none of another grid than the volume's, which says nothing of it."""
        segmentation, volume = self._segmentation.get(), self._volume.get()
        wanted = kind, segmentId if KINDS[kind][1] else ""
        for node in _nodesOf(segmentation) if segmentation else ():
            if (node.GetAttribute(KIND), node.GetAttribute(SEGMENT)) == wanted:
                fits = volume is not None and nodes.gridOf(node) == nodes.gridOf(volume)
                return node if fits or not current else None
        return None


def title(kind):
    """What a kind of map is called."""
    return {
        "distance": _("signed distance"),
        "modelDistance": _("distance by the model"),
        "probability": _("probability"),
        "uncertainty": _("uncertainty"),
    }[kind]


def isMap(node):
    """Whether a volume is a map: no scan, so nothing to segment or to outline."""
    return node.GetAttribute(KIND) is not None


def moveNodes(segmentationNode, volumeNode):
    """Put the maps of a segmentation under the transform of their scan, after that was put under another."""
    for node in _nodesOf(segmentationNode):
        node.SetAndObserveTransformNodeID(volumeNode.GetTransformNodeID())


def removeNodes(segmentationNode):
    """Remove the volume nodes of a segmentation's maps from the scene: they are of a result that is replaced."""
    for node in _nodesOf(segmentationNode):
        slicer.mrmlScene.RemoveNode(node)


def _nodesOf(segmentationNode):
    count = segmentationNode.GetNumberOfNodeReferences(_ROLE)
    found = [segmentationNode.GetNthNodeReference(_ROLE, n) for n in range(count)]
    return [node for node in found if node is not None]
