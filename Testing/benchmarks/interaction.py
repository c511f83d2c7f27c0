"""Time what the user's hand does: steps of the boundary, beside the plain way over the whole volume, and clicks.

    python Testing/benchmarks/interaction.py [--model left-atrium] [--output interaction.md]

A step is one move of a slider or a point: the new mask, and the box that changed. The plain way computes the same from
the distance map with whole-volume arithmetic and SciPy; both take turns, and a row says whether their masks agree.
A click is a request to a warm worker until its answer, without what Slicer does before and after.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from common import DATA, NOTHING, ROOT, machine, publish, shown, table
from scipy import ndimage

from simcvd.distance import signed_distance
from simcvd.images import read_labels, write_volume
from simcvd.phantom import make_phantom
from simcvd.refinement import STEEPNESS, Point, Refinement

CASE = "la071"
LARGE = (88, 576, 576)  # (K, J, I) of a scan that was not cropped
RADIUS = 10.0
PLAIN_STEPS = 2  # the plain way is slow, and every step of it costs the same
CLICKS = 5
Mask = np.ndarray


def plain_steps(sdm: Mask, spacing: Sequence[float]) -> Callable[..., Mask]:
    """The same edits over the whole volume: a function from the settings of an update to the mask."""
    state = {"mask": sdm <= 0}

    def step(offset=0.0, points=(), largest=False, fill_holes=False, smoothing=0.0) -> Mask:
        d = sdm
        if smoothing:
            sigma = smoothing / np.array(spacing[::-1])
            d = ndimage.gaussian_filter(d, sigma, mode="nearest", truncate=3.0)
        d = d - np.float32(offset)
        for point in points:
            axes = [(np.arange(n) - x) * s for n, x, s in zip(d.shape, point.position, spacing[::-1], strict=True)]
            squared = sum(axis**2 for axis in np.ix_(*axes))
            height = d[point.position] + min(spacing) / 2
            d = d - height * np.maximum(1 - squared / max(point.radius, STEEPNESS * height) ** 2, 0) ** 2
        mask = d <= 0
        if largest:
            parts, _ = ndimage.label(mask)
            mask = parts == np.bincount(parts.ravel())[1:].argmax() + 1
        if fill_holes:
            mask = ndimage.binary_fill_holes(mask)
        np.argwhere(mask != state["mask"])
        state["mask"] = mask
        return mask

    return step


def outside_points(sdm: Mask, count: int) -> list[tuple[int, int, int]]:
    """Voxels about 3 mm outside the segment, in a row, as a hand drags a point."""
    near = np.argwhere(np.abs(sdm - 3) < 0.4)
    start = near[len(near) // 2]
    return [tuple(map(int, place)) for place in near[np.argsort(np.abs(near - start).sum(1))][:count]]


def wishes(sdm: Mask) -> dict[str, tuple[list[dict], bool]]:
    """The steps of every row by name, and whether the plain way can do them too."""
    slider = [{"offset": float(mm)} for mm in np.linspace(-10, 10, 41)]
    rng = np.random.default_rng(0)
    near = np.argwhere(np.abs(sdm) < 5)
    many = [
        Point(tuple(map(int, p)), bool(n % 2), RADIUS) for n, p in enumerate(near[rng.choice(len(near), 20, False)])
    ]
    return {
        "offset": (slider, True),
        "offset, largest part": ([{**s, "largest": True} for s in slider], True),
        "offset, largest part, holes filled": ([{**s, "largest": True, "fill_holes": True} for s in slider], True),
        "offset of a smoothed map": ([{**s, "smoothing": 1.0} for s in slider], True),
        "new smoothing": ([{"smoothing": 0.5 + 0.1 * n} for n in range(10)], True),
        "one point dragged": ([{"points": [Point(p, True, RADIUS)]} for p in outside_points(sdm, 20)], True),
        "the last of 20 points dragged": (
            [{"points": [*many, Point(p, True, RADIUS)]} for p in outside_points(sdm, 20)],
            False,
        ),
    }


def measure_steps(sdm: Mask, spacing: Sequence[float]) -> list[list[str]]:
    """The rows of one grid."""
    edited, plain = Refinement(sdm, spacing), plain_steps(sdm, spacing)
    edited.update(smoothing=1.0, largest=True)  # SciPy is imported and the smoothed map made
    rows = []
    for name, (steps, comparable) in wishes(sdm).items():
        print(name, file=sys.stderr, flush=True)
        ours = [_seconds(lambda wish=wish: edited.update(**wish)) for wish in steps]
        theirs, agree = [], True
        for wish in steps[:: -(-len(steps) // PLAIN_STEPS)] if comparable else ():
            theirs.append(_seconds(lambda wish=wish: plain(**wish)))
            edited.update(**wish)
            agree &= np.array_equal(edited.mask, plain(**wish))
        usual = statistics.median(ours)
        ratio = statistics.median(theirs) / usual if theirs else None
        same = ("yes" if agree else "NO") if theirs else NOTHING
        milliseconds = [1000 * s for s in (usual, max(ours))]
        plain_ms = 1000 * statistics.median(theirs) if theirs else None
        rows.append([name, shown(ratio, 0), *(shown(ms, 1) for ms in milliseconds), shown(plain_ms, 0), same])
    return rows


def measure_clicks(model: str, image: Path) -> tuple[list[str], list[str]]:
    """Seconds of the first click on a new worker, of one after warming up, and of later ones; as a table's row."""
    with tempfile.TemporaryDirectory() as output:
        wish = {"do": "segment", "image": str(image), "model": model, "output": output}
        with Worker() as cold:
            first = _seconds(lambda: cold.ask(**wish))
        with Worker() as worker:
            warming = _seconds(lambda: worker.ask(do="warm", model=model))
            clicks = [_seconds(lambda: worker.ask(**wish)) for _ in range(CLICKS)]
    heads = ["first click [s]", "warming up [s]", "first click after it [s]", "later clicks, median [s]"]
    return heads, [shown(s) for s in (first, warming, clicks[0], statistics.median(clicks[1:]))]


