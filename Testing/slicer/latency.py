"""Times what the user waits for, click by click in the panel: until the scene has it, and until three views show it.

The views are drawn by the processor here, which a graphics card does in the application.

python Testing/slicer/latency.py <case folder with image.nrrd> [--model left-atrium] [--output latency.md]
"""

import argparse
import statistics
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / folder) for folder in ("Testing", "Testing/benchmarks", "SimCVDSegment")]

import host  # noqa: E402

host.start()

import slicer  # noqa: E402
import vtk  # noqa: E402
from common import machine, publish, table  # noqa: E402

CLICKS, STEPS, VIEW = 5, 20, (480, 440)


def seconds(action):
    """How long an action takes until it is done, and until all slice views are drawn."""
    begun = time.perf_counter()
    action()
    done = time.perf_counter()
    for name in ("Red", "Green", "Yellow"):
        host.grabSlice(name, VIEW)
    return done - begun, time.perf_counter() - begun


def row(what, aim, times):
    """A row of the table: medians in ms, and the slowest."""
    done, drawn = ([1000 * t for t in each] for each in zip(*times, strict=True))
    middle, slowest, seen = statistics.median(done), max(done), statistics.median(drawn)
    return what, aim, f"{middle:.0f}", f"{slowest:.0f}", f"{seen:.0f}", len(times)


def main(case, model, output):
    """Click, move and place, and publish the times."""
    from SimCVDLib import nodes

    rows = []
    panel = host.loadModule(ROOT / "SimCVDSegment")
    volume = slicer.util.loadVolume(str(case / "image.nrrd"), properties={"name": case.name})
    slicer.util.setSliceViewerLayers(background=volume, fit=True)
    panel.enter()
    widget, ui = panel.self(), panel.self().ui
    ui.modelComboBox.currentIndex = ui.modelComboBox.findData(model)
    seconds(lambda: None)  # the first pictures

    def segment():
        ui.segmentButton.click()
        host.processEvents(until=lambda: ui.segmentButton.text == "Segment", seconds=300)

    rows.append(row("first click on Segment, starts PyTorch", "6000", [seconds(segment)]))
    rows.append(row("click on Segment", "1500", [seconds(segment) for _ in range(CLICKS)]))

    def move(value):
        ui.offsetSlider.value = value
        host.processEvents()

    moves = [seconds(lambda n=n: move(0.1 * n)) for n in range(STEPS)]
    rows.append(row("first step of the offset", "50", moves[1:2]))
    rows.append(row("step of the offset", "50", moves[2:]))
    move(0.0)

    ui.insideButton.click()
    points = widget._corrections.points(True)
    mask = nodes.readSegment(ui.segmentSelector.currentNode(), ui.segmentSelector.currentSegmentID(), volume)
    k, j, i = (int(n) for n in nodes.np.argwhere(mask)[::-1][0])
    matrix = nodes.ijkToRas(volume)

    def drag(shift):
        place = (matrix @ [i + shift, j, k, 1])[:3]
        if points.GetNumberOfControlPoints():
            points.SetNthControlPointPositionWorld(0, *place)
        else:
            points.AddControlPointWorld(vtk.vtkVector3d(*place))
        host.processEvents()

    rows.append(row("point, placed and dragged", "100", [seconds(lambda n=n: drag(2 + 0.5 * n)) for n in range(STEPS)]))

    def show(index):
        ui.overlayComboBox.currentIndex = index

    rows.append(row("overlay, first time", "", [seconds(lambda n=n: show(n)) for n in (1, 2, 3)]))
    rows.append(row("overlay", "", [seconds(lambda n=n: show(n % 4)) for n in range(STEPS)]))
    widget.cleanup()
    heads = (
        "what the user does",
        "aim [ms]",
        "median [ms]",
        "slowest [ms]",
        "median with three views drawn [ms]",
        "times",
    )
    size = "x".join(str(n) for n in volume.GetImageData().GetDimensions())
    publish(
        [
            "# Latency of the panel",
            "",
            *table(heads, rows),
            "",
            f"Panel over the test host and its real worker, model {model}, scan {case.name} of {size} voxels. Times "
            "end when the scene has it; views are drawn by the processor.",
            "",
            machine(("torch", "vtk")),
        ],
        output,
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Time what the user waits for in the panel.")
    parser.add_argument("case", type=Path, help="folder with image.nrrd")
    parser.add_argument("--model", default="left-atrium")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    main(arguments.case, arguments.model, arguments.output)
