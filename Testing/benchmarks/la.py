"""The table of the Left Atrium protocol from run folders, beside what was published; and scores of test cases.

    python Testing/benchmarks/la.py RUN [RUN ...] [--evaluation NAME=scores.json] [--output la.md]
    python Testing/benchmarks/la.py score MODEL DATA [--cases N] [--windows] [--json scores.json] [--output page.md]

A RUN is a run folder of `simcvd train`, or one that rows.py --keep made. Runs that differ in nothing but the seed make
one row. A scores.json within a run folder, or the file named, holds its scores (the report.json of `simcvd evaluate`
will do too); without one, those that the run took itself are shown. `score` segments <case>/image.nrrd of DATA, laid
out like la, with the model and compares with <case>/label.nrrd; --windows by the published protocol, else in one pass.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Iterable, Sequence
from itertools import product
from pathlib import Path

from common import NOTHING, average, case_folders, dice_of, machine, publish, shown, table
from rows import SCORES, Run, duration, figures_of, read_runs, recipe_of

from simcvd.files import read_json, write_json
from simcvd.images import read_labels, read_volume
from simcvd.labels import keep_largest
from simcvd.metrics import compare
from simcvd.segmentation import Segmenter, Settings
from simcvd.training.recipes import RECIPES

VOXEL = 0.625  # mm, of the challenge's scans; papers count distances in it
FORMAT = 1
PARTS = {"all": "everything found", "largest": "only the largest part"}
FIGURES = {
    "dice": "Dice [%]",
    "jaccard": "Jaccard [%]",
    "hd95": "95HD [mm]",
    "asd": "ASD [mm]",
    "assd": "ASSD [mm]",
    "hd95_voxel": "95HD [voxel]",
    "asd_voxel": "ASD [voxel]",
    "assd_voxel": "ASSD [voxel]",
}
# what distinguishes two runs of one setting, or says where and for how long they ran
NOT_A_SETTING = ("seed", "warnings", "cases", "model", "from_model", "minutes", "planned", "device", "threads")
NOT_A_SETTING += ("precision", "checkpoint_seconds", "validate_percent")
# methods.md 1.7 (Table I of SimCVD) and 4: labelled, method, Dice, Jaccard, 95HD and ASD in voxels, when it was taken
PUBLISHED = (
    (4, "V-Net, labelled only (Semi-AGCL's table)", 52.55, 39.60, 47.05, 9.87, "last"),
    (4, "BCP", 88.02, 78.72, 7.90, 2.15, "best on the test scans"),
    (4, "MEDL, the best", 90.49, 82.75, 5.95, 1.83, "ensemble of two"),
    (8, "V-Net, labelled only", 79.99, 68.12, 21.11, 5.48, "last"),
    (8, "MT", 84.24, 73.26, 19.41, 2.71, "last"),
    (8, "UA-MT", 84.25, 73.48, 13.84, 3.36, "last"),
    (8, "DTC", 87.49, 78.03, 9.06, 2.37, "last"),
    (8, "SimCVD", 89.03, 80.34, 8.34, 2.59, "last"),
    (8, "BCP", 89.62, 81.31, 6.81, 1.76, "best on the test scans"),
    (8, "MEDL, the best", 91.55, 84.46, 5.65, 1.60, "ensemble of two"),
    (16, "V-Net, labelled only", 86.03, 76.06, 14.26, 3.51, "last"),
    (16, "MT", 88.42, 79.45, 13.07, 2.73, "last"),
    (16, "UA-MT", 88.88, 80.21, 7.32, 2.26, "last"),
    (16, "DTC", 89.42, 80.98, 7.32, 2.10, "last"),
    (16, "SimCVD", 90.85, 83.80, 6.03, 1.86, "last"),
    (16, "MEDL, the best", 91.95, 85.14, 5.11, 1.37, "ensemble of two"),
    (80, "V-Net, fully supervised", 91.14, 83.82, 5.75, 1.52, "last"),
)
SCANS = 80  # that the protocol trains with
# recipe, labelled cases and method of the rows that are to stand here
WANTED = [*product(RECIPES, (4, 8, 16), ("supervised", "mean_teacher", "simcvd")), ("published", SCANS, "supervised")]
HEADS = ("method", "runs", "Dice [%]", "Jaccard [%]", "95HD [voxel]", "ASD [voxel]")
HEADS += (
    "Dice, largest part",
    "95HD [voxel], largest part",
    "unlab.",
    "grid [mm]",
    "iterations",
    "on",
    "training",
    "memory",
)
HEADS += ("scored on",)
NOTES = (
    f"Distances are in voxels of {VOXEL} mm, ours from mm. Ours are means over seeds of the last iteration, ± their "
    "standard deviation; in the columns for the largest part all else was removed, in the others nothing. **The "
    "published rows are of the 20 test scans; what ours are of stands in the last column**, and validation cases are "
    "no test scans. Training is the time that processes ran, validations included; memory is the peak in MB where the "
    "run tells it.",
    "All of ours, supervised ones too, have SimCVD's distance head and its loss (`--alpha 0` leaves it out), and their "
    "scans are normalised as they are shared, which is cropped; those of the published rows were normalised before.",
)


# --- scores of a model -----------------------------------------------------------------------------------------------


def score_case(segmenter: Segmenter, folder: Path, windows: bool = False) -> list[dict]:
    """Scores of one case, all classes as one: as found, and with the largest part alone."""
    volume, truth = read_volume(folder / "image.nrrd"), read_labels(folder / "label.nrrd").array > 0
    found = segmenter.segment(volume, Settings(largest=False, windows=windows)).labels
    rows = []
    for part, labels in (("all", found), ("largest", keep_largest(found))):
        scores = compare(truth, labels > 0, volume.geometry.spacing)
        rows.append({"case": folder.name, "part": part, **{key: scores[key] for key in FIGURES}})
    return rows


def mean_scores(rows: Iterable[dict], part: str) -> dict:
    """Means over the cases, an empty segmentation counting with Dice and Jaccard 0 and without distances."""
    rows = [row for row in rows if row["part"] == part]
    means = {key: average(row.get(key) for row in rows) for key in FIGURES}  # earlier ones have no ASSD
    overlap = {"dice": average(map(dice_of, rows)), "jaccard": average(row["jaccard"] or 0.0 for row in rows)}
    return means | overlap | {"empty": sum(row["hd95"] is None for row in rows)}


def scored_page(scores: dict) -> list[str]:
    """The Markdown page of the scores of a model."""
    lines = ["# Left Atrium: scores of a model", ""]
    lines += [f"Model {scores['model']}, {scores['on']}. Distances in voxels count each voxel as a cube of side 1.", ""]
    if scores["learned"]:
        lines += [f"**The model learned from the labels of {', '.join(scores['learned'])}**: no test for it.", ""]
    for part, title in PARTS.items():
        mean = mean_scores(scores["rows"], part)
        rows = [[row["case"], *(shown(row[key]) for key in FIGURES)] for row in scores["rows"] if row["part"] == part]
        empty = f" ({mean['empty']} empty)" if mean["empty"] else ""
        rows.append([f"**mean**{empty}", *(f"**{shown(mean[key])}**" for key in FIGURES)])
        lines += [f"## With {title}", "", *table(("case", *FIGURES.values()), rows), ""]
    return [*lines, machine(("torch",))]


def score(segmenter: Segmenter, folders: Sequence[Path], windows: bool = False) -> dict:
    """What scores.json holds; `windows` segments by the published protocol."""
    rows = []
    for folder in folders:
        print(folder.name, file=sys.stderr, flush=True)
        rows += score_case(segmenter, folder, windows)
    names = [folder.name for folder in folders]
    card = segmenter.card
    on = f"{len(names)} cases ({names[0]} to {names[-1]})" if len(names) > 1 else names[0]
    on += ", sliding windows" * windows
    learned = sorted({*card.get("training", {}).get("labelled", [])} & {*names})
    model = f"{card['name']} {card['version']} ({card['sha256'][:12]})"
    return {"format": FORMAT, "model": model, "on": on, "windows": windows, "learned": learned, "rows": rows}


# --- the table -------------------------------------------------------------------------------------------------------


def scores_of(run: Run) -> dict:
    """Figures of a run: of its scores.json, of an evaluation, or those that it took itself; with what they are of."""
    if run.evaluation and "rows" in run.evaluation and "summary" not in run.evaluation:
        rows = run.evaluation["rows"]
        largest = mean_scores(rows, "largest")
        return mean_scores(rows, "all") | {"largest": largest, "where": run.evaluation["on"]}
    figures, where = figures_of(run)
    if where == NOTHING:
        return {"largest": {}, "where": where}
    where = f"{sum(case['role'] == 'validation' for case in run.config['cases'])} validation cases, {where}"
    # a run measures as its model's card says
    if not run.evaluation and run.config.get("model", {}).get("largest"):
        return {"largest": figures, "empty": figures.get("empty"), "where": where}
    return figures | {"largest": {}, "where": where}


def labelled_count(run: Run) -> int:
    return sum(case["role"] == "labelled" for case in run.config["cases"])


def setting(run: Run) -> str:
    """What two runs must share to be seeds of one row."""
    config = {key: value for key, value in run.config.items() if key not in NOT_A_SETTING}
    if run.config.get("planned"):  # as many steps as there was time for
        config["iterations"] = f"{run.config['minutes']} minutes"
    cases = sorted((case["role"], case["id"]) for case in run.config["cases"])
    # a run that isn't finished yet, or scored on something else, is another row
    config["largest"] = run.config.get("model", {}).get("largest", False)
    return json.dumps([config, cases, run.finished, scores_of(run)["where"]], sort_keys=True)


def grouped(runs: Iterable[Run]) -> list[list[Run]]:
    """The runs of each row, rows by labelled cases and method."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(setting(run), []).append(run)
    return sorted(groups.values(), key=lambda group: (labelled_count(group[0]), group[0].config["method"]))


