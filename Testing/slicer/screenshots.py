"""Follows the README's tutorial on a real scan, click by click, and takes its pictures.

python Testing/slicer/screenshots.py <case folder with image.nrrd and label.nrrd> [--output <folder>]
"""

import argparse
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "Testing"), str(ROOT / "SimCVDSegment")]

import host  # noqa: E402

host.start()

import numpy as np  # noqa: E402
import SimpleITK as sitk  # noqa: E402
import slicer  # noqa: E402
import vtk  # noqa: E402

WIDTH, SIZE = 460, (1500, 920)


class Tour:
    """The panel, and the pictures taken of it."""

    def __init__(self, output):
        self.output = output
        self.output.mkdir(parents=True, exist_ok=True)
        self.panel = host.loadModule(ROOT / "SimCVDSegment")
        self.panel.enter()
        self.ui = self.panel.self().ui

    def settle(self):
        for _ in range(20):
            host.processEvents()

    def wait(self, button, text):
        host.processEvents(until=lambda: button.text == text, seconds=300)
        self.settle()

    def rest(self):
        """Long enough for the surface in the 3D view to follow."""
        end = time.monotonic() + 1.5
        host.processEvents(until=lambda: time.monotonic() > end, seconds=5)

    def expand(self, *names):
        """Open these sections and close the others, as a user does who looks at one thing."""
        for name in ("input", "segment", "overlay", "boundary", "corrections", "report", "export", "batch", "log"):
            getattr(self.ui, name + "CollapsibleButton").collapsed = name not in names

    def show(self, position):
        """Let all slice views show a world position (RAS mm)."""
        for node in slicer.util.getNodesByClass("vtkMRMLSliceNode"):
            node.JumpSliceByOffsetting(*(float(x) for x in position))

    def take(self, name):
        self.settle()
        picture = host.panel(self.panel, size=SIZE, width=WIDTH)
        sitk.WriteImage(sitk.GetImageFromArray(picture, isVector=True), str(self.output / f"{name}.png"))
        print(f"{name}: {self.ui.statusLabel.text}")


def load(case):
    """The scan, shown in the slice views, and its manual outline as a hidden segmentation."""
    volume = slicer.util.loadVolume(str(case / "image.nrrd"), properties={"name": case.name})
    slicer.util.setSliceViewerLayers(background=volume, fit=True)
    truth = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Manual outline")
    truth.CreateDefaultDisplayNodes()
    truth.GetDisplayNode().SetSliceIntersectionThickness(2)
    truth.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    segment = truth.GetSegmentation().AddEmptySegment("", "Left atrium by hand", (0.35, 0.75, 0.95))
    label = sitk.GetArrayFromImage(sitk.ReadImage(str(case / "label.nrrd"))) > 0
    slicer.util.updateSegmentBinaryLabelmapFromArray(label.astype(np.uint8), truth, segment, volume)
    truth.SetDisplayVisibility(False)
    return volume, truth, label


def world(volume, index):
    """RAS of a voxel (k, j, i)."""
    matrix = vtk.vtkMatrix4x4()
    volume.GetIJKToRASMatrix(matrix)
    return np.array(matrix.MultiplyPoint((*(float(n) for n in index[::-1]), 1.0))[:3])


def worst(volume, found, truth):
    """Where a point inside and one outside are needed most in one axial slice: two voxels (k, j, i)."""
    from SimCVDLib import nodes

    missed = np.where(truth & ~found, nodes.distanceOf(found, volume), 0)
    extra = np.where(found & ~truth, -nodes.distanceOf(found, volume), 0)
    k = int((np.minimum(missed.max((1, 2)), 5) + np.minimum(extra.max((1, 2)), 5)).argmax())
    return tuple((k, *np.unravel_index(part[k].argmax(), part[k].shape)) for part in (missed, extra))


def main(case, output):
    from SimCVDLib import nodes

    tour = Tour(output)
    volume, truth, label = load(case)
    middle = world(volume, [int(n) for n in np.argwhere(label).mean(0)])
    tour.panel.exit()
    tour.panel.enter()

    tour.ui.segmentButton.click()
    tour.wait(tour.ui.segmentButton, "Segment")
    tour.ui.show3DButton.click()
    tour.show(middle)
    tour.settle()
    slicer.app.layoutManager().threeDWidget(0).threeDView().resetFocalPoint()
    tour.expand("input", "segment", "overlay", "boundary")
    tour.take("segment")

    tour.ui.overlayComboBox.currentIndex = 1
    tour.ui.legendCheckBox.click()
    tour.ui.isoCheckBox.click()
    tour.take("overlay")
    tour.ui.isoCheckBox.click()
    tour.ui.legendCheckBox.click()
    tour.ui.overlayComboBox.currentIndex = 0

    result = tour.ui.segmentSelector.currentNode()
    tour.ui.largestCheckBox.click()
    tour.settle()
    found = nodes.readSegment(result, "Segment_1", volume)
    inside, outside = worst(volume, found, label)
    for button, voxel in ((tour.ui.insideButton, inside), (tour.ui.outsideButton, outside)):
        button.click()
        active = slicer.app.applicationLogic().GetSelectionNode().GetActivePlaceNodeID()
        points = slicer.mrmlScene.GetNodeByID(active)
        points.AddControlPointWorld(vtk.vtkVector3d(*world(volume, voxel)))
        button.click()
    tour.show(world(volume, outside))
    tour.expand("input", "boundary", "corrections")
    tour.rest()
    tour.take("corrections")

    tour.ui.referenceSelector.setCurrentNode(truth)
    tour.expand("input", "segment", "report")
    tour.ui.compareButton.click()
    tour.wait(tour.ui.compareButton, "Compare")
    truth.SetDisplayVisibility(True)
    truth.GetDisplayNode().SetVisibility2DFill(False)
    tour.show(middle)
    tour.take("report")
    print(tour.ui.reportLabel.text)
    tour.panel.self().cleanup()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Follow the tutorial on a scan.")
    parser.add_argument("case", type=Path, help="folder with image.nrrd and label.nrrd")
    parser.add_argument("--output", type=Path, default=ROOT / "Resources" / "Screenshots", help="for the pictures")
    arguments = parser.parse_args()
    main(arguments.case, arguments.output)
