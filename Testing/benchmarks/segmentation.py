"""Segmentation beside the published protocol, in one run: time, Dice, peak memory, and where the time goes.

    python Testing/benchmarks/segmentation.py MODEL CASES [--count 3] [--output segmentation.md]

MODEL is a model's name or folder; CASES a folder laid out like shared/data/la (<case>/image.nrrd, label.nrrd).
The reference is the model's network in float32 and contiguous memory, over windows of the training patch at the
published stride. Both ways share the processor in turn; ratios come first, as they hold on a busy machine too.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "SimCVDSegment"))

import numpy as np  # noqa: E402
import torch  # noqa: E402

from simcvd.grid import Geometry, Grid, Volume, normalise  # noqa: E402
from simcvd.images import read_labels, read_volume  # noqa: E402
from simcvd.inference import count_windows, published_stride, reference_prediction, sliding_windows  # noqa: E402
from simcvd.labels import classify  # noqa: E402
from simcvd.metrics import compare  # noqa: E402
from simcvd.segmentation import Segmenter, Settings  # noqa: E402

LARGE = (88, 640, 640)  # (K, J, I) of the memory measurement, at 0.625 mm
REPEATS = 3


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


def peak_of_large(model: str) -> tuple[float, float]:
    """Peak resident memory (MB) and seconds of a process of its own that segments a scan of the large size."""
    command = [sys.executable, __file__, model, "--peak"]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    return float(output[0]), float(output[1])


def print_peak(model: str) -> None:
    """What the process of `peak_of_large` does."""
    import resource

    rng = np.random.default_rng(0)
    array = rng.integers(0, 255, LARGE, dtype=np.uint8)
    array[20:70, 200:400, 200:400] //= 2
    volume = Volume(array, Geometry(LARGE[::-1], (0.625,) * 3), "large")
    seconds = Segmenter(model, "cpu").segment(volume).seconds["total"]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(peak / (2**20 if sys.platform == "darwin" else 2**10), seconds)


def machine() -> str:
    """The machine in words."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        name = next((x.split(":")[1].strip() for x in cpuinfo.read_text().splitlines() if "model name" in x), name)
    import SimpleITK

    return (
        f"{name}, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}; "
        f"{platform.system()}, Python {platform.python_version()}, torch {torch.__version__}, "
        f"numpy {np.__version__}, SimpleITK {SimpleITK.Version.VersionString()}"
    )


def shown(number: float | None, digits: int = 2) -> str:
    return "none (empty mask)" if number is None else f"{number:.{digits}f}"


def page(segmenter: Segmenter, rows: list[dict], peak: tuple[float, float] | None) -> str:
    """The Markdown page."""
    ratio = statistics.median(row["windows_s"] / row["ours_s"] for row in rows)
    lines = [
        "# Segmentation",
        "",
        f"Model {segmenter.card['name']} {segmenter.card['version']} at {segmenter.spacing[0]} mm. {machine()}.",
        "",
        f"* **{ratio:.0f} times faster** (median) than the published windows in float32. Theirs is the network",
        f"  part alone, ours everything from the array in memory to labels and distance map: best of {REPEATS}, warm.",
    ]
    if peak:
        size = "x".join(map(str, LARGE[::-1]))
        lines.append(f"* Peak memory of the process for {size} voxels: **{peak[0]:.0f} MB** ({peak[1]:.1f} s).")
    lines += [
        "",
        "| case | size | ratio | windows [s] | ours [s] | Dice windows | Dice ours | Dice tiles | ours to windows "
        "| tiles to ours |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        ratio = row["windows_s"] / row["ours_s"]
        scores = [shown(row[key]) for key in ("dice_windows", "dice_ours", "dice_tiles", "agreement")]
        lines.append(
            f"| {row['case']} | {row['size']} | {ratio:.0f} | {row['windows_s']:.1f} ({row['windows']}) "
            f"| {row['ours_s']:.2f} | {' | '.join(scores)} | {shown(row['agreement_tiles'])} |"
        )
    parts = list(rows[0]["parts"])
    lines += ["", "Seconds by part:", "", f"| case | {' | '.join(parts)} |", "|---" * (len(parts) + 1) + "|"]
    for row in rows:
        seconds = [shown(row["parts"][part], 3) for part in parts]
        lines.append(f"| {row['case']} | {' | '.join(seconds)} |")
    return "\n".join(lines) + "\n"


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
    text = page(segmenter, rows, None if arguments.no_memory else peak_of_large(arguments.model))
    print(text)
    if arguments.output:
        arguments.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
