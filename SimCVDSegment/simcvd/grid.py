"""Where the voxels of an image lie, and the way onto a model's grid and back (numpy only)."""

from __future__ import annotations

import itertools
import math
from dataclasses import asdict, dataclass, replace

import numpy as np

from simcvd.errors import SimCVDError

MAX_VOXELS = 512**3
WAYS = ("LR", "PA", "SI")  # letters along the world's axes (LPS), forwards and backwards
NORMALISATIONS = ("zscore", "zscore-filled")
# spacings are compared at this relative precision: NIfTI keeps them as 32-bit floats
_SPACING_TOLERANCE = 1e-5
_WEIGHTS_TOLERANCE = 4e-6  # relative, of sums of 32-bit weights along three axes


class ImageError(SimCVDError):
    """An image that cannot be read, written or used."""

    kind = "image"


@dataclass(frozen=True)
class Geometry:
    """Where the voxels of an image lie: size and spacing (mm) in (i, j, k) order, origin and direction in LPS.

    `direction` holds the nine numbers of the matrix row by row; its columns are the directions of i, j and k.
    """

    size: tuple[int, int, int]
    spacing: tuple[float, float, float]
    origin: tuple[float, float, float] = (0.0, 0.0, 0.0)
    direction: tuple[float, ...] = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of the array (k, j, i)."""
        return self.size[::-1]

    @property
    def voxel_volume(self) -> float:
        """Volume of one voxel in mm3."""
        return math.prod(self.spacing)

    @property
    def centre(self) -> np.ndarray:
        """World position (LPS, mm) of the middle of the volume."""
        half = np.multiply(self.spacing, np.subtract(self.size, 1)) / 2
        return np.asarray(self.origin) + np.reshape(self.direction, (3, 3)) @ half

    def to_dict(self) -> dict:
        """Plain lists and numbers, for JSON."""
        return {key: list(value) for key, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: dict) -> Geometry:
        """The geometry that `to_dict` described."""
        return cls(
            tuple(int(n) for n in values["size"]),
            *(tuple(float(x) for x in values[key]) for key in ("spacing", "origin", "direction")),
        )


@dataclass
class Volume:
    """An array (slice, row, column), where it lies, and the name to call it by."""

    array: np.ndarray
    geometry: Geometry
    name: str = ""


def upright(array: np.ndarray, geometry: Geometry) -> tuple[np.ndarray, tuple[float, ...]]:
    """An array (K, J, I) with its axes turned to the nearest S, P, L order, and its spacing (mm) along L, P, S."""
    axes, flipped, _ = _nearest_lps(np.reshape(geometry.direction, (3, 3)))
    return _turned(array, axes, flipped), tuple(geometry.spacing[a] for a in axes)


def with_axes(geometry: Geometry, letters: str) -> Geometry:
    """A geometry whose i, j and k lead to `letters` (L or R, P or A, S or I; "LPS" is the identity), whatever its
    direction was before.

    Raises ImageError unless the letters name each axis of the patient once.
    """
    direction = np.zeros((3, 3))
    for axis, letter in enumerate(letters.upper()):
        world = next((n for n, way in enumerate(WAYS) if letter in way), None)
        if world is None or axis > 2 or direction[world].any():
            break
        direction[world, axis] = 1.0 if letter == WAYS[world][0] else -1.0
    if len(letters) != 3 or not direction.any(0).all():
        raise ImageError(
            f"The axes can't be {letters!r}; give three letters such as LPS: one of L and R, of P and A, of S and I."
        )
    return replace(geometry, direction=tuple(direction.ravel().tolist()))


def same_geometry(a: Geometry, b: Geometry, tolerance: float = 1e-3) -> bool:
    """Whether two images share their grid: no corner further apart than `tolerance` voxels."""
    if a.size != b.size:
        return False
    corners = np.array(list(itertools.product(*((0, n - 1) for n in a.size))), dtype=float)
    worlds = [corners * g.spacing @ np.reshape(g.direction, (3, 3)).T + g.origin for g in (a, b)]
    return bool(np.abs(worlds[0] - worlds[1]).max() <= tolerance * min(a.spacing))


@dataclass(frozen=True)
class Grid:
    """A model's grid laid over an image: axes in the nearest L, P, S order, a fixed spacing, the same centre.

    Each axis is resampled by a matrix of its own, so flips and permutations of the stored image change nothing.
    """

    source: Geometry
    geometry: Geometry
    axes: tuple[int, int, int]  # which image axis (0 is i) runs along L, P and S
    flipped: tuple[bool, bool, bool]

    @classmethod
    def of(cls, geometry: Geometry, spacing, max_voxels: int = MAX_VOXELS) -> Grid:
        """The grid of `spacing` (mm, along L, P, S) for an image.

        Raises ImageError when it would pass `max_voxels`, or the image is less than half a voxel of it.
        """
        spacing = tuple(float(s) for s in spacing)
        axes, flipped, matrix = _nearest_lps(np.reshape(geometry.direction, (3, 3)))
        extent = [geometry.size[a] * geometry.spacing[a] for a in axes]
        if all(e < s / 2 for e, s in zip(extent, spacing, strict=True)):
            raise ImageError(
                f"The image covers {'x'.join(f'{e:.2g}' for e in extent)} mm, less than half a voxel of the model's "
                "grid; correct the spacing in its header or choose another grid."
            )
        size = tuple(max(1, round(round(e / s, 6))) for e, s in zip(extent, spacing, strict=True))
        if math.prod(size) > max_voxels:
            raise ImageError(
                f"The image covers {'x'.join(f'{e:.0f}' for e in extent)} mm, which at the model's spacing is "
                f"{math.prod(size) / 1e6:.0f} million voxels, more than the limit of {max_voxels / 1e6:.0f} million; "
                "crop it or correct the spacing in its header."
            )
        origin = geometry.centre - matrix @ (np.multiply(spacing, np.subtract(size, 1)) / 2)
        place = Geometry(size, spacing, tuple(map(float, origin)), tuple(map(float, matrix.ravel())))
        return cls(geometry, place, axes, flipped)

    def forward(self, array: np.ndarray) -> np.ndarray:
        """An image (K, J, I) on the model's grid (k, j, i), float32: linear, or a triangle as wide as larger voxels."""
        if array.shape != self.source.shape:
            raise ValueError(f"array of shape {array.shape} for an image of shape {self.source.shape}")
        array = np.array(_turned(array, self.axes, self.flipped), dtype=np.float32, order="C")
        lowest = float(array.min())
        array = _resample(array, self._weights(smooth=True))
        # margins of the lowest value stay exactly that, though weights only nearly add up to one
        array[array <= lowest + _WEIGHTS_TOLERANCE * abs(lowest)] = lowest
        return array

    def forward_labels(self, labels: np.ndarray, n_classes: int) -> np.ndarray:
        """Labels 0..n_classes-1 (K, J, I) on the model's grid (k, j, i), uint8: the class of the largest share."""
        best = np.zeros(self.geometry.shape, np.uint8)
        share = self.forward(labels == 0)
        for value in range(1, n_classes):
            other = self.forward(labels == value)
            larger = other > share
            best[larger] = value
            np.maximum(share, other, out=share)
        return best

    def backward(self, array: np.ndarray) -> np.ndarray:
        """Numbers (..., k, j, i) on the model's grid, interpolated linearly at the image's voxels (..., K, J, I)."""
        if array.shape[-3:] != self.geometry.shape:
            raise ValueError(f"array of shape {array.shape} for a grid of shape {self.geometry.shape}")
        array = np.ascontiguousarray(array, dtype=np.float32)
        matrices = self._weights(back=True)
        volumes = [self._turn_back(_resample(a, matrices)) for a in array.reshape(-1, *self.geometry.shape)]
        return np.stack(volumes).reshape(*array.shape[:-3], *self.source.shape)

    def _weights(self, smooth: bool = False, back: bool = False) -> list[np.ndarray | None]:
        """One matrix (new, old) for each of k, j, i; None where nothing changes."""
        matrices = []
        for world in (2, 1, 0):
            old = (self.source.size[self.axes[world]], _rounded(self.source.spacing[self.axes[world]]))
            new = (self.geometry.size[world], self.geometry.spacing[world])
            matrices.append(_axis_weights(*(new + old if back else old + new), smooth=smooth))
        return matrices

    def _turn_back(self, array: np.ndarray) -> np.ndarray:
        array = _flip(array, self.flipped)
        return array.transpose(np.argsort([2 - a for a in reversed(self.axes)]))


