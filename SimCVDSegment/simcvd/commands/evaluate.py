"""simcvd evaluate: predictions against references, as a table, CSV, JSON and an HTML page with pictures."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..evaluation import REPORT_FILES, evaluate
from ..report import format_table, summary
from .arguments import results_folder
from .console import Console

DESCRIPTION = """Scores segmentations against references: Dice, Jaccard, 95HD, ASD, ASSD and volumes, with their
definitions. Two files are compared with each other; folders are matched by file name, or by the case's folder for
<case>/label.*. Writes report.csv, report.json and report.html (opens offline, with pictures of every case)."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--reference", required=True, type=Path, metavar="REF", help="label map, or folder of them")
    parser.add_argument(
        "--prediction", required=True, type=Path, metavar="PRED", help="segmentation, or folder of them"
    )
    parser.add_argument(
        "--output", type=results_folder, metavar="FOLDER", help="where the report goes; without it: no files"
    )
    parser.add_argument("--images", type=Path, metavar="PATH", help="scans for the pictures; default: beside REF")
    parser.add_argument(
        "--label",
        action="append",
        default=[],
        type=_label,
        metavar="VALUE=NAME",
        help="name of a label in the report, for example --label '1=Left atrium'; may be repeated",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace a report that is there")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")


def run(args: argparse.Namespace) -> int:
    """Score, print and write."""
    console = Console(args.json)
    notes = []

    def warn(note: str) -> None:
        notes.append(note)
        if not args.json:
            console.warn(note)

    rows = evaluate(
        args.reference,
        args.prediction,
        args.output,
        args.images,
        dict(args.label) or None,
        lambda i, n, case: console.progress(i / n, case),
        warn,
        args.overwrite,
    )
    console.finish()
    files = [str(args.output / name) for name in REPORT_FILES] if args.output else []
    console.result({"rows": rows, "summary": summary(rows), "files": files, "notes": notes})
    console.say(format_table(rows))
    if args.output:
        console.say(f"\nThe report is in {args.output}: open {args.output / 'report.html'} in a browser.")
    return 0


def _label(text: str) -> tuple[int, str]:
    value, _, name = text.partition("=")
    if not value.strip().isdecimal() or not name.strip():
        raise argparse.ArgumentTypeError(f"{text!r} is not VALUE=NAME, such as 1=Atrium")
    return int(value), name.strip()
