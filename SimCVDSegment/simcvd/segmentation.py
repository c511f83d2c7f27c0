"""A volume in, a segmentation and its distance map out, on exactly the volume's own grid."""

from __future__ import annotations

import contextlib
import itertools
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np
import torch

from simcvd.boxes import Box, at_least, everything, grown
from simcvd.clock import Clock
from simcvd.devices import SMALLEST_LIMIT_MB, choose_device, choose_precision, memory_limit
from simcvd.errors import NotEnoughMemoryError, is_out_of_memory
from simcvd.grid import Geometry, Grid, ImageError, Volume, normalise, with_axes
from simcvd.inference import (
    STEPS,
    Predictor,
    count_tiles,
    count_windows,
    predict_within,
    published_stride,
    sliding_windows,
    tile_shape,
)
from simcvd.labels import (
    SegmentationError,
    classify,
    distances,
    entropy,
    keep_inside,
    keep_largest,
    move_boundary,
    roi_box,
)
from simcvd.models import ModelError, build_network, find_model
from simcvd.search import outgrown, search, window_boxes, window_shape

VIEWS = 2  # stochastic passes behind an uncertainty: the two views that SimCVD trains with
DOUBTFUL = 2.0  # times smaller or larger than all that was learned from
FAR_WIDER = 4.0  # times the scans that were learned from; empty margins alone don't reach it
CONTEXT = 8  # voxels of the model's grid around a region that the network sees too; a patch it sees in any case

T = TypeVar("T")


@dataclass(frozen=True)
class Settings:
    """How to segment.

    device: "auto" (the Segmenter's: the GPU when CUDA has one, else the CPU), "cpu", "cuda", "cuda:1", "mps".
    largest: keep only the largest connected part (across faces) of each class; None does as the model's card says.
    windows: the published sliding windows in place of one pass.
    uncertainty: also give the uncertainty.
    model_sdm: also give what the model's own distance head says.
    offset: mm by which the boundary moves outwards (negative: inwards).
    roi: LPS bounds in mm (x0, x1, y0, y1, z0, z1); outside is background.
    precision: "auto", "float32" or "bfloat16".
    memory_limit_mb: what one pass of the network may take; beyond it the scan is cut into blended tiles.
    axes: where i, j and k lead to in truth, "LPS" for example, if the image's header is wrong; results keep to it.
    """

    device: str = "auto"
    largest: bool | None = None
    windows: bool = False
    uncertainty: bool = False
    offset: float = 0.0
    roi: Sequence[float] | None = None
    precision: str = "auto"
    memory_limit_mb: float | None = None
    model_sdm: bool = False
    axes: str | None = None


@dataclass
class Result:
    """A segmentation on the grid of its scan, shape (K, J, I) throughout.

    labels: uint8, the class of the highest probability after all settings.
    sdm: float32, mm, signed distance to the boundary of the final labels, negative inside; (C - 1, K, J, I) when the
        model has several foreground classes. A class without a voxel has the volume's diagonal everywhere, and a note.
    probability: (C - 1, K, J, I), float32, of each foreground class, before `largest` and `offset`.
    uncertainty: float32 in [0, 1] or None: entropy of the mean class probabilities of two passes with dropout, divided
        by log C (predictive entropy, Gal and Ghahramani 2016).
    model_sdm: (C - 1, K, J, I), float32, or None: the distance head's own maps, -1 deep inside to 1 far outside (1 too
        outside a region), before `largest` and `offset`.
    device: where the network ran in the end.
    seconds: by part: prepare, search, network, back, distance, total.
    notes: sentences for the user: what fell back and why, what was not found.
    """

    labels: np.ndarray
    sdm: np.ndarray
    probability: np.ndarray
    uncertainty: np.ndarray | None
    model_sdm: np.ndarray | None
    geometry: Geometry
    device: str
    seconds: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


