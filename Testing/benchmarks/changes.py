"""What other scanners and users do to a scan, its label changed alike: intensities, voxels, field of view, storage.

Nothing here is left to chance: noise has the seed of the scan's name. Intensities stay float32, unrounded.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import common  # noqa: F401 - puts simcvd on the path
import numpy as np
from scipy import ndimage

from simcvd.boxes import Box, bounding_box, everything, grown
from simcvd.grid import WAYS, Geometry, Grid, Volume, upright, with_axes
from simcvd.images import read_labels, read_volume

BIAS = 0.4


@dataclass(frozen=True)
class Scan:
    """An image (K, J, I), float32, its labels, uint8, and where both lie."""

    name: str
    image: np.ndarray
    labels: np.ndarray
    geometry: Geometry

    @property
    def volume(self) -> Volume:
        """What a model gets to see."""
        return Volume(self.image, self.geometry, self.name)

    @classmethod
    def read(cls, folder: Path) -> Scan:
        """The scan of a folder with image.nrrd and label.nrrd."""
        image, labels = read_volume(folder / "image.nrrd"), read_labels(folder / "label.nrrd")
        return cls(folder.name, image.array.astype(np.float32), labels.array.astype(np.uint8), image.geometry)


# --- intensities -----------------------------------------------------------------------------------------------------


def rescaled(scan: Scan, factor: float, offset: float) -> Scan:
    """Another unit of intensity."""
    return replace(scan, image=scan.image * np.float32(factor) + np.float32(offset))


def with_gamma(scan: Scan, gamma: float) -> Scan:
    """Intensities between the scan's lowest and highest raised to a power: below 1 brighter, above 1 darker."""
    low, high = scan.image.min(), scan.image.max()
    return replace(scan, image=low + (high - low) * ((scan.image - low) / (high - low)) ** np.float32(gamma))


def with_bias(scan: Scan, strength: float = BIAS) -> Scan:
    """The brightness of a coil beside the patient: a smooth factor from 1 - strength to 1 + strength."""
    places = [np.arange(0.5, n) / n for n in scan.image.shape]
    waves = [np.cos(np.pi * (x + shift)) for x, shift in zip(places, (-0.2, 0.3, 0.1), strict=True)]
    field = sum(weight * wave for weight, wave in zip((0.5, 0.7, 1.0), np.ix_(*waves), strict=True))
    field = 2 * (field - field.min()) / np.ptp(field) - 1
    return replace(scan, image=(scan.image * (1 + strength * field)).astype(np.float32))


def with_noise(scan: Scan, level: float) -> Scan:
    """Rician noise, as magnitudes of MR have it: `level` times the scan's standard deviation in both channels."""
    rng = np.random.default_rng(zlib.crc32(scan.name.encode()))
    real, imaginary = rng.normal(0, level * scan.image.std(), (2, *scan.image.shape)).astype(np.float32)
    return replace(scan, image=np.hypot(scan.image - scan.image.min() + real, imaginary))


# --- voxels ----------------------------------------------------------------------------------------------------------


def coarser(scan: Scan, factors: Sequence[float]) -> Scan:
    """Voxels larger by factors along L, P and S, each the weighted mean of what it covers."""
    _, spacing = upright(scan.image, scan.geometry)
    grid = Grid.of(scan.geometry, np.multiply(spacing, factors))
    labels = grid.forward_labels(scan.labels, int(scan.labels.max()) + 1)
    return replace(scan, image=grid.forward(scan.image), labels=labels, geometry=grid.geometry)


def rotated(scan: Scan, degrees: float) -> Scan:
    """The patient turned within the slices; corners that the scan didn't show get its lowest value."""
    angle = math.radians(degrees)
    turn = np.eye(3)
    turn[1:, 1:] = [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]
    spacing = np.array(scan.geometry.spacing[::-1])
    matrix = turn * spacing / spacing[:, None]
    centre = np.subtract(scan.image.shape, 1) / 2
    offset = centre - matrix @ centre

    def turned(array: np.ndarray, outside: float) -> np.ndarray:
        return ndimage.affine_transform(array, matrix, offset, order=1, cval=outside)

    values = range(1, int(scan.labels.max()) + 1)
    labels = np.zeros_like(scan.labels)
    for value in values:
        labels[turned((scan.labels == value).astype(np.float32), 0) > 0.5] = value
    return replace(scan, image=turned(scan.image, scan.image.min()), labels=labels)


# --- field of view ---------------------------------------------------------------------------------------------------


def moved(geometry: Geometry, start: Sequence[int], shape: Sequence[int]) -> Geometry:
    """The grid of a part (or of more) that begins at the voxel `start` (k, j, i)."""
    step = np.multiply(start[::-1], geometry.spacing)
    origin = np.asarray(geometry.origin) + np.reshape(geometry.direction, (3, 3)) @ step
    return replace(geometry, size=tuple(shape[::-1]), origin=tuple(map(float, origin)))


def cropped(scan: Scan, box: Box) -> Scan:
    """What lies in a box (K, J, I)."""
    image, labels = scan.image[box].copy(), scan.labels[box].copy()
    geometry = moved(scan.geometry, [s.start for s in box], image.shape)
    return replace(scan, image=image, labels=labels, geometry=geometry)


