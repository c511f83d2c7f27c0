"""One JSON object per line: what a background process says while it works."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

from .files import patiently


class EventLog:
    """Appends events to a file, one JSON object a line, each written whole with a single system call.

    Every line has `event` (preparing, start, stage, step, guess, validation, checkpoint, warning, error, paused,
    resumed, stopped, finishing, fold, done) and `time` (seconds since 1970). A half line left by a killed process is
    closed before the next one is written, so that a reader never sees two events in one line.

    Args:
        path: the file, usually `run/events.jsonl`; made when missing.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)
        self._closed_last_line = False

    def write(self, event: str, **fields) -> None:
        """Append one event; fields must be JSON values."""
        line = json.dumps({"event": event, "time": round(time.time(), 3), **fields}, allow_nan=False) + "\n"
        with patiently(lambda: open(self.path, "ab")) as f:
            if not self._closed_last_line and f.tell() and not _ends_with_newline(self.path):
                line = "\n" + line
            self._closed_last_line = True
            f.write(line.encode())


def read_events(path: str | os.PathLike, offset: int = 0, limit: int | None = None) -> tuple[list[dict], int]:
    """Events from byte `offset` on, and the offset to go on from; unfinished or damaged lines are passed over.

    limit: stop after about so many bytes, so that a long file is read in pieces; None reads all.
    Returns ([], 0) when the file is not there yet.
    """
    try:
        with patiently(lambda: open(path, "rb")) as f:
            f.seek(offset)
            data = f.read(limit)
            while limit and len(data) % limit == 0 and b"\n" not in data and (more := f.read(limit)):
                data += more  # a line longer than the limit
    except FileNotFoundError:
        return [], 0
    whole, _, _ = data.rpartition(b"\n")
    events = []
    for line in whole.split(b"\n"):
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict) and "event" in event:
            events.append(event)
    return events, offset + (len(whole) + 1 if whole else 0)


def _ends_with_newline(path: Path) -> bool:
    with open(path, "rb") as f:
        f.seek(-1, os.SEEK_END)
        return f.read(1) == b"\n"
