"""simcvd train: from cases to a model, or further with a run that was stopped."""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Collection
from pathlib import Path
from types import SimpleNamespace

from ..cases import Case, cases_from_folder, read_cases
from ..errors import SimCVDError
from ..files import OF_DESKTOPS, read_json
from ..models import STRIDE, find_model
from ..pytorch import check_torch
from .arguments import results_folder
from .console import INTERRUPTED, Console, Interrupted, duration, pasted, processes

DESCRIPTION = """Trains a model from cases, or goes on with a run that was stopped (simcvd train RUN).

Cases are a cases.json, or a folder laid out as <case>/image.* and <case>/label.*, of which the first --labelled cases
are labelled, the last --validation ones measure the model, and those between are unlabelled. The run folder holds
run.json (every setting), events.jsonl and log.txt (what happened), checkpoint.pt and in the end model/, which
simcvd segment --model RUN/model uses. Ctrl+C stops after a checkpoint, and so does the word stop in RUN/control.

Every setting of the methods is an option below; --set and --settings take them too, and all others of run.json."""
# `wishes` of create_run that are options of their own
PLAIN_WISHES = (
    *("iterations", "minutes", "seed", "patch", "batch", "device", "threads", "precision", "augmentation"),
    "leave_one_out",
)
WAIT_SECONDS = 0.5  # between two looks of the other processes for the run folder
DESTINATION = "setting:"
RUN, PLAN = "run.json", "plan.json"


class UsageError(SimCVDError):
    """Options that don't go together."""


