"""Times what the user waits for, click by click in the panel: until the scene has it, and until three views show it.

The views are drawn by the processor here, which a graphics card does in the application.

python Testing/slicer/latency.py <case folder with image.nrrd> [model]
"""

import statistics
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "Testing"), str(ROOT / "SimCVDSegment")]

import host  # noqa: E402

host.start()

import slicer  # noqa: E402
import vtk  # noqa: E402

CLICKS, STEPS, VIEW = 5, 20, (480, 440)


def seconds(action):
    """How long an action takes until it is done, and until all slice views are drawn."""
    begun = time.perf_counter()
    action()
    done = time.perf_counter()
    for name in ("Red", "Green", "Yellow"):
        host.grabSlice(name, VIEW)
    return done - begun, time.perf_counter() - begun


def told(what, times):
    done, drawn = (1000 * statistics.median(each) for each in zip(*times, strict=True))
    print(f"{what}: {done:.0f} ms, {drawn:.0f} ms with the views (median of {len(times)})", flush=True)


def main(case, model="left-atrium"):
    from SimCVDLib import nodes

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

    told("first click, starts PyTorch", [seconds(segment)])
    told("click", [seconds(segment) for _ in range(CLICKS)])
    print(ui.statusLabel.text)

    def move(value):
        ui.offsetSlider.value = value
        host.processEvents()

    moves = [seconds(lambda n=n: move(0.1 * n)) for n in range(STEPS)]
    told("first step of the offset", moves[1:2])
    told("step of the offset", moves[2:])
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

    told("point", [seconds(lambda n=n: drag(2 + 0.5 * n)) for n in range(STEPS)])

    def show(index):
        ui.overlayComboBox.currentIndex = index

    told("overlay, first time", [seconds(lambda n=n: show(n)) for n in (1, 2, 3)])
    told("overlay", [seconds(lambda n=n: show(n % 4)) for n in range(STEPS)])
    widget.cleanup()


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
