"""The list of trainings that this application knows, in its settings, and where new ones are made."""

import json
import re
from pathlib import Path

import qt
from slicer.i18n import tr as _

from simcvd.errors import SimCVDError
from simcvd.files import DEVICE_NAME

SETTINGS = "SimCVD/runs"
PLACE = "SimCVD/runsFolder"


def runsFolder():
    """The folder in which new runs are made unless the user chooses another."""
    return Path(qt.QSettings().value(PLACE) or Path.home() / "SimCVD" / "runs")


def setRunsFolder(folder):
    """Make new runs in this folder from now on."""
    qt.QSettings().setValue(PLACE, str(folder))


def freeFolder(name, parent=None):
    """A folder for a new run of this name that is not there yet; raises SimCVDError where none can be looked for."""
    parent = Path(parent or runsFolder())
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "run"
    if re.match(DEVICE_NAME, plain):
        plain = f"run-{plain}"
    folder, number = parent / plain, 2
    try:
        while folder.exists():
            folder, number = parent / f"{plain}-{number}", number + 1
    except OSError as error:
        raise SimCVDError(
            _("{folder} can't be reached ({reason}); choose another folder for the runs.").format(
                folder=parent, reason=error.strerror or error
            )
        ) from error
    return folder


def listed():
    """The folders of the runs, in the order in which they were made."""
    return [Path(folder) for folder in _known()]


def remember(folder):
    """List a run from now on."""
    folder, known = str(Path(folder).resolve()), _known()
    if folder not in known:
        _store({**known, folder: {}})


def forget(folder):
    """List a run no more; its files stay."""
    folder = str(Path(folder).resolve())
    _store({known: about for known, about in _known().items() if known != folder})


def stays(folder):
    """Whether a run goes on when the application quits."""
    return bool(_known().get(str(Path(folder).resolve()), {}).get("stays", False))


def setStays(folder, stays):
    """Say whether a run goes on when the application quits."""
    folder, known = str(Path(folder).resolve()), _known()
    _store({**known, folder: {**known.get(folder, {}), "stays": bool(stays)}})


def _known():
    """{folder: {"stays": bool}}."""
    try:
        known = json.loads(qt.QSettings().value(SETTINGS) or "{}")
    except (TypeError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _store(known):
    qt.QSettings().setValue(SETTINGS, json.dumps(known))
