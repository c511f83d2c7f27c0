"""Files that one process at a time can hold; the system frees them when the process ends, however it ends."""

from __future__ import annotations

import os
import time

TRIES, WAIT_SECONDS = 4, 0.1


def claim(file) -> None:
    """Hold an open file until it is closed; raises OSError when another process has it.

    It is tried for a moment, because whoever only looks (`is_claimed`) holds the file while looking.
    """
    for _ in range(TRIES - 1):
        try:
            return _claim(file)
        except OSError:
            time.sleep(WAIT_SECONDS)
    return _claim(file)


def is_claimed(path: str | os.PathLike) -> bool:
    """Whether a process holds the file; False too where it is not there."""
    try:
        file = open(path, "r+b" if os.access(path, os.W_OK) else "rb")  # noqa: SIM115 - closed below
    except OSError:
        return False
    with file:
        try:
            _claim(file)
        except OSError:
            return True
    return False


def _claim(file) -> None:
    if os.name == "nt":
        import msvcrt

        file.seek(0)  # the same byte for everybody
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