def spread(numbers: Iterable[float | None]) -> str:
    """Mean of seeds, with their standard deviation where there are several."""
    there = [number for number in numbers if number is not None]
    return shown(average(there)) + (f" ± {statistics.stdev(there):.2f}" if len(there) > 1 else "")


def in_voxels(millimetres: float | None) -> float | None:
    return None if millimetres is None else millimetres / VOXEL


def memory_of(run: Run) -> float | None:
    """Peak memory (MB) where the events tell it."""
    told = [event[key] for event in run.events for key in ("peak_memory_mb", "memory_mb") if event.get(key)]
    return max(told, default=None)


def device_of(run: Run) -> str:
    start = (run.of("start") or [{}])[-1]
    threads = start.get("threads")
    words = [start.get("device"), start.get("precision"), f"{threads} thr." if threads else None]
    return ", ".join(word for word in words if word) or NOTHING


def line(group: Sequence[Run]) -> list[str]:
    """One line of the table: the mean of the seeds of one setting."""
    config, scores = group[0].config, [scores_of(run) for run in group]
    seeds, begun = ", ".join(str(run.config["seed"]) for run in group), config.get("from_model_name")
    empty = sum(each.get("empty") or 0 for each in scores)
    steps = ", ".join(dict.fromkeys(str(run.config["iterations"]) for run in group))
    done = steps if group[0].finished else f"{group[0].iteration} of {steps}"
    return [
        f"{config['method']} ({recipe_of(config)}{f', from {begun}' if begun else ''})",
        f"{', '.join(run.name for run in group)} (seed{'s' * (len(group) > 1)} {seeds})",
        spread(each.get("dice") for each in scores) + (f" ({empty} empty)" if empty else ""),
        spread(each.get("jaccard") for each in scores),
        spread(in_voxels(each.get("hd95")) for each in scores),
        spread(in_voxels(each.get("asd")) for each in scores),
        spread(each["largest"].get("dice") for each in scores),
        spread(in_voxels(each["largest"].get("hd95")) for each in scores),
        str(sum(case["role"] == "unlabelled" for case in config["cases"])),
        "x".join(f"{s:g}" for s in dict.fromkeys(config["spacing"])),
        done,
        device_of(group[0]),
        duration(statistics.mean(run.clock[-1] if run.clock else 0.0 for run in group)),
        shown(average(map(memory_of, group)), 0),
        scores[0]["where"],
    ]


