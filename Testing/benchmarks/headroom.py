"""What a trained model still leaves to be won: how far its grid lets it come, where its errors lie, and what the mean
of several passes over a scan gives.

    python Testing/benchmarks/headroom.py MODEL DATA [--cases N] [--output page.md]

DATA is laid out like la: <case>/{image,label}.nrrd; the last N cases are taken. All classes count as one.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

import numpy as np
from changes import Scan
from common import average, case_folders, machine, no_test, parser_of_model_and_cases, publish, shown, table
from scipy import ndimage

from simcvd.grid import Grid, normalise
from simcvd.inference import Predictor, predict_whole
from simcvd.labels import classify, distances, keep_largest
from simcvd.metrics import compare
from simcvd.segmentation import Segmenter

Array = np.ndarray
Look = Callable[[Array], tuple[Array, Callable[[Array], Array]]]  # a scan changed, and the way back for what was found
Predict = Callable[[Array], Array]

PLAIN = "one pass, as users get it"
LAYERS = (1, 2, 3, 5, 8)  # voxels of the scan from the reference's boundary
TURN = 8.0  # degrees around the patient's axis
GRID_ROWS = {
    "shares": "the reference on the model's grid as shares of voxels, and back",
    "classes": "the reference on the model's grid as classes, as the model learns it, and back",
}
NOTES = (
    "What the grid allows: the reference itself on the model's grid, interpolated back as the model's answers are. No "
    "model that answers on that grid can be expected to do better than as shares of voxels.",
    "Where the errors lie: voxels in one of the two masks only, over the sum of both masks' voxels; all together they "
    "are 100 % less the Dice. One voxel from the boundary: the voxels that touch it from either side.",
    "Passes are averaged as probabilities, on the model's grid; the plain one is always among them.",
)


def mirrored(array: Array) -> tuple[Array, Callable[[Array], Array]]:
    """Left for right."""
    return array[..., ::-1], lambda found: found[..., ::-1]


def moved(k: int, j: int, i: int) -> Look:
    """So many voxels further along each axis, so that the coarse stages of the network lie elsewhere."""

    def look(array: Array):
        shifted = np.pad(array, [(n, 0) for n in (k, j, i)], mode="edge")
        return shifted, lambda found: found[:, k:, j:, i:]

    return look


def scaled(factor: float) -> Look:
    """Larger or smaller."""

    def look(array: Array):
        size = [max(1, round(n * factor)) for n in array.shape]
        return resized(array, size), lambda found: np.stack([resized(part, array.shape) for part in found])

    return look


def resized(array: Array, size: Sequence[int]) -> Array:
    zoom = np.divide(size, array.shape)
    return ndimage.zoom(array, zoom, order=1, mode="nearest", grid_mode=True)


def turned(degrees: float) -> Look:
    """Around the patient's long axis."""

    def turn(array: Array, angle: float) -> Array:
        return ndimage.rotate(array, angle, (-2, -1), reshape=False, order=1, mode="nearest")

    return lambda array: (turn(array, degrees), lambda found: turn(found, -degrees))


LOOKS: dict[str, tuple[Look, ...]] = {
    "mirrored left and right": (mirrored,),
    "moved by 4 to 12 voxels": (moved(8, 8, 8), moved(4, 12, 4), moved(12, 4, 12)),
    "scaled by 0.9 and 1.1": (scaled(0.9), scaled(1.1)),
    f"turned by {TURN:g}° either way": (turned(TURN), turned(-TURN)),
}
ALL = "moved, scaled and turned"
SETS = {PLAIN: (), **LOOKS, ALL: tuple(look for looks in list(LOOKS.values())[1:] for look in looks)}