# --- options --------------------------------------------------------------------------------------------------------


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options; those of the methods come from the methods themselves, which needs PyTorch."""
    check_torch()
    from ..devices import DEVICES, PRECISIONS
    from ..training.methods import METHODS
    from ..training.optimiser import MEANINGS
    from ..training.recipes import PUBLISHED, RECIPES
    from ..training.sampling import AUGMENTATIONS

    methods = "; ".join(f"{name}: {method.summary}" for name, method in METHODS.items())
    parser.add_argument("source", type=Path, metavar="CASES", help="a cases.json, a folder of cases, or a run folder")
    parser.add_argument("--output", type=results_folder, metavar="RUN", help="the run folder to make")
    parser.add_argument("--resume", action="store_true", help="go on with --output when it holds a run already")
    parser.add_argument("--method", choices=METHODS, help=f"default: simcvd. {methods}")
    parser.add_argument("--recipe", choices=RECIPES, help="default: short with --minutes, else published")
    parser.add_argument("--labelled", type=_count, metavar="N", help="labelled cases of a folder: the first N")
    parser.add_argument("--validation", type=_count, metavar="N", help="validation cases of a folder: the last N")
    parser.add_argument(
        "--spacing",
        type=_spacing,
        metavar="MM",
        help="of the model's grid, such as 1.25 or 1,1,3; default: of the model to start from, else 0.625, which was "
        "published for the left atrium: say what suits your scans",
    )
    parser.add_argument("--from-model", metavar="NAME", help="model (or its folder) to start from")
    parser.add_argument("--name", help="name of the new model")
    parser.add_argument("--model-card", type=Path, metavar="FILE", help="JSON with title, segments, licence ... of it")
    parser.add_argument("--cache", type=Path, metavar="FOLDER", help="prepared cases, for several runs to share")
    parser.add_argument("--estimate", action="store_true", help="only say how long it would take on this computer")
    parser.add_argument("--json", action="store_true", help="print the events, one JSON object a line")
    # for programs that start a training beside them
    parser.add_argument("--background", action="store_true", help=argparse.SUPPRESS)

    plan = parser.add_argument_group("plan")
    plan.add_argument("--iterations", type=_positive, metavar="N", help="optimiser steps")
    plan.add_argument("--minutes", type=_minutes, metavar="M", help="plan the steps to take so long")
    plan.add_argument("--patch", type=_patch, metavar="K,J,I", help="crop in voxels: slices, rows, columns")
    plan.add_argument("--batch", type=_batch, metavar="L,U", help="labelled and unlabelled crops of a step")
    plan.add_argument(
        "--seed",
        type=_count,
        metavar="N",
        help="the same seed gives the same model on one machine, on a GPU up to rounding",
    )
    plan.add_argument("--device", choices=DEVICES, help="where to compute")
    plan.add_argument("--precision", choices=PRECISIONS, help="of the network's arithmetic")
    plan.add_argument("--threads", type=_positive, metavar="N", help="of the CPU")
    plan.add_argument(
        "--augmentation",
        choices=AUGMENTATIONS,
        help="how crops are varied: turned and mirrored (published), as other patients (strong), also as other "
        "scanners show them (varied), and some of those mirrored (robust: best with few outlines of scans unlike each "
        "other, but not where left and right are structures of their own), or not at all",
    )
    plan.add_argument(
        "--leave-one-out",
        action="store_const",
        const=True,
        help="without validation cases: measure each labelled case by a training without it (twice the time)",
    )
    plan.add_argument("--optimiser", choices=("sgd", "adamw"), dest=f"{DESTINATION}kind", help=MEANINGS["kind"])
    staged = {
        name: SimpleNamespace(defaults=PUBLISHED["optimiser"] | own, meanings=MEANINGS)
        for name, own in PUBLISHED["optimisers"].items()
    }
    _add_settings(plan, PUBLISHED["optimiser"], MEANINGS, {"schedule": ("step", "poly")}, ("kind",), staged)
    plan.add_argument("--set", action="append", default=[], type=_pair, metavar="KEY=VALUE", help="any setting")
    plan.add_argument("--settings", type=Path, metavar="FILE", help="any settings, as a JSON object")

    known: set[str] = set()
    for name, method in METHODS.items():
        group = parser.add_argument_group(f"settings of {name}" + (", beyond those above" if known else ""))
        others = {n: m for n, m in METHODS.items() if n != name}
        _add_settings(group, method.defaults, method.meanings, method.choices, known, others)
        known |= set(method.defaults)


def _add_settings(
    group,
    defaults: dict,
    meanings: dict[str, str],
    choices: dict,
    skip: Collection[str],
    others: dict[str, type] | None = None,
) -> None:
    """An option for each setting, of the type of its default; left out, it is not set.

    others: methods by name, whose own defaults and meanings of the same settings are told too.
    """
    for key, default in defaults.items():
        if key in skip:
            continue
        sharing = {n: m for n, m in (others or {}).items() if key in m.defaults}
        different = {n: m.defaults[key] for n, m in sharing.items() if m.defaults[key] != default}
        published = [_shown(default), *(f"{_shown(value)} for {name}" for name, value in different.items())]
        meaning = meanings[key]
        for said in dict.fromkeys(m.meanings[key] for m in sharing.values() if m.meanings[key] != meaning):
            meaning += f"; in {', '.join(n for n, m in sharing.items() if m.meanings[key] == said)}: {said}"
        group.add_argument(
            f"--{key.replace('_', '-')}",
            dest=DESTINATION + key,
            type=_truth if isinstance(default, bool) else type(default),
            choices=choices.get(key),
            metavar=None if choices.get(key) else "true|false" if isinstance(default, bool) else "X",
            help=f"{meaning} (published: {', '.join(published)})".replace("%", "%%"),
        )


def _shown(value) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 on")
    return int(text)


def _positive(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 on")
    return int(text)


def _minutes(text: str) -> float:
    return _numbers(text, (1,), "a number of minutes above 0")[0]


def _spacing(text: str) -> list[float]:
    numbers = _numbers(text, (1, 3), "one size in mm or three (x,y,z)")
    return numbers * 3 if len(numbers) == 1 else numbers


def _patch(text: str) -> list[int]:
    rule = f"one or three multiples of {STRIDE} (slices,rows,columns)"
    numbers = _numbers(text, (1, 3), rule)
    if any(n % STRIDE for n in numbers):
        raise argparse.ArgumentTypeError(f"{text!r} is not {rule}")
    return [int(n) for n in (numbers * 3 if len(numbers) == 1 else numbers)]


def _batch(text: str) -> list[int]:
    labelled, _, unlabelled = text.partition(",")
    if not labelled.isdecimal() or not unlabelled.isdecimal() or not int(labelled):
        raise argparse.ArgumentTypeError(f"{text!r} is not two whole numbers such as 2,2, the first from 1 on")
    return [int(labelled), int(unlabelled)]


def _numbers(text: str, counts: tuple[int, ...], rule: str) -> list[float]:
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) not in counts or not all(0 < n < float("inf") for n in numbers):
        raise argparse.ArgumentTypeError(f"{text!r} is not {rule}")
    return numbers


def _truth(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")
    return text.lower() == "true"


def _pair(text: str) -> tuple[str, object]:
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=VALUE")
    try:
        return key.strip(), json.loads(value)
    except ValueError:
        return key.strip(), value


# --- the command ----------------------------------------------------------------------------------------------------


def run(args: argparse.Namespace) -> int:
    """Make the run folder unless there is one, and train in it."""
    console = Console(args.json)
    folder = _run_to_resume(args)
    if args.estimate:
        return tell_estimate(args, folder, console)
    if args.background and hasattr(os, "nice"):
        os.nice(10)  # whoever works at this computer goes first
    if args.resume and folder is not None and folder == args.output:
        console.say(f"{folder} holds a run; it goes on with the settings of its run.json.")
    if folder is None:
        if args.output is None:
            raise UsageError(f"{args.source} is no run to go on with; say with --output where the new run goes.")
        folder = args.output
        if _is_first_process():
            create(args, console)
        else:
            _wait_for(folder)
    try:
        if not (folder / RUN).is_file():
            prepare(folder, console)
        train(folder, console)
    except Interrupted:
        if _is_first_process():
            raise
        return INTERRUPTED  # the first process speaks for all
    return 0


def create(args: argparse.Namespace, console: Console) -> None:
    """Make the run folder from the options; raises Interrupted at Ctrl+C."""
    from ..devices import choose_device
    from ..training.setup import create_run

    _check_new(args.output)
    cases = _cases(args)
    method, spacing, wishes = plan_from(args)
    # what is wrong is told before minutes go into preparation, and hours into training
    choose_device(wishes.get("device", "auto"))

    def tell(done: int, total: int, case: str) -> None:
        console.progress(done / total, f"preparing {case}")

    try:
        create_run(args.output, cases, method, spacing, args.recipe, wishes, args.cache, tell, processes())
    except KeyboardInterrupt:
        raise Interrupted("what is prepared is kept; the same command goes on") from None
    console.finish()


def prepare(folder: Path, console: Console) -> None:
    """Make the run that a folder's plan describes; raises Interrupted when it was stopped."""
    from ..training.plan import PreparationStopped, make_run

    if not _is_first_process():
        return _wait_for(folder)
    try:
        make_run(folder, Narrator(console, folder))
    except (PreparationStopped, KeyboardInterrupt):
        raise Interrupted(f"what is prepared is kept; go on with: {_going_on(folder)}") from None
    finally:
        console.finish()


