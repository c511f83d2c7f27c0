"""What every method with a teacher has: the averaged copy of the student, its noise, and which of the two is used."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import nn

from ...network import Output
from ..distributed import rank, world_size
from ..ema import decay_at, make_teacher, update_teacher
from .supervised import Supervised


class Taught(Supervised):
    """A student and its average, the teacher."""

    defaults: ClassVar[dict] = {
        **Supervised.defaults,
        "ema_decay": 0.99,
        "noise": 0.1,
        "noise_clip": 0.2,
        "teacher_dropout": True,
        "deploy": "student",
    }
    meanings: ClassVar[dict[str, str]] = {
        **Supervised.meanings,
        "ema_decay": "share of itself that the teacher keeps at a step",
        "noise": "standard deviation of the noise on crops",
        "noise_clip": "where that noise is cut off",
        "teacher_dropout": "the teacher answers with dropout, too",
        "deploy": "which of the two becomes the model",
    }
    choices: ClassVar[dict] = {"deploy": ("student", "teacher")}
    rates: ClassVar[tuple[str, ...]] = ("ema_decay",)
    needs: ClassVar[dict[str, str]] = {"noise_clip": "noise"}

    def __init__(self, network: nn.Module, settings: dict):
        super().__init__(network, settings)
        self.teacher = make_teacher(network)
        self._learned_alone = False  # the last step taught the student nothing that the teacher knows

    def after_step(self, updates: int) -> None:
        """Move the teacher towards the student; before there is anything to teach, keep it the same."""
        if self._learned_alone:
            self.teacher.load_state_dict(self.student.state_dict())
        else:
            self.follow(self.teacher, self.student, updates)

    def follow(self, teacher: nn.Module, student: nn.Module, updates: int) -> None:
        """The average of optimiser step number `updates`, of the network or of a head."""
        update_teacher(teacher, student, decay_at(updates - 1, self.settings["ema_decay"]))

    @property
    def deployed(self) -> nn.Module:
        """Student or teacher, as the settings say."""
        return self.teacher if self.settings["deploy"] == "teacher" else self.student

    @torch.no_grad()
    def teach(self, generator: torch.Generator, *streams: torch.Tensor) -> Output:
        """The teacher's output on crops (B, 1, K, J, I) of one or more streams, under noise of its own."""
        return self.ready_teacher()(torch.cat([x + self.noise_for(x, generator) for x in streams]))

    def ready_teacher(self) -> nn.Module:
        """The teacher, in the student's mode but for its dropout, which a setting rules."""
        self.teacher.train(self.training)
        for module in self.teacher.modules():
            if isinstance(module, nn.Dropout3d):
                module.train(self.training and self.settings["teacher_dropout"])
        return self.teacher

    def noise_for(self, images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """clip(noise * N(0, 1), +-noise_clip) (UA-MT), drawn for the global batch: each process takes its share."""
        n = len(images)
        shape = (n * world_size(), *images.shape[1:])
        noise = torch.randn(shape, device=images.device, dtype=images.dtype, generator=generator)
        mine = noise[rank() * n : (rank() + 1) * n]
        return (mine * self.settings["noise"]).clamp_(-self.settings["noise_clip"], self.settings["noise_clip"])
