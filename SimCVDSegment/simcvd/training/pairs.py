"""Which images, and which places of images, belong together (Chaitanya et al., NeurIPS 2020), in 3-D.

Each function gives two masks (A, B) over anchors and others: positive pairs, negative pairs. A pair may be neither.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

RANDOM, NOT_SAME_PARTITION, PARTITION = STRATEGIES = ("random", "partition-", "partition")
PLAIN, FIRST, SECOND = range(3)  # the views: not altered, and altered in two ways


class Who(NamedTuple):
    """What each of N vectors is of, (N,) each: image, its view, its scan, its partition, for local pairs its place."""

    image: torch.Tensor
    view: torch.Tensor
    scan: torch.Tensor
    partition: torch.Tensor
    place: torch.Tensor | None = None

    def against(self, other: Who) -> Who:
        """Where the two agree, as (A, B) masks."""
        pairs = zip(self, other, strict=True)
        return Who(*(None if mine is None else mine[:, None] == theirs[None] for mine, theirs in pairs))


def global_pairs(strategy: str, anchors: Who, others: Who) -> tuple[torch.Tensor, torch.Tensor]:
    """Pairs of whole images.

    random: positives are the views of one image, negatives all other images.
    partition-: the same positives; negatives are images of other partitions only, of any scan.
    partition: beside these positives, images of the same partition in other scans, plain with plain and second view
        with second view; negatives as before.
    """
    same = anchors.against(others)
    positive = same.image & ~same.view
    if strategy == RANDOM:
        return positive, ~same.image
    if strategy == PARTITION:
        paired = same.view & ((anchors.view == PLAIN) | (anchors.view == SECOND))[:, None]
        positive = positive | (paired & same.partition & ~same.scan)
    return positive, ~same.partition


def local_pairs(across: bool, anchors: Who, others: Who) -> tuple[torch.Tensor, torch.Tensor]:
    """Pairs of places: the same place in another view is positive, other places of the image are negative.

    across: the same place in images of the same partition of other scans is positive too.
    """
    same = anchors.against(others)
    positive = same.image & same.place & ~same.view
    if across:
        positive = positive | (same.partition & same.place & ~same.scan)
    return positive, same.image & ~same.place


def partition_of(axial: torch.Tensor, middle: torch.Tensor | float, count: int) -> torch.Tensor:
    """Partition (0 to count - 1) of a scan's height in which the middle of (a part of) a crop lies.

    Args:
        axial: (B, 2), begin and end of the crops along K, as shares of their scans' heights.
        middle: of the part, as a share of the crop.
    """
    height = axial[:, 0] + middle * (axial[:, 1] - axial[:, 0])
    return (height * count).floor().clamp(0, count - 1).long()


def slab_starts(height: int, depth: int, count: int, generator: torch.Generator) -> list[int]:
    """First slices of `count` slabs in a crop, each with its middle in one of as many equal parts, as far as they fit.

    One slab where there is room for no more.
    """
    if depth >= height:
        return [0]
    drawn = torch.rand(count, generator=generator, device=generator.device).tolist()
    middles = [(n + share) * height / count for n, share in enumerate(drawn)]
    return [min(max(int(middle - depth / 2), 0), height - depth) for middle in middles]