class Case:
    """A scan, its foreground, and what a model finds in it from probabilities on its grid."""

    def __init__(self, scan: Scan, segmenter: Segmenter):
        self.scan, self.segmenter = scan, segmenter
        self.grid = Grid.of(scan.geometry, segmenter.spacing)
        self.truth = scan.labels > 0

    def scores(self, found: Array) -> dict:
        """Dice and distances of a mask on the scan's own grid."""
        return {"case": self.scan.name, **compare(self.truth, found, self.scan.geometry.spacing)}

    def mask(self, probability: Array) -> Array:
        """The mask that users get from probabilities (C - 1, k, j, i) on the model's grid."""
        labels = classify(self.grid.backward(probability))
        return (keep_largest(labels) if self.segmenter.card["largest"] else labels) > 0

    def ceilings(self) -> dict[str, dict]:
        """Scores of the reference after the way onto the model's grid and back, see GRID_ROWS."""
        shares = self.grid.forward(self.truth)
        ways = {"shares": shares, "classes": (shares > 0.5).astype(np.float32)}
        return {name: self.scores(self.grid.backward(way) > 0.5) for name, way in ways.items()}

    def passes(self, predict: Predict) -> dict[str, Array]:
        """The mask from each set of passes in SETS; each pass is made once."""
        array = normalise(self.grid.forward(self.scan.volume.array), self.segmenter.card["normalisation"])
        plain, made = predict(array), {}
        for look in SETS[ALL] + LOOKS["mirrored left and right"]:
            changed, back = look(array)
            made[look] = back(predict(np.ascontiguousarray(changed, dtype=np.float32)))
        return {
            name: self.mask(np.mean([plain, *(made[look] for look in looks)], axis=0)) for name, looks in SETS.items()
        }

    def errors(self, found: Array) -> list[float]:
        """Percent of both masks' voxels that are wrong within each of LAYERS voxels of the boundary, then in all."""
        geometry = self.scan.geometry
        away = np.abs(distances(self.truth.astype(np.uint8), 2, geometry)[0]) / max(geometry.spacing)
        wrong, both = found != self.truth, self.truth.sum() + found.sum()
        # the boundary runs between voxel centres: those that touch it are half a voxel away, and rounding counts
        limits = [layer - 0.5 + 1e-3 for layer in LAYERS]
        return [100 * float((wrong & (away <= limit)).sum() / both) for limit in (*limits, np.inf)]


def measure(segmenter: Segmenter, scan: Scan) -> dict:
    """All figures of a case: by ceiling, by set of passes, and the errors of the plain pass."""
    case = Case(scan, segmenter)
    predictor = Predictor(segmenter.network, segmenter.device)
    masks = case.passes(lambda array: predict_whole(predictor, array, segmenter.patch))
    return {
        "name": scan.name,
        "ceilings": case.ceilings(),
        "passes": {name: case.scores(mask) for name, mask in masks.items()},
        "errors": case.errors(masks[PLAIN]),
    }


def means(rows: Sequence[dict], unchanged: float) -> list[str]:
    """Dice, its distance from the plain pass's, and 95HD, over the cases."""
    dice = average(row["dice"] or 0.0 for row in rows)
    return [shown(dice), f"{dice - unchanged:+.2f}", shown(average(row["hd95"] for row in rows))]


def page(segmenter: Segmenter, cases: Sequence[dict]) -> list[str]:
    """The Markdown page."""
    card = segmenter.card
    unchanged = average(case["passes"][PLAIN]["dice"] or 0.0 for case in cases)
    which = f"{cases[0]['name']} to {cases[-1]['name']}" if len(cases) > 1 else cases[0]["name"]
    heads = ("", "Dice [%]", "above the model", "95HD [mm]")
    grid = [(PLAIN, *means([case["passes"][PLAIN] for case in cases], unchanged))]
    grid += [(GRID_ROWS[key], *means([case["ceilings"][key] for case in cases], unchanged)) for key in GRID_ROWS]
    errors = [(case["name"], *(f"{share:.1f}" for share in case["errors"])) for case in cases]
    mean = [shown(average(column), 1) for column in zip(*(case["errors"] for case in cases), strict=True)]
    passes = [
        (name, 1 + len(looks), *means([case["passes"][name] for case in cases], unchanged))
        for name, looks in SETS.items()
    ]
    return [
        "# Headroom",
        "",
        f"Model {card['name']} {card['version']} at {segmenter.spacing[0]:g} mm, {len(cases)} cases ({which})."
        + no_test(card, [case["name"] for case in cases]),
        "",
        "## What the grid allows",
        "",
        *table(heads, grid),
        "",
        "## Where the errors lie: percent of voxels within so many of the boundary",
        "",
        *table(("case", *map(str, LAYERS), "all"), [*errors, ("**mean**", *(f"**{share}**" for share in mean))]),
        "",
        "## What the mean of several passes gives",
        "",
        *table(("plain pass and", "passes", *heads[1:]), passes),
        "",
        *(line for note in NOTES for line in (note, "")),
        machine(("torch", "numpy")),
    ]


def main(words: Sequence[str] | None = None) -> None:
    arguments = parser_of_model_and_cases(__doc__).parse_args(words)
    segmenter, cases = Segmenter(arguments.model, "cpu"), []
    for folder in case_folders(arguments.data)[-max(arguments.cases, 1) :]:
        print(folder.name, file=sys.stderr, flush=True)
        cases.append(measure(segmenter, Scan.read(folder)))
    publish(page(segmenter, cases), arguments.output)


if __name__ == "__main__":
    main()
