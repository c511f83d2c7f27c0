"""The kind of argument that all commands which write take."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..images import SUFFIXES

FILES = (*SUFFIXES, ".html", ".csv", ".json")


def results_folder(text: str) -> Path:
    """The folder for what a command writes; ArgumentTypeError for a file, or what is called so and isn't there yet.

    It would become a folder of that name, where whoever asked for a file looks for one.
    """
    path = Path(text)
    if path.is_file() or (path.name.lower().endswith(FILES) and not path.exists()):
        raise argparse.ArgumentTypeError(f"give a folder for the results, not a file such as {text}")
    return path
