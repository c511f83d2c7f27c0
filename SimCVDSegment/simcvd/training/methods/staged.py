"""Training in three stages: the encoder learns what crops are like, the decoder what places are like, both labels."""

from __future__ import annotations

from itertools import pairwise
from typing import ClassVar

import torch

from .base import Batch, MethodError
from .supervised import Supervised

GLOBAL, LOCAL, FINE_TUNING = STAGES = ("global", "local", "fine-tuning")


class Staged(Supervised):
    """Stages as shares of the training, so that they fit any budget; they follow from the iteration, as all else.

    How much contrast_weight is right depends on the optimiser: with SGD, strong contrasts make the weights before batch
    norm grow, which slows all learning after them.
    """

    defaults: ClassVar[dict] = {
        **Supervised.defaults,
        "global_share": 0.25,
        "local_share": 0.25,
        "contrast_weight": 1.0,
        "tau": 0.1,
        "zoom": 0.8,
        "intensity": 0.3,
    }
    meanings: ClassVar[dict[str, str]] = {
        **Supervised.meanings,
        "global_share": "of the training that is stage global; 0 leaves it out",
        "local_share": "of the training that is stage local; 0 leaves it out; fine-tuning has the rest",
        "contrast_weight": "of the losses of stages global and local that need no labels",
        "tau": "temperature of the contrast",
        "zoom": "least share of a crop's sides that a view of stage global shows",
        "intensity": "the views' change of contrast and brightness",
    }
    divisors: ClassVar[tuple[str, ...]] = ("tau",)

    @classmethod
    def checked(cls, settings: dict) -> dict:
        """As of every method; stages that leave nothing for the labels, and views of nothing, are refused too."""
        s = super().checked(settings)
        if s["global_share"] + s["local_share"] >= 1:
            raise MethodError("Settings global_share and local_share leave nothing for fine-tuning; keep them below 1.")
        if not 0 < s["zoom"] <= 1:
            raise MethodError(f"Setting zoom is a share above 0 and up to 1, not {s['zoom']!r}.")
        return s

    @classmethod
    def passes(cls, settings: dict, labelled: int, unlabelled: int) -> list[int]:
        """Both kinds together, in every stage unless a method says otherwise."""
        return [labelled + unlabelled]

    def stage(self, progress: float) -> str:
        """One of STAGES."""
        ends = self._ends()
        return GLOBAL if progress < ends[0] else LOCAL if progress < ends[1] else FINE_TUNING

    def phases(self) -> list[tuple[float, float]]:
        """The stages that there are, with the middle of each."""
        ends = (0.0, *self._ends(), 1.0)
        return [(end - start, (start + end) / 2) for start, end in pairwise(ends) if end > start]

    def uses_unlabelled(self, progress: float) -> bool:
        """In every stage, unless a method says otherwise."""
        return True

    def forward(self, batch: Batch) -> dict[str, torch.Tensor]:
        """The terms of the stage; without unlabelled crops, those of supervised training."""
        if not len(batch.unlabelled):
            return super().forward(batch)
        terms_of = {GLOBAL: self.global_terms, LOCAL: self.local_terms, FINE_TUNING: self.fine_tuning_terms}
        return terms_of[self.stage(batch.progress)](batch)

    def global_terms(self, batch: Batch) -> dict[str, torch.Tensor]:
        """Terms of the first stage, "total" among them."""
        raise NotImplementedError

    def local_terms(self, batch: Batch) -> dict[str, torch.Tensor]:
        """Terms of the second stage."""
        raise NotImplementedError

    def fine_tuning_terms(self, batch: Batch) -> dict[str, torch.Tensor]:
        """Terms of the last stage."""
        raise NotImplementedError

    def _ends(self) -> tuple[float, float]:
        """Of the first two stages, in [0, 1)."""
        first = self.settings["global_share"]
        return first, first + self.settings["local_share"]
