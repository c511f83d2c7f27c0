"""Time the scores of one large pair of masks: simcvd beside MedPy, MONAI and surface-distance, in one run.

    python Testing/benchmarks/metrics.py [--repeats 3] [--output metrics.md]

Every tool gives Dice, Jaccard, 95HD, ASD and ASSD (or its nearest equivalents) of the same two boolean arrays with
voxel spacing; the tools take turns, and the table shows each one's median.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

import numpy as np
from common import DATA, machine, publish, table, take_turns
from scipy import ndimage

from simcvd.metrics import compare

SHAPE = (88, 576, 576)
SPACING = (0.625, 0.625, 0.625)
PACKAGES = ("numpy", "scipy", "MedPy", "monai", "torch", "surface-distance")
COLUMNS = ("Dice", "Jaccard", "95HD", "ASD", "ASSD")


def with_simcvd(reference: np.ndarray, prediction: np.ndarray) -> list[float]:
    found = compare(reference, prediction, SPACING)
    return [found[name] for name in ("dice", "jaccard", "hd95", "asd", "assd")]


def with_medpy(reference: np.ndarray, prediction: np.ndarray) -> list[float]:
    from medpy.metric import binary

    overlap = [100 * function(prediction, reference) for function in (binary.dc, binary.jc)]
    distance = [function(prediction, reference, SPACING[::-1]) for function in (binary.hd95, binary.asd, binary.assd)]
    return [float(value) for value in overlap + distance]


def with_monai(reference: np.ndarray, prediction: np.ndarray) -> list[float]:
    import torch
    from monai.metrics import (
        compute_average_surface_distance,
        compute_dice,
        compute_hausdorff_distance,
        compute_iou,
    )

    pair = [torch.from_numpy(mask)[None, None] for mask in (prediction, reference)]
    options = {"include_background": True, "spacing": SPACING[::-1]}
    values = [
        100 * compute_dice(*pair),
        100 * compute_iou(*pair),
        compute_hausdorff_distance(*pair, percentile=95, **options),
        compute_average_surface_distance(*pair, **options),
        compute_average_surface_distance(*pair, symmetric=True, **options),
    ]
    return [float(value) for value in values]


def with_surface_distance(reference: np.ndarray, prediction: np.ndarray) -> list[float]:
    import surface_distance

    found = surface_distance.compute_surface_distances(reference, prediction, SPACING[::-1])
    to_prediction, to_reference = surface_distance.compute_average_surface_distance(found)
    dice = surface_distance.compute_dice_coefficient(reference, prediction)
    return [
        100 * float(dice),
        100 * float(dice / (2 - dice)),
        float(surface_distance.compute_robust_hausdorff(found, 95)),
        float(to_reference),
        float((to_reference + to_prediction) / 2),
    ]


TOOLS = {
    "simcvd": with_simcvd,
    "MedPy": with_medpy,
    "MONAI": with_monai,
    "surface-distance": with_surface_distance,
}


def atrium() -> tuple[np.ndarray, str]:
    """A left atrium (K, J, I) at 0.625 mm, and what it is: a real one where the scans are here."""
    path = DATA / "la" / "la001" / "label.nrrd"
    if path.is_file():
        import SimpleITK as sitk

        return sitk.GetArrayFromImage(sitk.ReadImage(str(path))) > 0, "left atrium of la001 (real label)"
    k, j, i = np.indices((88, 140, 190))
    body = ((k - 44) / 26) ** 2 + ((j - 70) / 36) ** 2 + ((i - 95) / 60) ** 2 < 1
    veins = [(k - 44 - s * 10) ** 2 + (j - 95) ** 2 < 49 for s in (-1, 1)]
    return body | (
        (veins[0] | veins[1]) & (abs(i - 95) < 85)
    ), "ellipsoid with two tubes (no scans beside the checkout)"


def pair_of_masks() -> tuple[np.ndarray, np.ndarray, str]:
    """A reference and a plausible prediction of it, (88, 576, 576), and a sentence on both."""
    mask, what = atrium()
    outward = ndimage.distance_transform_edt(~mask) - ndimage.distance_transform_edt(mask)
    ripple = ndimage.gaussian_filter(np.random.default_rng(0).standard_normal(mask.shape), 6)
    guess = outward + 2.5 * ripple / ripple.std() < 0
    full = []
    for part in (mask, np.roll(guess, (1, -2), axis=(1, 2))):
        whole = np.zeros(SHAPE, bool)
        whole[: part.shape[0], 200 : 200 + part.shape[1], 190 : 190 + part.shape[2]] = part
        full.append(whole)
    size = "x".join(map(str, SHAPE[::-1]))
    return (
        *full,
        f"{what} padded into {size} at 0.625 mm; as prediction a rippled copy (sd 2.5 voxels), shifted by (1, 2)",
    )


def measure(reference: np.ndarray, prediction: np.ndarray, repeats: int) -> tuple[dict, dict]:
    """Seconds of every tool's turns and its values; one turn ahead on small masks loads the libraries."""
    crop = (slice(30, 50), slice(250, 300), slice(250, 300))
    for tool in TOOLS.values():
        tool(reference[crop], prediction[crop])
    values: dict[str, list[float]] = {}

    def way(name: str):
        return lambda: values.update({name: TOOLS[name](reference, prediction)})

    seconds = take_turns({name: way(name) for name in TOOLS}, repeats)
    return {name: statistics.median(turns) for name, turns in seconds.items()}, values


def page(seconds: dict, values: dict, what: str, repeats: int) -> list[str]:
    rows = [
        [name, f"{taken / seconds['simcvd']:.1f}", f"{taken:.3f}", *(f"{value:.4f}" for value in values[name])]
        for name, taken in seconds.items()
    ]
    difference = max(abs(a - b) for a, b in zip(values["simcvd"], values["MedPy"], strict=True))
    return [
        "# Metrics",
        "",
        *table(("tool", "times slower than simcvd", "seconds", *COLUMNS), rows),
        "",
        f"Masks: {what}. Dice and Jaccard in percent, distances in mm. Median of {repeats} turns, the tools in turn; "
        "simcvd searches on all cores, the others run as they come. "
        f"Largest difference of a value between simcvd and MedPy: {difference:.1e}. MONAI's 95HD is the larger of the "
        "two directions' 95th percentiles and its ASSD pools as MedPy's; surface-distance weighs by surface elements, "
        "its 95HD is the larger of the two directions' too and its ASSD is here the mean of the two directions.",
        "",
        machine(PACKAGES),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3, help="turns of every tool (default: 3)")
    parser.add_argument("--output", type=Path, help="Markdown file to write the table to as well")
    arguments = parser.parse_args()
    reference, prediction, what = pair_of_masks()
    seconds, values = measure(reference, prediction, arguments.repeats)
    publish(page(seconds, values, what, arguments.repeats), arguments.output)


if __name__ == "__main__":
    main()