def tell_estimate(args: argparse.Namespace, folder: Path | None, console: Console) -> int:
    """Say how long a training would take; the run folder, if there is one, stays as it is."""
    from ..training.estimate import estimate_plan, estimate_run

    tell = lambda fraction: console.progress(fraction, "measuring")  # noqa: E731
    if folder is not None and (folder / RUN).is_file():
        found = estimate_run(folder, tell)
    elif folder is not None:
        raise UsageError(f"{folder} is not prepared yet; start it first: simcvd train {folder}")
    else:
        method, spacing, wishes = plan_from(args)
        found = estimate_plan(_cases(args), method, spacing, args.recipe, wishes, tell)
    console.finish()
    console.result(found)
    times = {"10 minutes": "10", "an hour": "60", "8 hours": "480"}
    fit = ", ".join(f"{found['minutes_plan'][minutes]} in {text}" for text, minutes in times.items())
    console.say(
        f"On {found['device']}: about {found['seconds_a_step']:.2g} s a step, {duration(found['seconds'])} for "
        f"{found['steps']} steps with all that belongs to it. Steps that fit: {fit}."
    )
    return 0


def train(folder: Path, console: Console) -> None:
    """Train what a run folder describes to its end; raises Interrupted when it was stopped."""
    from ..training.loop import Stopped, Trainer
    from ..training.run_folder import RunFolder

    try:
        Trainer(RunFolder(folder), Narrator(console, folder)).run()
    except Stopped:
        raise Interrupted(f"the run is saved; go on with: {_going_on(folder)}") from None
    finally:
        console.finish()


