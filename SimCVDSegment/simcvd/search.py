"""Where in a scan that shows far more than those a model learned from its structures lie.

Seen at once, such a scan has other intensities than the network knows, and organs that it never learned to tell from
the structure. So it is looked at in windows of the size that it knows, each normalised by itself, and the window counts
whose answer is surest among those of a plausible size.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np

from simcvd.boxes import Box, bounding_box, moved
from simcvd.grid import ImageError, normalise
from simcvd.inference import Shape, window_starts
from simcvd.labels import classify, keep_largest
from simcvd.network import STRIDE

Volumes = Sequence[tuple[float, float]]


def window_shape(patch: Shape, voxels: float) -> Shape:
    """(K, J, I) of a window: the patch of the training, all sides longer alike where a usual scan has more voxels."""
    longer = max(1.0, (voxels / float(np.prod(patch))) ** (1 / 3))
    return tuple(STRIDE * round(longer * side / STRIDE) for side in patch)


def window_boxes(shape: Shape, window: Shape) -> list[Box]:
    """The windows of an array of a shape: each overlaps its neighbours by half, and the last ones end where it does."""
    sides = [min(side, n) for side, n in zip(window, shape, strict=True)]
    axes = [window_starts(n, side, max(side // 2, 1)) for n, side in zip(shape, sides, strict=True)]
    return [
        tuple(slice(start, start + side) for start, side in zip(starts, sides, strict=True))
        for starts in itertools.product(*axes)
    ]


def search(
    predict: Callable[[np.ndarray], np.ndarray],
    array: np.ndarray,
    window: Shape,
    normalisation: dict,
    volumes: Volumes,
    largest: bool,
    step: Callable[[], None],
) -> Box | None:
    """The box (K, J, I) around all structures in the window whose segmentation is surest, or None.

    Args:
        predict: gives the foreground probabilities (C - 1, K, J, I) of a normalised array (K, J, I).
        array: (K, J, I), on the model's grid, not normalised.
        window: (K, J, I), see `window_shape`.
        normalisation: as of the model's card.
        volumes: least and greatest plausible number of voxels of each structure, C - 1 pairs.
        largest: whether only the largest part of each structure counts.
        step: called before each of `window_boxes`; may raise to cancel.
    """
    surest, found = 0.0, None
    for box in window_boxes(array.shape, window):
        step()
        try:
            part = normalise(array[box], normalisation)
        except ImageError:  # constant: beside the patient
            continue
        probability = predict(part)
        labels = classify(probability)
        if largest:
            labels = keep_largest(labels)
        sure = expected_dice(probability, labels, volumes)
        if sure > surest:
            surest, found = sure, moved(bounding_box(labels > 0), [side.start for side in box])
    return found


def outgrown(labels: np.ndarray, box: Box, shape: Shape, by: Shape) -> Box:
    """A box larger by so many voxels wherever the labels found in it reach its rim, within a scan of a shape."""
    larger = []
    for axis, (side, n, more) in enumerate(zip(box, shape, by, strict=True)):
        low, high = (bool(labels.take(end, axis).any()) for end in (0, -1))
        larger.append(slice(max(side.start - low * more, 0), min(side.stop + high * more, n)))
    return tuple(larger)


def expected_dice(probability: np.ndarray, labels: np.ndarray, volumes: Volumes) -> float:
    """About the Dice that labels (K, J, I) would have if the probabilities (C - 1, K, J, I) were true, the mean of all
    structures; 0 when one has fewer or more voxels than is plausible.

    For each structure: twice the probability inside it, over its voxels and all probability (the soft Dice of V-Net
    with sums in place of squares, Milletari et al. 2016, equation 3).
    """
    each = []
    for value, (least, most) in enumerate(volumes, 1):
        inside = labels == value
        size = int(inside.sum())
        if not (size and least <= size <= most):
            return 0.0
        map_ = probability[value - 1]
        each.append(2 * float(map_[inside].sum()) / (size + float(map_.sum(dtype=np.float64))))
    return float(np.mean(each))
