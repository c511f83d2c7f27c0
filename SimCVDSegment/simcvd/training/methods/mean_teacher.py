"""Mean teacher: an averaged copy of the student teaches it on the unlabelled cases (Tarvainen and Valpola, 2017)."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F

from ...network import Output
from ..losses import ramp_up
from .base import Batch
from .teacher import Taught


class MeanTeacher(Taught):
    """L = L_sup + gamma * Psi * MSE(softmax student(x + noise), softmax teacher(x + noise'))."""

    name = "mean_teacher"
    summary = "the simplest use of unlabelled cases: student and averaged teacher must agree under noise"
    defaults: ClassVar[dict] = {
        **Taught.defaults,
        "gamma": 0.1,
        "pretrain": 0.0,
        "ramp_length": 1.0,
    }
    meanings: ClassVar[dict[str, str]] = {
        **Taught.meanings,
        "gamma": "weight of the consistency of student and teacher",
        "pretrain": "share of the training that learns from labelled crops alone, until there is something to teach",
        "ramp_length": "share of the rest over which the weights of the unlabelled crops' losses rise (Psi)",
    }

    @classmethod
    def passes(cls, settings: dict, labelled: int, unlabelled: int) -> list[int]:
        """The student takes both kinds together, the teacher the unlabelled ones; labelled ones alone pretrain."""
        return [unlabelled] + [labelled] * bool(settings["pretrain"])

    def forward(self, batch: Batch) -> dict[str, torch.Tensor]:
        """Terms segmentation, sdm, supervised, consistency, total."""
        self._learned_alone = not (len(batch.unlabelled) and self.uses_unlabelled(batch.progress))
        return super().forward(batch) if self._learned_alone else self.semi_supervised_terms(batch)

    def uses_unlabelled(self, progress: float) -> bool:
        """From the end of pretraining on."""
        return progress >= self.settings["pretrain"]

    def phases(self) -> list[tuple[float, float]]:
        """Pretraining, if any, and the rest."""
        alone = min(1.0, self.settings["pretrain"])
        return [(share, moment) for share, moment in ((alone, 0.0), (1 - alone, 0.9)) if share > 0]

    def semi_supervised_terms(self, batch: Batch) -> dict[str, torch.Tensor]:
        """The terms once there is something to teach."""
        labelled, student, teacher = self.three_passes(batch)
        terms = self.supervised_terms(labelled, batch.label)
        terms["consistency"] = self.consistency(student, teacher)
        weight = self.ramp(batch.progress) * self.settings["gamma"]
        return {**terms, "total": terms["supervised"] + weight * terms["consistency"]}

    def ramp(self, progress: float) -> float:
        """Psi of the progress since pretraining within the ramp's length."""
        start, length = self.settings["pretrain"], self.settings["ramp_length"]
        return ramp_up((progress - start) / ((1 - start) * length)) if length and start < 1 else 1.0

    def three_passes(self, batch: Batch) -> tuple[Output, Output, Output]:
        """Student on labelled and noisy unlabelled crops in one pass, for one batch norm; then the teacher."""
        noisy = batch.unlabelled + self.noise_for(batch.unlabelled, batch.generator)
        both = self.student(torch.cat([batch.labelled, noisy]))
        n = len(batch.labelled)
        student = Output(*(x[n:] for x in both))
        return Output(*(x[:n] for x in both)), student, self.teach(batch.generator, batch.unlabelled)

    @staticmethod
    def consistency(student: Output, teacher: Output) -> torch.Tensor:
        """Mean squared difference of the two softmax maps (SimCVD, Eq. 5)."""
        return F.mse_loss(student.logits.float().softmax(1), teacher.logits.float().softmax(1))
