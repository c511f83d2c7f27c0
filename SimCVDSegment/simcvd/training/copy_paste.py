"""Copy-paste between labelled and unlabelled crops, with the teacher's pseudo-labels (after BCP, CVPR 2023)."""

from __future__ import annotations

from typing import NamedTuple

import torch

from .distributed import rank, world_size

SIDE = 2 / 3  # of the crop, on each axis: 29.6 % of the volume changes hands


class Mix(NamedTuple):
    """image (2B, 1, K, J, I), label (2B, K, J, I) and the weight of each voxel in the loss (2B, K, J, I)."""

    image: torch.Tensor
    label: torch.Tensor
    weight: torch.Tensor


def mix_both_ways(
    labelled: torch.Tensor,
    label: torch.Tensor,
    unlabelled: torch.Tensor,
    pseudo_label: torch.Tensor,
    pseudo_weight: torch.Tensor,
    generator: torch.Generator,
) -> Mix:
    """Half the pairs: a labelled crop with an unlabelled box; the other half: an unlabelled crop with a labelled box.

    Args:
        labelled, unlabelled: (B, 1, K, J, I), as many of the one as of the other.
        label, pseudo_label: (B, K, J, I), classes.
        pseudo_weight: (B, K, J, I), weight of a voxel whose class is the teacher's word; the true ones weigh 1.
        generator: draws the place of each box.
    """
    # drawn for the global batch, of which each process takes its share
    first, count = rank() * len(label), world_size() * len(label)
    boxes = [_random_box(label.shape[1:], generator, label.device) for _ in range(count)]
    inside = torch.stack(boxes[first : first + len(label)])
    outwards = torch.arange(first, first + len(label), device=label.device) % 2 == 0
    true = torch.where(outwards[:, None, None, None], ~inside, inside)  # where the labelled crop shows
    image = torch.where(true[:, None], labelled, unlabelled)
    weight = torch.where(true, torch.ones_like(pseudo_weight), pseudo_weight)
    return Mix(image, torch.where(true, label, pseudo_label.to(label.dtype)), weight)


def _random_box(shape: torch.Size, generator: torch.Generator, device: torch.device) -> torch.Tensor:
    box = torch.zeros(shape, dtype=torch.bool, device=device)
    places = torch.rand(3, generator=generator, device=generator.device).tolist()
    sides = [int(n * SIDE) for n in shape]
    k, j, i = (int(p * (n - s + 1)) for p, n, s in zip(places, shape, sides, strict=True))
    box[k : k + sides[0], j : j + sides[1], i : i + sides[2]] = True
    return box


def pseudo_labels(logits: torch.Tensor, threshold: float) -> tuple[torch.Tensor, torch.Tensor]:
    """The teacher's classes (B, K, J, I) and 1 where its softmax is at least `threshold`, else 0."""
    confidence, classes = logits.float().softmax(1).max(1)
    return classes, (confidence >= threshold).float()
