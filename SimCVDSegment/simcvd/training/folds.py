"""Leave-one-out: how good a training is where every outlined case is needed to learn from.

For each labelled case a training of its own, in <run>/folds/<case>, learns from the others and is measured on it. It
has the settings of the run and its share of the steps, so that all of them together take as long as the run did. The
model of the run itself learned from all cases, and from each for longer: its own figures would rather be above these.
"""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable
from pathlib import Path

from ..events import read_events
from ..files import remove_if_possible
from .run_folder import RunFolder
from .validation import means_of

HOW = "leave-one-out: each labelled case by a model that did not learn from it, trained with a share of the steps"


def leave_one_out(
    run: RunFolder, iterations: int, train: Callable[[RunFolder, Callable[[dict], None]], None], say: Callable
) -> dict:
    """Train and measure every fold that is not done yet.

    Args:
        run: of the training whose labelled cases are left out in turn; its control file is obeyed.
        iterations: steps that the training took, of which each fold takes its share.
        train: trains a run folder to its end, calling a function with its events.
        say: tells an event of the run: "fold" with the steps of each fold, pauses, and how far it is.

    Returns:
        what a validation says (see validation.validate), "before_rows" where there was a start model, and "how".
        Ended early by the word "finish", it has the folds so far.
    """
    labelled = [case["id"] for case in run.config["cases"] if case["role"] == "labelled"]
    rows, before = [], []
    for number, case in enumerate(labelled):
        fold = _fold(run, case, max(1, iterations // len(labelled)))
        ended_early = False

        def listen(event: dict, number=number, case=case) -> None:
            nonlocal ended_early
            kind = event["event"]
            if kind in ("paused", "resumed"):
                say(kind, iteration=iterations)
            elif kind == "step":
                place = {"fold": number + 1, "folds": len(labelled), "case": case}
                done = {"step": event["iteration"], "steps": event["of"]}
                left = event["seconds_left"] + event["seconds"] * event["of"] * (len(labelled) - number - 1)
                say("fold", **place, **done, seconds_left=round(left, 1))
            ended_early |= kind == "finishing"

        if not _outcome(fold):
            train(fold, listen)
        found = _outcome(fold)
        rows += found["rows"]
        before += found["before"]
        _tidy(fold)
        if ended_early:
            break
    return {**means_of(rows), "rows": rows, **({"before_rows": before} if before else {}), "how": HOW}


def _fold(run: RunFolder, case: str, steps: int) -> RunFolder:
    """The run folder of one fold, made unless it is there."""
    path = run.path / "folds" / case
    if not (path / "run.json").exists():
        config = copy.deepcopy(run.config)
        for row in config["cases"]:
            row["role"] = "validation" if row["id"] == case else row["role"]
            if not Path(row["prepared"]).is_absolute():
                row["prepared"] = f"../../{row['prepared']}"
        changes = {"leave_one_out": False, "minutes": None, "planned": True, "iterations": steps, "warnings": []}
        changes["validate_percent"] = 100  # only its end counts, and measuring on the way costs steps
        RunFolder.create(path, config | changes)
    fold = RunFolder(path)
    fold.control = run.control
    return fold


def _outcome(fold: RunFolder) -> dict | None:
    """What a fold that is done has said: rows, and those of the start model."""
    events, _ = read_events(fold.path / "events.jsonl")
    done = next((e for e in reversed(events) if e["event"] == "done"), None)
    if done is None:
        return None
    start = next((e for e in events if e["event"] == "validation" and e["iteration"] == 0), {"rows": []})
    return {"rows": done["rows"], "before": start["rows"]}


def _tidy(fold: RunFolder) -> None:
    """Keep of a fold only what it said: its model is worse than the run's, and large."""
    remove_if_possible(fold.checkpoint)
    shutil.rmtree(fold.model, ignore_errors=True)