def _turned(array: np.ndarray, axes, flipped) -> np.ndarray:
    """An array (K, J, I) with the image axes `axes` (0 is i) along I, J and K, the flipped ones backwards."""
    return _flip(array.transpose([2 - a for a in reversed(axes)]), flipped)


def _flip(array: np.ndarray, flipped) -> np.ndarray:
    return array[tuple(slice(None, None, -1 if flip else 1) for flip in reversed(flipped))]


def _nearest_lps(direction: np.ndarray) -> tuple[tuple[int, ...], tuple[bool, ...], np.ndarray]:
    """Which image axis runs along L, P and S, whether it runs backwards, and the direction matrix so ordered."""
    candidates = []
    for axes in itertools.permutations(range(3)):
        along = direction[range(3), axes]
        matrix = direction[:, axes] * np.where(along < 0, -1.0, 1.0)
        candidates.append((np.diag(matrix).prod(), matrix, axes, along < 0))
    best = max(score for score, *_ in candidates)
    # at 45 degrees several orders are equally near; any fixed weights choose one by the axes' directions in the world
    taste = np.array([[1.0, 0.13, 0.37], [0.71, 0.53, 0.29], [0.83, 0.61, 0.47]])
    ties = [c for c in candidates if c[0] > best - 1e-3]
    _, matrix, axes, flips = max(ties, key=lambda c: (taste * c[1]).sum())
    return axes, tuple(bool(f) for f in flips), matrix


