"""Follows the README's second tutorial on real scans, click by click, takes its pictures and says how long it took.

python Testing/slicer/train_screenshots.py <folder with hc001/image.nrrd and label.nrrd ...> [--help]

The first scans are outlined, the next ones are not, and the last ones measure the model; what is trained is a model
from scratch. The processor that the training computes on is the one that the interface shares.
"""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "Testing"), str(ROOT / "SimCVDSegment")]

import host  # noqa: E402

host.start()

import numpy as np  # noqa: E402
import qt  # noqa: E402
import SimpleITK as sitk  # noqa: E402
import slicer  # noqa: E402

WIDTH, SIZE = 520, (1560, 1000)
STRUCTURES = {
    "hippocampus": (("Anterior hippocampus", (0.87, 0.36, 0.33)), ("Posterior hippocampus", (0.35, 0.66, 0.40))),
    "la": (("Left atrium", (0.87, 0.36, 0.33)),),
}
SECTIONS = ("cases", "next", "training", "run", "result", "log")


class Tour:
    """The panel, and the pictures taken of it."""

    def __init__(self, output):
        self.output = output
        self.output.mkdir(parents=True, exist_ok=True)
        self.window = host.openMainWindow()
        host.loadModule(ROOT / "SimCVDSegment")
        self.panel = host.loadModule(ROOT / "SimCVDTrain")
        self.panel.enter()
        self.ui = self.panel.self().ui
        self.longest = self.busiest = 0.0

    def wait(self, until, seconds=600):
        """Let the application work; kept are the longest time that it did not answer, and the longest it computed.

        They differ where other programs, such as the training, want the same core.
        """
        end = time.monotonic() + seconds
        while not until():
            if time.monotonic() > end:
                raise TimeoutError(f"it did not come true within {seconds} s")
            begin, computed = time.perf_counter(), time.thread_time()
            slicer.app.processEvents()
            self.longest = max(self.longest, time.perf_counter() - begin)
            self.busiest = max(self.busiest, time.thread_time() - computed)
            time.sleep(0.002)

    def rest(self, seconds=1.5):
        end = time.monotonic() + seconds
        self.wait(lambda: time.monotonic() > end)

    def expand(self, *names):
        """Open these sections and close the others, as a user does who looks at one thing."""
        for name in SECTIONS:
            getattr(self.ui, name + "CollapsibleButton").collapsed = name not in names

    def choose(self, *names):
        tree = self.ui.caseTree
        tree.clearSelection()
        for n in range(tree.topLevelItemCount):
            group = tree.topLevelItem(n)
            for m in range(group.childCount()):
                if group.child(m).text(0).split("\n")[0] in names:
                    group.child(m).setSelected(True)

    def state(self):
        return self.ui.runTree.selectedItems()[0].text(1)

    def take(self, name):
        host.panel(self.panel, size=SIZE, width=WIDTH)  # what fits the panel's width is drawn after this
        self.rest()
        picture = host.panel(self.panel, size=SIZE, width=WIDTH)
        sitk.WriteImage(sitk.GetImageFromArray(picture, isVector=True), str(self.output / f"{name}.png"))
        pauses = f"{1000 * self.longest:.0f} ms, of its own doing {1000 * self.busiest:.0f} ms"
        print(f"{name}: the longest pause of the interface until now was {pauses}", flush=True)


def load(folder, structures):
    """A scan, and its outline as a segmentation beside it."""
    volume = slicer.util.loadVolume(str(folder / "image.nrrd"), properties={"name": folder.name})
    if not structures:
        return volume
    label = sitk.GetArrayFromImage(sitk.ReadImage(str(folder / "label.nrrd")))
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", f"{folder.name} outline")
    node.CreateDefaultDisplayNodes()
    node.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    for n, (name, color) in enumerate(structures, 1):
        segment = node.GetSegmentation().AddEmptySegment("", name, color)
        slicer.util.updateSegmentBinaryLabelmapFromArray((label == n).astype(np.uint8), node, segment, volume)
    node.SetDisplayVisibility(False)
    return volume


