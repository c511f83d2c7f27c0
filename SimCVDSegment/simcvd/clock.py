"""How long the parts of a piece of work took."""

from __future__ import annotations

import time


class Clock:
    """Seconds of one part after the other."""

    def __init__(self):
        self._parts: dict[str, float] = {}
        self._begun = self._last = time.perf_counter()

    def lap(self, part: str) -> None:
        """A part ends here."""
        now = time.perf_counter()
        self._parts[part] = now - self._last
        self._last = now

    def seconds(self) -> dict[str, float]:
        """All parts so far, and their total."""
        return {**self._parts, "total": self._last - self._begun}
