"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import secrets
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

DEVICE_NAME = r"(?i:con|prn|aux|nul|com[0-9]|lpt[0-9])(?:\.|$)"  # what starts so is no file on Windows
PAUSES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.8, 1.0)  # seconds
IN_USE = (5, 32, 33)  # what Windows calls a file that somebody has open
ON_WINDOWS = os.name == "nt"
OF_DESKTOPS = (".ds_store", "desktop.ini", "thumbs.db")  # what they leave in folders that they show


def patiently(act: Callable[[], T]) -> T:
    """Rename, remove or open something, again for some seconds where Windows says that it is in use.

    There a virus scanner, an index or whoever watches a run has each new file open for a moment.
    """
    for pause in PAUSES:
        try:
            return act()
        except PermissionError as error:
            if not is_in_use(error):
                raise
        time.sleep(pause)
    return act()


def is_in_use(error: OSError) -> bool:
    """Whether Windows refused something because somebody has the file open, which may pass."""
    reason = getattr(error, "winerror", None)
    return reason in IN_USE or (ON_WINDOWS and error.errno == errno.EACCES and reason is None)  # open() gives no number


def remove_if_possible(*paths: Path) -> None:
    """Remove files where that can be done, when something else went wrong that says more."""
    for path in paths:
        with contextlib.suppress(OSError):
            patiently(lambda path=path: path.unlink(missing_ok=True))


def name_beside(path: Path, ending: str = "") -> Path:
    """A name that nothing has yet, in the folder of `path`.

    Not by `tempfile`: on Windows it tries two thousand million names where nothing may be written, and lets nobody else
    into the folders that it makes.
    """
    return path.with_name(f".{secrets.token_hex(4)}-{ending or path.name}")


def is_empty(folder: Path) -> bool:
    """Whether nothing is in a folder but what desktops leave there."""
    return all(path.name.lower() in OF_DESKTOPS for path in folder.iterdir())


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike, durable: bool = True) -> Iterator[Path]:
    """Give a temporary path beside `path` to write to; move it onto `path` on success, remove it on failure.

    durable: wait until the disk has it, so that a power cut can't take it; not worth the time for scratch files.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # the name keeps its ending, by which writers choose the format, and only letters that all of them can open
    plain = path.name.encode("ascii", errors="ignore").decode()
    temporary = name_beside(path, plain)
    temporary.touch(exist_ok=False)
    try:
        yield temporary
        if durable:
            _flush_to_disk(temporary)
        patiently(lambda: os.replace(temporary, path))
    finally:
        remove_if_possible(temporary)


def write_json(path: str | os.PathLike, value) -> None:
    """Write JSON with two-space indents, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def read_json(path: str | os.PathLike):
    """Read a JSON file; raises OSError or ValueError."""
    return json.loads(Path(path).read_text(encoding="utf-8"))


def read_word(path: str | os.PathLike) -> str | None:
    """The word in a file that a user or a shell wrote, in whichever encoding; None where there is none."""
    try:
        written = Path(path).read_bytes()
    except OSError:
        return None
    # UTF-16, as PowerShell writes it, is ASCII with zeros between, and a mark in front like UTF-8's
    return written.replace(b"\0", b"").decode("ascii", errors="ignore").strip() or None


def sha256(path: str | os.PathLike) -> str:
    """SHA-256 of a file's content, in hex."""
    digest = hashlib.sha256()
    with open(path, "rb") as f:
        while block := f.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _flush_to_disk(path: Path) -> None:
    # without it a power cut can leave the new name with no content; Windows flushes only what is open for writing
    with open(path, "r+b") as f:
        os.fsync(f.fileno())