def _rounded(spacing: float) -> float:
    # the 48 stored orders of one scan differ in the last bits of a 32-bit float
    return float(f"{spacing:.6g}")


def _axis_weights(old_n: int, old_step: float, new_n: int, new_step: float, smooth: bool) -> np.ndarray | None:
    """Matrix (new_n, old_n) of a triangle filter between rows of samples with one centre; None for identity."""
    if old_n == new_n and abs(old_step - new_step) <= _SPACING_TOLERANCE * new_step:
        return None
    ratio = new_step / old_step
    position = (np.arange(new_n) - (new_n - 1) / 2) * ratio + (old_n - 1) / 2
    position = position.clip(0, old_n - 1)
    width = max(1.0, ratio) if smooth else 1.0
    weights = np.maximum(0, 1 - np.abs(position[:, None] - np.arange(old_n)) / width)
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


def _resample(array: np.ndarray, matrices: list[np.ndarray | None]) -> np.ndarray:
    """Apply a matrix (or None) to each axis of an array (k, j, i).

    Each step turns the axes by one place, so that it is one large matrix product without copies and after three steps
    the axes are back in their order.
    """
    if all(matrix is None for matrix in matrices):
        return array
    for matrix in matrices:
        shape = array.shape
        turned = array.reshape(shape[0], -1).T
        turned = np.ascontiguousarray(turned) if matrix is None else turned @ matrix.T
        array = turned.reshape(*shape[1:], -1)
    return array


def normalise(array: np.ndarray, settings: dict | None = None) -> np.ndarray:
    """Intensities as the network wants them, float32: zero mean and unit variance.

    "zscore" is over the volume, as published; "zscore-filled" leaves the voxels of the lowest value out, which is what
    empty margins have, so that a scan looks the same with and without them.

    Raises ImageError when the image is constant.
    """
    kind = (settings or {"kind": "zscore"})["kind"]
    if kind not in NORMALISATIONS:
        raise ImageError(f"The normalisation {kind!r} is unknown to this version; use a model made for it.")
    array = array.astype(np.float32)
    empty, lowest = 0, 0.0
    if kind == "zscore-filled":
        lowest = float(array.min())
        empty = int(np.count_nonzero(array == np.float32(lowest))) % array.size  # a constant image has nothing else
    filled = array.size - empty
    mean = (float(array.sum(dtype=np.float64)) - empty * lowest) / filled
    array -= np.float32(mean)
    # slice by slice, as one long float32 sum would lose digits, and without what is empty, however far off it lies
    level = np.float32(lowest) - np.float32(mean)
    squares = sum(float(np.vdot(a, a)) for a in (s[s != level] if empty else s for s in array))
    deviation = math.sqrt(max(squares, 0.0) / filled)
    if not deviation > 1e-6 * abs(mean):
        raise ImageError("The image is constant, so its intensities cannot be normalised; check the export.")
    array /= np.float32(deviation)
    return array
