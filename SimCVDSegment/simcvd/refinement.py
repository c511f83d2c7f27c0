"""A segment's boundary, edited through its distance map: moved as a whole, or across points that the user places.

Runs inside Slicer: numpy, and SciPy where it is used.

The edited map is  d = base - offset - bumps,  and the segment is where d <= 0. `base` is the distance map, smoothed if
wanted; a bump is a (1 - (r / R)^2)^2 within the radius R of a point and nothing beyond, so that d stays smooth.

- A point stands for the voxel that holds it. One that is on the wrong side gets a bump just high enough that its voxel
  lies on the wanted side by half the smallest spacing, as voxels beside a boundary do. One on its side does nothing.
- Points of one kind help each other: a bump is only as high as those around it leave to do.
- R is the point's radius, but at least 1.6 times the height that the point alone needs. A bump's slope is at most
  1.54 a / R; below 1 it pulls the boundary along, as one surface, instead of opening an island or a hole.
- A bump ends before the nearest point of the other kind, however small R then gets, and can't undo what was said there.
- Of several points in one voxel the last one counts; a point beyond the volume does nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from .boxes import NOWHERE, Box, bounding_box, everything, extent, grown, holds, relative, size, union

STEEPNESS = 1.6  # radius over height; more than 8 / (3 sqrt(3)) = 1.54
SWEEPS = 20  # over the heights of bumps that overlap; more hardly lower them
SMOOTHED_TO = 10.0  # mm outside the boundary: how far a smoothed map is made at once, so that offsets are quick
TRUNCATE = 3.0  # standard deviations to the end of the smoothing kernel


class Point(NamedTuple):
    """Where the user says that the segment is, or is not.

    position: (k, j, i), voxel indices with fractions.
    inside: whether the segment shall hold it.
    radius: mm around it that give way.
    """

    position: tuple[float, float, float]
    inside: bool
    radius: float


class Change(NamedTuple):
    """What an update did.

    box: three slices that hold every changed voxel, or None.
    mask: the segment within the box, bool, the caller's to change; None without a box.
    """

    box: Box | None
    mask: np.ndarray | None


class Refinement:
    """The boundary of one segment.

    Args:
        sdm: (K, J, I), float32, mm, negative inside; it is kept and not changed.
        spacing: mm along I, J, K.

    Attributes:
        mask: (K, J, I), bool, the segment after the last update; at first it is where `sdm` is not positive.
    """

    def __init__(self, sdm: np.ndarray, spacing: Sequence[float]):
        if np.ndim(sdm) != 3 or len(spacing) != 3 or not all(math.isfinite(s) and s > 0 for s in spacing):
            raise ValueError("A refinement needs a distance map (K, J, I) and three positive spacings in mm.")
        self._sdm = np.asarray(sdm, np.float32)
        self._spacing = np.array(spacing[::-1], float)  # along K, J, I
        self._lowest = _lowest_of_slabs(self._sdm)
        self._smoothed: tuple[float, Box, np.ndarray | None] = 0.0, NOWHERE, None
        self._edit: tuple[np.float32, list[_Bump], float] = np.float32(0), [], 0.0
        self._box = self._box_below(0.0)
        self.mask = np.zeros(self._sdm.shape, bool)
        self.mask[self._box] = self._sdm[self._box] <= 0

    def update(
        self,
        offset: float = 0.0,
        points: Sequence[Point] = (),
        largest: bool = False,
        fill_holes: bool = False,
        smoothing: float = 0.0,
    ) -> Change:
        """Draw the boundary anew; what was asked for before is forgotten.

        Args:
            offset: mm by which it moves outwards (negative: inwards).
            points: what it has to hold and to leave out.
            largest: keep only the largest part, connected across faces, and the parts that hold an inside point.
            fill_holes: fill background that is closed in across faces, unless an outside point lies in it.
            smoothing: mm, standard deviation of a Gaussian over the distance map; points are met after it.

        Takes milliseconds to tens of them for an atrium, as it looks only at the box around the segment and the bumps.
        """
        if not (math.isfinite(offset) and math.isfinite(smoothing) and smoothing >= 0):
            raise ValueError("Offset and smoothing must be numbers of mm, and the smoothing not negative.")
        level = np.float32(offset)
        marks = self._marks(points)
        bumps = self._bumps(marks, level, smoothing)
        box = self._box_below(level, smoothing)
        for bump in bumps:
            box = union(box, bump.box)
        mask = _lowered(self._base(box, smoothing), box, bumps) <= level
        if largest and mask.size:
            mask = _largest(mask, _places(marks, True, box))
        if fill_holes and mask.size:
            mask = _filled(mask, _places(marks, False, box))
        self._edit = level, bumps, smoothing
        return self._replace(box, mask)

    @property
    def distance(self) -> np.ndarray:
        """The edited map d (K, J, I), float32, mm; made when asked for, of the whole volume, which takes its time.

        It is negative or zero exactly where the mask is: what `largest` dropped or `fill_holes` filled has its sign
        turned.
        """
        level, bumps, smoothing = self._edit
        whole = everything(self._sdm.shape)
        base = self._gaussian(whole, smoothing) if smoothing else self._sdm
        result = _lowered(base, whole, bumps) - level
        turned = (result <= 0) != self.mask
        result[turned] = np.where(self.mask[turned], -result[turned], np.maximum(-result[turned], _TINY))
        return result

    def _marks(self, points: Iterable[Point]) -> list[_Mark]:
        """The voxels that points stand for, each once."""
        marks = {}
        for position, inside, radius in points:
            voxel = tuple(math.floor(x + 0.5) for x in position)
            if all(0 <= x < n for x, n in zip(voxel, self._sdm.shape, strict=True)):
                marks[voxel] = _Mark(voxel, bool(inside), float(radius))
        return list(marks.values())

    def _bumps(self, marks: list[_Mark], level: np.float32, smoothing: float) -> list[_Bump]:
        """What has to come off the map for every mark to lie on its side."""
        if not marks:
            return []
        side = np.array([1.0 if mark.inside else -1.0 for mark in marks])
        value = np.array([self._base(_voxel_box(mark.voxel), smoothing).item() - level for mark in marks], float)
        need = np.where((value <= 0) == (side > 0), 0.0, np.abs(value) + self._spacing.min() / 2)
        places = np.array([mark.voxel for mark in marks]) * self._spacing
        apart = np.linalg.norm(places[:, None] - places, axis=2)
        alike = side[:, None] == side
        radius = np.maximum([mark.radius for mark in marks], STEEPNESS * need)
        radius = np.minimum(radius, np.where(alike, np.inf, apart).min(axis=1))
        radius = np.maximum(radius, self._spacing.min())  # a mark alone in its voxel
        heights = _heights(need, _bell(apart**2, radius) * alike)
        return [
            self._bump(mark.voxel, sign * height, r)
            for mark, sign, height, r in zip(marks, side, heights, radius, strict=True)
            if height > 0
        ]

    def _bump(self, voxel: tuple[int, int, int], height: float, radius: float) -> _Bump:
        reach = [math.ceil(radius / s) for s in self._spacing]
        box = grown(_voxel_box(voxel), reach, self._sdm.shape)
        axes = [((np.arange(b.start, b.stop) - x) * s) ** 2 for b, x, s in zip(box, voxel, self._spacing, strict=True)]
        squared = sum(np.ix_(*(a.astype(np.float32) for a in axes)))
        return _Bump(box, np.float32(height) * _bell(squared, np.float32(radius)))

    def _base(self, box: Box, smoothing: float) -> np.ndarray:
        """The distance map within a box, smoothed if wanted; what was smoothed once is kept."""
        if not smoothing:
            return self._sdm[box]
        known, there, values = self._smoothed
        if known != smoothing or not holds(there, box):
            there = union(box, there if known == smoothing else self._box_below(SMOOTHED_TO, smoothing))
            values = self._gaussian(there, smoothing)
            self._smoothed = smoothing, there, values
        return values[relative(box, there)]

    def _gaussian(self, box: Box, smoothing: float) -> np.ndarray:
        from scipy import ndimage

        wider = grown(box, self._kernel(smoothing), self._sdm.shape)
        values = ndimage.gaussian_filter(
            self._sdm[wider], smoothing / self._spacing, mode="nearest", truncate=TRUNCATE, output=np.float32
        )
        return values[relative(box, wider)]

    def _kernel(self, smoothing: float) -> list[int]:
        """Voxels to each side that the smoothing looks at."""
        return [math.ceil(TRUNCATE * smoothing / s + 0.5) if smoothing else 0 for s in self._spacing]

    def _box_below(self, level: float, smoothing: float = 0.0) -> Box:
        """A box around all voxels whose (smoothed) distance is not above a level."""
        sides = [extent(lowest <= level) for lowest in self._lowest]
        return grown(tuple(sides), self._kernel(smoothing), self._sdm.shape) if all(sides) else NOWHERE

    def _replace(self, box: Box, mask: np.ndarray) -> Change:
        """Make a mask within a box the segment, with nothing outside."""
        either = union(self._box, box)
        new = np.zeros(size(either), bool)
        new[relative(box, either)] = mask
        changed = bounding_box(new != self.mask[either])
        self.mask[either] = new
        self._box = box
        if changed is None:
            return Change(None, None)
        place = tuple(slice(e.start + c.start, e.start + c.stop) for e, c in zip(either, changed, strict=True))
        return Change(place, new[changed])


def free_of(mask: np.ndarray, others: Iterable[np.ndarray]) -> np.ndarray:
    """The part of a mask that none of the other segments' masks (same shape) holds: neighbours are never eaten."""
    result = np.array(mask, bool)
    for other in others:
        if np.shape(other) != result.shape:
            raise ValueError(f"A neighbour of shape {np.shape(other)} lies beside a mask of shape {result.shape}.")
        result &= np.logical_not(other)
    return result


