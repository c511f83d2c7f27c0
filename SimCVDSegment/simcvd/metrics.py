"""How well a predicted mask fits a reference: overlap, surface distances and volumes, with their definitions.

Overlap is in percent, distances are in mm and in voxels, volumes in millilitres. The distances follow MedPy's
conventions (`hd95`, `asd`, `assd` with voxel spacing and connectivity 1), which the published results use.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from scipy.spatial import cKDTree

from simcvd.boxes import bounding_box
from simcvd.errors import SimCVDError

DEFINITIONS = {
    "dice": "Dice, in percent: twice the number of voxels in both masks over the sum of the two masks' voxels.",
    "jaccard": "Jaccard, in percent: the number of voxels in both masks over the number of voxels in either.",
    "hd95": "95HD, in mm: 95th percentile of the distances of every surface voxel of each mask to the nearest surface "
    "voxel of the other, both directions pooled.",
    "asd": "ASD, in mm: mean distance of the prediction's surface voxels to the nearest surface voxel of the "
    "reference (one direction, as in the code of most published results).",
    "assd": "ASSD, in mm: mean of the distances of both directions pooled (the symmetric form of ASD).",
    "hd95_voxel": "95HD, in voxels: the same with every voxel counted as a cube of side 1, as papers quote it.",
    "asd_voxel": "ASD, in voxels: the same with every voxel counted as a cube of side 1, as papers quote it.",
    "assd_voxel": "ASSD, in voxels: the same with every voxel counted as a cube of side 1.",
    "volume_reference_ml": "Volume of the reference, in ml: its number of voxels times the volume of one voxel.",
    "volume_prediction_ml": "Volume of the prediction, in ml: its number of voxels times the volume of one voxel.",
}
SCORES = ("dice", "jaccard", "hd95", "asd", "assd", "hd95_voxel", "asd_voxel", "assd_voxel")
SURFACE_DEFINITION = (
    "A mask's surface is its voxels with a face neighbour outside the mask or outside the image; distances are "
    "between voxel centres. An empty mask has no overlap and no distance: it is counted, never scored."
)


class MetricsError(SimCVDError):
    """Two masks that cannot be compared."""


def compare(reference: np.ndarray, prediction: np.ndarray, spacing: Sequence[float]) -> dict:
    """Score one mask against another.

    `reference` and `prediction` are (K, J, I), non-zero inside; `spacing` is (x, y, z) in mm. Gives a dictionary with
    a number, or None where there is none, for every key of `DEFINITIONS`, and `note`: None, or why there are no
    scores. Raises MetricsError for masks of different shape or a spacing that is not three positive numbers.
    """
    reference, prediction = _checked(reference, prediction, spacing)
    reference, prediction = _crop_to_union(reference, prediction)
    sizes = int(np.count_nonzero(reference)), int(np.count_nonzero(prediction))
    millilitres = math.prod(map(float, spacing)) / 1000
    scores = dict.fromkeys(SCORES)
    note = _reason_for_no_scores(*sizes)
    if note is None:
        scores = _overlap(reference, prediction, *sizes) | _distances(reference, prediction, spacing)
    return {
        **scores,
        "volume_reference_ml": sizes[0] * millilitres,
        "volume_prediction_ml": sizes[1] * millilitres,
        "note": note,
    }


def compare_labels(
    reference: np.ndarray, prediction: np.ndarray, spacing: Sequence[float], names: Mapping[int, str] | None = None
) -> list[dict]:
    """Score every label of two label maps (K, J, I): one row {"label": name, **compare(...)} each, by label value.

    The labels are those of `names` and all others that occur in either map, so that none goes unnoticed; zero is
    background. Raises MetricsError as `compare` does.
    """
    if np.shape(reference) != np.shape(prediction):
        _checked(reference, prediction, spacing)
    names = dict(names or {})
    values = set(names) | set(np.unique(reference).tolist()) | set(np.unique(prediction).tolist())
    return [
        {
            "label": names.get(value, f"Label {int(value)}"),
            **compare(reference == value, prediction == value, spacing),
        }
        for value in sorted(values - {0})
    ]


def surface(mask: np.ndarray) -> np.ndarray:
    """The voxels of a mask (K, J, I) that have a face neighbour outside the mask or outside the array, as a mask."""
    padded = np.pad(mask, 1)
    inner = mask.copy()
    for axis in range(3):
        for side in (slice(None, -2), slice(2, None)):
            inner &= padded[tuple(side if a == axis else slice(1, -1) for a in range(3))]
    return mask ^ inner


def surface_distances(
    reference: np.ndarray, prediction: np.ndarray, spacing: Sequence[float]
) -> tuple[np.ndarray, np.ndarray]:
    """The distances between the surfaces of two masks (K, J, I), neither of them empty, in the unit of `spacing`.

    Gives (of each surface voxel of the prediction to the reference's surface, of each of the reference's to the
    prediction's), each in the order of `np.argwhere(surface(mask))`.
    """
    # The nearest neighbours by k-d tree are exact in double precision and take a time that goes with the surfaces;
    # a distance transform goes with the volume of the box, and the fast ones are exact in single precision only.
    scale = np.asarray(spacing, dtype=np.float64)[::-1]
    surfaces = surface(reference), surface(prediction)
    points = [np.argwhere(each) * scale for each in surfaces]
    shared = surfaces[0] & surfaces[1]
    apart = [~shared[each] for each in surfaces]
    return _nearest(points[1], apart[1], points[0]), _nearest(points[0], apart[0], points[1])


def _nearest(points: np.ndarray, apart: np.ndarray, others: np.ndarray) -> np.ndarray:
    distances = np.zeros(len(points))
    tree = cKDTree(others, balanced_tree=False, compact_nodes=False)
    distances[apart] = tree.query(points[apart], workers=-1)[0]
    return distances


def _checked(reference: np.ndarray, prediction: np.ndarray, spacing: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    reference, prediction = np.asarray(reference), np.asarray(prediction)
    if reference.shape != prediction.shape or reference.ndim != 3:
        shapes = " and ".join("x".join(map(str, each.shape)) for each in (reference, prediction))
        raise MetricsError(
            f"Reference and prediction must be two volumes of the same shape but are {shapes}; "
            "bring the prediction onto the reference's grid first."
        )
    if len(spacing) != 3 or not all(math.isfinite(s) and s > 0 for s in spacing):
        raise MetricsError(f"The spacing {tuple(spacing)} is not three positive lengths in mm; correct the header.")
    return reference.astype(bool, copy=False), prediction.astype(bool, copy=False)


def _reason_for_no_scores(reference_size: int, prediction_size: int) -> str | None:
    if reference_size and prediction_size:
        return None
    if reference_size:
        return "the prediction is empty"
    return "the reference is empty" if prediction_size else "the reference and the prediction are empty"


def _overlap(reference: np.ndarray, prediction: np.ndarray, reference_size: int, prediction_size: int) -> dict:
    both = int(np.count_nonzero(reference & prediction))
    total = reference_size + prediction_size
    return {"dice": 100 * 2 * both / total, "jaccard": 100 * both / (total - both)}


def _distances(reference: np.ndarray, prediction: np.ndarray, spacing: Sequence[float]) -> dict:
    in_mm = _distance_scores(*surface_distances(reference, prediction, spacing))
    if len(set(spacing)) == 1:
        in_voxels = {name: value / spacing[0] for name, value in in_mm.items()}
    else:
        in_voxels = _distance_scores(*surface_distances(reference, prediction, (1, 1, 1)))
    return in_mm | {f"{name}_voxel": value for name, value in in_voxels.items()}


def _distance_scores(from_prediction: np.ndarray, from_reference: np.ndarray) -> dict:
    pooled = np.concatenate((from_prediction, from_reference))
    return {
        "hd95": float(np.percentile(pooled, 95)),
        "asd": float(from_prediction.mean()),
        "assd": float(pooled.mean()),
    }


def _crop_to_union(reference: np.ndarray, prediction: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    boxes = [box for box in (bounding_box(reference), bounding_box(prediction)) if box]
    if not boxes:
        empty = np.zeros((0, 0, 0), dtype=bool)
        return empty, empty
    union = tuple(slice(min(s.start for s in sides), max(s.stop for s in sides)) for sides in zip(*boxes, strict=True))
    return reference[union], prediction[union]
