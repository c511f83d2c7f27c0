"""How a model's Dice and 95HD change when scans are changed as scanners and users change them.

    python Testing/benchmarks/robustness.py MODEL DATA [--cases N] [--no-largest] [--output page.md]

DATA is laid out like la: <case>/{image,label}.nrrd; the last N cases are taken. Everything goes through the package's
public functions; the changes are in changes.py. A case of another scanner beside DATA (heart/hs001) makes rows too.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import numpy as np
from changes import (
    Scan,
    around,
    coarser,
    cut,
    embedded,
    letters_of,
    mirrored,
    other_scanner,
    relabelled,
    reordered,
    rescaled,
    rotated,
    stored_as,
    tighter,
    with_bias,
    with_gamma,
    with_noise,
)
from common import (
    NOTHING,
    average,
    case_folders,
    dice_of,
    machine,
    no_test,
    parser_of_model_and_cases,
    publish,
    shown,
    table,
)

from simcvd.grid import same_geometry
from simcvd.metrics import compare
from simcvd.segmentation import Segmenter, Settings

Change = Callable[[Scan], Scan]
UNCHANGED = "unchanged"
# what must not change the segmentation at all
HARMLESS: dict[str, Change] = {
    "intensity times 4": lambda scan: rescaled(scan, 4, 0),
    "intensity times 3, plus 500": lambda scan: rescaled(scan, 3, 500),
    "intensity divided by 1000, minus 0.1": lambda scan: rescaled(scan, 1e-3, -0.1),
    "stored as RAS": lambda scan: reordered(scan, "RAS"),
    "stored as RAI": lambda scan: reordered(scan, "RAI"),
    "stored as SLP": lambda scan: reordered(scan, "SLP"),
    "stored as AIR": lambda scan: reordered(scan, "AIR"),
}
CHANGES: dict[str, Change] = {
    "gamma 0.6": lambda scan: with_gamma(scan, 0.6),
    "gamma 1.6": lambda scan: with_gamma(scan, 1.6),
    "bias field, ±40 %": with_bias,
    "noise, 0.2 SD": lambda scan: with_noise(scan, 0.2),
    "noise, 0.5 SD": lambda scan: with_noise(scan, 0.5),
    "slices twice as thick": lambda scan: coarser(scan, (1, 1, 2)),
    "slices four times as thick": lambda scan: coarser(scan, (1, 1, 4)),
    "half the resolution in the slices": lambda scan: coarser(scan, (2, 2, 1)),
    "field 20 % tighter": tighter,
    "field cut at the atrium's rim": lambda scan: cut(scan, 0.0),
    "field cut through the atrium": lambda scan: cut(scan, 0.5),
    "empty margins, 25 % around the slices": lambda scan: embedded(scan, (0, 0.25, 0.25), (0, 0.25, 0.25)),
    "empty margins, 50 % at one end of each side": lambda scan: embedded(scan, (0.5, 0.5, 0.5), (0, 0, 0)),
    "left and right mirrored": mirrored,
    "patient turned by 10°": lambda scan: rotated(scan, 10),
    "patient turned by -10°": lambda scan: rotated(scan, -10),
    "a weaker scanner (shift.py)": other_scanner,
}
# Another scanner's scan of the whole chest. Its header says RAS, but its slices are sagittal, head at the end of j and
# aorta at the low end of k: i, j and k lead to A, S and R.
CHEST_AXES = "ASR"
CHEST: dict[str, Change] = {
    "{}, whole chest, axes as its header says": lambda scan: scan,
    "{}, whole chest": lambda scan: relabelled(scan, CHEST_AXES),
    "{}, cropped to the atrium and 9 mm": lambda scan: around(relabelled(scan, CHEST_AXES), 9),
    "{}, cropped to the atrium and 25 mm": lambda scan: around(relabelled(scan, CHEST_AXES), 25),
}
NOTES = (
    "Every changed scan is scored on its own grid against its label changed alike; a case in which nothing was found "
    "counts with Dice 0 and without 95HD. Letters say where i, j and k lead to.",
    "Bias: a smooth factor from 0.6 to 1.4. Noise: Rician, of so many standard deviations of the scan. Larger voxels "
    "are weighted means of what they cover. A tighter field keeps the whole atrium; a cut takes away the right side "
    "up to the atrium, or up to its middle (of which only what is left is scored). What lies beyond these scans "
    "nobody knows, so a wider field can only be had with the empty (lowest) values that scanners write there; "
    "so too the corners of turned scans. The real wide field is the chest's, whose header calls its sagittal slices "
    "axial.",
    "Voxels changed: the most in a case, in the arithmetic that users get, and in float32 behind it.",
)


def measure(segmenter: Segmenter, settings: Settings, scan: Scan) -> tuple[dict, np.ndarray]:
    """Scores of a scan (all classes as one), and its segmentation."""
    found = segmenter.segment(scan.volume, settings).labels
    scores = compare(scan.labels > 0, found > 0, scan.geometry.spacing)
    return {"case": scan.name, **scores, "dice": dice_of(scores)}, found


def voxels_changed(scan: Scan, before: np.ndarray, changed: Scan, after: np.ndarray) -> int:
    """How many voxels the segmentation of a changed scan differs in, at the same places in the world."""
    after, geometry = stored_as(after, changed.geometry, letters_of(scan.geometry))
    if not same_geometry(geometry, scan.geometry):
        raise ValueError(f"the change moved {scan.name} in the world")
    return int((before != after).sum())


def measure_case(segmenter: Segmenter, settings: Settings, scan: Scan) -> dict[str, dict]:
    """Scores of a scan under every change; with "moved" voxels where none may be, also when computed in float32."""
    exactly = replace(settings, precision="float32")
    scores, before = measure(segmenter, settings, scan)
    exact = segmenter.segment(scan.volume, exactly).labels
    rows = {UNCHANGED: scores}
    for name, change in (HARMLESS | CHANGES).items():
        changed = change(scan)
        rows[name], after = measure(segmenter, settings, changed)
        if name in HARMLESS:
            moved = voxels_changed(scan, before, changed, after)
            again = segmenter.segment(changed.volume, exactly).labels
            rows[name]["moved"] = (moved, voxels_changed(scan, exact, changed, again))
    return rows


def most_moved(rows: Iterable[dict]) -> list[int]:
    """The most voxels that moved in a case: in the usual arithmetic, and in float32; empty where none was counted."""
    counts = [row["moved"] for row in rows if "moved" in row]
    return [max(numbers) for numbers in zip(*counts, strict=True)]


def cells(name: str, rows: Sequence[dict], unchanged: float | None) -> list[str]:
    """One line of the table: means over the cases."""
    dice = average(row["dice"] for row in rows)
    worst = min(rows, key=lambda row: row["dice"])
    empty = sum(row["hd95"] is None for row in rows)
    return [
        name,
        shown(dice),
        NOTHING if unchanged is None else f"{dice - unchanged:+.2f}",
        shown(average(row["hd95"] for row in rows)) + (f" ({empty} empty)" if empty else ""),
        f"{worst['case']}: {worst['dice']:.1f}",
        ", ".join(map(str, most_moved(rows))),
    ]


def page(segmenter: Segmenter, cases: Sequence[dict[str, dict]], chest: dict[str, dict], largest: bool) -> list[str]:
    """The Markdown page."""
    card = segmenter.card
    unchanged = average(case[UNCHANGED]["dice"] for case in cases)
    names = [case[UNCHANGED]["case"] for case in cases]
    which = f"{names[0]} to {names[-1]}" if len(names) > 1 else names[0]
    usual, exact = most_moved(case[name] for case in cases for name in HARMLESS)
    rows = [cells(name, [case[name] for case in cases], None if name == UNCHANGED else unchanged) for name in cases[0]]
    rows += [cells(name, [scores], None) for name, scores in chest.items()]
    return [
        "# Robustness",
        "",
        f"Model {card['name']} {card['version']} at {segmenter.spacing[0]:g} mm, {len(names)} cases ({which})"
        + (", only the largest part kept." if largest else ".")
        + no_test(card, names),
        "",
        f"Scale, offset and axis order change at most {usual} voxels of a case, {exact} in float32 (must be 0).",
        "",
        *table(("change", "Dice [%]", "difference", "95HD [mm]", "worst case", "voxels changed"), rows),
        "",
        *(line for note in NOTES for line in (note, "")),
        machine(("torch", "numpy")),
    ]


def main(words: Sequence[str] | None = None) -> None:
    parser = parser_of_model_and_cases(__doc__)
    parser.add_argument(
        "--largest",
        action=argparse.BooleanOptionalAction,
        help="keep only the largest part (default: as the card says)",
    )
    arguments = parser.parse_args(words)
    segmenter = Segmenter(arguments.model, "cpu")
    largest = segmenter.card.get("largest", False) if arguments.largest is None else arguments.largest
    settings = Settings(largest=largest)
    cases = []
    for folder in case_folders(arguments.data)[-max(arguments.cases, 1) :]:
        print(folder.name, file=sys.stderr, flush=True)
        cases.append(measure_case(segmenter, settings, Scan.read(folder)))
    chest = {}
    heart = arguments.data.resolve().parent / "heart" / "hs001"
    if heart.is_dir():
        scan = Scan.read(heart)
        chest = {
            name.format("heart/hs001"): measure(segmenter, settings, change(scan))[0] for name, change in CHEST.items()
        }
    publish(page(segmenter, cases, chest, largest), arguments.output)


if __name__ == "__main__":
    main()
