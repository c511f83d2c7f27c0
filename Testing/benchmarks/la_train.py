"""All runs of the Left Atrium table, one command: makes or goes on with each, scores it, prints the table of la.py.

    python Testing/benchmarks/la_train.py DATA RUNS [--labelled 4,8,16] [--methods supervised,simcvd] [--seeds 3]
        [--recipes published,short] [--test FOLDER] [--windows] [--jobs N] [--prepare] [--output la.md]
        [options of simcvd train]

DATA is laid out like la; RUNS gets a folder for each run, named after its settings. Runs that are finished are not made
again and those that were interrupted go on, so that the same command serves until the table is full. Ctrl+C and
SIGTERM stop every run after a checkpoint. With --test all other cases of DATA are unlabelled and models are scored on
that folder; without, the last 10 of DATA score them; --windows scores by the published protocol.

Other options go to every run: --spacing 1.25 --minutes 60 --threads 1 on a computer without a GPU, say. RUNS holds runs
of the same options only, but for --device, --threads and --precision; others want a folder of their own.

--prepare only makes the run folders and the prepared cases in RUNS/cases. Carried to another machine, where neither
DATA nor SimpleITK is, the same command without it trains them there, with the device, threads and precision that they
were made with ("auto" unless given). What is finished is scored by the same command where SimpleITK is.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from common import CASES, ROOT, case_folders, publish
from la import SCORES, page, with_scores
from rows import Run, read_runs

from simcvd.cases import cases_from_folder
from simcvd.commands.train import add_arguments, plan_from
from simcvd.errors import SimCVDError
from simcvd.files import read_json, write_json
from simcvd.training.methods import METHODS
from simcvd.training.recipes import RECIPES
from simcvd.training.setup import create_run

VALIDATION = 10  # cases, where there is no folder of test cases
FIRST_SEED = 1337
OPTIONS = "options.json"  # in RUNS: what all runs there were made with
# options that tell nothing of what a run is: machines differ in them, or names of folders tell them
UNTOLD = ("source", "output", "cache", "resume", "labelled", "method", "recipe", "seed")
UNTOLD += ("device", "threads", "precision")
CARD = Path(__file__).with_name("left-atrium.json")
LA = Path(__file__).with_name("la.py")
SIGNALS = (signal.SIGINT, signal.SIGTERM)


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


# --- options ---------------------------------------------------------------------------------------------------------


def words_of(row: Row, arguments: argparse.Namespace) -> list[str]:
    """What simcvd train is told of a row."""
    words = [arguments.data, "--output", arguments.runs / row.name, "--resume", "--cache", arguments.runs / CASES]
    words += ["--labelled", row.labelled, "--validation", 0 if arguments.test else VALIDATION]
    words += ["--method", row.method, "--recipe", row.recipe, "--seed", row.seed, "--model-card", CARD]
    return [str(word) for word in (*words, *arguments.more)]


def understood(words: Sequence[str]) -> argparse.Namespace:
    """The options of simcvd train by its own parser, which leaves with a sentence on what it doesn't know."""
    parser = argparse.ArgumentParser("simcvd train", allow_abbrev=False)
    add_arguments(parser)
    return parser.parse_args(words)


def check_options(arguments: argparse.Namespace) -> None:
    """Refuse a folder whose runs were made with other options or for other test cases: names don't tell them apart.

    Folders and files count by their names, as they lie elsewhere on another machine.
    """
    plain, given = vars(understood(["DATA"])), vars(understood(["DATA", *arguments.more]))
    more = {key: value for key, value in given.items() if value != plain[key] and key not in UNTOLD}
    asked = {"data": arguments.data, "test": arguments.test, "more": more}
    asked = json.loads(json.dumps(asked, default=lambda path: path.name))
    file = arguments.runs / OPTIONS
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, asked)
    elif (there := read_json(file)) != asked:
        raise SystemExit(f"{arguments.runs} holds runs made with other options ({there}); choose another folder.")


# --- processes -------------------------------------------------------------------------------------------------------


class Processes:
    """The processes at work. Within a `with`, SIGINT and SIGTERM stop them all, whoever else the signal reaches.

    A training then ends after a checkpoint. Enter it in the main thread; `run` is for any.
    """

    def __init__(self):
        self.stopped = False
        self._running: set[subprocess.Popen] = set()
        self._lock = threading.RLock()  # a signal may come while another one is obeyed

    def __enter__(self) -> Processes:
        self._before = {number: signal.signal(number, self._stop) for number in SIGNALS}
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _stop(self, _number, _frame) -> None:
        with self._lock:
            self.stopped = True
            for process in self._running:
                process.terminate()

    def run(self, words: Sequence[object]) -> str | None:
        """Run Python with words; the last line it said when it failed, or None. Once stopped, nothing is begun."""
        path = filter(None, (str(ROOT / "SimCVDSegment"), os.environ.get("PYTHONPATH")))
        with self._lock:
            if self.stopped:
                return "stopped"
            process = subprocess.Popen(
                [sys.executable, *map(str, words)],
                env=os.environ | {"PYTHONPATH": os.pathsep.join(path)},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )
            self._running.add(process)
        said = process.communicate()[1].strip().splitlines() or [f"ended with {process.returncode}"]
        with self._lock:
            self._running.discard(process)
        return said[-1] if process.returncode else None


def say(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)


# --- what is done with a row: all give what went wrong, or None -------------------------------------------------------


class Stopped(Exception):  # noqa: N818 - nothing went wrong
    """Asked to stop between two cases."""


