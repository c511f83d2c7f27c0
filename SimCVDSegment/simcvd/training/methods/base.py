"""What every method has: a student, settings with published values, and the supervised loss."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from ...distance import signed_distance_crops
from ...errors import SimCVDError
from ...network import Output
from ..losses import one_hot, segmentation_loss

OFF = (0, False, "none")


class MethodError(SimCVDError):
    """An unknown method, or a setting that it doesn't have or take."""


@dataclass
class Batch:
    """One process's share of a two-stream batch, on the training device.

    labelled: (B, 1, K, J, I) images; label: (B, K, J, I) uint8; unlabelled: (U, 1, K, J, I), U may be 0.
    progress: t / t_max in [0, 1]; generator: for noise, seeded anew for every iteration.
    guess: (U, K, J, I) uint8, what the teacher last found in the whole unlabelled scans (see copy_paste.guess_of), for
        methods that ask for it.
    iteration: t.
    axial: (B + U, 2), where each crop (labelled ones first) begins and ends along K, in shares of its scan's height.
    """

    labelled: torch.Tensor
    label: torch.Tensor
    unlabelled: torch.Tensor
    progress: float
    generator: torch.Generator
    guess: torch.Tensor | None = None
    iteration: int = 0
    axial: torch.Tensor | None = None


class Method(nn.Module):
    """Base of the methods; `forward` gives the loss terms of a batch, `after_step` follows each optimiser step."""

    name: ClassVar[str]
    summary: ClassVar[str]
    defaults: ClassVar[dict] = {"alpha": 0.1}
    meanings: ClassVar[dict[str, str]] = {"alpha": "weight of the distance maps' loss"}  # of every setting, for users
    choices: ClassVar[dict[str, tuple]] = {}
    counts: ClassVar[dict[str, int]] = {}  # settings that are whole numbers, and the least of each
    divisors: ClassVar[tuple[str, ...]] = ()  # settings that can't be 0
    rates: ClassVar[tuple[str, ...]] = ()  # settings that stay below 1
    needs: ClassVar[dict[str, str]] = {}  # settings that do nothing while another one is off

    def __init__(self, network: nn.Module, settings: dict):
        super().__init__()
        self.settings = self.checked(settings)
        self.student = network

    @classmethod
    def checked(cls, settings: dict) -> dict:
        """Defaults with the given settings in their place; raises MethodError for a wrong name, type or choice."""
        unknown = sorted(set(settings) - set(cls.defaults))
        if unknown:
            names = ", ".join(sorted(cls.defaults))
            raise MethodError(f"Method {cls.name} has no setting {unknown[0]!r}; it has {names}.")
        for key, value in settings.items():
            wrong = _objection(value, cls.defaults[key], cls.choices.get(key))
            if wrong:
                raise MethodError(f"Setting {key} of method {cls.name} {wrong}, not {value!r}.")
        settings = {**cls.defaults, **settings}
        for key, least in cls.counts.items():
            if settings[key] != int(settings[key]) or settings[key] < least:
                raise MethodError(f"Setting {key} is a whole number from {least} on, not {settings[key]!r}.")
        for key in cls.divisors:
            if not settings[key]:
                raise MethodError(f"Setting {key} is a number above 0.")
        for key in cls.rates:
            if settings[key] >= 1:
                raise MethodError(f"Setting {key} is a number from 0 to below 1, not {settings[key]!r}.")
        return {**settings, **{key: int(settings[key]) for key in cls.counts}}

    @classmethod
    def idle(cls, given: Iterable[str], settings: dict) -> dict[str, list[str]]:
        """Which of the settings given do nothing, by the setting that is off (0, false or none) in all settings."""
        found: dict[str, list[str]] = {}
        for key in given:
            needed = cls.needs.get(key)
            if needed and settings[key] not in OFF and settings[needed] in OFF:
                found.setdefault(needed, []).append(key)
        return found

    @classmethod
    def passes(cls, settings: dict, labelled: int, unlabelled: int) -> list[int]:
        """How many crops go through a network at once, in one pass or another, of a batch with crops of both kinds."""
        return [labelled]

    def uses_unlabelled(self, progress: float) -> bool:
        """Whether unlabelled crops are wanted at this moment of the training."""
        return False

    def aligned(self, progress: float) -> bool:
        """Whether crops are wanted as they lie in their scans, all from the same place, at this moment."""
        return False

    def share_of_batch(self, progress: float) -> float:
        """How much of the batch's crops are wanted at this moment of the training; one of each stream is the least."""
        return 1.0

    def stage(self, progress: float) -> str | None:
        """The name of the training's stage at this moment, for a method that has several."""
        return None

    def phases(self) -> list[tuple[float, float]]:
        """Shares of the training that differ in the work of a step, each with a moment within it, in [0, 1]."""
        return [(1.0, 0.9)]

    def guesses_due(self, iteration: int, iterations: int) -> bool:
        """Whether the unlabelled scans are to be labelled anew, whole, before this iteration."""
        return False

    @property
    def deployed(self) -> nn.Module:
        """The network that becomes the model."""
        return self.student

    def forward(self, batch: Batch) -> dict[str, torch.Tensor]:
        """Loss terms by name, "total" among them."""
        raise NotImplementedError

    def after_step(self, updates: int) -> None:
        """Called after optimiser step number `updates` (from 1 on)."""

    def supervised_terms(self, output: Output, label: torch.Tensor, weight: torch.Tensor | None = None) -> dict:
        """L_sup = L_seg + alpha * MSE of the distance maps (SimCVD, Eq. 1), with its parts.

        weight: (B, K, J, I) voxel weights of L_seg, or None.
        """
        segmentation = segmentation_loss(output.logits, label, weight)
        terms = {"segmentation": segmentation, "supervised": segmentation}
        if self.settings["alpha"]:
            terms["sdm"] = F.mse_loss(output.sdm.float(), distance_maps(label, output.sdm.shape[1]))
            terms["supervised"] = segmentation + self.settings["alpha"] * terms["sdm"]
        return terms


def distance_maps(label: torch.Tensor, n_maps: int) -> torch.Tensor:
    """The distance heads' targets: (B, K, J, I) classes to (B, n_maps, K, J, I), one map per foreground class."""
    masks = one_hot(label, n_maps + 1)[:, 1:]
    return signed_distance_crops(masks.flatten(0, 1)).view(masks.shape)


def _objection(value, default, choices: tuple | None) -> str | None:
    """Why a value can't stand in place of the default, or None."""
    if choices:
        return None if value in choices else f"is one of {', '.join(map(str, choices))}"
    if isinstance(default, bool):
        return None if isinstance(value, bool) else "is true or false"
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return None if is_number and 0 <= value < float("inf") else "is a number from 0 on"
