"""Voxels as things to contrast: which ones, what the decoder says at them, and what their classes are like."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from .distributed import total
from .heads import unit

NO_CLASS = 255  # of voxels whose class nobody trusts


def hard_voxels(classes: torch.Tensor, probability: torch.Tensor, value: int, confidence: float) -> torch.Tensor:
    """Voxels of a class that the student isn't sure to be of it.

    Args:
        classes: (B, K, J, I), uint8.
        probability: (B, C, K, J, I), the student's softmax.
        value: the class.
        confidence: at most this; 1 takes every voxel of the class.

    Returns:
        (B, K, J, I) bool.
    """
    return (classes == value) & (probability[:, value] <= confidence)


def draw_voxels(where: torch.Tensor, count: int, generator: torch.Generator) -> torch.Tensor:
    """`count` places (b, k, j, i) of those marked in (B, K, J, I), drawn with replacement; none where none is marked.

    With replacement, as their number is then always the same.
    """
    places = where.nonzero()
    if not len(places):
        return places
    return places[torch.randint(len(places), (count,), generator=generator, device=generator.device)]


def read_maps(maps: Sequence[torch.Tensor], places: torch.Tensor) -> torch.Tensor:
    """What decoder maps of several resolutions hold at voxels (N, 4) of the finest: (N, all their channels).

    Each map is read at the cell that the voxel lies in. Nothing is drawn out to full size for that.
    """
    read = []
    for cells in maps:
        step = maps[-1].shape[2] // cells.shape[2]
        b, k, j, i = places[:, 0], *(places[:, 1:] // step).unbind(1)
        _, _, *sides = cells.shape
        row = ((b * sides[0] + k) * sides[1] + j) * sides[2] + i
        # index_select, as its gradient is summed in a fixed order on a CPU
        read.append(cells.permute(0, 2, 3, 4, 1).flatten(0, 3).index_select(0, row))
    return torch.cat(read, 1)


def class_means(vectors: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
    """Unit means of the vectors (C, N, D) of each class over all processes: (C, D), zeros for a class that is nowhere.

    present: (C,) bool, the classes that this process has vectors of.
    """
    return unit(total((vectors * present[:, None, None]).sum(1)))


def draw_confusable(
    means: torch.Tensor, value: int, present: torch.Tensor, count: int, generator: torch.Generator
) -> torch.Tensor:
    """`count` classes other than `value`, drawn in proportion to softmax_v(mean_value . mean_v) (ACTION).

    Classes that look alike come more often: they are what needs telling apart. (0,) where there is no other class.

    Args:
        means: (C, D), unit rows.
        present: (C,) bool, the classes to draw from.
    """
    others = present.clone()
    others[value] = False
    if not others.any():
        return torch.empty(0, dtype=torch.int64, device=means.device)
    weight = (means * means[value]).sum(1).exp() * others
    return torch.multinomial(weight, count, replacement=True, generator=generator)