class Narrator:
    """Tells the events of a training as they come."""

    def __init__(self, console: Console, folder: Path):
        self.console = console
        self.folder = folder

    def __call__(self, event: dict) -> None:
        """Say one event."""
        self.console.result(event)
        tell = getattr(self, f"_{event['event']}", None)
        if tell:
            tell(event)

    def _preparing(self, e: dict) -> None:
        self.console.progress(e["done"] / e["total"], f"preparing {e['case']}".strip())

    def _start(self, e: dict) -> None:
        so_far = f", from iteration {e['iteration']} on" if e["iteration"] else ""
        processes = f" in {e['processes']} processes" if e["processes"] > 1 else ""
        self.console.say(
            f"Training {e['method']} on {e['device']} ({e['precision']}){processes}: {e['labelled']} labelled, "
            f"{e['unlabelled']} unlabelled and {e['validation']} validation cases, {e['of']} iterations{so_far}."
        )

    def _stage(self, e: dict) -> None:
        self.console.say(f"From iteration {e['iteration']} on: stage {e['stage']}.")

    def _step(self, e: dict) -> None:
        text = f"iteration {e['iteration']} of {e['of']}, loss {e['loss']['total']:.3g}"
        self.console.progress(e["iteration"] / e["of"], text, e["seconds_left"])

    def _fold(self, e: dict) -> None:
        text = f"without {e['case']} ({e['fold']} of {e['folds']}), iteration {e['step']} of {e['steps']}"
        self.console.progress((e["fold"] - 1 + e["step"] / e["steps"]) / e["folds"], text, e["seconds_left"])

    def _validation(self, e: dict) -> None:
        self.console.say(f"Iteration {e['iteration']} of {e['of']}, validation: {_figures(e)}.")

    def _warning(self, e: dict) -> None:
        self.console.warn(e["message"])

    def _paused(self, e: dict) -> None:
        self.console.say(f"Paused at iteration {e['iteration']}; write resume or stop into {self.folder / 'control'}.")

    def _resumed(self, e: dict) -> None:
        self.console.say(f"Resumed at iteration {e['iteration']}.")

    def _stopped(self, e: dict) -> None:
        self.console.say(f"Stopped at iteration {e['iteration']} of {e['of']}.")

    def _done(self, e: dict) -> None:
        measured = f" ({_figures(e)}{', leave-one-out' if 'how' in e else ''})" if "dice" in e else ""
        model = self.folder / e["model"]
        use = pasted(["simcvd", "segment", "SCAN", "--model", str(model)])
        self.console.say(f"Done: the model is in {model}{measured}. Use it: {use} ...")


def plan_from(args: argparse.Namespace) -> tuple[str, list[float] | None, dict]:
    """Method, spacing and wishes of create_run; options stand above --set, and that above the settings file."""
    wishes = wishes_from(args)
    method, spacing = wishes.pop("method", "simcvd"), wishes.pop("spacing", None)
    if not isinstance(method, str):
        raise UsageError(f"The setting method is a name, such as simcvd, not {method!r}.")
    if spacing is not None and args.spacing is None:
        try:
            spacing = _spacing(",".join(str(s) for s in (spacing if isinstance(spacing, list) else [spacing])))
        except argparse.ArgumentTypeError as error:
            raise UsageError(f"The setting spacing can't be taken: {error}.") from None
    return args.method or method, args.spacing or spacing, wishes


def wishes_from(args: argparse.Namespace) -> dict:
    """The wishes of create_run: settings file, then --set, then options, the later ones above."""
    wishes: dict = {}
    if args.settings:
        for key, value in _json_object(args.settings, "settings").items():
            _place(wishes, key, value)
    for key, value in args.set:
        _place(wishes, key, value)
    for key, value in _chosen(args).items():
        _place(wishes, key.removeprefix(DESTINATION), value)
    if args.from_model:
        wishes["from_model"] = args.from_model
    if wishes.get("from_model"):
        wishes["from_model"] = str(find_model(str(wishes["from_model"])).resolve())
    if args.model_card:
        wishes["model"] = {**wishes.get("model", {}), **_json_object(args.model_card, "model card")}
    if args.name:
        wishes["model"] = {**wishes.get("model", {}), "name": args.name}
    return wishes


