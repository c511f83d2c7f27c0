"""Mean teacher: an averaged copy of the student teaches it on the unlabelled cases (Tarvainen and Valpola, 2017)."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from ...network import Output
from ..distributed import rank, world_size
from ..ema import decay_at, make_teacher, update_teacher
from ..losses import ramp_up
from .base import Batch
from .supervised import Supervised


class MeanTeacher(Supervised):
    """L = L_sup + weight * Psi * MSE(softmax student(x + noise), softmax teacher(x + noise')).

    Settings: alpha (of the distance head, 0.1), gamma (consistency weight), ema_decay, noise (standard deviation),
    noise_clip, pretrain (share of the training that learns from labelled crops alone, until there is something
    to teach), ramp_length (share of the rest over which Psi rises), teacher_dropout, deploy (student as published,
    or its average).
    """

    name = "mean_teacher"
    summary = "the simplest use of unlabelled cases: student and averaged teacher must agree under noise"
    defaults: ClassVar[dict] = {
        **Supervised.defaults,
        "gamma": 0.1,
        "ema_decay": 0.99,
        "noise": 0.1,
        "noise_clip": 0.2,
        "pretrain": 0.0,
        "ramp_length": 1.0,
        "teacher_dropout": True,
        "deploy": "student",
    }
    choices: ClassVar[dict] = {"deploy": ("student", "teacher")}

    def __init__(self, network: nn.Module, settings: dict):
        super().__init__(network, settings)
        self.teacher = make_teacher(network)
        self._learned_alone = False

    def forward(self, batch: Batch) -> dict[str, torch.Tensor]:
        """Terms segmentation, sdm, supervised, consistency, total."""
        self._learned_alone = not (len(batch.unlabelled) and self.uses_unlabelled(batch.progress))
        return super().forward(batch) if self._learned_alone else self.semi_supervised_terms(batch)

    def uses_unlabelled(self, progress: float) -> bool:
        """From the end of pretraining on."""
        return progress >= self.settings["pretrain"]

    def semi_supervised_terms(self, batch: Batch) -> dict[str, torch.Tensor]:
        """The terms once there is something to teach."""
        labelled, student, teacher = self.three_passes(batch, batch.labelled)
        terms = self.supervised_terms(labelled, batch.label)
        terms["consistency"] = self.consistency(student, teacher)
        weight = self.ramp(batch.progress) * self.settings["gamma"]
        return {**terms, "total": terms["supervised"] + weight * terms["consistency"]}

    def after_step(self, updates: int) -> None:
        """Move the teacher towards the student; before there is anything to teach, keep it the same."""
        if self._learned_alone:
            self.teacher.load_state_dict(self.student.state_dict())
        else:
            update_teacher(self.teacher, self.student, decay_at(updates - 1, self.settings["ema_decay"]))

    def ramp(self, progress: float) -> float:
        """Psi of the progress since pretraining within the ramp's length."""
        start, length = self.settings["pretrain"], self.settings["ramp_length"]
        return ramp_up((progress - start) / ((1 - start) * length)) if length and start < 1 else 1.0

    def three_passes(self, batch: Batch, labelled: torch.Tensor) -> tuple[Output, Output, Output]:
        """Student on labelled and noisy unlabelled crops in one pass, for one batch norm; then the teacher."""
        noisy = batch.unlabelled + self.noise_for(batch.unlabelled, batch.generator)
        both = self.student(torch.cat([labelled, noisy]))
        n = len(labelled)
        student = Output(*(x[n:] for x in both))
        return Output(*(x[:n] for x in both)), student, self.teach(batch.generator, batch.unlabelled)

    @property
    def deployed(self) -> nn.Module:
        """Student or teacher, as the settings say."""
        return self.teacher if self.settings["deploy"] == "teacher" else self.student

    @torch.no_grad()
    def teach(self, generator: torch.Generator, *streams: torch.Tensor) -> Output:
        """The teacher's output on crops (B, 1, K, J, I) of one or more streams, under noise of its own."""
        self.teacher.train(self.training)
        for module in self.teacher.modules():
            if isinstance(module, nn.Dropout3d):
                module.train(self.training and self.settings["teacher_dropout"])
        return self.teacher(torch.cat([x + self.noise_for(x, generator) for x in streams]))

    def noise_for(self, images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """clip(noise * N(0, 1), +-noise_clip) (UA-MT), drawn for the global batch: each process takes its share."""
        n = len(images)
        shape = (n * world_size(), *images.shape[1:])
        noise = torch.randn(shape, device=images.device, dtype=images.dtype, generator=generator)
        mine = noise[rank() * n : (rank() + 1) * n]
        return (mine * self.settings["noise"]).clamp_(-self.settings["noise_clip"], self.settings["noise_clip"])

    @staticmethod
    def consistency(student: Output, teacher: Output) -> torch.Tensor:
        """Mean squared difference of the two softmax maps (SimCVD, Eq. 5)."""
        return F.mse_loss(student.logits.float().softmax(1), teacher.logits.float().softmax(1))
