"""What the benchmarks share: turns in time, peak memory, the machine in words, and Markdown tables.

Importing it puts the source tree's simcvd on the path.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT.parent / "shared" / "data"
NOTHING = "–"
CASES = "cases"  # in a folder of runs: the prepared cases that they share
sys.path.insert(0, str(ROOT / "SimCVDSegment"))


def take_turns(ways: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Seconds of every way in every turn; one after the other, so that others' work on the machine slows all alike."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(repeats):
        for name, way in ways.items():
            print(f"{turn + 1}/{repeats} {name}", file=sys.stderr, flush=True)
            start = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def peak_memory() -> float:
    """Peak resident memory of this process in MB."""
    status = Path("/proc/self/status")
    if status.is_file():
        # ru_maxrss of a child on Linux starts from what its parent held when it was started
        high = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(high.split()[1]) / 2**10
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def numbers_of_process(script: str, *arguments: str) -> list[float]:
    """The numbers that a benchmark prints when it is run again in a process of its own."""
    command = [sys.executable, script, *arguments]
    return [
        float(word) for word in subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.split()
    ]


def machine(packages: Iterable[str] = ()) -> str:
    """One sentence on processor, cores, load, system and versions."""
    versions = "".join(f", {name} {importlib.metadata.version(name)}" for name in packages)
    # others' work on the machine lengthens every time, though hardly the ratios
    load = f", load average {os.getloadavg()[0]:.1f} at the end" if hasattr(os, "getloadavg") else ""
    system = f"{platform.system()}, Python {platform.python_version()}{versions}"
    return f"Machine: {_processor()}, {os.cpu_count()} cores{load}; {system}."


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else []
    named = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()


def table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """The lines of a Markdown table."""
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    return lines + [f"| {' | '.join(map(str, row))} |" for row in rows]


def shown(number: float | None, digits: int = 2) -> str:
    """A number for a table, a dash for none."""
    return NOTHING if number is None else f"{number:.{digits}f}"


def publish(lines: Sequence[str], output: Path | None) -> None:
    """Print a Markdown page, and write it where a file is wanted."""
    text = "\n".join(lines) + "\n"
    print(text)
    if output:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(text, encoding="utf-8")


def case_folders(data: Path) -> list[Path]:
    """The folders of a data set that hold image.nrrd and label.nrrd, by name; leaves with a sentence without one."""
    found = sorted(p.parent for p in data.glob("*/image.nrrd") if (p.parent / "label.nrrd").is_file())
    if not found:
        raise SystemExit(f"{data} holds no <case>/image.nrrd with a label.nrrd beside it; give such a folder.")
    return found


def parser_of_model_and_cases(description: str) -> argparse.ArgumentParser:
    """The options of a benchmark that looks at a model on the last cases of a folder."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="name of a model or its folder")
    parser.add_argument("data", type=Path, help="folder of cases")
    parser.add_argument("--cases", type=int, default=10, metavar="N", help="how many, the last of the folder")
    parser.add_argument("--output", type=Path)
    return parser


def average(numbers: Iterable[float | None]) -> float | None:
    """Mean of what was measured, None where nothing was."""
    there = [number for number in numbers if number is not None]
    return sum(there) / len(there) if there else None


def no_test(card: dict, cases: Iterable[str]) -> str:
    """After a space, a sentence where a model has learned from labels of cases that it is scored on, else nothing."""
    learned = sorted({*card.get("training", {}).get("labelled", [])} & {*cases})
    return f" **The model learned from the labels of {', '.join(learned)}**: no test for it." if learned else ""


def dice_of(scores: dict) -> float:
    """Dice of a row of simcvd.metrics for a mean over cases: nothing found where there is something counts as 0."""
    return scores["dice"] or 0.0


def mean_gain(gains: Sequence[float]) -> str:
    """Mean of the differences over the scans ± its standard error, a dash for fewer than two."""
    if len(gains) < 2:
        return NOTHING
    return f"{statistics.mean(gains):+.2f} ± {statistics.stdev(gains) / len(gains) ** 0.5:.2f}"