_TINY = np.finfo(np.float32).tiny


class _Mark(NamedTuple):
    voxel: tuple[int, int, int]
    inside: bool
    radius: float


class _Bump(NamedTuple):
    box: Box
    values: np.ndarray


def _lowest_of_slabs(array: np.ndarray) -> list[np.ndarray]:
    """The lowest value at each k, at each j and at each i."""
    plane = array.min(axis=0)
    return [array.min(axis=(1, 2)), plane.min(axis=1), plane.min(axis=0)]


def _voxel_box(voxel: tuple[int, int, int]) -> Box:
    return tuple(slice(x, x + 1) for x in voxel)


def _bell(squared: np.ndarray, radius):
    """(1 - (r / R)^2)^2 within the radius and zero beyond, for squared distances."""
    return np.maximum(1 - squared / radius**2, 0) ** 2


def _heights(need: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Heights, none negative, whose sums meet each need; share[i, j] of height j arrives at i, all of its own."""
    heights = np.zeros(len(need))
    for sweep in range(SWEEPS + 1):
        for i in range(len(need)):
            missing = need[i] - share[i] @ heights
            # the last time upwards only: what was met before stays met
            heights[i] = max(heights[i] + missing, 0) if sweep < SWEEPS else heights[i] + max(missing, 0)
    return heights


def _lowered(base: np.ndarray, box: Box, bumps: Iterable[_Bump]) -> np.ndarray:
    """The map without the bumps, which lie in its box."""
    if not bumps:
        return base
    result = base.copy()
    for bump in bumps:
        result[relative(bump.box, box)] -= bump.values
    return result


def _places(marks: Iterable[_Mark], inside: bool, box: Box) -> list[tuple[int, ...]]:
    """Where in a box the marks of one kind are."""
    return [
        tuple(x - b.start for x, b in zip(mark.voxel, box, strict=True))
        for mark in marks
        if mark.inside == inside and holds(box, _voxel_box(mark.voxel))
    ]


def _largest(mask: np.ndarray, kept: list[tuple[int, ...]]) -> np.ndarray:
    """The largest part of a mask, and those at some places."""
    from scipy import ndimage

    parts, count = ndimage.label(mask)
    if count < 2:
        return mask
    wanted = np.zeros(count + 1, bool)
    wanted[np.bincount(parts[mask]).argmax()] = True
    wanted[[parts[place] for place in kept]] = True
    return wanted[parts] & mask


def _filled(mask: np.ndarray, kept: list[tuple[int, ...]]) -> np.ndarray:
    """A mask with its holes, except those at some places; all around its box is background."""
    from scipy import ndimage

    parts, count = ndimage.label(~mask)
    hole = np.ones(count + 1, bool)
    hole[0] = False
    for axis in range(3):
        for face in (0, -1):
            hole[np.unique(parts.take(face, axis))] = False
    hole[[parts[place] for place in kept]] = False
    return mask | hole[parts] if hole.any() else mask