class Worker:
    """A `simcvd worker` process, for one request at a time."""

    def __enter__(self):
        environment = {**os.environ, "PYTHONPATH": str(ROOT / "SimCVDSegment")}
        command = [sys.executable, "-m", "simcvd", "worker"]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
        return self

    def ask(self, **request) -> dict:
        self.process.stdin.write(json.dumps({"id": "1", **request}).encode() + b"\n")
        self.process.stdin.flush()
        for line in self.process.stdout:
            event = json.loads(line)
            if event["event"] == "done":
                return event
            if event["event"] not in ("ready", "progress"):
                sys.exit(f"the worker said: {event}")
        sys.exit("the worker ended without an answer")

    def __exit__(self, *_):
        self.process.stdin.close()
        self.process.wait()


def scan(folder: Path) -> tuple[Path, Mask, Sequence[float], str]:
    """The file of a scan, the mask of its atrium, the spacing, and what it is."""
    real = DATA / "la" / CASE
    if real.is_dir():
        label = read_labels(real / "label.nrrd")
        return real / "image.nrrd", label.array > 0, label.geometry.spacing, f"scan and label of {CASE}"
    image, label = make_phantom(0, (0.625, 0.625, 0.625))
    write_volume(folder / "image.nrrd", image.array, image.geometry)
    return folder / "image.nrrd", label.array > 0, label.geometry.spacing, "a phantom (no scans beside the checkout)"


def padded(mask: Mask, shape: Sequence[int]) -> Mask:
    """A mask in the middle of a larger volume."""
    widths = [max(n - m, 0) for n, m in zip(shape, mask.shape, strict=True)]
    return np.pad(mask, [(w // 2, w - w // 2) for w in widths])


def page(model: str, image: Path, mask: Mask, spacing: Sequence[float], what: str) -> list[str]:
    lines = [
        "# Interaction",
        "",
        "Aims: 50 ms a step of the offset, 100 ms a point; 6 s the first click, 1.5 s a later one, in Slicer.",
    ]
    heads = ("step", "times quicker than plain", "ours [ms]", "slowest step [ms]", "plain [ms]", "same mask")
    for shape in (mask.shape, LARGE):
        whole = padded(mask, shape)
        size = "x".join(map(str, whole.shape[::-1]))
        rows = measure_steps(signed_distance(whole, spacing), spacing)
        lines += ["", f"## Steps, {size} voxels", "", *table(heads, rows)]
    heads, row = measure_clicks(model, image)
    lines += ["", f"## Clicks, model {model}", "", *table(heads, [row])]
    return [
        *lines,
        "",
        f"With {what}, in the larger grid padded. Ours: median and slowest of 10 to 41 steps, all on one core; plain: "
        f"median of {PLAIN_STEPS}, which has no rule for several points. A click is from the request to the answer, "
        "with reading, the network, three maps and writing; the first one starts Python and PyTorch too.",
        "",
        machine(("torch", "numpy", "scipy", "SimpleITK")),
    ]


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="left-atrium", help="name of a model or its folder")
    parser.add_argument("--output", type=Path, help="Markdown file to write the page to as well")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        publish(page(arguments.model, *scan(Path(folder))), arguments.output)


if __name__ == "__main__":
    main()
