"""Trainings as rows of a Markdown table, with their curves: what run folders and evaluations say, nothing more.

    python Testing/benchmarks/rows.py RUN [RUN ...] [--evaluation NAME=report.json] [--output results.md]
                                      [--curves curves.svg] [--against time|iteration] [--keep FOLDER]

A RUN is a run folder of `simcvd train`, or one that --keep made; NAME is the name of a run's folder and report.json
comes from `simcvd evaluate`. Unfinished runs show how far they are. Runs are only read.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import re
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from common import NOTHING, machine, publish, shown, table

from simcvd.events import read_events
from simcvd.files import atomic_path, read_json, write_json
from simcvd.training.recipes import RECIPES, recipe

FIGURES = {"dice": "Dice [%]", "jaccard": "Jaccard [%]", "hd95": "95HD [mm]", "asd": "ASD [mm]"}
VOXEL_FIGURES = {"hd95_voxel": "95HD [voxel]", "asd_voxel": "ASD [voxel]"}
ROLES = ("labelled", "unlabelled", "validation")
SCORES = "scores.json"  # in a run folder: what la.py score found
UNLABELLED = "unlabelled.json"  # and what unlabelled.py found
KEPT_STEPS = 200
UNKEPT = ("checkpoint", "preparing", "step")
BESIDES = ("batch", "augmentation", "settle_batch_norm", "head_start", "normalisation")  # of a recipe
CURVE_POINTS = 400  # of one loss term over all runs
# a folder and what is in it, but no address of the web and no fraction
PATH = re.compile(r"(?<![\w.:/\\])(?:[A-Za-z]:)?[\\/](?:[^\s\\/'\",;]+[\\/])*(?=[^\s\\/'\",;])")


@dataclass
class Run:
    """One training: its run.json, its events, and the seconds of training at each of them.

    The clock runs while a process trains or validates; it stands still in pauses, while cases are prepared, and between
    a stop (or a kill) and the next start. Work that a killed process lost was spent and counts.
    """

    name: str
    folder: Path
    config: dict
    events: list[dict]
    clock: list[float]
    evaluation: dict | None = None

    @classmethod
    def read(cls, folder: Path) -> Run:
        try:
            config = read_json(folder / "run.json")
        except (OSError, ValueError) as error:
            raise SystemExit(f"{folder} is no run folder ({error}); give folders that simcvd train made.") from None
        events, _ = read_events(folder / "events.jsonl")
        return cls(folder.resolve().name, folder, config, events, training_clock(events))

    def of(self, kind: str) -> list[dict]:
        return [event for event in self.events if event["event"] == kind]

    @property
    def finished(self) -> bool:
        return bool(self.of("done"))

    @property
    def iteration(self) -> int:
        return max((event.get("iteration", 0) for event in self.events), default=0)


def training_clock(events: Sequence[dict]) -> list[float]:
    """Seconds of training at each event."""
    clock = [0.0] * min(len(events), 1)
    for before, event in pairwise(events):
        stands = event["event"] in ("preparing", "start") or before["event"] == "paused"
        clock.append(clock[-1] + (0.0 if stands else max(event["time"] - before["time"], 0.0)))
    return clock


def seconds_per_step(run: Run) -> float | None:
    """Mean from step event to step event of each process, without the validations and pauses between them."""
    seconds, steps, last = 0.0, 0, None
    for event, now in zip(run.events, run.clock, strict=True):
        if event["event"] == "start":
            last = None
        elif event["event"] == "validation" and last:
            last = (last[0], last[1] + event.get("seconds", 0.0))
        elif event["event"] == "step":
            if last:
                steps += event["iteration"] - last[0]
                seconds += now - last[1]
            last = (event["iteration"], now)
    return seconds / steps if steps else None


def standing(run: Run) -> list[tuple[dict, float]]:
    """Events with their clock, without what a later process did again from a checkpoint."""
    kept: list[tuple[dict, float]] = []
    for event, now in zip(run.events, run.clock, strict=True):
        if event["event"] == "start":
            kept = [pair for pair in kept if pair[0].get("iteration", 0) <= event.get("iteration", 0)]
        kept.append((event, now))
    return kept


# --- the table -------------------------------------------------------------------------------------------------------


def evaluated(report: dict) -> dict:
    """Mean over the labels of each figure's mean over the cases, and the number of rows without distances."""
    labels = report["summary"].values()
    figures: dict = {"empty": sum(label["hd95"]["empties"] for label in labels)}
    for key in (*FIGURES, *VOXEL_FIGURES):
        means = [label[key]["mean"] for label in labels if label[key]["mean"] is not None]
        figures[key] = statistics.mean(means) if means else None
    return figures


