"""What a command says: results on stdout, notes and progress on stderr, nothing but JSON for machines."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator

from ..errors import SimCVDError

INTERRUPTED = 130  # exit code of a command that Ctrl+C stopped, as shells expect it
EVERY_SECONDS = 30  # between two lines of progress where there is no terminal
BAR_WIDTH = 24
_SMALLEST_STEP = 0.1  # seconds between two drawings of the bar


class Interrupted(Exception):  # noqa: N818 - nothing went wrong
    """Ctrl+C was obeyed; the message says how to go on."""


def processes() -> int:
    """How many processes torchrun has started this command in; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def check_alone(command: str) -> None:
    """Raise SimCVDError where torchrun started a command that would do everything in each of its processes."""
    if processes() > 1:
        raise SimCVDError(f"{command} runs in one process; start it without torchrun.")


@contextlib.contextmanager
def stopping_at_sigterm() -> Iterator[None]:
    """Take SIGTERM, with which a queue or a shutdown ends a process, for Ctrl+C meanwhile."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def printable(text: str) -> str:
    """A text in which names that are none, as files of other systems have them, can be printed."""
    return text.encode("utf-8", "replace").decode()


class Console:
    """Speaks to people, or with `machine` set prints only JSON.

    Progress is a bar on stderr where that is a terminal, and a plain line every half minute where it is not.
    """

    def __init__(self, machine: bool = False):
        self.machine = machine
        self._bar = sys.stderr.isatty() and not machine
        self._width = 0
        self._begun = self._last = None

    def say(self, text: str = "") -> None:
        """A line for people on stdout."""
        if not self.machine:
            self.clear()
            print(printable(text), flush=True)

    def warn(self, text: str) -> None:
        """A line on stderr, for machines too."""
        self.clear()
        print(printable(f"simcvd: {text}"), file=sys.stderr, flush=True)

    def result(self, value) -> None:
        """One line of JSON on stdout, when machines listen."""
        if self.machine:
            print(json.dumps(value), flush=True)

    def progress(self, fraction: float, text: str, seconds_left: float | None = None) -> None:
        """Show how far the work is; the time left is judged from the pace since the first call unless it is given."""
        if self.machine:
            return
        now = time.monotonic()
        if self._begun is None:
            self._begun, self._last = (now, fraction), now - (_SMALLEST_STEP if self._bar else 0)
        if now - self._last < (_SMALLEST_STEP if self._bar else EVERY_SECONDS) and not (self._bar and fraction >= 1):
            return
        self._last = now
        if seconds_left is None:
            begun, start = self._begun
            seconds_left = (now - begun) * (1 - fraction) / (fraction - start) if fraction > start else None
        self._show(fraction, text + (f", {duration(seconds_left)} left" if seconds_left is not None else ""))

    def clear(self) -> None:
        """Take the bar off the terminal."""
        if self._width:
            print("\r" + " " * self._width + "\r", end="", file=sys.stderr, flush=True)
            self._width = 0

    def finish(self) -> None:
        """End a piece of work: the next progress is another one's."""
        self.clear()
        self._begun = self._last = None

    def _show(self, fraction: float, text: str) -> None:
        if not self._bar:
            print(printable(f"{fraction:4.0%} {text}"), file=sys.stderr, flush=True)
            return
        full = round(BAR_WIDTH * fraction)
        line = f"[{'#' * full}{'.' * (BAR_WIDTH - full)}] {fraction:4.0%} {text}"
        line = line[: shutil.get_terminal_size().columns - 1]
        print(printable("\r" + line.ljust(self._width)), end="", file=sys.stderr, flush=True)
        self._width = len(line)


def pasted(words: Iterable[str]) -> str:
    """A command as it can be pasted into a terminal."""
    return subprocess.list2cmdline(words) if os.name == "nt" else shlex.join(words)


def duration(seconds: float) -> str:
    """Seconds as people say them."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