def prepare(row: Row, arguments: argparse.Namespace, processes: Processes) -> str | None:
    """Make the run folder of a row, its cases in the cache that all share, and train nothing."""
    run, options = arguments.runs / row.name, understood(words_of(row, arguments))

    def obey(*_) -> None:
        if processes.stopped:
            raise Stopped

    try:
        obey()
        if (run / "run.json").is_file():
            return None
        cases = cases_from_folder(options.source, options.labelled, options.validation)
        method, spacing, wishes = plan_from(options)
        create_run(run, cases, method, spacing, options.recipe, wishes, cache=options.cache, progress=obey)
    except Stopped:
        return None
    except SimCVDError as error:
        return f"{row.name}: {error}"
    say(f"{row.name} is prepared")
    return None


def fill(row: Row, arguments: argparse.Namespace, processes: Processes) -> str | None:
    """Train a row from where it stands, and score it."""
    return train(row, arguments, processes) or score(row, arguments, processes)


def train(row: Row, arguments: argparse.Namespace, processes: Processes) -> str | None:
    """Train one row unless it is finished."""
    if processes.stopped or is_finished(arguments.runs / row.name):
        return None
    say(f"{row.name} begins")
    problem = processes.run(["-m", "simcvd", "train", *words_of(row, arguments)])
    stopped = problem and processes.stopped
    say(f"{row.name} {'is stopped' if stopped else 'failed' if problem else 'is done'}")
    return f"{row.name}: {problem}" if problem and not stopped else None


def score(row: Row, arguments: argparse.Namespace, processes: Processes) -> str | None:
    """Score one row where it is finished and that hasn't been done."""
    run = arguments.runs / row.name
    if processes.stopped or not is_finished(run) or is_scored(run, arguments.windows):
        return None
    if not reads_images():
        say(f"{row.name} is scored by the same command where SimpleITK is installed.")
        return None
    say(f"Scoring {row.name}")
    words = [LA, "score", run / "model", arguments.test or arguments.data, "--json", run / SCORES]
    words += [] if arguments.test else ["--cases", VALIDATION]
    words += ["--windows"] if arguments.windows else []
    problem = processes.run(words)
    return f"{row.name} can't be scored: {problem}" if problem and not processes.stopped else None


def is_finished(run: Path) -> bool:
    # not by its model, which is there before the last validation
    return (run / "run.json").is_file() and Run.read(run).finished


def is_scored(run: Path, windows: bool) -> bool:
    file = run / SCORES
    return file.is_file() and read_json(file).get("windows", False) == windows


def reads_images() -> bool:
    return importlib.util.find_spec("SimpleITK") is not None


# --- the command -----------------------------------------------------------------------------------------------------

Work = Callable[[Row, argparse.Namespace, Processes], str | None]


def each(rows: Sequence[Row], work: Work, arguments: argparse.Namespace, processes: Processes) -> list[str]:
    """Do a work for rows, so many at a time; what went wrong."""
    with ThreadPoolExecutor(arguments.jobs) as pool:
        found = pool.map(lambda row: work(row, arguments, processes), rows)
        return [problem for problem in found if problem]


def show(rows: Sequence[Row], arguments: argparse.Namespace) -> None:
    """Print the table of the rows that were begun."""
    begun = [run for row in rows if ((run := arguments.runs / row.name) / "events.jsonl").is_file()]
    runs = [run for run in begun if (run / "run.json").is_file()]
    if runs:
        publish(page(with_scores(read_runs(runs, []))), arguments.output)


def listed(word: str) -> list[str]:
    return [part for part in word.split(",") if part]


def numbers(word: str) -> list[int]:
    return [int(part) for part in listed(word)]


def folder(word: str) -> Path:
    return Path(word).resolve()


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,  # what isn't known here is an option of simcvd train
    )
    parser.add_argument("data", type=folder, metavar="DATA")
    parser.add_argument("runs", type=folder, metavar="RUNS")
    parser.add_argument("--labelled", type=numbers, default=[4, 8, 16], metavar="N,N")
    parser.add_argument("--methods", type=listed, default=["supervised", "mean_teacher", "simcvd"], metavar="M,M")
    parser.add_argument("--recipes", type=listed, default=["published", "short"], metavar="R,R")
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help=f"how many, from {FIRST_SEED} on")
    parser.add_argument("--test", type=folder, metavar="FOLDER", help="test cases, laid out like DATA")
    parser.add_argument("--windows", action="store_true", help="score by the published sliding windows")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="runs at a time")
    parser.add_argument("--prepare", action="store_true", help="only make the run folders, to be trained elsewhere")
    parser.add_argument("--output", type=Path, help="where to write the table")
    arguments, arguments.more = parser.parse_known_args(words)
    for given, known in ((arguments.methods, METHODS), (arguments.recipes, RECIPES)):
        unknown = [name for name in given if name not in known]
        if unknown:
            parser.error(f"There is no {unknown[0]}; choose from {', '.join(known)}.")
    check_options(arguments)
    rows = rows_of(arguments)
    if reads_images():  # else they are not looked at
        case_folders(arguments.test or arguments.data)
    with Processes() as processes:
        try:
            problems = each(rows, prepare if arguments.prepare else fill, arguments, processes)
        finally:
            if not arguments.prepare:
                show(rows, arguments)
        if processes.stopped:
            problems.append("Stopped; the same command goes on.")
    if problems:
        raise SystemExit("\n".join(problems))


if __name__ == "__main__":
    main()