def figures_of(run: Run) -> tuple[dict, str]:
    """The scores of a run, and what they were taken on."""
    if run.evaluation:
        return evaluated(run.evaluation), "scans' own grid"
    last = next(iter(run.of("done")[-1:] + run.of("validation")[-1:]), {})
    if "dice" not in last:
        return {}, NOTHING
    grid = "model's grid" + ", largest part" * bool(run.config.get("model", {}).get("largest"))
    return last, grid if run.finished else f"{grid}, at {last['iteration']}"


def cells(run: Run, figures: Iterable[str]) -> list[str]:
    c, (scores, where) = run.config, figures_of(run)
    start = (run.of("start") or [{}])[-1]
    roles = [case["role"] for case in c["cases"]]
    empty = f" ({scores['empty']} empty)" if scores.get("empty") else ""
    spacing = sorted({f"{s:g}" for s in c["spacing"]})
    threads = start.get("threads", 0)
    device = [start.get("device"), start.get("precision"), f"{threads} thread{'s' * (threads > 1)}" if threads else ""]
    return [
        run.name,
        c["method"],
        recipe_of(c),
        "/".join(str(roles.count(role)) for role in ROLES),
        spacing[0] if len(spacing) == 1 else "x".join(f"{s:g}" for s in c["spacing"]),
        "x".join(map(str, c["patch"][::-1])),
        str(c["iterations"]) if run.finished else f"{run.iteration} of {c['iterations']}",
        "+".join(map(str, c["batch"])),
        ", ".join(word for word in device if word) or NOTHING,
        shown(seconds_per_step(run), 3),
        duration(run.clock[-1] if run.clock else 0.0),
        *(shown(scores.get(key)) for key in figures),
        where + empty,
    ]


def recipe_of(config: dict) -> str:
    """The recipe's name, and what the run had in place of its settings: "short, augmentation robust".

    Its steps are told elsewhere; the published settings of a method belong to a recipe that doesn't name them.
    """
    from simcvd.training.methods import make_method_settings  # loads PyTorch
    from simcvd.training.setup import NORMALISATION

    name, method = config["recipe"], config["method"]
    if name not in RECIPES:
        return name
    planned = {"normalisation": NORMALISATION, **recipe(name, method)}
    settings = make_method_settings(method, planned["settings"])
    its = settings | planned["optimiser"] | {key: planned[key] for key in BESIDES}
    mine = config | config["settings"] | config["optimiser"]
    own = [f"{key} {spelled(mine[key])}" for key, value in its.items() if mine.get(key, value) != value]
    return ", ".join([name, *own])


def spelled(value) -> str:
    """A setting's value in a cell."""
    return value["kind"] if isinstance(value, dict) else value if isinstance(value, str) else json.dumps(value)


def duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{seconds:.0f} s" if seconds < 120 else f"{minutes} min" if minutes < 120 else f"{minutes / 60:.1f} h"


def page(runs: Sequence[Run], curves: str | None) -> list[str]:
    """The Markdown page."""
    figures = FIGURES | (VOXEL_FIGURES if any(run.evaluation for run in runs) else {})
    heads = ["run", "method", "recipe", "lab./unlab./val.", "grid [mm]", "patch", "iterations", "batch", "on"]
    heads += ["s per step", "training", *figures.values(), "scored on"]
    return [
        "# Training results",
        "",
        *table(heads, [cells(run, figures) for run in runs]),
        "",
        "Scores are means over the validation cases and classes; distances are in mm, and in voxels where `simcvd "
        "evaluate` scored the saved segmentations on the scans' own grid. Seconds per step are the mean without "
        "validations; training is all the time that processes ran, with validations, without pauses.",
        "",
        *([f"![Training curves]({curves})", ""] if curves else []),
        machine(),
    ]


# --- the curves ------------------------------------------------------------------------------------------------------


