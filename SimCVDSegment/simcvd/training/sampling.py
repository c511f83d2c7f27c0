"""Crops for training: which case, where, how turned. Everything follows from (seed, iteration, place in the batch),

so a resumed run draws what the unbroken one would have drawn, on any number of processes, with no state to keep.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F

from ..tensors import tensor_of

AUGMENTATIONS = ("published", "strong", "varied", "robust", "none")
MIRRORED = 0.15  # share of robust crops


@dataclass
class TrainingCase:
    """One prepared case in memory: image (K, J, I) float16, label (K, J, I) uint8 or None."""

    id: str
    image: np.ndarray
    label: np.ndarray | None


@dataclass
class Crop:
    """image (K, J, I) float32 and label (K, J, I) uint8 (zeros where there is none).

    axial: where the crop begins and ends along K, as shares of the scan's height; outside [0, 1] where it was padded.
    """

    image: torch.Tensor
    label: torch.Tensor
    axial: tuple[float, float]


class TwoStreamSampler:
    """Labelled cases form the epoch, unlabelled ones are drawn in their own endless order (UA-MT).

    Args:
        labelled, unlabelled: the cases; the second may be empty.
        patch: (K, J, I) of a crop.
        seed: of the run.
        augmentation: "published" (quarter turns in the axial plane, one flip), "strong" (small rotations, scaling and
            intensity changes, no flips: what a scanner and a patient can do), "varied" (strong, and what other
            scanners, fields of view and margins do), "robust" (varied, and some crops mirrored), or "none".
        spacing: (x, y, z) of the cases; only the ratios count.
    """

    def __init__(
        self,
        labelled: Sequence[TrainingCase],
        unlabelled: Sequence[TrainingCase],
        patch: Sequence[int],
        seed: int,
        augmentation: str = "published",
        spacing: Sequence[float] = (1.0, 1.0, 1.0),
    ):
        if augmentation not in AUGMENTATIONS:
            raise ValueError(f"augmentation is one of {', '.join(AUGMENTATIONS)}, not {augmentation!r}.")
        self.streams = (list(labelled), list(unlabelled))
        self.patch = tuple(patch)
        self.seed = seed
        self._cut = {
            "published": partial(turned_crop, spacing=spacing),
            "strong": partial(warped_crop, spacing=spacing),
            "varied": partial(disturbed_crop, spacing=spacing),
            "robust": partial(disturbed_crop, spacing=spacing, mirrored=MIRRORED),
            "none": random_crop,
        }[augmentation]

    def draw(
        self,
        stream: int,
        iteration: int,
        count: int,
        first: int = 0,
        size: int | None = None,
        aligned: bool = False,
    ) -> list[Crop]:
        """`size` crops (from place `first` on) of the `count` that iteration `iteration` takes from a stream.

        stream is 0 for labelled, 1 for unlabelled cases. aligned: crops of both streams as they lie in their scans, not
        augmented, all from the same place (as a share of the scan's sides), so that they show the same things.
        """
        size = count if size is None else size
        return [self._crop(stream, iteration, count, place, aligned) for place in range(first, first + size)]

    def _crop(self, stream: int, iteration: int, count: int, place: int, aligned: bool) -> Crop:
        cases = self.streams[stream]
        epoch, position = divmod(iteration * count + place, len(cases))
        order = np.random.default_rng((self.seed, stream, epoch)).permutation(len(cases))
        case = cases[order[position]]
        rng = np.random.default_rng((self.seed, 2 + stream, iteration, place))
        if aligned:
            return random_crop(case, self.patch, rng, np.random.default_rng((self.seed, 4, iteration, 0)).random(3))
        return self._cut(case, self.patch, rng)


def random_crop(
    case: TrainingCase, patch: Sequence[int], rng: np.random.Generator, where: Sequence[float] | None = None
) -> Crop:
    """A crop at a random place; a smaller volume is padded with its outermost voxels, labelled 0.

    where: in [0, 1) along K, J, I, from the first place where the crop fits to the last; None draws it.
    """
    where = rng.random(3) if where is None else where
    label = np.zeros(case.image.shape, np.uint8) if case.label is None else case.label
    missing = [max(p - n, 0) for p, n in zip(patch, case.image.shape, strict=True)]
    pads = [(m // 2, m - m // 2) for m in missing]
    image = case.image
    if any(missing):
        image = np.pad(image, pads, mode="edge")
        label = np.pad(label, pads)
    start = [int(w * (n - p + 1)) for w, n, p in zip(where, image.shape, patch, strict=True)]
    box = tuple(slice(s, s + p) for s, p in zip(start, patch, strict=True))
    lowest, height = start[0] - pads[0][0], case.image.shape[0]
    axial = (lowest / height, (lowest + patch[0]) / height)
    return Crop(tensor_of(image[box].astype(np.float32)), tensor_of(label[box].copy()), axial)


def turned_crop(
    case: TrainingCase,
    patch: Sequence[int],
    rng: np.random.Generator,
    spacing: Sequence[float] = (1.0, 1.0, 1.0),
) -> Crop:
    """A random crop, turned by quarters in the axial plane (halves where not square), then flipped along I or J.

    This is UA-MT's augmentation, which SimCVD trains with. spacing (x, y, z) mm: quarter turns want square voxels, too.
    """
    crop = random_crop(case, patch, rng)
    square = patch[1] == patch[2] and math.isclose(spacing[0], spacing[1], rel_tol=1e-3)
    turns = int(rng.integers(0, 4)) if square else 2 * int(rng.integers(0, 2))
    axis = int(rng.integers(1, 3))
    image, label = (torch.rot90(x, turns, (1, 2)).flip(axis).contiguous() for x in (crop.image, crop.label))
    return Crop(image, label, crop.axial)


def warped_crop(
    case: TrainingCase,
    patch: Sequence[int],
    rng: np.random.Generator,
    spacing: Sequence[float] = (1.0, 1.0, 1.0),
) -> Crop:
    """A crop seen through a small rotation (15 degrees at most about each axis), scaling (0.75 to 1.35) and contrast.

    These are the changes that patients and scanners make; the crop is read straight from the whole volume, so that
    turning leaves no empty corners. Labels are interpolated per class, never picked from the nearest voxel.
    """
    sides = np.asarray(case.image.shape, float)
    free = np.maximum(sides - patch, 0)
    centre = np.where(free > 0, rng.random(3) * free + np.asarray(patch) / 2, sides / 2)
    step = np.asarray(spacing, float)[::-1]
    matrix = _random_matrix(rng) * step[None, :] / step[:, None]  # turned and scaled in mm, as places in voxels
    # grid_sample wants axes in the order I, J, K and lengths as shares of the sides
    theta = np.zeros((3, 4), np.float32)
    theta[:, :3] = matrix[::-1, ::-1] * np.asarray(patch, float)[None, ::-1] / sides[::-1, None]
    theta[:, 3] = (2 * centre / sides - 1)[::-1]
    grid = F.affine_grid(tensor_of(theta)[None], [1, 1, *patch], align_corners=False)
    image = _read(tensor_of(case.image.astype(np.float32)), grid, "border")
    label = torch.zeros(tuple(patch), dtype=torch.uint8)
    if case.label is not None:
        whole = tensor_of(case.label)
        shares = [_read((whole == v).float(), grid, "zeros") for v in range(1, int(whole.max()) + 1)]
        everything = torch.stack([torch.ones(tuple(patch)) - sum(shares), *shares])
        label = everything.max(0).indices.to(torch.uint8)  # argmax says the same in ten times the time
    middle, half = centre[0] / sides[0], matrix[0, 0] * patch[0] / sides[0] / 2
    return Crop(_random_intensity(image, rng), label, (float(middle - half), float(middle + half)))


def disturbed_crop(
    case: TrainingCase,
    patch: Sequence[int],
    rng: np.random.Generator,
    spacing: Sequence[float] = (1.0, 1.0, 1.0),
    mirrored: float = 0.0,
) -> Crop:
    """A warped crop as other scanners and other fields of view would show it; most crops get one or two changes.

    Normalisation is over the scan, so what else is in the field moves and stretches all intensities.

    mirrored: share of crops that are mirrored left to right, as organs are in a few patients and sides in some
        headers. Not for structures that are told apart by their side.
    """
    crop = warped_crop(case, patch, rng, spacing)
    image, label = crop.image, crop.label
    if rng.random() < mirrored:
        image, label = image.flip(2), label.flip(2)
    if rng.random() < 0.3:
        image = _gamma(image, rng, 0.7)
    if rng.random() < 0.5:
        image = image * float(np.exp(rng.uniform(-0.5, 0.5))) + float(rng.uniform(-0.6, 0.6))
    if rng.random() < 0.3:
        lowest = image.min()
        image = lowest + (image - lowest) * _bias_field(patch, rng)
    if rng.random() < 0.2:
        image = _thicker(image, int(rng.integers(0, 3)), int(rng.integers(2, 5)))
    if rng.random() < 0.3:
        noise = rng.standard_normal(tuple(patch), dtype=np.float32) * rng.uniform(0, 0.5) * float(image.std())
        image = image + tensor_of(noise.astype(np.float32))
    if rng.random() < 0.2:
        _empty(image, label, rng)
    return Crop(image, label, crop.axial)


def _bias_field(patch: Sequence[int], rng: np.random.Generator) -> torch.Tensor:
    """Factors around one, four fifths more at most, from a coil's few smooth lobes."""
    lobes = tensor_of(rng.uniform(-0.6, 0.6, (1, 1, 2, 3, 3)).astype(np.float32))
    return F.interpolate(lobes, tuple(patch), mode="trilinear", align_corners=True)[0, 0].exp()


def _thicker(image: torch.Tensor, axis: int, times: int) -> torch.Tensor:
    """As slices of so many times the thickness along an axis would show it."""
    coarse = [n // times if a == axis else n for a, n in enumerate(image.shape)]
    thick = F.interpolate(image[None, None], coarse, mode="area")
    return F.interpolate(thick, image.shape, mode="trilinear", align_corners=False)[0, 0]


def _empty(image: torch.Tensor, label: torch.Tensor, rng: np.random.Generator) -> None:
    """Empty margins at one end of one to three axes, at most a quarter of the crop each; nothing is outlined there."""
    level = float(image.min()) - float(rng.uniform(0, 0.5))
    for axis in rng.choice(3, int(rng.integers(1, 4)), replace=False):
        width = int(rng.integers(1, image.shape[axis] // 4 + 1))
        start = 0 if rng.random() < 0.5 else image.shape[axis] - width
        image.narrow(int(axis), start, width).fill_(level)
        label.narrow(int(axis), start, width).fill_(0)


def _read(volume: torch.Tensor, grid: torch.Tensor, outside: str) -> torch.Tensor:
    return F.grid_sample(volume[None, None], grid, padding_mode=outside, align_corners=False)[0, 0]


def _random_matrix(rng: np.random.Generator) -> np.ndarray:
    """Rotation times scaling, from places in the crop to places in the volume (K, J, I), in mm."""
    matrix = np.diag(np.exp(rng.uniform(-0.2, 0.2) + rng.uniform(-0.1, 0.1, 3)))
    for a, b in ((0, 1), (0, 2), (1, 2)):
        angle = np.deg2rad(rng.uniform(-15, 15))
        turn = np.eye(3)
        turn[a, a] = turn[b, b] = np.cos(angle)
        turn[a, b], turn[b, a] = -np.sin(angle), np.sin(angle)
        matrix = turn @ matrix
    return matrix


def _gamma(image: torch.Tensor, rng: np.random.Generator, most: float) -> torch.Tensor:
    """Another curve of contrast, exp(-most) to exp(most) as its power, with the mean and deviation that there were."""
    low, high, mean, std = image.min(), image.max(), image.mean(), image.std()
    if not high > low:
        return image
    image = ((image - low) / (high - low)).pow(float(np.exp(rng.uniform(-most, most))))
    return (image - image.mean()) / image.std() * std + mean


def _random_intensity(image: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    return _gamma(image, rng, 0.4) * float(rng.uniform(0.8, 1.25)) + float(rng.uniform(-0.2, 0.2))
