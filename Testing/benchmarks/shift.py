"""What fine-tuning the shipped model with a few corrected cases and some unlabelled ones does for another scanner.

    python Testing/benchmarks/shift.py [--minutes M | --iterations N] [--threads N] [--method simcvd]
                                       [--augmentation A] [--folder KEEP] [--output page.md]

Scans of the LA challenge become those of a weaker scanner (`other_scanner` in changes.py): three labelled ones, ten
unlabelled ones and ten for validation. `simcvd train --from-model` trains on them as a user would; the page says how
good the model was on the validation cases before and is after. Version 3 of `left-atrium` has learned from all of them
as they were; take a --model that has not (see README.md).
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from changes import Scan, other_scanner
from common import DATA, ROOT, average, machine, publish, shown, table
from la import device_of
from robustness import measure
from rows import Run, duration, recipe_of

from simcvd.images import write_volume
from simcvd.models import find_model, load_card
from simcvd.segmentation import Segmenter, Settings


def names(first: int, last: int) -> list[str]:
    """Cases of the LA set, both ends included."""
    return [f"la{n:03}" for n in range(first, last + 1)]


CASES = {"labelled": names(9, 11), "unlabelled": names(12, 21), "validation": names(71, 80)}
KINDS = ("changed scans", "scans as they were")


def write_changed(data: Path, cases: dict[str, list[str]], folder: Path, change: Callable[[Scan], Scan]) -> None:
    """The changed scans as <case>/image.nrrd and, but for unlabelled ones, label.nrrd, as `simcvd train` takes them."""
    for role, chosen in cases.items():
        for name in chosen:
            scan = change(Scan.read(data / name))
            (folder / name).mkdir(parents=True, exist_ok=True)
            write_volume(folder / name / "image.nrrd", scan.image, scan.geometry)
            if role != "unlabelled":
                write_volume(folder / name / "label.nrrd", scan.labels, scan.geometry)


def training_command(arguments: argparse.Namespace, cases: dict[str, list[str]], scans: Path, run: Path) -> list[str]:
    """What a user would type."""
    words = [sys.executable, "-m", "simcvd", "train", str(scans), "--output", str(run)]
    words += ["--labelled", str(len(cases["labelled"])), "--validation", str(len(cases["validation"]))]
    words += ["--from-model", arguments.model, "--recipe", "short", "--method", arguments.method]
    length = ["--iterations", arguments.iterations] if arguments.iterations else ["--minutes", f"{arguments.minutes:g}"]
    wishes = {"--threads": arguments.threads, "--augmentation": arguments.augmentation}
    given = [word for name, value in wishes.items() if value for word in (name, value)]
    return [str(word) for word in (*words, *length, "--seed", arguments.seed, *given)]


def train(command: Sequence[str]) -> None:
    """Train in a process of its own, which tells on stderr how far it is."""
    path = os.pathsep.join(filter(None, (str(ROOT / "SimCVDSegment"), os.environ.get("PYTHONPATH"))))
    done = subprocess.run(command, stdout=sys.stderr.fileno(), env={**os.environ, "PYTHONPATH": path})
    if done.returncode:
        raise SystemExit(f"The training ended with {done.returncode}; what it says above is the reason.")


def measured(model: str | Path, scans: Iterable[Scan], largest: bool) -> list[dict]:
    """Scores of the scans, each on its own grid, as users segment them."""
    segmenter, settings = Segmenter(model, "cpu"), Settings(largest=largest)
    return [measure(segmenter, settings, scan)[0] for scan in scans]


def figures(rows: Sequence[dict]) -> str:
    """Mean Dice and 95HD in a cell."""
    empty = sum(row["hd95"] is None for row in rows)
    return (
        f"{shown(average(row['dice'] for row in rows))} / {shown(average(row['hd95'] for row in rows))}"
        + f" ({empty} empty)" * (empty > 0)
    )


def comparison(data: Path, chosen: Sequence[str], scans: Path, models: Sequence[str | Path]) -> list[tuple[str, list]]:
    """(what was segmented, rows of scores of each model)."""
    lines = []
    for kind, folder in zip(KINDS, (scans, data), strict=True):
        for largest in (False, True):
            title = kind + (", largest part" if largest else "")
            print(title, file=sys.stderr, flush=True)
            read = [Scan.read(folder / name) for name in chosen]
            lines.append((title, [measured(model, read, largest) for model in models]))
    return lines


def known(model: str | Path, cases: Sequence[str]) -> str:
    """A sentence about what the model to start from has learned from, or nothing."""
    labelled = load_card(find_model(model)).get("training", {}).get("labelled", [])
    seen = sorted({*cases} & {*labelled})
    return f"**The model to start from has learned from {len(seen)} of the validation cases.** " if seen else ""


def page(run: Run, found: Sequence[tuple[str, list]], model: str, note: str) -> list[str]:
    """The Markdown page; note: what is to be known of the figures, a sentence, or nothing."""
    roles = [case["role"] for case in run.config["cases"]]
    steps, first, last = run.config["iterations"], run.of("validation")[0], run.of("done")[-1]
    rows = []
    for title, (before, after) in found:
        gain = average(row["dice"] for row in after) - average(row["dice"] for row in before)
        rows.append([title, figures(before), figures(after), f"{gain:+.2f}"])
    cases = [
        [old["case"], shown(old["dice"]), shown(new["dice"]), shown(old["hd95"]), shown(new["hd95"])]
        for old, new in zip(*found[0][1], strict=True)
    ]
    heads = ("validation cases", "Dice [%] / 95HD [mm] before", "after", "Dice gained")
    return [
        "# Fine-tuning on another scanner",
        "",
        f"Model {model}, {roles.count('labelled')} labelled and {roles.count('unlabelled')} unlabelled scans, "
        f"method {run.config['method']} ({recipe_of(run.config)}), {steps} steps ({device_of(run)}), "
        f"{duration(run.clock[-1])} of training with its validations.",
        "",
        f"The change: {' '.join((other_scanner.__doc__ or '').split())}",
        "",
        *table(heads, rows),
        "",
        f"{note}Scored as users segment, on the scans' own grids; a case in which nothing was found counts with Dice 0 "
        "and without 95HD. On the model's grid the run itself measured "
        f"{shown(first['dice'])} / {shown(first['hd95'])} at iteration {first['iteration']} and "
        f"{shown(last['dice'])} / {shown(last['hd95'])} at the end.",
        "",
        *table(("changed scan", "Dice before", "Dice after", "95HD before", "95HD after"), cases),
        "",
        machine(("torch",)),
    ]


def work(arguments: argparse.Namespace, folder: Path) -> None:
    """Write the scans, train, measure, and print the page."""
    scans, run = folder / "scans", folder / "run"
    if run.exists():
        raise SystemExit(f"{run} is there already; choose another --folder.")
    write_changed(arguments.data, CASES, scans, other_scanner)
    train(training_command(arguments, CASES, scans, run))
    found = comparison(arguments.data, CASES["validation"], scans, (arguments.model, run / "model"))
    note = known(arguments.model, CASES["validation"])
    publish(page(Run.read(run), found, Path(arguments.model).name, note), arguments.output)


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA / "la", help="the scans of the challenge")
    parser.add_argument("--model", default="left-atrium", help="the model to start from")
    parser.add_argument("--method", default="simcvd", help="of simcvd train")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--minutes", type=float, default=10.0, help="of training")
    length.add_argument("--iterations", type=int, help="of training, in place of minutes")
    parser.add_argument("--augmentation", help="of simcvd train, in place of the recipe's")
    parser.add_argument("--seed", type=int, default=1337)
    parser.add_argument("--threads", type=int, help="of the CPU, for the training")
    parser.add_argument("--folder", type=Path, help="keep the changed scans and the run here")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args(words)
    if arguments.folder:
        work(arguments, arguments.folder)
    else:
        with tempfile.TemporaryDirectory() as folder:
            work(arguments, Path(folder))


if __name__ == "__main__":
    main()
