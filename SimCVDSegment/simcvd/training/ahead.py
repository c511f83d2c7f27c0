"""Work that follows from the iteration alone, done by threads for the iterations to come."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Generic, TypeVar

T = TypeVar("T")


class Ahead(Generic[T]):
    """Draws the crops of some iterations ahead of the steps; a context manager.

    Args:
        draw: from an iteration to what is drawn for it.
        count: of the iterations ahead, each drawn by a thread of its own.
    """

    def __init__(self, draw: Callable[[int], T], count: int):
        self._draw, self._count = draw, count
        self._coming: dict[int, Future[T]] = {}
        self._pool = ThreadPoolExecutor(count)

    def __enter__(self) -> Ahead[T]:
        return self

    def __exit__(self, *_) -> None:
        self._pool.shutdown(cancel_futures=True)

    def take(self, iteration: int) -> T:
        """What is drawn for an iteration; those that follow it are begun."""
        for n in range(iteration, iteration + self._count + 1):
            if n not in self._coming:
                self._coming[n] = self._pool.submit(self._draw, n)
        return self._coming.pop(iteration).result()

    def forget(self) -> None:
        """Forget what was drawn, once nothing is being drawn: from now on it would be drawn differently."""
        for future in self._coming.values():
            future.cancel()
        wait(self._coming.values())
        self._coming.clear()
