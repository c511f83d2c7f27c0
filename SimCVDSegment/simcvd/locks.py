"""Files that one process at a time can hold; the system frees them when the process ends, however it ends."""

from __future__ import annotations

import errno
import os
import time

HELD = {errno.EACCES, errno.EAGAIN, errno.EWOULDBLOCK, errno.EDEADLK}  # what systems answer when another one has it
TRIES, WAIT_SECONDS = 4, 0.1


def claim(file) -> bool:
    """Hold an open file until it is closed; raises BlockingIOError when another process has it.

    It is tried for a moment, because whoever only looks (`is_claimed`) holds the file while looking. False where the
    file system knows no locks, as on some clusters: there nobody can hold a file, nor know who uses it.
    """
    for attempt in range(TRIES):
        try:
            _claim(file)
            return True
        except OSError as error:
            if error.errno not in HELD:
                return False
        if attempt < TRIES - 1:
            time.sleep(WAIT_SECONDS)
    raise BlockingIOError(errno.EAGAIN, "another process has the file")


def is_claimed(path: str | os.PathLike) -> bool:
    """Whether a process holds the file; False too where it is not there."""
    try:
        file = open(path, "r+b" if os.access(path, os.W_OK) else "rb")  # noqa: SIM115 - closed below
    except OSError:
        return False
    with file:
        try:
            _claim(file)
        except OSError as error:
            return error.errno in HELD
    return False


def _claim(file) -> None:
    if os.name == "nt":
        import msvcrt

        file.seek(0)  # the same byte for everybody
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