def memory():
    """Megabytes of this process in memory, and the most there ever were."""
    told = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return [int(told[name].split()[0]) // 1024 for name in ("VmRSS", "VmHWM")]


def main(arguments, place):
    data, minutes, output = arguments.data, arguments.minutes, arguments.output
    os.environ["SIMCVD_MODELS"] = str(place / "models")  # the user's own models are left alone
    tour = Tour(output)
    ui = tour.ui
    ui.runsFolderButton.directory = str(place / "runs")
    names = sorted(folder.name for folder in data.iterdir() if folder.is_dir())
    names = names[: arguments.outlined + arguments.plain] + names[-arguments.validation :]
    validation = names[-arguments.validation :]
    begin = time.monotonic()
    for n, name in enumerate(names):
        load(data / name, STRUCTURES[data.name] if n < arguments.outlined or name in validation else ())
    first = slicer.util.getNode(names[0])
    slicer.util.setSliceViewerLayers(background=first, fit=True)
    slicer.util.getNode(f"{names[0]} outline").SetDisplayVisibility(True)

    ui.addSceneButton.click()
    tour.choose(*validation)
    ui.roleComboBox.currentIndex = 2
    tour.choose(names[0])
    tour.expand("cases", "training")
    ui.startComboBox.currentIndex = ui.startComboBox.findData("")
    ui.spacingSpinBox.value = arguments.spacing
    ui.nameLineEdit.text = data.name
    ui.settingsLineEdit.text = f"minutes={minutes:g}"
    tour.rest(5)
    ui.estimateButton.click()
    tour.wait(lambda: ui.estimateButton.text == "Estimate")
    tour.take("train-cases")
    print(f"ready to train after {time.monotonic() - begin:.0f} s; {ui.estimateLabel.text}", flush=True)

    begin = time.monotonic()
    tour.longest = tour.busiest = 0.0
    ui.startButton.click()
    tour.wait(lambda: ui.startButton.text == "Start training")
    if not ui.runTree.selectedItems():
        raise SystemExit(ui.statusLabel.text)
    tour.expand("run")
    tour.wait(lambda: tour.state() in ("running", "failed"))
    tour.wait(lambda: time.monotonic() - begin > 0.6 * 60 * minutes or tour.state() != "running", 3600)
    tour.take("train-run")
    tour.wait(lambda: tour.state() not in ("running", "preparing"), 3600)
    tour.wait(lambda: ui.useButton.enabled, 30)
    print(f"trained in {(time.monotonic() - begin) / 60:.1f} min: {ui.resultLabel.text}", flush=True)
    print("the application holds {} MB, at most {} MB".format(*memory()), flush=True)
    tour.expand("run", "result")
    tour.take("train-result")

    ui.useButton.click()
    ui.rankModelComboBox.currentIndex = ui.rankModelComboBox.findData(data.name)
    tour.expand("cases", "next")
    ui.rankButton.click()
    tour.wait(lambda: ui.rankButton.text != "Cancel")
    tour.take("train-next")
    ui.proposalButton.click()
    segment = slicer.modules.simcvdsegment.widgetRepresentation()
    tour.wait(lambda: segment.self().ui.segmentButton.text == "Segment")
    print(segment.self().ui.statusLabel.text, flush=True)
    tour.panel.self().cleanup()
    segment.self().cleanup()
    qt.QApplication.processEvents()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Follow the second tutorial on a folder of scans.")
    parser.add_argument("data", type=Path, help="hippocampus or la, with a folder for each scan")
    parser.add_argument("--minutes", type=float, default=15)
    parser.add_argument("--outlined", type=int, default=4)
    parser.add_argument("--plain", type=int, default=10)
    parser.add_argument("--validation", type=int, default=4)
    parser.add_argument("--spacing", type=float, default=1.0)
    parser.add_argument("--output", type=Path, default=ROOT / "Resources" / "Screenshots", help="for the pictures")
    parser.add_argument("--keep", type=Path, help="folder for runs and models; else they are removed at the end")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        main(arguments, arguments.keep or Path(scratch))
