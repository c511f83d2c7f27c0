"""Signed distance maps: negative inside, positive outside, zero on the boundary."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

LINES_AT_ONCE = 1024  # on a CPU: what stays in its cache


def signed_distance_crops(masks: torch.Tensor) -> torch.Tensor:
    """Signed distance maps of crops as the network learns them, scaled to [-1, 1].

    Distances are in voxels; each side is divided by its own maximum in the crop, and the inner boundary
    (foreground voxels with a background neighbour across a face) is set to zero (SASSNet, DTC; SimCVD's Y^sdm).
    A crop with no foreground, or nothing else, gives zeros. Runs on the device of `masks`.

    Args:
        masks: (B, K, J, I), bool.

    Returns:
        (B, K, J, I), float32.
    """
    import torch

    if masks.dtype != torch.bool or masks.ndim != 4:
        raise ValueError("Masks must be a bool tensor of shape (B, K, J, I).")
    outside = squared_distance(masks).sqrt_()
    inside = torch.zeros_like(outside)
    for mask, distance in zip(masks, inside, strict=True):
        box = _box_around(mask)  # what lies further out is never the nearest
        distance[box] = squared_distance(~mask[box][None])[0].sqrt_()
    inner = masks & (inside == 1)  # one voxel from the background: across a face
    result = _scaled(outside) - _scaled(inside)
    result[inner] = 0
    some = masks.flatten(1).any(1) & ~masks.flatten(1).all(1)
    return torch.where(some[:, None, None, None], result, 0)


def _box_around(mask: torch.Tensor) -> tuple[slice, ...]:
    """Where (K, J, I) is true, and one voxel more on each side."""
    box = []
    for axis, n in enumerate(mask.shape):
        others = [a for a in range(3) if a != axis]
        places = mask.any(others[1]).any(others[0]).nonzero()
        box.append(slice(max(int(places[0]) - 1, 0), min(int(places[-1]) + 2, n)) if len(places) else slice(0, 0))
    return tuple(box)


def _scaled(distance: torch.Tensor) -> torch.Tensor:
    highest = distance.flatten(1).amax(1).clamp_min(1)
    return distance / highest[:, None, None, None]


def squared_distance(targets: torch.Tensor) -> torch.Tensor:
    """Exact squared Euclidean distance, in voxels, from every voxel to the nearest target voxel of its crop.

    One axis after the other: the first by running maxima of the last target seen, the others as the lower envelope
    of shifted parabolas, whose shifts stop as soon as no longer one can win. Everything is whole-tensor arithmetic,
    which keeps a GPU busy.

    Args:
        targets: (B, K, J, I), bool; a crop without any target gets one value beyond all real distances.

    Returns:
        (B, K, J, I), float32.
    """
    import torch

    far = float(sum(n * n for n in targets.shape[1:]) + 1)
    distance = _line_distance(targets).square_().clamp_max_(far)
    for axis in (2, 1):
        distance = _lower_envelope(distance, axis)
    return torch.clamp_max(distance, far)


def _line_distance(targets: torch.Tensor) -> torch.Tensor:
    """Distance to the nearest target along the last axis; huge where the line has none."""
    import torch

    n = targets.shape[-1]
    place = torch.arange(n, device=targets.device, dtype=torch.float32)
    nowhere = torch.full((), -1e4, device=targets.device)
    before = place - torch.where(targets, place, nowhere).cummax(-1).values
    after = place - torch.where(targets.flip(-1), place, nowhere).cummax(-1).values.contiguous()
    return torch.minimum(before, after.flip(-1))


def _lower_envelope(values: torch.Tensor, axis: int) -> torch.Tensor:
    """min over s of values[x + s] + s^2 along one axis of (B, K, J, I)."""
    import torch

    lines = values.movedim(axis, 0)
    shape = lines.shape
    # a block of lines is done as soon as its own distances are
    at_once = LINES_AT_ONCE if values.device.type == "cpu" else max(1, math.prod(shape[1:]))
    blocks = lines.flatten(1).split(at_once, dim=1)
    done = [_envelope_of_lines(block.contiguous()) for block in blocks]
    return torch.cat(done, dim=1).view(shape).movedim(0, axis)


def _envelope_of_lines(values: torch.Tensor) -> torch.Tensor:
    """The same along the first axis of (n, lines), until no longer shift can win."""
    import torch

    n = len(values)
    if values.numel() and values.min() == values.max():
        return values  # no target near any of these lines
    result, scratch = values.clone(), torch.empty_like(values)
    for s in range(1, n):
        if s % 4 == 1 and s * s >= float(result.max()):
            break
        part = scratch[: n - s]
        torch.add(values[s:], s * s, out=part)
        torch.minimum(result[: n - s], part, out=result[: n - s])
        torch.add(values[: n - s], s * s, out=part)
        torch.minimum(result[s:], part, out=result[s:])
    return result


def signed_distance(mask: np.ndarray, spacing: tuple[float, float, float]) -> np.ndarray:
    """Signed distance in mm of a whole volume, negative inside.

    Distances are exact between voxel centres; half the smallest spacing is taken off each side, so that the zero
    level runs between the voxels and the mask is exactly where the map is negative.

    Args:
        mask: (K, J, I), bool or numbers (non-zero is inside).
        spacing: mm along I, J, K.

    Returns:
        (K, J, I), float32, mm.

    Raises:
        ValueError: the mask is empty or covers everything, where no distance is defined.
    """
    mask = np.ascontiguousarray(mask != 0, dtype=np.uint8)
    if not mask.any() or mask.all():
        raise ValueError("A signed distance needs voxels both inside and outside.")
    # Maurer's map is zero on the inner boundary voxels; of the mask and of its complement together
    # they give the distance to the nearest voxel centre of the other side for every voxel
    to_inside, to_outside = _maurer(mask, spacing), _maurer(1 - mask, spacing)
    half = 0.5 * min(spacing)
    return np.where(mask, half - to_outside, to_inside - half).astype(np.float32)


def _maurer(mask: np.ndarray, spacing: tuple[float, float, float]) -> np.ndarray:
    import SimpleITK as sitk

    image = sitk.GetImageFromArray(mask)
    image.SetSpacing([float(s) for s in spacing])
    return sitk.GetArrayFromImage(
        sitk.SignedMaurerDistanceMap(image, insideIsPositive=False, squaredDistance=False, useImageSpacing=True)
    )
