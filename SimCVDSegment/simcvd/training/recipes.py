"""Complete settings of a training, by name. What a user gives stands above them."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

PUBLISHED_CROP_MM = (50.0, 70.0, 70.0)  # K, J, I: 112x112x80 voxels of 0.625 mm

_PUBLISHED_ACTION = {"weight_decay": 1e-4, "schedule": "poly"}

# The protocol of SimCVD (methods.md 1.5): 6000 steps of 2 + 2 crops, SGD, learning rate to a tenth at 3000.
PUBLISHED = {
    "iterations": 6000,
    "batch": [2, 2],
    "augmentation": "published",
    "settle_batch_norm": 0,
    "head_start": False,
    "optimiser": {
        "kind": "sgd",
        "lr": 0.01,
        "momentum": 0.9,
        "weight_decay": 5e-4,
        "schedule": "step",
        "step_every": 3000,
        "step_factor": 0.1,
        "warm_up": 0,
    },
    # of the methods in stages by their own papers (methods.md 2 and 3), in as many steps: a rate that fell to a tenth
    # at the half would fall where their fine-tuning begins
    "optimisers": {
        "action": _PUBLISHED_ACTION,
        "action++": _PUBLISHED_ACTION,
        "global_local": {"kind": "adamw", "lr": 1e-3, "weight_decay": 0.0, "step_every": 10**6},  # Adam, at one rate
    },
    "settings": {},
}

# A teacher that learned from the labelled crops first, keeps up with the student and answers without dropout.
_SHORT_TEACHER = {
    "pretrain": 0.5,
    "ramp_length": 0.2,
    "ema_decay": 0.99,
    "teacher_dropout": False,
    "deploy": "teacher",
}

# Half of the steps come before the teacher's answers count, as above; most of them learn from labels, which weight 1
# would drown: the distillation of patches grows to ten times their loss.
_SHORT_ACTION = {
    "global_share": 0.1,
    "local_share": 0.4,
    "contrast_weight": 0.1,
    "teacher_dropout": False,
    "deploy": "teacher",
}

# For an hour or so on a computer without a GPU: see Testing/benchmarks for what each change is worth.
SHORT = {
    "iterations": 4000,
    "batch": [2, 2],
    "augmentation": "strong",
    "normalisation": {"kind": "zscore-filled"},
    "settle_batch_norm": 25,  # batches of plain crops before the network is used
    "head_start": True,  # networks of two structures or more, from scratch
    "optimiser": {
        "kind": "sgd",
        "lr": 0.03,
        "momentum": 0.9,
        "weight_decay": 1e-4,
        "schedule": "poly",
        "step_every": 0,
        "step_factor": 0.1,
        "warm_up": 50,
    },
    "optimisers": {},
    "settings": {
        "mean_teacher": _SHORT_TEACHER,
        # its steps before fine-tuning learn nothing from labels, and the first ones take twice as long
        "global_local": {"global_share": 0.15, "local_share": 0.1},
        "action": _SHORT_ACTION,
        "action++": _SHORT_ACTION,
        "simcvd": {
            **_SHORT_TEACHER,
            # no mixes: from cut organs the network learns to see an atrium in whatever the scan's rim cuts
            "pseudo": 1.0,
            "mix": False,
            "halve": True,
            "pseudo_largest": True,
            # once, at the end of pretraining: labels that the student made itself drift away
            "guess_every": 0.5,
            "terms_every": 4,
            # with the published 0.5 the distance maps got worse as the contrast set in
            "lambda": 0.05,
            "pool_size": 32,
        },
    },
}

RECIPES = {"published": PUBLISHED, "short": SHORT}


def recipe(name: str, method: str) -> dict:
    """The settings of a recipe for one method; KeyError for an unknown name."""
    chosen = copy.deepcopy(RECIPES[name])
    chosen["settings"] = chosen["settings"].get(method, {})
    chosen["optimiser"] |= chosen.pop("optimisers").get(method, {})
    return {"recipe": name, **chosen}


def default_patch(shapes: Sequence[Sequence[int]], spacing: Sequence[float]) -> list[int]:
    """Crop size (K, J, I): the published extent in mm, no larger than the middle case, in multiples of 16.

    Args:
        shapes: (K, J, I) of the prepared cases.
        spacing: (x, y, z) mm of the model's grid.
    """
    patch = []
    for axis, (extent, step) in enumerate(zip(PUBLISHED_CROP_MM, spacing[::-1], strict=True)):
        middle = sorted(s[axis] for s in shapes)[len(shapes) // 2]
        patch.append(min(_up16(extent / step), _up16(middle)))
    return patch


def _up16(n: float) -> int:
    return max(16, 16 * math.ceil(round(n, 3) / 16))
