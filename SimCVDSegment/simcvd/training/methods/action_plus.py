"""ACTION++: ACTION with adaptive class centres and a changing temperature (You et al., MICCAI 2023, 2304.02689)."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import nn

from ..centres import assign_centres, cosine_temperature, moved_means, simplex
from ..distributed import gathered, world_size
from ..losses import centred_contrast
from ..memory import MemoryQueue
from ..voxels import class_means
from .action import Action
from .base import Batch, MethodError
from .staged import FINE_TUNING


class ActionPlus(Action):
    """As ACTION, but voxels of a class are drawn to each other and to a centre that keeps the classes evenly apart.

    The centres are the corners of a simplex; which class gets which follows the classes' means as they move. Queries
    are any voxels of a class, compared with a memory of the teacher's voxels. Temperatures fall and rise again as a
    cosine, once while pre-training and once while fine-tuning.
    """

    name = "action++"
    summary = "as action, where classes differ much in size: each is drawn to a centre of its own, far from the others"
    defaults: ClassVar[dict] = {
        **Action.defaults,
        "global_share": 0.125,
        "local_share": 0.125,
        "tau": 0.07,
        "hard": 1.0,
        "centres": "adaptive",
        "centre_weight": 0.2,
        "centre_rate": 0.1,
        "voxel_queue": 12288,
        "tau_schedule": "both",
        "tau_low": 0.1,
        "tau_high": 1.0,
    }
    meanings: ClassVar[dict[str, str]] = {
        **Action.meanings,
        "centres": "given to classes anew at every step (adaptive), once (fixed), or not used (none)",
        "centre_weight": "of the pull to the centres (lambda_a)",
        "centre_rate": "how fast class means move (eta)",
        "voxel_queue": "voxels that the memory holds",
        "tau_schedule": "when the temperature changes; it then takes the place of tau_student and of tau",
        "tau_low": "its lower bound",
        "tau_high": "its upper bound",
    }
    choices: ClassVar[dict] = {
        **Action.choices,
        "centres": ("adaptive", "fixed", "none"),
        "tau_schedule": ("both", "pretrain", "finetune", "none"),
    }
    divisors: ClassVar[tuple] = (*Action.divisors, "tau_low", "tau_high")
    counts: ClassVar[dict[str, int]] = {**Action.counts, "voxel_queue": 1}
    needs: ClassVar[dict[str, str]] = {
        **Action.needs,
        **dict.fromkeys(("centres", "centre_rate", "voxel_queue"), "anatomical"),
        "centre_weight": "centres",
        **dict.fromkeys(("tau_low", "tau_high"), "tau_schedule"),
    }

    def __init__(self, network: nn.Module, settings: dict):
        super().__init__(network, settings)
        width = self.settings["head_width"]
        if width < self.classes:
            raise MethodError(f"{self.classes} centres need a head_width of as many or more, not {width}.")
        self.register_buffer("centres", simplex(self.classes, width))
        self.register_buffer("means", torch.zeros(self.classes, width))
        for name in ("voxel", "voxel_class"):
            self.memory[name] = MemoryQueue(self.settings["voxel_queue"])

    @classmethod
    def checked(cls, settings: dict) -> dict:
        """As of ACTION; a rate above 1 would throw the means about."""
        s = super().checked(settings)
        if s["centre_rate"] > 1:
            raise MethodError(f"Setting centre_rate is at most 1, not {s['centre_rate']!r}.")
        return s

    def temperatures(self, progress: float) -> tuple[float, float]:
        """As of ACTION, the student's as scheduled."""
        student, teacher = super().temperatures(progress)
        return self.scheduled(progress, student), teacher

    def scheduled(self, progress: float, otherwise: float) -> float:
        """The temperature at this moment, or the one given where the schedule rests."""
        first = self._ends()[1]
        fine = self.stage(progress) == FINE_TUNING
        if self.settings["tau_schedule"] not in ("both", "finetune" if fine else "pretrain"):
            return otherwise
        passed = (progress - first) / (1 - first) if fine else progress / first
        return cosine_temperature(passed, self.settings["tau_low"], self.settings["tau_high"])

    def anatomical(
        self, queries: dict[int, torch.Tensor], keys: torch.Tensor, present: torch.Tensor, batch: Batch
    ) -> torch.Tensor:
        """L_aaco over the queries of all classes; the memory takes in this step's keys first."""
        self.remember(keys, present)
        if not queries:
            return keys.new_zeros(())
        vectors = torch.cat(list(queries.values()))
        classes = torch.cat([torch.full((len(v),), c, device=keys.device) for c, v in queries.items()])
        s = self.settings
        return centred_contrast(
            vectors,
            self.memory["voxel"].items,
            classes[:, None] == self.memory["voxel_class"].items[None],
            self.centres_of_classes()[classes],
            0.0 if s["centres"] == "none" else s["centre_weight"],
            self.scheduled(batch.progress, s["tau"]),
        )

    @torch.no_grad()
    def remember(self, keys: torch.Tensor, present: torch.Tensor) -> None:
        """Move the class means, and put as many keys of each class as there are queries into the memory.

        Several processes share in that number, and gather: all hold the same memory.
        """
        self.means = moved_means(self.means, class_means(keys, present), self.settings["centre_rate"])
        some = keys[:, : -(-self.settings["queries"] // world_size())]
        classes = torch.where(present, torch.arange(self.classes, device=keys.device), -1)
        self.push(some.flatten(0, 1), classes.repeat_interleave(some.shape[1]))

    def push(self, vectors: torch.Tensor, classes: torch.Tensor) -> None:
        """Into the memory of every process, without the rows of classes that were absent (-1)."""
        vectors, classes = gathered(vectors), gathered(classes.float())
        there = classes >= 0
        self.memory["voxel"].add(vectors[there])
        self.memory["voxel_class"].add(classes[there])

    def centres_of_classes(self) -> torch.Tensor:
        """(C, D), the centre of each class."""
        fixed = self.settings["centres"] == "fixed"
        return self.centres if fixed else self.centres[assign_centres(self.centres, self.means)]
