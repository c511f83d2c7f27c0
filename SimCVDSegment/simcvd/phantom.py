"""Synthetic late-enhanced MR scans of a left atrium, for the demo, the sample data and tests.

The anatomy is a handful of ellipsoids and tubes in millimetres (x to the left, y to the back, z up), warped and posed
anew for every seed; blood is about as bright in all of them and walls are thin, so brightness alone finds no atrium.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import ndimage

from simcvd.grid import Geometry, ImageError, Volume
from simcvd.images import write_volume

FIELD_OF_VIEW = (115.0, 90.0, 55.0)
# random fields repeat after this many mm
_PERIOD = 160.0
# brightness of tissues where blood is 1
_LUNG, _FAT, _MUSCLE, _WALL, _SCAR, _VALVE = 0.06, 0.22, 0.38, 0.45, 1.25, 0.85


def make_phantom(seed, spacing=(0.625, 0.625, 0.625), size=None) -> tuple[Volume, Volume]:
    """A scan and its left atrium label (0 or 1), both uint8 (K, J, I).

    `seed`: a number, or several, as numpy.random.default_rng takes them; one seed is one anatomy at every spacing (mm).
    `size`: voxels (i, j, k); without it the field of view is about 115 x 90 x 55 mm, as in the real scans.
    """
    rng = np.random.default_rng(seed)
    size = size or tuple(round(f / s) for f, s in zip(FIELD_OF_VIEW, spacing, strict=True))
    geometry = Geometry(tuple(int(n) for n in size), tuple(float(s) for s in spacing))
    space = _Space.of(geometry)
    anatomy = _Anatomy.draw(rng, space)
    brightness = _paint(rng, space, anatomy)
    image = _scan(rng, space, brightness)
    name = "phantom-" + "-".join(str(n) for n in np.atleast_1d(seed))
    return Volume(image, geometry, name), Volume((anatomy.label < 0).astype(np.uint8), geometry, name)


def write_cohort(folder: str | os.PathLike, count: int, seed: int = 0, spacing=(0.625, 0.625, 0.625), size=None):
    """Write `count` phantoms as <folder>/phNNN/image.nrrd and label.nrrd; give the case folders.

    Raises ImageError rather than replace a case that is there.
    """
    cases = [Path(folder) / f"ph{n:03d}" for n in range(1, count + 1)]
    for case in cases:
        if case.exists():
            raise ImageError(f"{case} is there already; choose an empty folder for the synthetic scans.")
    for n, case in enumerate(cases):
        image, label = make_phantom((seed, n), spacing, size)
        write_volume(case / "image.nrrd", image.array, image.geometry)
        write_volume(case / "label.nrrd", label.array, label.geometry)
    return cases


@dataclass
class _Space:
    """Positions of the voxels in mm from the middle, one row per axis, and smooth random fields over them."""

    x: np.ndarray
    y: np.ndarray
    z: np.ndarray
    spacing: tuple[float, float, float]

    @classmethod
    def of(cls, geometry: Geometry) -> _Space:
        axes = (
            ((np.arange(n) - (n - 1) / 2) * s).astype(np.float32)
            for n, s in zip(geometry.size, geometry.spacing, strict=True)
        )
        return cls(*axes, geometry.spacing)

    def field(self, rng, scale: float) -> np.ndarray:
        """Random field (K, J, I) of mean 0 and deviation about 1 that varies over `scale` mm."""
        count = max(4, round(_PERIOD / scale))
        values = rng.standard_normal((count,) * 3, dtype=np.float32)
        for axis in (self.z, self.y, self.x):
            turned = values.reshape(count, -1).T @ _blend(axis, count).T
            values = turned.reshape(*values.shape[1:], -1)
        return values


def _blend(axis: np.ndarray, count: int) -> np.ndarray:
    """Weights (positions, nodes) of nodes at fixed places in mm, the same for any size of voxels."""
    step = _PERIOD / count
    away = (axis[:, None] - step * np.arange(count, dtype=np.float32) + _PERIOD / 2) % _PERIOD - _PERIOD / 2
    weights = np.exp(-((away / (0.7 * step)) ** 2))
    return (weights / np.linalg.norm(weights, axis=1, keepdims=True)).astype(np.float32)


# --- shapes: distance to the surface in mm, negative inside, from points (3, K, J, I)


def _ellipsoid(points, centre, radii) -> np.ndarray:
    """Nearly the distance to an ellipsoid along the axes (exact on its surface and for a ball)."""
    scaled = [(p - c) / r for p, c, r in zip(points, np.float32(centre), np.float32(radii), strict=True)]
    near = np.sqrt(sum(s * s for s in scaled))
    steep = np.sqrt(sum((s / np.float32(r)) ** 2 for s, r in zip(scaled, radii, strict=True)))
    return near * (near - 1) / np.maximum(steep, 1e-6)


def _tube(points, start, end, radii) -> np.ndarray:
    """Distance to a round-ended tube whose radius goes from the first to the second value."""
    axis = np.subtract(end, start)
    along = sum((p - np.float32(s)) * np.float32(a) for p, s, a in zip(points, start, axis, strict=True))
    along = np.clip(along / np.float32(axis @ axis), 0, 1)
    off = sum((p - np.float32(s) - along * np.float32(a)) ** 2 for p, s, a in zip(points, start, axis, strict=True))
    return np.sqrt(off) - (np.float32(radii[0]) + along * np.float32(radii[1] - radii[0]))


def _join(a: np.ndarray, b: np.ndarray, blend: float = 4.0) -> np.ndarray:
    """Union of two shapes with a fillet of about `blend` mm."""
    overlap = np.maximum(blend - np.abs(a - b), 0) / blend
    return np.minimum(a, b) - overlap * overlap * np.float32(blend / 4)


# --- anatomy


@dataclass
class _Anatomy:
    """Distance fields (K, J, I) of the parts in mm, negative inside."""

    label: np.ndarray  # the atrium as a person outlines it: veins end a little outside the chamber
    atrium: np.ndarray  # the same with veins running on into the lungs
    chambers: list[np.ndarray]  # right atrium, ventricles, great vessels
    ventricle: np.ndarray
    valve: np.ndarray
    lungs: np.ndarray
    spine: np.ndarray
    gullet: np.ndarray

    @classmethod
    def draw(cls, rng, space: _Space) -> _Anatomy:
        """Pose, warp and shape everything anew from the random generator."""
        points = _posed_points(rng, space)
        atrium, label = _atrium(rng, points)

        def near(*centre, by=2.0):
            return np.add(centre, rng.normal(0, by, 3))

        def wide(*radii):
            return np.multiply(radii, rng.uniform(0.88, 1.12, len(radii)))

        apex, mitral = near(29, -21, -24), near(14, 1, -8, by=1)
        left = _join(_ellipsoid(points, apex, wide(30, 21, 26)), _tube(points, mitral, apex, wide(11, 14)))
        right = _ellipsoid(points, near(-10, -36, -16), wide(32, 16, 26))
        right_atrium = _ellipsoid(points, near(-36, -11, -6), wide(20, 20, 23))
        cava = _tube(points, near(-31, -9, 8), near(-29, -7, 45), wide(8, 8))
        root = near(-5, -20, 2)
        aorta = _tube(points, root, near(-12, -24, 45), wide(13, 13.5))
        trunk = _tube(points, near(12, -34, 4), near(14, -18, 24), wide(12, 12))
        artery = _join(trunk, _tube(points, near(14, -16, 26), near(-34, 2, 28), wide(11, 8)))
        descending = _tube(points, near(15, 35, -45), near(18, 33, 45), wide(11.5, 11.5))
        side = rng.uniform(44, 50)
        lungs = np.minimum(
            _ellipsoid(points, (-side - 16, 26, 5), (34, 48, 90)), _ellipsoid(points, (side + 22, 22, 5), (32, 50, 90))
        )
        return cls(
            label=label,
            atrium=atrium,
            chambers=[_join(right_atrium, cava), left, right, aorta, artery, descending],
            ventricle=left,
            valve=_ellipsoid(points, mitral + [2, -4, -3], (14, 11, 11)),
            lungs=lungs,
            spine=_ellipsoid(points, near(-14, 50, 0), (21, 17, 90)),
            gullet=_ellipsoid(points, near(4, 31, 0), (7, 4, 90)),
        )


def _posed_points(rng, space: _Space) -> list[np.ndarray]:
    """Anatomical position (mm) of every voxel: turned, scaled, shifted and smoothly warped."""
    a, b, c = np.radians(rng.normal(0, 6, 3))
    turn = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    turn = turn @ [[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]]
    turn = turn @ [[1, 0, 0], [0, np.cos(c), -np.sin(c)], [0, np.sin(c), np.cos(c)]]
    turn = (turn / rng.uniform(0.92, 1.12)).astype(np.float32)
    shift = rng.normal(0, 3, 3).astype(np.float32)
    x, y, z = space.x, space.y[:, None], space.z[:, None, None]
    return [
        turn[n, 0] * x + turn[n, 1] * y + turn[n, 2] * z + shift[n] + np.float32(2.2) * space.field(rng, 22)
        for n in range(3)
    ]


def _atrium(rng, points) -> tuple[np.ndarray, np.ndarray]:
    """Distance fields of the left atrium with its veins running on, and with the veins cut as in a label."""
    chamber = _ellipsoid(points, (0, 7, -1), np.multiply((31, 18, 18), rng.uniform(0.88, 1.13, 3)))
    start = np.array([20.0, -4, 5]) + rng.normal(0, 2, 3)
    bend = start + [rng.uniform(8, 13), rng.uniform(-11, -6), rng.uniform(0, 6)]
    tip = bend + [rng.uniform(-6, 5), rng.uniform(-11, -6), rng.uniform(0, 8)]
    neck, lobe = rng.uniform(5, 7.5, 2)
    appendage = np.minimum(_tube(points, start, bend, (neck, lobe)), _tube(points, bend, tip, (lobe, 4)))
    cut = running = _join(chamber, appendage)
    veins = [
        ((-21, 8, 7), (-0.85, 0.15, 0.45)),
        ((-20, 13, -6), (-0.85, 0.5, -0.15)),
        ((20, 8, 8), (0.75, 0.25, 0.5)),
        ((20, 14, -4), (0.85, 0.5, 0.0)),
    ]
    for mouth, direction in veins:
        mouth = np.add(mouth, rng.normal(0, 1.5, 3))
        direction = np.add(direction, rng.normal(0, 0.15, 3))
        direction /= np.linalg.norm(direction)
        wide = rng.uniform(5.0, 7.5)
        vein = _tube(points, mouth, mouth + 45 * direction, (wide, 0.45 * wide))
        plane = sum((p - np.float32(m)) * np.float32(d) for p, m, d in zip(points, mouth, direction, strict=True))
        running = _join(running, vein)
        cut = _join(cut, np.maximum(vein, plane - np.float32(rng.uniform(13, 20))))
    return running, cut


# --- the picture


def _paint(rng, space: _Space, anatomy: _Anatomy) -> np.ndarray:
    """Brightness of every voxel before the scanner: blood about 1, air 0."""
    fine, coarse = space.field(rng, 4), space.field(rng, 10)
    image = np.clip(_FAT + 0.07 * coarse + 0.09 * fine, 0.05, None)
    image = np.where(anatomy.spine < 0, _MUSCLE - 0.1 + 0.1 * fine, image)
    image = np.where(anatomy.lungs < 0, _LUNG + 0.35 * np.clip(fine - 1.3, 0, 1), image)
    image = np.where(anatomy.gullet < 0, _MUSCLE + 0.08 * fine, image)
    image = np.where(anatomy.ventricle < rng.uniform(6, 9), _MUSCLE + 0.04 * fine, image)
    scar = np.clip(space.field(rng, 12) - rng.uniform(0.2, 1.2), 0, 0.6) / 0.6
    wall, septum = rng.uniform((0.9, 0.7), (1.8, 1.3))
    image = np.where(np.abs(anatomy.atrium) < wall, _WALL + (_SCAR - _WALL) * scar, image)
    levels = rng.uniform(0.98, 1.1, len(anatomy.chambers))
    free = anatomy.atrium > wall
    for chamber, level in zip(anatomy.chambers, levels, strict=True):
        image = np.where((np.abs(chamber) < septum) & free, np.maximum(image, _WALL), image)
        image = np.where((chamber < 0) & free, level, image)
        free &= chamber > septum
    image = np.where((anatomy.valve < 0) & (anatomy.atrium >= 0) & (anatomy.atrium < 3), _VALVE, image)
    return np.where(anatomy.atrium < 0, 1 + 0.03 * coarse, image)


def _scan(rng, space: _Space, brightness: np.ndarray) -> np.ndarray:
    """What a scanner makes of it, uint8: blur, uneven sensitivity, Rician noise, and its own grey scale."""
    sigma = [0.6 / s for s in reversed(space.spacing)]
    image = ndimage.gaussian_filter(brightness.astype(np.float32), sigma)
    image *= np.exp(np.float32(rng.uniform(0.04, 0.1)) * space.field(rng, 60))
    noise = np.float32(rng.uniform(0.07, 0.12))
    # the noise of real scans is as coarse as the voxels before the scanner interpolated them
    image = np.hypot(image + noise * space.field(rng, 1.3), noise * space.field(rng, 1.3))
    # most real scans use the lower part of the 256 greys only
    return np.clip(np.rint(image * np.exp(rng.uniform(np.log(34), np.log(130)))), 0, 255).astype(np.uint8)