def tighter(scan: Scan, part: float = 0.2) -> Scan:
    """A field smaller by a part of each side, all of the structure still in it: free margins shrink in proportion."""
    box = []
    for n, inside in zip(scan.image.shape, bounding_box(scan.labels > 0) or everything(scan.image.shape), strict=True):
        free = n - (inside.stop - inside.start)
        remove = min(round(part * n), free)
        start = round(remove * inside.start / free) if free else 0
        box.append(slice(start, start + n - remove))
    return cropped(scan, tuple(box))


def around(scan: Scan, margin: float) -> Scan:
    """The structure and a margin (mm) on every side, about as the scans of the LA challenge were cropped."""
    inside = bounding_box(scan.labels > 0) or everything(scan.image.shape)
    more = [round(margin / step) for step in scan.geometry.spacing[::-1]]
    return cropped(scan, grown(inside, more, scan.image.shape))


def cut(scan: Scan, through: float) -> Scan:
    """Without the low end of the columns, up to a fraction of the structure's width: at 0 it touches the rim."""
    inside = bounding_box(scan.labels > 0) or everything(scan.image.shape)
    start = inside[2].start + int(through * (inside[2].stop - inside[2].start))
    return cropped(scan, (*everything(scan.image.shape)[:2], slice(start, scan.image.shape[2])))


def embedded(scan: Scan, before: Sequence[float], after: Sequence[float]) -> Scan:
    """Empty margins, as scanners write them: the lowest value, of fractions of the sides (K, J, I) before and after."""
    shape = scan.image.shape
    margins = [(round(b * n), round(a * n)) for b, a, n in zip(before, after, shape, strict=True)]
    image = np.pad(scan.image, margins, constant_values=scan.image.min())
    geometry = moved(scan.geometry, [-b for b, _ in margins], image.shape)
    return replace(scan, image=image, labels=np.pad(scan.labels, margins), geometry=geometry)


# --- storage ---------------------------------------------------------------------------------------------------------


def mirrored(scan: Scan) -> Scan:
    """A patient with left and right changed: another anatomy on the same grid."""
    axis = 2 - next(n for n, letter in enumerate(letters_of(scan.geometry)) if letter in WAYS[0])
    return replace(scan, image=np.flip(scan.image, axis).copy(), labels=np.flip(scan.labels, axis).copy())


def letters_of(geometry: Geometry) -> str:
    """Where i, j and k lead to, "LPS" for the identity; the nearest directions where they are oblique."""
    direction = np.reshape(geometry.direction, (3, 3))
    letters = ""
    for column in direction.T:
        world = int(np.abs(column).argmax())
        letters += WAYS[world][int(column[world] < 0)]
    return letters


def stored_as(array: np.ndarray, geometry: Geometry, letters: str) -> tuple[np.ndarray, Geometry]:
    """The same voxels at the same places in the world in another axis order: i, j and k lead to `letters`."""
    old = letters_of(geometry)
    way_of = {letter: way for way in WAYS for letter in way}
    axes = [next(n for n in range(3) if old[n] in way_of[letter]) for letter in letters]
    flips = [old[axis] != letter for axis, letter in zip(axes, letters, strict=True)]
    start = np.zeros(3, int)
    for axis, flip in zip(axes, flips, strict=True):
        start[2 - axis] = flip * (geometry.size[axis] - 1)
    direction = np.reshape(geometry.direction, (3, 3))[:, axes] * np.where(flips, -1.0, 1.0)
    turned = array.transpose([2 - axis for axis in axes[::-1]])
    turned = turned[tuple(slice(None, None, -1 if flip else 1) for flip in flips[::-1])]
    size, spacing = ([values[axis] for axis in axes] for values in (geometry.size, geometry.spacing))
    origin = moved(geometry, start.tolist(), geometry.shape).origin
    place = Geometry(tuple(size), tuple(spacing), origin, tuple(map(float, direction.ravel())))
    return np.ascontiguousarray(turned), place


def reordered(scan: Scan, letters: str) -> Scan:
    """The same scan in another axis order."""
    image, geometry = stored_as(scan.image, scan.geometry, letters)
    return replace(scan, image=image, labels=stored_as(scan.labels, scan.geometry, letters)[0], geometry=geometry)


def relabelled(scan: Scan, letters: str) -> Scan:
    """Another header: i, j and k lead to `letters`, whatever it said before."""
    return replace(scan, geometry=with_axes(scan.geometry, letters))


# --- all at once -----------------------------------------------------------------------------------------------------


def other_scanner(scan: Scan) -> Scan:
    """A weaker scanner: a flatter contrast (gamma 0.5), a coil at one side (bias of 80 %), slices four times as thick
    and noise of 0.6 standard deviations. The first shipped model loses 29 points of Dice; the atrium stays
    easy to see."""
    scan = with_bias(with_gamma(scan, 0.5), 0.8)
    return with_noise(coarser(scan, (1, 1, 4)), 0.6)
