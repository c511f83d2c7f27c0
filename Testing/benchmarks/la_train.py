"""All runs of the Left Atrium table, one command: makes or goes on with each, scores it, prints the table of la.py.

    python Testing/benchmarks/la_train.py DATA RUNS [--labelled 4,8,16] [--methods supervised,simcvd] [--seeds 3]
        [--recipes published,short] [--test FOLDER] [--jobs N] [--output la.md] [options of simcvd train]

DATA is laid out like la; RUNS gets a folder for each run, named after its settings. Runs that are finished are not made
again and those that were interrupted go on, so that the same command serves until the table is full. With --test all
other cases of DATA are unlabelled and models are scored on that folder; without, the last 10 of DATA score them.
Other options go to every run: --spacing 1.25 --minutes 60 --threads 1 on a computer without a GPU, say. RUNS holds runs
of the same options only; others want a folder of their own.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from common import ROOT, case_folders, publish
from la import SCORES, page, score, with_scores
from rows import read_runs

from simcvd.files import read_json, write_json
from simcvd.segmentation import Segmenter
from simcvd.training.methods import METHODS
from simcvd.training.recipes import RECIPES

VALIDATION = 10  # cases, where there is no folder of test cases
FIRST_SEED = 1337
OPTIONS = "options.json"  # in RUNS: what all runs there were made with
CARD = Path(__file__).with_name("left-atrium.json")


@dataclass(frozen=True)
class Row:
    """One run of the table."""

    labelled: int
    method: str
    recipe: str
    seed: int

    @property
    def name(self) -> str:
        """Of the run's folder."""
        return f"la_{self.labelled}_{self.method.replace('++', '_plus')}_{self.recipe}_{self.seed}"


def rows_of(arguments: argparse.Namespace) -> list[Row]:
    """Seed by seed, so that the table soon has a run in every line."""
    seeds = range(FIRST_SEED, FIRST_SEED + arguments.seeds)
    each = product(seeds, arguments.labelled, arguments.recipes, arguments.methods)
    return [Row(labelled, method, recipe, seed) for seed, labelled, recipe, method in each]


def check_options(arguments: argparse.Namespace) -> None:
    """Refuse a folder whose runs were made with other options or for other test cases: names don't tell them apart."""
    asked = {"data": str(arguments.data), "test": str(arguments.test), "more": arguments.more}
    file = arguments.runs / OPTIONS
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, asked)
    elif (there := read_json(file)) != asked:
        raise SystemExit(f"{arguments.runs} holds runs made with other options ({there}); choose another folder.")


def train(row: Row, arguments: argparse.Namespace) -> str | None:
    """Train one row from where it stands; what went wrong, or None."""
    run = arguments.runs / row.name
    if (run / "model" / "card.json").is_file():
        return None
    words = [sys.executable, "-m", "simcvd", "train", arguments.data, "--output", run, "--resume"]
    words += ["--labelled", row.labelled, "--validation", 0 if arguments.test else VALIDATION]
    words += ["--method", row.method, "--recipe", row.recipe, "--seed", row.seed]
    words += ["--model-card", CARD, "--cache", arguments.runs / "cases", *arguments.more]
    print(f"{row.name} begins", file=sys.stderr, flush=True)
    path = {"PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT / "SimCVDSegment"), os.environ.get("PYTHONPATH"))))}
    done = subprocess.run(
        list(map(str, words)), env=os.environ | path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    print(f"{row.name} {'failed' if done.returncode else 'is done'}", file=sys.stderr, flush=True)
    said = done.stderr.strip().splitlines() or [f"ended with {done.returncode}"]
    return f"{row.name}: {said[-1]}" if done.returncode else None


def train_all(rows: Sequence[Row], arguments: argparse.Namespace) -> list[str]:
    """Train rows, so many at a time; what went wrong. Ctrl+C reaches every run, which stops after a checkpoint."""
    with ThreadPoolExecutor(arguments.jobs) as pool:
        try:
            return [problem for problem in pool.map(lambda row: train(row, arguments), rows) if problem]
        except KeyboardInterrupt:
            pool.shutdown(cancel_futures=True)
            raise SystemExit("Stopped; the same command goes on.") from None


def score_run(run: Path, cases: Sequence[Path]) -> None:
    """Score a finished run where that hasn't been done."""
    if (run / "model" / "card.json").is_file() and not (run / SCORES).is_file():
        print(f"Scoring {run.name}", file=sys.stderr, flush=True)
        write_json(run / SCORES, score(Segmenter(run / "model"), cases))


def listed(word: str) -> list[str]:
    return [part for part in word.split(",") if part]


def numbers(word: str) -> list[int]:
    return [int(part) for part in listed(word)]


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,  # what isn't known here is an option of simcvd train
    )
    parser.add_argument("data", type=lambda word: Path(word).resolve(), metavar="DATA")
    parser.add_argument("runs", type=lambda word: Path(word).resolve(), metavar="RUNS")
    parser.add_argument("--labelled", type=numbers, default=[4, 8, 16], metavar="N,N")
    parser.add_argument("--methods", type=listed, default=["supervised", "mean_teacher", "simcvd"], metavar="M,M")
    parser.add_argument("--recipes", type=listed, default=["published", "short"], metavar="R,R")
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help=f"how many, from {FIRST_SEED} on")
    parser.add_argument(
        "--test", type=lambda word: Path(word).resolve(), metavar="FOLDER", help="test cases, laid out like DATA"
    )
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="runs at a time")
    parser.add_argument("--output", type=Path, help="where to write the table")
    arguments, arguments.more = parser.parse_known_args(words)
    for given, known in ((arguments.methods, METHODS), (arguments.recipes, RECIPES)):
        unknown = [name for name in given if name not in known]
        if unknown:
            parser.error(f"There is no {unknown[0]}; choose from {', '.join(known)}.")
    check_options(arguments)
    rows = rows_of(arguments)
    cases = case_folders(arguments.test) if arguments.test else case_folders(arguments.data)[-VALIDATION:]
    problems = train_all(rows, arguments)
    runs = [arguments.runs / row.name for row in rows]
    for run in runs:
        score_run(run, cases)
    there = [run for run in runs if (run / "run.json").is_file()]
    if there:
        publish(page(with_scores(read_runs(there, []))), arguments.output)
    if problems:
        raise SystemExit("\n".join(problems))


if __name__ == "__main__":
    main()
