"""The values that run.json may hold, and what to say about others."""

from __future__ import annotations

import math

from ..devices import PRECISIONS
from ..grid import NORMALISATIONS
from ..models import STRIDE
from .run_folder import TrainingError
from .sampling import AUGMENTATIONS


def _whole(low: int):
    return lambda v: isinstance(v, int) and not isinstance(v, bool) and v >= low


def _number(v, low: float = 0.0) -> bool:
    return isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v) and v >= low


def _row(length: int, fits):
    return lambda v: isinstance(v, list) and len(v) == length and all(fits(x) for x in v)


def _or_none(fits):
    return lambda v: v is None or fits(v)


RUN = {
    "iterations": (_whole(1), "a whole number from 1 on"),
    "seed": (_whole(0), "a whole number from 0 on"),
    "minutes": (_or_none(lambda v: _number(v) and v > 0), "a number of minutes above 0"),
    "threads": (_or_none(_whole(1)), "a whole number from 1 on"),
    "validate_percent": (lambda v: _whole(1)(v) and v <= 100, "a whole number from 1 to 100"),
    "settle_batch_norm": (_whole(0), "a whole number from 0 on"),
    "head_start": (lambda v: isinstance(v, bool), "true or false"),
    "leave_one_out": (lambda v: isinstance(v, bool), "true or false"),
    "checkpoint_seconds": (_number, "a number of seconds"),
    "augmentation": (lambda v: v in AUGMENTATIONS, f"one of {', '.join(AUGMENTATIONS)}"),
    "normalisation": (
        lambda v: isinstance(v, dict) and v.get("kind") in NORMALISATIONS,
        f"an object whose kind is one of {', '.join(NORMALISATIONS)}",
    ),
    "precision": (lambda v: v in PRECISIONS, f"one of {', '.join(PRECISIONS)}"),
    "batch": (
        lambda v: _row(2, _whole(0))(v) and v[0] > 0,
        "two whole numbers (labelled, unlabelled), the first above 0",
    ),
    "spacing": (_row(3, lambda v: _number(v, 1e-3)), "three sizes (x, y, z) in mm"),
    "patch": (
        _or_none(_row(3, lambda v: _whole(STRIDE)(v) and v % STRIDE == 0)),
        f"three multiples of {STRIDE} (slices, rows, columns)",
    ),
}

OPTIMISER = {
    "kind": (lambda v: v in ("sgd", "adamw"), "sgd or adamw"),
    "schedule": (lambda v: v in ("step", "poly"), "step or poly"),
    "step_every": (_whole(0), "a whole number from 0 on"),
    "warm_up": (_whole(0), "a whole number from 0 on"),
    **dict.fromkeys(("lr", "momentum", "weight_decay", "step_factor"), (_number, "a number from 0 on")),
}


def check_values(config: dict) -> None:
    """Raise TrainingError, one sentence, for the first value that can't be; keys of later versions may be missing."""
    unknown = sorted(set(config["optimiser"]) - set(OPTIMISER))
    if unknown:
        raise TrainingError(f"The optimiser has no setting {unknown[0]!r}; it has {', '.join(OPTIMISER)}.")
    for rules, values in ((RUN, config), (OPTIMISER, config["optimiser"])):
        for key, (fits, rule) in rules.items():
            if key in values and not fits(values[key]):
                raise TrainingError(f"The setting {key} must be {rule}, not {values[key]!r}.")
    if config["optimiser"]["schedule"] == "step" and not config["optimiser"]["step_every"]:
        raise TrainingError("The step schedule needs step_every, the iterations between two steps.")
