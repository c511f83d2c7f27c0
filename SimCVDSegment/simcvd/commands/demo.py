"""simcvd demo: the whole story on synthetic scans: draw, train, segment, report."""

from __future__ import annotations

import argparse
import shutil
from dataclasses import dataclass
from pathlib import Path

from ..cases import cases_from_folder
from ..errors import SimCVDError
from ..evaluation import REPORT_FILES, evaluate
from ..files import is_empty, read_json, write_json
from ..phantom import write_cohort
from ..pytorch import check_torch
from ..report import summary
from ..scans import find_scans
from .arguments import results_folder
from .console import Console
from .segment import outputs_for, segment_scans
from .train import train

DESCRIPTION = """Draws synthetic heart scans, trains a small model on a few outlined and many plain ones, segments scans
it has never seen and reports how well that went. It needs no data and no network, and takes about two minutes."""
MARK = "demo.json"  # says that a folder is the demo's, which may then start anew in it
PARTS = ("scans", "unseen", "run", "segmentations", *REPORT_FILES)
SEGMENT = {
    "value": 1,
    "name": "Left atrium",
    "color": [0.86, 0.37, 0.34],
    "terminology": {
        "category": ["SCT", "123037004", "Anatomical Structure"],
        "type": ["SCT", "82471001", "Left atrium"],
        "modifier": None,
        "region": None,
    },
}


class DemoError(SimCVDError):
    """The demo has nowhere to write."""


@dataclass(frozen=True)
class Scale:
    """How large the story is: what two cores do in two minutes, unless said otherwise."""

    labelled: int = 6
    unlabelled: int = 12
    unseen: int = 2
    spacing: float = 3.0
    iterations: int = 500


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "--output",
        type=results_folder,
        default=Path("demo"),
        metavar="FOLDER",
        help="a new folder, or that of an earlier demo",
    )


def run(args: argparse.Namespace) -> int:
    """Tell the story."""
    check_torch()
    tell(args.output, Scale(), Console())
    return 0


def tell(folder: Path, scale: Scale, console: Console) -> list[dict]:
    """Run the demo in `folder`; the rows of its report.

    Raises DemoError when the folder holds anything that isn't an earlier demo's.
    """
    from ..segmentation import Segmenter, Settings

    _claim(folder)
    step = (scale.spacing,) * 3
    console.say(
        f"1. Drawing {scale.labelled + scale.unlabelled + scale.unseen} synthetic heart scans "
        f"({scale.spacing:g} mm voxels) into {folder}."
    )
    write_cohort(folder / "scans", scale.labelled + scale.unlabelled, seed=1, spacing=step)
    write_cohort(folder / "unseen", scale.unseen, seed=2, spacing=step)

    console.say(
        f"\n2. Learning the left atrium from {scale.labelled} outlined scans and {scale.unlabelled} without an outline "
        f"(SimCVD, a small network, {scale.iterations} steps)."
    )
    _create_run(folder, scale)
    train(folder / "run", console)

    console.say(f"\n3. Segmenting {scale.unseen} scans that the model has never seen.")
    segmenter = Segmenter(folder / "run" / "model")
    scans = find_scans([folder / "unseen"])
    outputs = {name: outputs_for(folder / "segmentations", name, segmenter.card) for name, _ in scans}
    _, failed = segment_scans(segmenter, scans, outputs, Settings(largest=True), console)
    if failed:
        raise DemoError(f"The demo's scan {failed[0]['name']} can't be segmented ({failed[0]['reason']}); report it.")

    console.say("\n4. Comparing with the true outlines.")
    rows = evaluate(folder / "unseen", folder / "segmentations", folder, names={1: SEGMENT["name"]})
    for row in rows:
        figures = row["note"] or f"Dice {row['dice']:.1f} %, average surface distance {row['assd']:.1f} mm"
        console.say(f"{row['case']}: {figures}")
    dice = summary(rows)[SEGMENT["name"]]["dice"]["mean"]
    console.say(
        f"\nMean Dice {dice:.1f} % (100 is perfect). Open {folder / 'report.html'} in a browser for the pictures."
    )
    return rows


def _create_run(folder: Path, scale: Scale) -> None:
    from ..training.setup import create_run

    wishes = {
        "iterations": scale.iterations,
        "network": {"n_filters": 8},
        "patch": [16, 32, 32],
        "optimiser": {"lr": 0.1},
        "precision": "float32",  # half of it gains nothing in a network so small
        # heads for slices of 32 x 32 pixels rather than 112 x 112
        "settings": {"pool_size": 32, "head_hidden": 64, "head_width": 32},
        "validate_percent": 100,
        "model": {
            "name": "demo",
            "title": "Left atrium, synthetic",
            "description": "Trained by simcvd demo on synthetic scans; of no use on real ones.",
            "modality": "synthetic late-enhanced MR",
            "data": "simcvd.phantom",
            "segments": [SEGMENT],
        },
    }
    cases = cases_from_folder(folder / "scans", scale.labelled, validation=0)
    create_run(folder / "run", cases, "simcvd", (scale.spacing,) * 3, "short", wishes)


def _claim(folder: Path) -> None:
    """Make the folder ready for a demo from the start; raises DemoError when it isn't the demo's."""
    if folder.exists() and not folder.is_dir():
        raise DemoError(f"{folder} is a file; choose another folder with --output.")
    if folder.is_dir() and not is_empty(folder) and not _is_ours(folder):
        raise DemoError(f"{folder} is not empty and not an earlier demo's; choose another folder with --output.")
    for part in PARTS:
        path = folder / part
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    write_json(folder / MARK, {"made_by": "simcvd demo"})


def _is_ours(folder: Path) -> bool:
    try:
        return read_json(folder / MARK) == {"made_by": "simcvd demo"}
    except (OSError, ValueError):
        return False