def published_line(row: Sequence) -> list[str]:
    _, method, dice, jaccard, hd95, asd, when = row
    figures = [f"*{number:.2f}*" for number in (dice, jaccard, hd95, asd)]
    rest = [NOTHING] * (len(HEADS) - len(figures) - 3)
    return [f"*{method}*", "*published*", *figures, *rest, f"20 test cases, {when}"]


def full_resolution(run: Run) -> bool:
    return max(run.config["spacing"]) <= VOXEL


def complete(run: Run) -> bool:
    """Whether a run took at least all steps of its recipe, with its settings, on the scans' own grid, to its end."""
    name = run.config["recipe"]
    steps = RECIPES[name]["iterations"] if name in RECIPES else 0
    return run.finished and full_resolution(run) and run.iteration >= steps and recipe_of(run.config) == name


def missing(runs: Sequence[Run]) -> list[str]:
    """Sentences on the rows that no complete run stands for, recipe by recipe."""
    there = {(run.config["recipe"], labelled_count(run), run.config["method"]) for run in runs if complete(run)}
    absent: dict[str, list[str]] = {}
    for row in WANTED:
        if row not in there:
            recipe, count, method = row
            absent.setdefault(recipe, []).append(f"{method} with {count}")
    told = [f"Rows still missing at {VOXEL} mm, {name}: {', '.join(rows)} labelled." for name, rows in absent.items()]
    alone = [f"{SCANS} labelled need --test, as no other scan is left to score them."]
    return told + alone * any(count == SCANS for _, count, _ in {*WANTED} - there)


