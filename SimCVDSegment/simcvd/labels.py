"""From probabilities to labels, and what is done to labels: region, largest part, offset, distance maps."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np

from simcvd.distance import signed_distance
from simcvd.errors import SimCVDError
from simcvd.grid import Geometry


class SegmentationError(SimCVDError):
    """A segmentation that cannot be made as asked."""


def classify(probability: np.ndarray) -> np.ndarray:
    """Labels, uint8: the class of the highest probability; (C - 1, K, J, I) foreground probabilities in."""
    if len(probability) == 1:
        return (probability[0] > 0.5).astype(np.uint8)
    best = probability.argmax(0)
    highest = np.take_along_axis(probability, best[None], 0)[0]
    return np.where(highest > 1 - probability.sum(0), best + 1, 0).astype(np.uint8)


def entropy(probability: np.ndarray) -> np.ndarray:
    """Entropy of the class probabilities over log C, in [0, 1]; (C - 1, ...) foreground probabilities in."""
    everything = np.concatenate([1 - probability.sum(0, keepdims=True), probability])
    np.clip(everything, 1e-7, 1, out=everything)
    result = -(everything * np.log(everything)).sum(0) / np.float32(math.log(len(everything)))
    return np.clip(result, 0, 1)


def distances(labels: np.ndarray, classes: int, geometry: Geometry) -> np.ndarray:
    """Signed distance map in mm of each foreground class, (C - 1, K, J, I), float32.

    A class with no voxel has the volume's diagonal everywhere; one with all voxels, its negative.
    """
    diagonal = math.dist((0, 0, 0), np.multiply(geometry.size, geometry.spacing))
    result = np.empty((classes - 1, *labels.shape), np.float32)
    for value in range(1, classes):
        mask = labels == value
        if mask.any() and not mask.all():
            result[value - 1] = signed_distance(mask, geometry.spacing)
        else:
            result[value - 1] = -diagonal if mask.any() else diagonal
    return result


def move_boundary(sdm: np.ndarray, offset: float) -> np.ndarray:
    """Labels, uint8, of what lies within `offset` mm of each class (C - 1, K, J, I); where two meet, the nearer."""
    nearest = sdm.argmin(0)
    return np.where(sdm.min(0) <= offset, nearest + 1, 0).astype(np.uint8)


def keep_largest(labels: np.ndarray) -> np.ndarray:
    """Labels with only the largest part, connected across faces, of each class."""
    from scipy import ndimage

    result = np.zeros_like(labels)
    boxes = ndimage.find_objects(labels)
    for value, box in enumerate(boxes, start=1):
        if box is None:
            continue
        parts, _ = ndimage.label(labels[box] == value)
        counts = np.bincount(parts.ravel())
        counts[0] = 0
        result[box][parts == counts.argmax()] = value
    return result


def roi_box(geometry: Geometry, roi: Sequence[float], margin: int = 0) -> tuple[slice, slice, slice]:
    """The (K, J, I) box of voxels around a region of LPS bounds (x0, x1, y0, y1, z0, z1) mm, widened by a margin.

    Raises SegmentationError when the region misses the volume.
    """
    corners = np.array(list(itertools.product(roi[0:2], roi[2:4], roi[4:6])), float)
    direction = np.reshape(geometry.direction, (3, 3))
    index = (corners - geometry.origin) @ np.linalg.inv(direction).T / geometry.spacing
    last = np.subtract(geometry.size, 1)
    low, high = np.floor(index.min(0) + 1e-6), np.ceil(index.max(0) - 1e-6)
    if (high < 0).any() or (low > last).any():
        raise SegmentationError("The region of interest misses the scan; move it onto the scan.")
    low, high = np.maximum(low - margin, 0), np.minimum(high + margin, last)
    return tuple(slice(int(a), int(b) + 1) for a, b in zip(low[::-1], high[::-1], strict=True))


def keep_inside(labels: np.ndarray, geometry: Geometry, roi: Sequence[float]) -> np.ndarray:
    """Labels without the voxels whose centres lie outside a region, see `roi_box`."""
    box = roi_box(geometry, roi)
    direction = np.reshape(geometry.direction, (3, 3)) * geometry.spacing
    places = np.ogrid[box][::-1]  # i, j, k
    inside = np.ones(labels[box].shape, bool)
    for axis in range(3):
        world = geometry.origin[axis] + sum(direction[axis, n] * place for n, place in enumerate(places))
        inside &= (world >= roi[2 * axis] - 1e-6) & (world <= roi[2 * axis + 1] + 1e-6)
    result = np.zeros_like(labels)
    result[box] = labels[box] * inside
    return result
