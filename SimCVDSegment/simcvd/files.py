"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

DEVICE_NAME = r"(?i:con|prn|aux|nul|com[0-9]|lpt[0-9])(?:\.|$)"  # what starts so is no file on Windows
PAUSES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.8, 1.0)  # seconds
IN_USE = (5, 32, 33)  # what Windows calls a file that somebody has open


def patiently(act: Callable[[], object]) -> None:
    """Rename or remove something, again for some seconds where Windows says that it is in use.

    There a virus scanner, an index or whoever watches a run has each new file open for a moment.
    """
    for pause in PAUSES:
        try:
            act()
            return
        except PermissionError as error:
            if getattr(error, "winerror", None) not in IN_USE:
                raise
        time.sleep(pause)
    act()


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike, durable: bool = True) -> Iterator[Path]:
    """Give a temporary path beside `path` to write to; move it onto `path` on success, remove it on failure.

    durable: wait until the disk has it, so that a power cut can't take it; not worth the time for scratch files.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # the name keeps its ending, by which writers choose the format, and only letters that all of them can open
    plain = path.name.encode("ascii", errors="ignore").decode()
    handle, name = tempfile.mkstemp(prefix=".", suffix="-" + plain, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        if durable:
            _flush_to_disk(temporary)
        temporary.chmod(0o666 & ~_umask())
        patiently(lambda: os.replace(temporary, path))
    finally:
        with contextlib.suppress(OSError):  # what went wrong before says more
            patiently(lambda: temporary.unlink(missing_ok=True))


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


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
