"""A run whose cases are not prepared yet: plan.json says what it is to become, and the training process makes it.

So an application only writes the plan and starts the process: nothing there waits for scans to be prepared.

    {"cases": "source/cases.json",      the case list, relative to the run folder or absolute
     "method": "simcvd",                and optionally "spacing", "recipe" and "wishes": as create_run takes them
     "temporary": "source"}             optionally a folder in the run folder that is removed once cases are prepared
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from ..cases import read_cases
from ..errors import SimCVDError
from ..files import read_json
from .run_folder import RunFolder, TrainingError

PLAN = "plan.json"
FIELDS = ("cases", "method", "spacing", "recipe", "wishes", "temporary")


class PreparationStopped(Exception):  # noqa: N818 - nothing went wrong
    """It was asked to stop; what is prepared is kept."""


def read_plan(folder: str | os.PathLike) -> dict:
    """The plan of a run folder; raises TrainingError, one sentence."""
    path = Path(folder) / PLAN
    try:
        plan = read_json(path)
    except (OSError, ValueError) as error:
        raise TrainingError(f"{path} can't be read ({error}); make the run anew.") from None
    if not isinstance(plan, dict) or not isinstance(plan.get("cases"), str) or not isinstance(plan.get("method"), str):
        raise TrainingError(f"{path} is no plan of a run: it must name the cases and the method.")
    for name in plan:
        if name not in FIELDS:
            raise TrainingError(f"{path} names {name!r}; a plan has {', '.join(FIELDS)}.")
    return plan


def make_run(folder: str | os.PathLike, on_event: Callable[[dict], None] = lambda event: None) -> None:
    """Prepare the cases of a run folder's plan and write its run.json, telling how far it is with events "preparing".

    The folder is locked meanwhile. Raises PreparationStopped when its control file says "stop", or SimCVDError, one
    sentence, after saying it as an event "error".
    """
    run = RunFolder(folder, {})
    run.lock()
    try:
        _make(run, on_event)
    except (PreparationStopped, KeyboardInterrupt):
        run.clear_command()
        on_event(run.say("stopped"))
        raise
    except (SimCVDError, OSError) as error:
        sentence = str(error)
        if isinstance(error, OSError):
            sentence = f"The cases can't be prepared in {folder} ({error.strerror or error}); make room or start anew."
        _tell(run, on_event, sentence)
        raise TrainingError(sentence) from error
    except Exception as error:
        _tell(run, on_event, f"Unexpected: {error}")
        raise
    finally:
        run.unlock()


def _tell(run: RunFolder, on_event: Callable[[dict], None], sentence: str) -> None:
    # where the folder is full or gone, the sentence still reaches whoever started the process
    with contextlib.suppress(OSError):
        on_event(run.say("error", message=sentence))


def _make(run: RunFolder, on_event: Callable[[dict], None]) -> None:
    from .setup import create_run

    plan = read_plan(run.path)
    cases = read_cases(run.path / plan["cases"])

    def tell(done: int, total: int, case: str) -> None:
        on_event(run.say("preparing", done=done, total=total, case=case))
        if run.command() == "stop":
            raise PreparationStopped

    tell(0, len(cases), "")
    create_run(
        run.path,
        cases,
        plan["method"],
        plan.get("spacing"),
        plan.get("recipe"),
        plan.get("wishes"),
        progress=tell,
    )
    if plan.get("temporary"):
        _remove_within(run.path, plan["temporary"])


def _remove_within(folder: Path, name: str) -> None:
    """Remove a folder directly in the run folder, and never anything else."""
    place = folder / name
    if place.parent == folder and place.name not in ("", ".", "..", "cases", "model") and not place.is_symlink():
        shutil.rmtree(place, ignore_errors=True)
