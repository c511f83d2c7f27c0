"""Boxes in a volume (K, J, I): three slices with start and stop (numpy only)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

Box = tuple[slice, slice, slice]
NOWHERE: Box = (slice(0, 0),) * 3


def bounding_box(mask: np.ndarray) -> Box | None:
    """The smallest box, as three slices, that holds all of a mask (K, J, I); None for an empty mask."""
    plane = mask.any(axis=0)
    rows, columns = extent(plane.any(axis=1)), extent(plane.any(axis=0))
    if rows is None or columns is None:
        return None
    slices = extent(mask[:, rows, columns].any(axis=(1, 2)))
    return (slices, rows, columns) if slices else None


def extent(line: np.ndarray) -> slice | None:
    """From the first to the last that is true."""
    inside = np.flatnonzero(line)
    return slice(int(inside[0]), int(inside[-1]) + 1) if len(inside) else None


def everything(shape: Sequence[int]) -> Box:
    """The box of a whole array."""
    return tuple(slice(0, n) for n in shape)


def size(box: Box) -> tuple[int, int, int]:
    """The shape of what lies in a box."""
    return tuple(s.stop - s.start for s in box)


def union(a: Box, b: Box) -> Box:
    """The smallest box that holds both; an empty box adds nothing."""
    if 0 in size(a):
        return b
    if 0 in size(b):
        return a
    return tuple(slice(min(x.start, y.start), max(x.stop, y.stop)) for x, y in zip(a, b, strict=True))


def grown(box: Box, by: Sequence[int], shape: Sequence[int]) -> Box:
    """A box with `by` voxels more on each side of each axis, within an array of a shape."""
    if 0 in size(box):
        return box
    return tuple(
        slice(max(s.start - more, 0), min(s.stop + more, n)) for s, more, n in zip(box, by, shape, strict=True)
    )


def at_least(box: Box, sides: Sequence[int], shape: Sequence[int]) -> Box:
    """A box made as large as `sides`, alike on both sides as far as an array of a shape allows."""
    larger = []
    for s, side, n in zip(box, sides, shape, strict=True):
        missing = max(min(side, n) - (s.stop - s.start), 0)
        start = min(max(s.start - missing // 2, 0), n - (s.stop - s.start) - missing)
        larger.append(slice(start, start + (s.stop - s.start) + missing))
    return tuple(larger)


def moved(box: Box, by: Sequence[int]) -> Box:
    """A box so many voxels further along each axis."""
    return tuple(slice(s.start + n, s.stop + n) for s, n in zip(box, by, strict=True))


def holds(outer: Box, inner: Box) -> bool:
    """Whether a box lies in another."""
    return 0 in size(inner) or all(o.start <= i.start and i.stop <= o.stop for o, i in zip(outer, inner, strict=True))


def relative(inner: Box, outer: Box) -> Box:
    """Where a box lies in the array of what `outer` holds."""
    if 0 in size(inner):
        return NOWHERE
    return tuple(slice(i.start - o.start, i.stop - o.start) for i, o in zip(inner, outer, strict=True))