class Segmenter:
    """A model held in memory, ready for one volume after the other.

    Args:
        model: name of a model, or its folder.
        device: where to run unless the settings say otherwise; "auto" takes CUDA when there, else the CPU.

    Raises ModelError when the model cannot be used and DeviceError when the device is not there.
    """

    def __init__(self, model: str | os.PathLike, device: str = "auto"):
        self.device = choose_device(device)
        self.network, self.card = build_network(find_model(model))
        channels = self.card["network"]["in_channels"]
        if channels != 1:
            raise ModelError(f"The model takes {channels} images at once; choose one that takes a single scan.")
        self.patch = tuple(self.card["patch"])
        self.spacing = tuple(self.card["grid"]["spacing"])
        self._predictors: dict[tuple, Predictor] = {}

    def segment(
        self, volume: Volume, settings: Settings | None = None, progress: Callable[[float], None] | None = None
    ) -> Result:
        """Segment a volume.

        Args:
            volume: array (K, J, I) of any scalar type, and its geometry.
            settings: see `Settings`.
            progress: called with the fraction done, between steps; what it raises ends the work and passes through.

        Raises:
            ImageError: the image is constant, its grid too large, or the axes are none.
            SegmentationError: the settings cannot be met.
            NotEnoughMemoryError: memory ran out on the CPU too.
            ModelError: what the model gives are no numbers.
        """
        settings = settings or Settings()
        check(settings)
        told, clock = _Progress(progress), Clock()
        place = volume.geometry if settings.axes is None else with_axes(volume.geometry, settings.axes)
        grid = Grid.of(place, self.spacing)
        array = grid.forward(volume.array)
        told(0.1)
        clock.lap("prepare")
        notes: list[str] = []
        box, searched = self._region(array, grid.geometry, settings, told, notes)
        clock.lap("search")
        shape, part = array.shape, self._normalised(array[box], settings)
        if not searched:
            del array
        found, device = self._predict(part, settings, told, notes)
        while searched and (wider := self._outgrown(found, box, shape, settings)) != box:
            box, part = wider, self._normalised(array[wider], settings)
            found, device = self._predict(part, settings, told, notes)
        if not np.isfinite(found).all():
            raise ModelError("The model gave numbers that are not finite; import or train it again.")
        if part.shape != shape:
            found = self._placed(found, box, shape, settings)
        del part
        clock.lap("network")
        n = self.network.settings["n_classes"] - 1
        probability = np.clip(grid.backward(found[:n]), 0, 1)
        uncertainty = grid.backward(entropy(found[n : 2 * n])) if settings.uncertainty else None
        model_sdm = np.clip(grid.backward(found[-n:]), -1, 1) if settings.model_sdm else None
        del found
        labels = classify(probability)
        told(0.85)
        clock.lap("back")
        labels, sdm = self._finish(labels, volume.geometry, settings, notes)
        clock.lap("distance")
        told(1.0)
        maps = labels, sdm, probability, uncertainty, model_sdm
        return Result(*maps, volume.geometry, device, clock.seconds(), notes)

    def _region(
        self, array, geometry: Geometry, settings: Settings, told: _Progress, notes: list[str]
    ) -> tuple[Box, bool]:
        """What the network is to see of an array on the model's grid, and whether a search found it: with a region of
        interest, that and its surroundings; of a scan far wider than it knows, what is around the place found; else
        all."""
        if settings.roi is not None:
            inner = roi_box(geometry, settings.roi)
        else:
            inner = self._search_if_wide(array, geometry, settings, told, notes)
        if inner is None:
            return everything(array.shape), False
        box = at_least(grown(inner, (CONTEXT,) * 3, array.shape), self.patch, array.shape)
        return box, settings.roi is None

    def _outgrown(self, found: np.ndarray, box: Box, shape: Sequence[int], settings: Settings) -> Box:
        """The box, larger where what was found in it goes on beyond it."""
        labels = classify(found[: self.network.settings["n_classes"] - 1])
        if self._largest(settings):
            labels = keep_largest(labels)
        return outgrown(labels, box, shape, self.patch)

    def _search_if_wide(self, array, geometry: Geometry, settings: Settings, told: _Progress, notes: list[str]):
        """The box of what a search finds in a scan that shows far more than those that were learned from; None for
        other scans, when it finds nothing, and when windows were asked for."""
        if not self.card["scan_ml"]:
            return None
        shown, most = array.size * geometry.voxel_volume / 1e6, self.card["scan_ml"][1] / 1000
        if shown <= FAR_WIDER * most:
            return None
        found = None if settings.windows else self._search(array, settings, told, notes)
        wide = f"The scan shows {shown:.2g} litres of the patient, those that the model learned from at most {most:.2g}"
        if found:
            notes.append(
                f"{wide}, so it was searched in parts of such a size: look whether the right place was found, else "
                "give a region of interest around the structure."
            )
        else:
            notes.append(f"{wide}: give a region of interest around the structure if the result is wrong.")
        return found

    def _search(self, array: np.ndarray, settings: Settings, told: _Progress, notes: list[str]) -> Box | None:
        """Where the structures lie in a scan that shows far more than those that were learned from; None if nowhere."""
        millilitre = 1000 / math.prod(self.spacing)  # voxels
        window = window_shape(self.patch, float(np.mean(self.card["scan_ml"])) * millilitre)
        learned = {segment["value"]: segment.get("volume_ml") for segment in self.card["segments"]}
        known = [learned.get(value) or (0.0, np.inf) for value in range(1, self.network.settings["n_classes"])]
        volumes = [(low * millilitre / DOUBTFUL, high * millilitre * DOUBTFUL) for low, high in known]
        plain = replace(settings, uncertainty=False, model_sdm=False)
        step = told.stepper(0.1, 0.65, len(window_boxes(array.shape, window)))

        def attempt(device: str, limit: float) -> Box | None:
            predictor = self._predictor(device, plain)

            def predict(part: np.ndarray) -> np.ndarray:
                return predict_within(predictor, part, window, limit)

            return search(predict, array, window, self.card["normalisation"], volumes, self._largest(settings), step)

        device = self._device(settings)
        return with_fallback(attempt, device, settings.memory_limit_mb or memory_limit(device), notes, told)

    def _normalised(self, array: np.ndarray, settings: Settings) -> np.ndarray:
        try:
            return normalise(array, self.card["normalisation"])
        except ImageError:
            if settings.roi is None:
                raise
            raise SegmentationError(
                "The region of interest shows a single value; move it onto the structure."
            ) from None

    def _placed(self, part: np.ndarray, box: Box, shape: Sequence[int], settings: Settings) -> np.ndarray:
        """The predictor's maps of a box on the whole grid: background around it."""
        found = np.zeros((len(part), *shape), np.float32)
        if settings.model_sdm:
            found[1 - self.network.settings["n_classes"] :] = 1
        found[(slice(None), *box)] = part
        return found

    def _predict(self, array: np.ndarray, settings: Settings, told: _Progress, notes: list[str]):
        device = used = self._device(settings)

        def attempt(device: str, limit: float) -> np.ndarray:
            nonlocal used
            used = device
            return self._pass(self._predictor(device, settings), array, limit, settings.windows, told)

        found = with_fallback(attempt, device, settings.memory_limit_mb or memory_limit(device), notes, told)
        return found, used

    def _largest(self, settings: Settings) -> bool:
        return self.card["largest"] if settings.largest is None else settings.largest

    def _device(self, settings: Settings) -> str:
        return self.device if settings.device == "auto" else choose_device(settings.device)

    def _pass(self, predictor: Predictor, array, limit: float, windows: bool, told: _Progress) -> np.ndarray:
        if windows:
            stride = published_stride(self.spacing)
            step = told.stepper(told.highest, 0.75, STEPS * count_windows(array.shape, self.patch, stride))
            return sliding_windows(predictor, array, self.patch, stride, step)
        tile = tile_shape(array.shape, predictor.voxels_within(limit), self.patch)
        step = told.stepper(told.highest, 0.75, STEPS * count_tiles(array.shape, tile, self.patch))
        return predict_within(predictor, array, self.patch, limit, step)

    def _predictor(self, device: str, settings: Settings) -> Predictor:
        key = device, settings.precision, settings.uncertainty, settings.model_sdm
        if key not in self._predictors:
            precision, views = choose_precision(settings.precision, device), VIEWS * settings.uncertainty
            self._predictors[key] = Predictor(self.network, device, precision, views, settings.model_sdm)
        return self._predictors[key]

    def _finish(self, labels: np.ndarray, geometry: Geometry, settings: Settings, notes: list[str]):
        """Labels after region, largest part and offset, and their distance map."""
        classes = self.network.settings["n_classes"]
        if settings.roi is not None:
            labels = keep_inside(labels, geometry, settings.roi)
        if self._largest(settings):
            labels = keep_largest(labels)
        if settings.roi is None:
            notes += self._doubts(labels, geometry)
        if settings.offset:
            labels = move_boundary(distances(labels, classes, geometry), settings.offset)
            if settings.roi is not None:
                labels = keep_inside(labels, geometry, settings.roi)
        names = {segment["value"]: segment["name"] for segment in self.card["segments"]}
        for value in range(1, classes):
            if not (labels == value).any():
                notes.append(f"Nothing was found of {names.get(value, f'class {value}')} in this scan.")
        sdm = distances(labels, classes, geometry)
        return labels, sdm[0] if classes == 2 else sdm

    def _doubts(self, labels: np.ndarray, geometry: Geometry) -> list[str]:
        """A sentence for each structure whose volume is far from all that the model learned from."""
        doubts = []
        for segment in self.card["segments"]:
            low, high = segment.get("volume_ml") or (0.0, np.inf)
            found = (labels == segment["value"]).sum() * geometry.voxel_volume / 1000
            if found and not low / DOUBTFUL <= found <= high * DOUBTFUL:
                doubts.append(
                    f"{segment['name']} measures {found:.3g} ml here, and {low:.3g} to {high:.3g} ml in the scans that "
                    "the model learned from: look whether it is right, and whether the scan lies as its header says."
                )
        return doubts


