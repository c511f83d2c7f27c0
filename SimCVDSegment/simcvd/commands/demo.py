"""simcvd demo: the whole story on synthetic scans."""

from __future__ import annotations

import argparse
from pathlib import Path

from .console import Console

DESCRIPTION = """Draws synthetic heart scans, trains a small model on a few outlined and many plain ones, segments scans
it has never seen and reports how well that went. It needs no data and no network, and takes about two minutes."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "--output", type=Path, default=Path("demo"), metavar="FOLDER", help="a new folder, or that of an earlier demo"
    )


def run(args: argparse.Namespace) -> int:
    """Tell the story."""
    from ..demo import Scale, tell

    tell(args.output, Scale(), Console())
    return 0
