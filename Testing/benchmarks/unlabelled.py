"""Models on the scans that their runs had without a label, whose labels are looked at afterwards.

    python Testing/benchmarks/unlabelled.py DATA RUN [RUN ...] [--against-first] [--output unlabelled.md]

They are five times as many as the scans kept for validation, so that one of them hardly decides a mean, and medians
stand beside the means, which none of them decides; but no test: the methods other than `supervised` have seen them.
Each run is held against the run of `supervised` named last before it, with --against-first against the first one named
(what a method loses without one of its parts), if that was without the same labels. A RUN is a finished run of `simcvd
train` on <case>/{image,label}.nrrd of DATA. Its scores are kept in it, in unlabelled.json, and taken from there when
the command is given again.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from pathlib import Path

from common import NOTHING, case_folders, dice_of, machine, mean_gain, publish, shown, table
from la import PARTS, mean_scores, score
from methods import BASE
from rows import UNLABELLED, Run, read_runs, recipe_of

from simcvd.files import read_json, write_json
from simcvd.segmentation import Segmenter

FAILED = 80.0  # % Dice, our choice: a scan below it counts as one that the model has failed on
HEADS = ("run", "labelled", "method", "seed", "steps", "scans", "kept", "Dice [%]", "median", f"below {FAILED:g}")
HEADS += ("95HD [mm]",)


def scores_of(run: Run, data: Path) -> list[dict]:
    """The scores of its model on its unlabelled scans, a row for each scan and part; from its folder once taken."""
    kept = run.folder / UNLABELLED
    if kept.is_file():
        return read_json(kept)["rows"]
    wanted = {case["id"] for case in run.config["cases"] if case["role"] == "unlabelled"}
    folders = [folder for folder in case_folders(data) if folder.name in wanted]
    if not run.finished or len(folders) < max(len(wanted), 1):
        raise SystemExit(f"{run.folder} is no finished run whose unlabelled cases all have a label in {data}.")
    scores = score(Segmenter(str(run.folder / "model")), folders)
    write_json(kept, scores)
    return scores["rows"]


def by_case(rows: Sequence[dict], part: str) -> dict[str, dict]:
    """The rows of one part by case."""
    return {row["case"]: row for row in rows if row["part"] == part}


def heads(base: str) -> tuple[str, ...]:
    """Those of the page, where runs are held against what `base` says."""
    return (*HEADS, f"Dice above {base}", "median gain", "scans better", f"95HD above {base} [mm]")


def against(mine: dict[str, dict], its: dict[str, dict]) -> tuple[str, str, str, str]:
    """How far above the base in Dice (mean, median), in how many scans, and in 95HD where both found something."""
    if mine.keys() != its.keys():
        return (NOTHING,) * 4
    dice = [dice_of(mine[case]) - dice_of(its[case]) for case in mine]
    pairs = [(mine[case]["hd95"], its[case]["hd95"]) for case in mine]
    further = [one - other for one, other in pairs if None not in (one, other)]
    better = f"{sum(gain > 0 for gain in dice)} of {len(dice)}"
    return mean_gain(dice), f"{statistics.median(dice):+.2f}", better, mean_gain(further)


def lines(run: Run, rows: Sequence[dict], base: Sequence[dict]) -> list[list[str]]:
    """One run: everything that it found, and the largest part alone."""
    c = run.config
    labelled = sum(case["role"] == "labelled" for case in c["cases"])
    about = [run.name, labelled, f"{c['method']} ({recipe_of(c)})", c["seed"], c["iterations"]]
    found = []
    for part in PARTS:
        mean, mine = mean_scores(rows, part), by_case(rows, part)
        empty = f" ({mean['empty']} empty)" if mean["empty"] else ""
        dice = [dice_of(row) for row in mine.values()]
        failed = sum(one < FAILED for one in dice)
        figures = [shown(mean["dice"]) + empty, shown(statistics.median(dice)), failed, shown(mean["hd95"])]
        found.append([*about, len(mine), part, *figures, *against(mine, by_case(base, part))])
    return found


def page(runs: Sequence[Run], data: Path, against_first: bool = False) -> list[str]:
    """The Markdown page."""
    found, base, name = [], [], runs[0].name if against_first else BASE
    for number, run in enumerate(runs):
        rows, is_base = scores_of(run, data), number == 0 if against_first else run.config["method"] == BASE
        found += lines(run, rows, [] if is_base else base)
        base = rows if is_base else base
    return [
        "# Models on the scans that their runs had without a label",
        "",
        *table(heads(name), found),
        "",
        f"Scans' own grid, last iteration; kept is everything found, or the largest part alone. *Above {name}* is "
        f"against the row of `{name}` above, ± the standard error over the scans. **No test**: methods other than "
        f"`{BASE}` have seen these scans, without the labels.",
        "",
        machine(("torch",)),
    ]


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder of <case>/{image,label}.nrrd")
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    parser.add_argument("--against-first", action="store_true", help="hold the runs against the first of them")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args(words)
    runs = read_runs(arguments.runs, [])
    publish(page(runs, arguments.data, arguments.against_first), arguments.output)


if __name__ == "__main__":
    main()
