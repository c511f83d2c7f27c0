"""Segmentation beside the published protocol, in one run: time, Dice, peak memory, and where the time goes.

    python Testing/benchmarks/segmentation.py MODEL CASES [--count 3] [--output segmentation.md]

MODEL is a model's name or folder; CASES a folder laid out like shared/data/la (<case>/image.nrrd, label.nrrd).
The reference is the model's network in float32 and contiguous memory, over windows of the training patch at the
published stride. Both ways share the processor in turn; ratios come first, as they hold on a busy machine too.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import numpy as np
import torch
from common import machine, no_test, numbers_of_process, peak_memory, publish, shown, table

from simcvd.grid import Geometry, Grid, Volume, normalise
from simcvd.images import read_labels, read_volume
from simcvd.inference import count_windows, published_stride, reference_prediction, sliding_windows
from simcvd.labels import classify
from simcvd.metrics import compare
from simcvd.segmentation import Segmenter, Settings

LARGE = (88, 640, 640)  # (K, J, I) of the memory measurement, at 0.625 mm
REPEATS = 3
SCORES = ("dice_windows", "dice_ours", "dice_tiles", "agreement", "agreement_tiles")
HEADS = (
    *("case", "size", "ratio", "windows [s] (count)", "ours [s]"),
    *("Dice windows", "Dice ours", "Dice tiles", "ours to windows", "tiles to ours"),
)


def published(segmenter: Segmenter, volume: Volume) -> tuple[np.ndarray, float, int]:
    """Labels by float32 windows, the seconds of the network part, and the number of windows."""
    grid = Grid.of(volume.geometry, segmenter.spacing)
    array = normalise(grid.forward(volume.array), segmenter.card["normalisation"])
    stride = published_stride(segmenter.spacing)
    start = time.perf_counter()
    found = sliding_windows(reference_prediction(segmenter.network), array, segmenter.patch, stride)
    seconds = time.perf_counter() - start
    return classify(grid.backward(found)), seconds, count_windows(array.shape, segmenter.patch, stride)


def measure_case(segmenter: Segmenter, folder: Path) -> dict:
    """One case both ways."""
    volume, label = read_volume(folder / "image.nrrd"), read_labels(folder / "label.nrrd").array
    runs = [segmenter.segment(volume) for _ in range(REPEATS)]
    ours = min(runs, key=lambda run: run.seconds["total"])
    tiles = segmenter.segment(volume, Settings(memory_limit_mb=100))
    windows, seconds, count = published(segmenter, volume)

    def dice(reference, prediction) -> float | None:
        return compare(reference > 0, prediction > 0, volume.geometry.spacing)["dice"]

    return {
        "case": folder.name,
        "size": "x".join(map(str, volume.geometry.size)),
        "windows": count,
        "windows_s": seconds,
        "ours_s": ours.seconds["total"],
        "parts": ours.seconds,
        "dice_windows": dice(label, windows),
        "dice_ours": dice(label, ours.labels),
        "dice_tiles": dice(label, tiles.labels),
        "agreement": dice(windows, ours.labels),
        "agreement_tiles": dice(ours.labels, tiles.labels),
    }


def print_peak(model: str) -> None:
    """Peak memory (MB) of this process and seconds, for a scan of the large size: searched, as it is far wider than
    those of the shipped model, and then in one pass, as a model takes it that knows such scans."""
    rng = np.random.default_rng(0)
    array = rng.integers(0, 255, LARGE, dtype=np.uint8)
    array[20:70, 200:400, 200:400] //= 2
    volume = Volume(array, Geometry(LARGE[::-1], (0.625,) * 3), "large")
    segmenter = Segmenter(model, "cpu")
    for scan_ml in (segmenter.card["scan_ml"], None):
        segmenter.card["scan_ml"] = scan_ml
        seconds = segmenter.segment(volume).seconds["total"]
        print(peak_memory(), seconds)


def page(segmenter: Segmenter, rows: list[dict], peak: list[float] | None) -> list[str]:
    """The Markdown page."""
    ratio = statistics.median(row["windows_s"] / row["ours_s"] for row in rows)
    lines = [
        "# Segmentation",
        "",
        f"Model {segmenter.card['name']} {segmenter.card['version']} at {segmenter.spacing[0]} mm."
        + no_test(segmenter.card, [row["case"] for row in rows]),
        "",
        f"* **{ratio:.0f} times faster** (median) than the published windows in float32. Theirs is the network",
        f"  part alone, ours everything from the array in memory to labels and distance map: best of {REPEATS}, warm.",
    ]
    if peak:
        size = "x".join(map(str, LARGE[::-1]))
        lines.append(
            f"* Peak memory of the process for {size} voxels: **{peak[2]:.0f} MB** in one pass ({peak[3]:.1f} s), "
            f"{peak[0]:.0f} MB as the model takes it, searched if it knows smaller scans only ({peak[1]:.1f} s)."
        )
    parts = list(rows[0]["parts"])
    threads = f"{torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}."
    return [
        *lines,
        "",
        *table(HEADS, map(cells, rows)),
        "",
        "Dice in percent, a dash where a mask is empty. Seconds by part:",
        "",
        *table(("case", *parts), [[row["case"], *(shown(row["parts"][p], 3) for p in parts)] for row in rows]),
        "",
        f"{machine(('torch', 'numpy', 'SimpleITK'))} {threads}",
    ]


def cells(row: dict) -> list[str]:
    scores = [shown(row[key]) for key in SCORES]
    windows = f"{row['windows_s']:.1f} ({row['windows']})"
    return [row["case"], row["size"], f"{row['windows_s'] / row['ours_s']:.0f}", windows, shown(row["ours_s"]), *scores]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("cases", type=Path, nargs="?")
    parser.add_argument("--count", type=int, default=3, help="how many cases, the last of the folder first")
    parser.add_argument("--no-memory", action="store_true", help="leave the memory measurement out")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--peak", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peak:
        print_peak(arguments.model)
        return
    if arguments.cases is None:
        parser.error("give the folder of cases")
    segmenter = Segmenter(arguments.model, "cpu")
    folders = sorted(p.parent for p in arguments.cases.glob("*/image.nrrd"))[::-1][: arguments.count]
    rows = [measure_case(segmenter, folder) for folder in folders]
    peak = None if arguments.no_memory else numbers_of_process(__file__, arguments.model, "--peak")
    publish(page(segmenter, rows, peak), arguments.output)


if __name__ == "__main__":
    main()
