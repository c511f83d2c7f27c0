"""The methods side by side: runs that differ in method and seed only, each against supervised training.

    python Testing/benchmarks/methods.py RUN [RUN ...] [--output methods.md]

A RUN is a run folder of `simcvd train`, or one that rows.py --keep made. Runs on the same cases make one table, seeds
of one method one row. A case is better where the mean of its classes and of the seeds is above that of `supervised`.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from pathlib import Path

from common import NOTHING, average, dice_of, machine, mean_gain, publish, shown, table
from la import memory_of, spread
from rows import ROLES, Run, duration, read_runs, seconds_per_step

BASE = "supervised"
ORDER = (BASE, "mean_teacher", "simcvd", "global_local", "action", "action++")
HEADS = ("method", "seeds", "Dice [%]", "Jaccard [%]", "95HD [mm]", "ASD [mm]", "Dice above supervised")
HEADS += ("cases better", "iterations", "s per step", "training", "memory [MB]")
# methods.md 2.2 and 4 (ARCO's table; P): Left Atrium, 8 labelled, the 20 test scans: Dice [%] and ASD [voxels]
PUBLISHED = (
    ("V-Net, labelled only", 79.99, 5.48),
    ("MT", 84.24, 2.71),
    ("SimCVD", 89.03, 2.59),
    ("global and local contrast, moved to V-Net", 84.8, 4.22),
    ("ACTION", 88.7, 2.10),
    ("ACTION++", 89.9, 1.74),
)
LEFT_ATRIUM, LABELLED = "left-atrium", 8


def number_of(case: str) -> str:
    """What the names of a case have in common: SimCVDTrain exports la071 as case-071."""
    return "".join(c for c in case if c.isdigit()) or case


def rows_of(run: Run) -> list[dict]:
    """What the run measured last, one row a case and class."""
    return next(iter(run.of("done")[-1:] + run.of("validation")[-1:]), {"rows": []})["rows"]


def mean_of(run: Run, key: str, label: int | None = None) -> float | None:
    """Of a figure over the cases of a run and its classes, or one of them; nothing found has an overlap of 0."""
    nothing = 0.0 if key in ("dice", "jaccard") else None
    rows = [row for row in rows_of(run) if label in (None, row["label"])]
    return average(nothing if row[key] is None else row[key] for row in rows)


def by_case(runs: Sequence[Run]) -> dict[str, float]:
    """Mean Dice of each case over classes and runs."""
    found: dict[str, list[float]] = {}
    for row in (row for run in runs for row in rows_of(run)):
        found.setdefault(number_of(row["case"]), []).append(dice_of(row))
    return {case: statistics.mean(values) for case, values in found.items()}


def against(runs: Sequence[Run], base: Sequence[Run]) -> tuple[str, str]:
    """How far above the base, with the standard error over the cases, and in how many of them."""
    mine, its = by_case(runs), by_case(base)
    gains = [mine[case] - its[case] for case in mine.keys() & its.keys()]
    if runs == base or len(gains) < 2:
        return NOTHING, NOTHING
    return mean_gain(gains), f"{sum(gain > 0 for gain in gains)} of {len(gains)}"


def line(runs: Sequence[Run], base: Sequence[Run]) -> list[str]:
    """One method: means over its seeds ± their standard deviation."""
    empty = sum(row["hd95"] is None for run in runs for row in rows_of(run))
    done = all(run.finished for run in runs)
    steps = ", ".join(dict.fromkeys(str(run.config["iterations"]) for run in runs))
    return [
        runs[0].config["method"],
        ", ".join(str(run.config["seed"]) for run in runs),
        spread(mean_of(run, "dice") for run in runs) + (f" ({empty} empty)" if empty else ""),
        *(spread(mean_of(run, key) for run in runs) for key in ("jaccard", "hd95", "asd")),
        *against(runs, base),
        steps if done else f"{min(run.iteration for run in runs)} of {steps}",
        shown(average(map(seconds_per_step, runs)), 3),
        duration(statistics.mean(run.clock[-1] if run.clock else 0.0 for run in runs)),
        shown(average(map(memory_of, runs)), 0),
    ]


def class_table(methods: Sequence[Sequence[Run]]) -> list[str]:
    """Each class by itself, where there are several."""
    segments = methods[0][0].config["model"].get("segments", [])
    if len(segments) < 2:
        return []
    figures = {"dice": "Dice [%]", "hd95": "95HD [mm]", "asd": "ASD [mm]"}
    heads = ["method", *(f"{segment['name']}: {title}" for segment in segments for title in figures.values())]
    rows = [
        [
            runs[0].config["method"],
            *(spread(mean_of(run, key, segment["value"]) for run in runs) for segment in segments for key in figures),
        ]
        for runs in methods
    ]
    return [*table(heads, rows), ""]


def tables(runs: Sequence[Run]) -> list[str]:
    """Everything about runs on the same cases."""
    config = runs[0].config
    groups = [[run for run in runs if run.config["method"] == method] for method in ORDER]
    methods = [sorted(group, key=lambda run: run.config["seed"]) for group in groups if group]
    base = methods[0] if methods[0][0].config["method"] == BASE else []
    roles = [case["role"] for case in config["cases"]]
    kept = [group[0].config["method"] for group in methods if group[0].config["model"].get("largest")]
    whose = "" if len(kept) == len(methods) else f" of {', '.join(kept)}"
    largest = f"; largest part of each structure{whose}" if kept else ""
    about = ", ".join(f"{roles.count(role)} {role}" for role in ROLES)
    lines = [f"## {config['model'].get('title') or config['model']['name']}", ""]
    lines += [f"{about}; grid of {'x'.join(f'{s:g}' for s in dict.fromkeys(config['spacing']))} mm{largest}.", ""]
    lines += [*table(HEADS, [line(group, base) for group in methods]), "", *class_table(methods)]
    if config["model"]["name"] == LEFT_ATRIUM and roles.count("labelled") == LABELLED:
        lines += ["Published, of the 20 test scans on their own grid (ASD in voxels of 0.625 mm):", ""]
        lines += [*table(("method", "Dice [%]", "ASD [voxel]"), [[n, shown(d), shown(a)] for n, d, a in PUBLISHED]), ""]
    return lines


def page(runs: Sequence[Run]) -> list[str]:
    """The Markdown page."""
    sets: dict[tuple, list[Run]] = {}
    for run in runs:
        cases = tuple(sorted((case["role"], number_of(case["id"])) for case in run.config["cases"]))
        sets.setdefault(cases, []).append(run)
    return [
        "# The methods side by side",
        "",
        *(text for group in sets.values() for text in tables(group)),
        "Means over the validation cases and classes at the last iteration, ± the standard deviation of the seeds; "
        "*above supervised* is the mean over the cases ± its standard error. Training is the time that processes ran, "
        "validations included.",
        "",
        machine(),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    parser.add_argument("--output", type=Path, help="Markdown file to write the page to as well")
    arguments = parser.parse_args()
    publish(page(read_runs(arguments.runs, [])), arguments.output)


if __name__ == "__main__":
    main()