def with_fallback(
    attempt: Callable[[str, float], T],
    device: str,
    limit: float,
    notes: list[str],
    told: _Progress | None = None,
) -> T:
    """Run `attempt(device, limit in MB)`: out of memory, with smaller limits; when a GPU still fails, on the CPU.

    Adds a sentence to `notes` for each retreat. Raises NotEnoughMemoryError when memory runs out on the CPU too; what
    a progress callback raises passes through.
    """
    while True:
        try:
            return attempt(device, limit)
        except (RuntimeError, MemoryError) as error:
            short = is_out_of_memory(error)
            if (told and told.inside) or (device == "cpu" and not short):
                raise
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        # outside the except clause, so that the failed pass's tensors are let go
        if device.startswith("cuda"):
            with contextlib.suppress(RuntimeError):  # after some faults a GPU answers nothing any more
                torch.cuda.empty_cache()
        if short and limit / 4 >= SMALLEST_LIMIT_MB:
            limit /= 4
            note = f"Memory ran out on {device}, so the scan was cut into smaller tiles."
        elif device != "cpu":
            note = f"The scan was segmented on the CPU, because {device} failed ({reason})."
            device, limit = "cpu", memory_limit("cpu")
        else:
            raise NotEnoughMemoryError()
        notes += [note] if note not in notes else []


