"""simcvd worker: the process behind the Segment button of 3D Slicer; for programs, see worker.py."""

from __future__ import annotations

import argparse

from ..worker import IDLE_SECONDS, serve

DESCRIPTION = """Takes requests as JSON lines on stdin and answers with JSON lines on stdout, with the model kept warm.
The lines are described in simcvd/worker.py."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "--idle", type=float, default=IDLE_SECONDS, metavar="SECONDS", help="end after so long without a request"
    )


def run(args: argparse.Namespace) -> int:
    """Serve until told to stop, until stdin is closed, or until nothing was asked for long enough."""
    serve(args.idle)
    return 0
