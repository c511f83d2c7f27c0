"""The teacher: an exponential moving average of the student."""

from __future__ import annotations

import copy

import torch
from torch import nn


def make_teacher(student: nn.Module) -> nn.Module:
    """A copy that takes no gradients."""
    teacher = copy.deepcopy(student)
    return teacher.requires_grad_(False)


def decay_at(updates: int, decay: float) -> float:
    """min(1 - 1 / (t + 1), decay): the first updates copy the student, later ones average (UA-MT)."""
    return min(1 - 1 / (updates + 1), decay)


@torch.no_grad()
def update_teacher(teacher: nn.Module, student: nn.Module, decay: float) -> None:
    """teacher <- decay * teacher + (1 - decay) * student, for parameters only.

    Buffers (batch-norm statistics) follow from the teacher's own forward passes in training mode.
    """
    for mine, theirs in zip(teacher.parameters(), student.parameters(), strict=True):
        mine.lerp_(theirs, 1 - decay)