def check(settings: Settings) -> None:
    """Raise SegmentationError, or ImageError for the axes, where settings suit no scan."""
    if settings.axes is not None:
        with_axes(Geometry((1, 1, 1), (1.0, 1.0, 1.0)), settings.axes)
    if not math.isfinite(settings.offset):
        raise SegmentationError("The offset must be a number of millimetres.")
    if settings.memory_limit_mb is not None and not settings.memory_limit_mb > 0:
        raise SegmentationError("The memory limit must be a positive number of megabytes.")
    roi = settings.roi
    if roi is not None and (len(roi) != 6 or not np.isfinite(roi).all() or any(roi[n] > roi[n + 1] for n in (0, 2, 4))):
        raise SegmentationError("A region needs six bounds in mm: x0 x1 y0 y1 z0 z1, each pair rising.")
    if roi is not None and settings.axes is not None:
        raise SegmentationError(
            "A region and axes exclude each other: bounds follow the header; mend the header first."
        )


class _Progress:
    """Tells a callback the fraction done, never backwards; `inside` stays set when the callback raised."""

    def __init__(self, callback: Callable[[float], None] | None):
        self.callback = callback
        self.highest = 0.0
        self.inside = False

    def __call__(self, fraction: float) -> None:
        self.highest = max(self.highest, fraction)
        if self.callback:
            self.inside = True
            self.callback(self.highest)
            self.inside = False

    def stepper(self, start: float, end: float, steps: int) -> Callable[[], None]:
        """A function to call at each of a number of steps between two fractions."""
        done = itertools.count(1)
        return lambda: self(start + (end - start) * min(1.0, next(done) / steps))
