"""How long a training would take on this computer, from a few of its real steps."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch

from ..cases import ROLES, Case, count_classes, load_prepared
from ..grid import Geometry, Grid
from ..images import read_geometry
from ..metrics import compare
from .loop import FEWEST_STEPS, Trainer, measurings
from .recipes import default_patch
from .run_folder import RunFolder
from .sampling import TrainingCase, TwoStreamSampler
from .setup import settle
from .validation import predict_cases

SECONDS = 10.0  # for the steps; at least one round of them is made, however long it takes
MINUTES = (10, 60, 480)

Tell = Callable[[float], None]


class Shape(NamedTuple):
    """A case as far as time goes: its role, and its (K, J, I) on the model's grid."""

    role: str
    voxels: tuple[int, int, int]


def estimate_run(folder: str | os.PathLike, tell: Tell = lambda fraction: None) -> dict:
    """The estimate of an existing run, of which nothing is changed; see `estimate`."""
    run = RunFolder(folder)
    shapes = [Shape(c["role"], load_prepared(run.path / c["prepared"])["image"].shape) for c in run.config["cases"]]
    return estimate(run.config, shapes, tell)


def estimate_plan(
    cases: Sequence[Case],
    method: str,
    spacing: Sequence[float] | None = None,
    recipe_name: str | None = None,
    wishes: dict | None = None,
    tell: Tell = lambda fraction: None,
) -> dict:
    """The estimate of a run that is not made yet: only headers, and labels for the classes, are read."""
    config = settle(method, spacing, recipe_name, wishes, count_classes(cases))
    geometries = [(case.role, read_geometry(case.image)) for case in cases]
    return estimate(config, shapes_on(geometries, config["spacing"]), tell)


def shapes_on(geometries: Sequence[tuple[str, Geometry]], spacing: Sequence[float]) -> list[Shape]:
    """Shapes of cases (role, geometry of the image) on a model's grid of (x, y, z) mm."""
    return [Shape(role, Grid.of(geometry, spacing).geometry.shape) for role, geometry in geometries]


def estimate(config: dict, cases: Sequence[Shape], tell: Tell = lambda fraction: None) -> dict:
    """Time a few steps of a training, on noise in the shapes of its cases.

    Args:
        config: what run.json holds; "cases" is not looked at and "patch" may be None.
        tell: called with the fraction done between steps; may raise to cancel.

    Returns:
        seconds_a_step; steps: of the run as it is described; seconds: for all of it; minutes_plan: by minutes (as text,
        since JSON keys are texts), the steps that fit into them; device: where it would run.
        Loading and the last lap to the disk are not counted, validations and what the teacher labels are.
    """
    patch = config["patch"] or default_patch([case.voxels for case in cases], config["spacing"])
    threads = torch.get_num_threads()
    try:
        # a schedule that the probe can't outrun; weights and their start make no step slower or quicker
        changes = {"patch": patch, "minutes": None, "from_model": None, "iterations": 10**6}
        probe = _Probe({**config, **changes}, cases)
        per_step = probe._seconds_a_step(SECONDS, tell)
        beside = probe.seconds_beside_steps(config)
        tell(1.0)
    finally:
        torch.set_num_threads(threads)
    times = 2 if config.get("leave_one_out") else 1  # the folds together take as long as the run
    fit = lambda minutes: max(FEWEST_STEPS, int((60 * minutes / times - beside) / per_step))  # noqa: E731
    steps = fit(config["minutes"]) if config["minutes"] and not config["planned"] else config["iterations"]
    return {
        "seconds_a_step": round(per_step, 4),
        "steps": steps,
        "seconds": round(times * (steps * per_step + beside), 1),
        "minutes_plan": {str(minutes): fit(minutes) for minutes in MINUTES},
        "device": str(probe.device),
    }


class _Nowhere:
    """In place of a run folder: there is no checkpoint, and nothing is written."""

    def __init__(self, config: dict):
        self.config = config

    def load_checkpoint(self) -> None:
        return None


class _Probe(Trainer):
    """A trainer that is only timed."""

    def __init__(self, config: dict, cases: Sequence[Shape]):
        super().__init__(_Nowhere(config))
        self._shapes = {role: [c.voxels for c in cases if c.role == role] for role in ROLES}
        self._prepare()

    def seconds_beside_steps(self, config: dict) -> float:
        """For validations, pictures and what the teacher labels, in a whole training."""
        rounds = measurings(config)
        case = (self.validation or self.unlabelled or self.labelled)[0]
        each = self._seconds_to_predict(case)
        if self.validation:
            truth = case.label
            start = time.perf_counter()
            compare(truth == 1, np.roll(truth, 1, axis=1) == 1, self.config["spacing"])
            each += time.perf_counter() - start
            each *= self._count("validation") / case.image.size
        guesses, labellings = 0.0, sum(self._guesses_due(t, 1000) for t in range(1000))
        if labellings:
            spare = self.unlabelled[0]
            guesses = labellings * self._seconds_to_predict(spare) * self._count("unlabelled") / spare.image.size
        return each * rounds + guesses + self._seconds_to_settle() * (rounds + labellings)

    def _seconds_to_predict(self, case: TrainingCase) -> float:
        predictor = self._predictor()
        next(predict_cases(predictor, [case], self.config["patch"]))  # the first pass sets things up
        start = time.perf_counter()
        next(predict_cases(predictor, [case], self.config["patch"]))
        return time.perf_counter() - start

    def _seconds_to_settle(self) -> float:
        start = time.perf_counter()
        self._settle()
        return time.perf_counter() - start

    def _count(self, role: str) -> int:
        return sum(int(np.prod(shape)) for shape in self._shapes[role])

    def _load_cases(self) -> None:
        streams = [[_noise(role, shape) for shape in _middle(self._shapes[role])] for role in ROLES]
        self.labelled, self.unlabelled, self.validation = streams
        self.sampler = TwoStreamSampler(
            self.labelled, self.unlabelled, self.config["patch"], self.config["seed"], self.config["augmentation"]
        )

    def _check_share(self) -> None:
        pass

    def _say(self, event: str, **fields) -> None:
        pass


def _middle(shapes: Sequence[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
    """The one of middle size stands for all; none of none."""
    return [sorted(shapes, key=np.prod)[len(shapes) // 2]] if shapes else []


def _noise(role: str, shape: tuple[int, int, int]) -> TrainingCase:
    rng = np.random.default_rng(0)
    image = rng.standard_normal(shape, np.float32).astype(np.float16)
    label = np.zeros(shape, np.uint8)
    label[tuple(slice(n // 4, max(n // 4 + 1, 3 * n // 4)) for n in shape)] = 1
    return TrainingCase(role, image, None if role == "unlabelled" else label)
