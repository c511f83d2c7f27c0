"""Class centres that are as far from each other as can be, and which class gets which (ACTION++)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment

from ..tensors import array_of, tensor_of
from .heads import unit


def simplex(count: int, width: int) -> torch.Tensor:
    """(count, width) unit vectors, any two at a cosine of -1 / (count - 1): the corners of a regular simplex.

    It is what minimising the uniformity loss of ACTION++ leads to, in closed form. Needs width >= count >= 2.
    """
    corners = torch.eye(count, width)
    corners[:, :count] -= 1 / count
    return unit(corners)


def assign_centres(centres: torch.Tensor, means: torch.Tensor) -> torch.Tensor:
    """The centre of each class, so that the distances between class means and centres are least in sum.

    Both (C, D), unit rows; (C,) indices of centres.
    """
    _, chosen = linear_sum_assignment(array_of(torch.cdist(means, centres)))
    return tensor_of(chosen).to(centres.device)


def moved_means(running: torch.Tensor, means: torch.Tensor, rate: float) -> torch.Tensor:
    """Class means (C, D) moved by `rate` towards those of a batch, unit rows; a class new to either takes the other."""
    seen = means.any(1, keepdim=True)
    known = running.any(1, keepdim=True)
    moved = torch.where(known, (1 - rate) * running + rate * means, means)
    return F.normalize(torch.where(seen, moved, running), dim=1)


def cosine_temperature(progress: float, low: float, high: float) -> float:
    """From `high` down to `low` at half of the way and up again (the schedule of ACTION++), progress in [0, 1]."""
    return low + 0.5 * (1 + math.cos(2 * math.pi * progress)) * (high - low)
