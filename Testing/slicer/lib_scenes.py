"""Scenes for the tests of SimCVDLib: volumes that lie awkwardly, transforms, and results of a real run."""

import functools
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import slicer
import slicer.util
import vtk

import host
from SimCVDLib import jobs, maps, nodes, segmentation

SHAPE = (24, 40, 48)
SEGMENT = {
    "value": 1,
    "name": "Left atrium",
    "color": [0.87, 0.36, 0.33],
    "terminology": {
        "category": ["SCT", "123037004", "Anatomical Structure"],
        "type": ["SCT", "82471001", "Left atrium"],
        "modifier": None,
        "region": None,
    },
}
OTHER = {"value": 2, "name": "Neighbor", "color": [0.2, 0.6, 0.9], "terminology": None}


def obliqueMatrix(spacing=(1.1, 0.9, 2.5), origin=(11, -22, 33)):
    """From (i, j, k) to RAS mm, turned about two axes."""
    c, s = np.cos(0.4), np.sin(0.4)
    turned = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
    matrix = np.eye(4)
    matrix[:3, :3] = turned * spacing
    matrix[:3, 3] = origin
    return matrix


def ball(center=(12, 20, 24), radius=14.0, spacing=(1.1, 0.9, 2.5), shape=SHAPE):
    """A ball in mm around a voxel (k, j, i), as a mask."""
    k, j, i = np.ogrid[: shape[0], : shape[1], : shape[2]]
    squares = ((x - c) * s for x, c, s in zip((k, j, i), center, reversed(spacing), strict=True))
    return sum(square**2 for square in squares) <= radius**2


def brightBall(dtype=np.int16):
    """A volume with a bright ball in noise, oblique and anisotropic."""
    rng = np.random.default_rng(1)
    array = rng.normal(100, 8, SHAPE) + 300 * ball()
    node = slicer.util.addVolumeFromArray(array.astype(dtype), ijkToRAS=obliqueMatrix(), name="Scan")
    node.CreateDefaultDisplayNodes()
    return node


def shear():
    """A linear transform that turns, shears and moves."""
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "Shear")
    matrix = np.eye(4)
    matrix[:3] = [[0.9, -0.3, 0.2, 30], [0.3, 1.0, 0, -12], [0, 0, 1.1, 7]]
    node.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(matrix))
    return node


def warp(volumeNode):
    """A non-linear transform: a thin-plate spline that moves the volume's corners by some mm, each elsewhere."""
    bounds = [0.0] * 6
    volumeNode.GetRASBounds(bounds)
    rng = np.random.default_rng(2)
    source, target = vtk.vtkPoints(), vtk.vtkPoints()
    for corner in np.stack(np.meshgrid(bounds[:2], bounds[2:4], bounds[4:]), -1).reshape(-1, 3):
        source.InsertNextPoint(*corner)
        target.InsertNextPoint(*(corner + rng.normal(0, 4, 3) + (15, 0, 0)))
    spline = vtk.vtkThinPlateSplineTransform()
    spline.SetBasisToR()
    spline.SetSourceLandmarks(source)
    spline.SetTargetLandmarks(target)
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTransformNode", "Warp")
    node.SetAndObserveTransformToParent(spline)
    return node


def drawn(volumeNode, mask, segments=(SEGMENT,)):
    """A segmentation of a mask, with its distance map: (node, segment ID, maps)."""
    node = nodes.newSegmentation(volumeNode, segments, "Drawn")
    identifier = node.GetSegmentation().GetNthSegmentID(0)
    nodes.writeSegment(node, identifier, mask, volumeNode)
    found = maps.Maps(node, volumeNode)
    found.keep("distance", identifier, nodes.distanceOf(mask, volumeNode))
    return node, identifier, found


def asSurface(node):
    """Leave of a segmentation what one that was imported from a surface has; gives it back."""
    withSurface(node).GetSegmentation().RemoveRepresentation(nodes.LABELMAP)
    return node


def withSurface(node):
    """Make a segmentation one that was imported from a surface and got its voxels from that; gives it back."""
    node.CreateClosedSurfaceRepresentation()
    node.GetSegmentation().SetSourceRepresentationName(nodes.SURFACE)
    return node


def world(volumeNode, ijk):
    """Where a voxel (i, j, k) lies in the world."""
    matrix = nodes.ijkToRas(volumeNode)
    return nodes.volumeToWorld(volumeNode, (matrix @ [*ijk, 1])[None, :3])[0]


def smallModel(folder):
    """A model that finds what is bright, named as its folder; it is written once and copied from then on."""
    if not folder.is_dir():
        shutil.copytree(_smallModel(), folder)
        card = folder / "card.json"
        card.write_text(card.read_text().replace('"name": "bright"', f'"name": "{folder.name}"'))
    return folder


@functools.cache
def _smallModel():
    place = Path(slicer.app.temporaryPath, "small models")
    subprocess.run([sys.executable, str(Path(__file__).with_name("small_model.py")), str(place / "bright")], check=True)
    return place / "bright"


def waitFor(events, seconds=60):
    """Let the application run until a job has ended; gives its last event."""
    ended = lambda: bool(events) and events[-1]["event"] in jobs.LAST  # noqa: E731
    host.processEvents(until=ended, seconds=seconds)
    assert ended(), "the job has not ended:\n" + "\n".join(jobs.worker().log)
    return events[-1]


def segmented(volumeNode, model, **settings):
    """The last event of a real segmentation."""
    events = []
    segmentation.startSegmentation(volumeNode, model, events.append, **settings)
    return waitFor(events)