def binned(x: Sequence[float], y: Sequence[float], most: int) -> tuple[list[float], list[float]]:
    """Means of as many neighbours as leave a curve of `most` points, which is small and calm."""
    size = -(-len(x) // most)
    groups = range(0, len(x), size or 1)
    return [statistics.mean(x[i : i + size]) for i in groups], [statistics.mean(y[i : i + size]) for i in groups]


def draw_curves(runs: Sequence[Run], against: str, path: Path) -> None:
    """One SVG: validation Dice of all runs, then the loss terms of each run."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "simcvd", "font.size": 9})
    matplotlib.rcParams["font.sans-serif"] = ["DejaVu Sans", "sans-serif"]
    matplotlib.rcParams.update({"axes.spines.top": False, "axes.spines.right": False, "axes.grid": True})
    matplotlib.rcParams.update({"grid.color": "#e4e4e4", "legend.frameon": False, "path.simplify": True})
    from matplotlib import pyplot
    from matplotlib.ticker import LogLocator, NullLocator

    columns = min(3, len(runs) + 1)
    lines = -(-(len(runs) + 1) // columns)
    size = (4.2 * columns, 3.2 * lines)
    figure, grid = pyplot.subplots(lines, columns, figsize=size, layout="constrained", squeeze=False)
    unit, scale = "iteration", 1.0
    if against == "time":
        longest = max((run.clock[-1] for run in runs if run.clock), default=0.0)
        unit, scale = ("minutes of training", 60.0) if longest >= 120 else ("seconds of training", 1.0)
    terms = dict.fromkeys(name for run in runs for step in run.of("step") for name in step["loss"] if name != "total")
    colours = {name: f"C{i % 10}" for i, name in enumerate(terms)} | {"total": "black"}
    first, *others = grid.flat
    for run in runs:
        draw_dice(first, run, points(run, "validation", against), scale)
    first.set(title="Validation Dice [%]", xlabel=unit)
    for run, panel in zip(runs, others, strict=False):
        panel.set(title=f"{run.name}: loss terms", xlabel=unit, yscale="log")
        draw_losses(panel, points(run, "step", against), scale, colours, min(100, CURVE_POINTS // len(runs)))
        panel.yaxis.set(major_locator=LogLocator(subs=(1, 3)), minor_locator=NullLocator(), major_formatter="{x:g}")
    for i, panel in enumerate(grid.flat):
        panel.set_visible(i <= len(runs))
        panel.set_xlim(left=0)
    first.legend(fontsize=8)
    lines_of = {line.get_label(): line for panel in others for line in panel.get_lines()}
    names = [name for name in colours if name in lines_of]
    if names:
        figure.legend([lines_of[n] for n in names], names, loc="outside lower center", ncols=len(names), fontsize=8)
    drawing = io.StringIO()
    figure.savefig(drawing, format="svg", metadata={"Date": None})
    pyplot.close(figure)
    with atomic_path(path) as temporary:
        temporary.write_text(small(drawing.getvalue()), encoding="utf-8")


def small(svg: str) -> str:
    """The same drawing without comments and indents, its curves to a tenth of a point."""
    svg = re.sub(r"<!--.*?-->|(?<=\n) +", "", svg, flags=re.DOTALL)
    curve = re.compile(r' d="[^"]*"(?= clip-path)')
    return curve.sub(lambda found: re.sub(r"(\d\.\d)\d+", r"\1", found[0]), svg)


def draw_dice(panel, run: Run, places: list[tuple[float, dict]], scale: float) -> None:
    pairs = [(x / scale, event["dice"]) for x, event in places if event.get("dice") is not None]
    # without points too: every run keeps its colour
    panel.plot(*zip(*pairs, strict=True) if pairs else ((), ()), marker="o", markersize=3, label=run.name)


def draw_losses(panel, places: list[tuple[float, dict]], scale: float, colours: dict[str, str], most: int) -> None:
    for name, colour in colours.items():
        pairs = [(x / scale, step["loss"][name]) for x, step in places if step["loss"].get(name, 0.0) > 0]
        dashes = ":" if name == "total" else "-"
        if pairs:
            panel.plot(
                *binned(*zip(*pairs, strict=True), most), color=colour, linewidth=1, label=name, linestyle=dashes
            )


def points(run: Run, kind: str, against: str) -> list[tuple[float, dict]]:
    """(place on the horizontal axis, event) of a kind."""
    chosen = [(now, event) for event, now in standing(run) if event["event"] == kind]
    return [(event["iteration"] if against == "iteration" else now, event) for now, event in chosen]


# --- what is kept ----------------------------------------------------------------------------------------------------


def keep(run: Run, folder: Path) -> None:
    """Write run.json, a thinned events.jsonl and scores into folder/<run name>/ without paths of this machine."""
    target = folder / run.name
    if target.exists() and target.samefile(run.folder):
        raise SystemExit(f"{target} is the run itself; keep it in another folder.")
    cases = [{**case, "prepared": file_name(case["prepared"])} for case in run.config["cases"]]
    model = run.config.get("from_model")
    write_json(target / "run.json", run.config | {"cases": cases, "from_model": model and file_name(model)})
    with atomic_path(target / "events.jsonl") as temporary:
        lines = [json.dumps({k: without_paths(v) for k, v in event.items()}) + "\n" for event in thinned(run.events)]
        temporary.write_text("".join(lines), encoding="utf-8")
    for name in (SCORES, UNLABELLED):
        (target / name).unlink(missing_ok=True)
        if (run.folder / name).is_file():
            # a report of `simcvd evaluate` tells in "meta" where its files are
            write_json(target / name, {k: v for k, v in read_json(run.folder / name).items() if k != "meta"})


def thinned(events: Sequence[dict]) -> list[dict]:
    """All events but checkpoints and preparations; a few evenly spread steps, with the first and last of each process;
    the scores of single cases only of the last validation and of the end."""
    steps = [i for i, event in enumerate(events) if event["event"] == "step"]
    starts = [i for i, event in enumerate(events) if event["event"] == "start"] + [len(events)]
    chosen = set()
    for first, end in pairwise(starts):
        mine = [i for i in steps if first < i < end]
        chosen |= {*mine[:1], *mine[-1:]}
    spare = max(KEPT_STEPS - len(chosen), 1)
    chosen |= {steps[n * len(steps) // spare] for n in range(spare)} if steps else set()
    last = max((i for i, event in enumerate(events) if event["event"] == "validation"), default=None)
    kept = [i for i, event in enumerate(events) if event["event"] not in UNKEPT or i in chosen]
    return [
        {k: v for k, v in events[i].items() if k != "rows" or i == last or events[i]["event"] == "done"} for i in kept
    ]


def without_paths(value):
    return PATH.sub("", value) if isinstance(value, str) else value


def file_name(path: str) -> str:
    return re.split(r"[\\/]", path.rstrip("\\/"))[-1]


# --- the command -----------------------------------------------------------------------------------------------------


def read_runs(folders: Iterable[Path], evaluations: Iterable[str]) -> list[Run]:
    """The runs with their evaluations; leaves with a sentence where names don't fit together."""
    runs = {}
    for folder in folders:
        run = Run.read(folder)
        if run.name in runs:
            raise SystemExit(f"Two runs are called {run.name}; rename the folder of one.")
        runs[run.name] = run
    for text in evaluations:
        name, _, path = text.partition("=")
        if name not in runs or not path:
            raise SystemExit(f"--evaluation {text} names no run; write NAME=report.json, NAME of {', '.join(runs)}.")
        try:
            runs[name].evaluation = read_json(path)
        except (OSError, ValueError) as error:
            raise SystemExit(f"{path} can't be read ({error}); give the report.json of simcvd evaluate.") from None
    return list(runs.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    parser.add_argument("--evaluation", action="append", default=[], metavar="NAME=FILE", help="scores of a run")
    parser.add_argument("--output", type=Path, help="Markdown file to write the page to as well")
    parser.add_argument("--curves", type=Path, help="SVG file to draw the curves into")
    parser.add_argument(
        "--against", choices=("time", "iteration"), default="time", help="horizontal axis of the curves"
    )
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep thinned copies here, for the repository")
    arguments = parser.parse_args()
    runs = read_runs(arguments.runs, arguments.evaluation)
    shown_at = None
    if arguments.curves:
        draw_curves(runs, arguments.against, arguments.curves)
        beside = arguments.output.resolve().parent if arguments.output else Path.cwd()
        shown_at = Path(os.path.relpath(arguments.curves.resolve(), beside)).as_posix()
    if arguments.keep:
        for run in runs:
            keep(run, arguments.keep)
    publish(page(runs, shown_at), arguments.output)


if __name__ == "__main__":
    main()