def page(runs: Sequence[Run]) -> list[str]:
    """The Markdown page."""
    groups = grouped(runs)
    counts = sorted({row[0] for row in PUBLISHED} | {labelled_count(run) for run in runs})
    lines = ["# Left Atrium", ""]
    for count in counts:
        rows = [published_line(row) for row in PUBLISHED if row[0] == count]
        rows += [line(group) for group in groups if labelled_count(group[0]) == count]
        lines += [f"## {count} labelled", "", *table(HEADS, rows), ""]
    return [
        *lines,
        *(part for sentence in missing(runs) for part in (sentence, "")),
        *NOTES,
        "",
        machine(),
    ]


# --- the command -----------------------------------------------------------------------------------------------------


def with_scores(runs: list[Run]) -> list[Run]:
    """The runs, each with the scores.json in its folder unless the command named others."""
    for run in runs:
        if run.evaluation is None and (run.folder / SCORES).is_file():
            run.evaluation = read_json(run.folder / SCORES)
    return runs


def table_command(words: Sequence[str] | None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    parser.add_argument("--evaluation", action="append", default=[], metavar="NAME=FILE", help="scores of a run")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args(words)
    publish(page(with_scores(read_runs(arguments.runs, arguments.evaluation))), arguments.output)


def score_command(words: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="la.py score", description="Score a model on cases laid out like la.")
    parser.add_argument("model", help="name of a model or its folder")
    parser.add_argument("data", type=Path, help="folder of <case>/{image,label}.nrrd")
    parser.add_argument("--cases", type=int, metavar="N", help="only the last N of the folder")
    parser.add_argument("--windows", action="store_true", help="by the published sliding windows, not in one pass")
    parser.add_argument("--json", type=Path, help="write the scores here too, best as scores.json in the run folder")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args(words)
    folders = case_folders(arguments.data)
    folders = folders[-arguments.cases :] if arguments.cases else folders
    scores = score(Segmenter(arguments.model), folders, arguments.windows)
    if arguments.json:
        write_json(arguments.json, scores)
    publish(scored_page(scores), arguments.output)


def main(words: Sequence[str] | None = None) -> None:
    words = sys.argv[1:] if words is None else words
    if words[:1] == ["score"]:
        score_command(words[1:])
    else:
        table_command(words)


if __name__ == "__main__":
    main()
