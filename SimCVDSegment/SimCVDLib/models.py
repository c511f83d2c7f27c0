"""The models to choose from, with what a user wants to know before choosing."""

from dataclasses import dataclass
from pathlib import Path

import qt
from slicer.i18n import tr as _

from simcvd.models import list_models

SETTINGS = "SimCVD/seconds/"


@dataclass(frozen=True)
class ModelChoice:
    """A model in the list.

    Attributes:
        name: by which scripts and the command line call it.
        folder: where it lies.
        title: what to show in the list.
        about: one line: what it segments, on what images, at what spacing, about how long it takes here.
        problem: None, or the sentence that says why it can't be used; then there is no card.
        card: the model card, or None.
    """

    name: str
    folder: Path
    title: str
    about: str
    problem: str | None
    card: dict | None


def choices():
    """All models, usable or not, by name."""
    return [_choice(*found) for found in list_models()]


def rememberSeconds(name, seconds):
    """Keep how long a model took on this computer, for the line about it."""
    qt.QSettings().setValue(SETTINGS + name, f"{seconds:.3g}")


def _choice(name, folder, card, problem):
    if card is None:
        return ModelChoice(name, folder, _("{name} (not usable)").format(name=name), problem, problem, None)
    return ModelChoice(name, folder, card["title"] or name, _about(name, card), None, card)


def _about(name, card):
    structures = ", ".join(segment["name"] for segment in card["segments"])
    spacing = card["grid"]["spacing"]
    size = f"{spacing[0]:g}" if len(set(spacing)) == 1 else " x ".join(f"{s:g}" for s in spacing)
    parts = [
        _("{structures} in {modality} images").format(structures=structures, modality=card["modality"])
        if card["modality"]
        else structures,
        _("computed at {size} mm").format(size=size),
        _time(name),
    ]
    return ", ".join(part for part in parts if part)


def _time(name):
    """How long it took last, or nothing: a figure from another computer would mislead."""
    stored = qt.QSettings().value(SETTINGS + name)
    try:
        seconds = float(stored)
    except (TypeError, ValueError):
        return ""
    if seconds < 1:
        return _("under 1 s on this computer")
    return _("about {seconds:.0f} s on this computer").format(seconds=seconds)