def _chosen(args: argparse.Namespace) -> dict:
    return {k: v for k, v in vars(args).items() if v is not None and (k in PLAIN_WISHES or k.startswith(DESTINATION))}


def _place(wishes: dict, key: str, value) -> None:
    """Put a setting where create_run looks for it: with the method, with the optimiser, or with the run."""
    from ..training.methods import METHODS
    from ..training.recipes import PUBLISHED

    of_method = any(key in m.defaults for m in METHODS.values())
    group = "settings" if of_method else "optimiser" if key in PUBLISHED["optimiser"] else None
    if group:
        wishes.setdefault(group, {})[key] = value
    elif key in ("settings", "optimiser", "network", "model"):
        if not isinstance(value, dict):
            raise UsageError(f'The setting {key} is a group: give it as {{"name": value}}, not {value!r}.')
        wishes[key] = {**wishes.get(key, {}), **value}
    else:
        wishes[key] = value


def _run_to_resume(args: argparse.Namespace) -> Path | None:
    """The existing run that the options mean, or None when a new one is meant."""
    if not _is_run(args.source):
        there = args.resume and args.output is not None and _is_run(args.output)
        return args.output if there else None
    kept = ("source", "command", "json", "resume", "run", "estimate", "background")
    # what wasn't given is None, or an empty list; 0 and false are given
    given = [key for key, value in vars(args).items() if key not in kept and value is not None and value != []]
    if given:
        option = given[0].removeprefix(DESTINATION).replace("_", "-")
        raise UsageError(f"{args.source} is a run and keeps the settings of its run.json; leave out --{option}.")
    return args.source


def _is_run(folder: Path) -> bool:
    return any((folder / name).is_file() for name in (RUN, PLAN))


def _cases(args: argparse.Namespace) -> list[Case]:
    source = args.source
    if not source.exists():
        raise UsageError(f"There is no {source}; give a cases.json, a folder of cases or a run folder.")
    if source.is_dir():
        if args.labelled is None:
            raise UsageError(f"Say with --labelled how many of the cases in {source} are labelled.")
        return cases_from_folder(source, args.labelled, args.validation or 0)
    if args.labelled is not None or args.validation is not None:
        raise UsageError(f"{source} says itself which cases are labelled; leave out --labelled and --validation.")
    return read_cases(source)


def _check_new(folder: Path) -> None:
    """Raise UsageError unless the folder is new, empty or holds only cases prepared before an interruption."""
    if (folder / "run.json").exists():
        raise UsageError(f"{folder} holds a run already; go on with simcvd train {folder} or choose another --output.")
    if not folder.exists():
        return
    if not folder.is_dir() or {p.name for p in folder.iterdir() if p.name.lower() not in OF_DESKTOPS} - {"cases"}:
        raise UsageError(f"{folder} is not empty; choose a new folder as --output.")


def _json_object(path: Path, what: str) -> dict:
    try:
        value = read_json(path)
    except (OSError, ValueError) as error:
        raise UsageError(f"The {what} file {path} can't be read ({error}); give a JSON file.") from None
    if not isinstance(value, dict):
        raise UsageError(f'The {what} file {path} holds no JSON object; it looks like {{"key": value}}.')
    return value


def _is_first_process() -> bool:
    return int(os.environ.get("RANK", "0")) == 0


def _wait_for(folder: Path) -> None:
    """Wait until the first process has made the run; when that fails, torchrun ends this one too."""
    while not (folder / "run.json").exists():
        time.sleep(WAIT_SECONDS)


def _going_on(folder: Path) -> str:
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    start = ["torchrun", "--nproc-per-node", str(processes), "-m"] if processes > 1 else []
    return pasted([*start, "simcvd", "train", str(folder)])


def _figures(e: dict) -> str:
    units = {"dice": "Dice {:.1f} %", "hd95": "95HD {:.1f} mm", "asd": "ASD {:.2f} mm"}
    said = [text.format(e[key]) for key, text in units.items() if e.get(key) is not None]
    return ", ".join(said + ([f"{e['empty']} empty"] if e.get("empty") else []))
