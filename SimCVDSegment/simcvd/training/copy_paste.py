"""Copy-paste between labelled and unlabelled crops, with the teacher's pseudo-labels (after BCP, CVPR 2023)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F

from ..labels import classify, keep_largest
from ..tensors import array_of, tensor_of
from .distributed import rank, world_size

MOST_GUESSED = 128  # classes that guesses keep apart by how sure they are, in a byte
SIDE = 2 / 3  # of the crop, on each axis: 29.6 % of the volume changes hands


def labelled_places(shape: Sequence[int], generator: torch.Generator, device: torch.device) -> torch.Tensor:
    """Where mixes show the labelled crop: outside a box in every second mix, inside it in the others.

    Args:
        shape: (B, K, J, I) of this process's labels; boxes are drawn for the global batch.
        generator: draws the place of each box.

    Returns:
        (B, K, J, I) bool.
    """
    first, count = rank() * shape[0], world_size() * shape[0]
    boxes = [_random_box(shape[1:], generator, device) for _ in range(count)]
    inside = torch.stack(boxes[first : first + shape[0]])
    outwards = torch.arange(first, first + shape[0], device=device) % 2 == 0
    return torch.where(outwards[:, None, None, None], ~inside, inside)


def mixed(true: torch.Tensor, labelled: torch.Tensor, unlabelled: torch.Tensor) -> torch.Tensor:
    """Labelled values where `true`, else unlabelled ones.

    Args:
        true: (B, K, J, I) bool.
        labelled, unlabelled: (B, K, J, I) or (B, C, k, j, i); a coarser grid takes the side of its cells' centres.
    """
    if labelled.ndim == 5:
        true = true[:, None]
        if true.shape[2:] != labelled.shape[2:]:
            true = F.interpolate(true.float(), labelled.shape[2:], mode="nearest-exact").bool()
    return torch.where(true, labelled, unlabelled.to(labelled.dtype))


def _random_box(shape: Sequence[int], generator: torch.Generator, device: torch.device) -> torch.Tensor:
    box = torch.zeros(tuple(shape), dtype=torch.bool, device=device)
    places = torch.rand(3, generator=generator, device=generator.device).tolist()
    sides = [int(n * SIDE) for n in shape]
    k, j, i = (int(p * (n - s + 1)) for p, n, s in zip(places, shape, sides, strict=True))
    box[k : k + sides[0], j : j + sides[1], i : i + sides[2]] = True
    return box


def pseudo_labels(logits: torch.Tensor, threshold: float, largest: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """The teacher's classes (B, K, J, I), uint8, and 1 where its softmax is at least `threshold`, else 0.

    largest: keep only the largest part of each class in each crop; what is dropped becomes background.
    """
    confidence, classes = logits.float().softmax(1).max(1)
    classes = classes.to(torch.uint8)
    if largest:
        kept = [tensor_of(keep_largest(crop)) for crop in array_of(classes)]
        classes = torch.stack(kept).to(logits.device)
    return classes, (confidence >= threshold).float()


def guess_of(probability: np.ndarray, largest: bool, threshold: float) -> np.ndarray:
    """The teacher's classes of a whole scan (K, J, I), uint8, from foreground probabilities (C - 1, K, J, I).

    Where it is less sure than `threshold`, C is added to the class; `believed` takes the two apart again, also once the
    scan was cut and warped. largest: only the largest part of each class is kept.
    """
    labels = keep_largest(classify(probability)) if largest else classify(probability)
    confidence = np.maximum(probability.max(0), 1 - probability.sum(0))
    return labels + np.uint8(len(probability) + 1) * (confidence < threshold)


def believed(guess: torch.Tensor, classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Classes (B, K, J, I), uint8, and 1 where the teacher was sure of them, else 0, of a crop of `guess_of`."""
    return guess % classes, (guess < classes).float()
