"""Which case to outline next: the ones the model is unsure of, and the ones that are unlike what it learned from.

Both measures follow suggestive annotation (Yang et al., MICCAI 2017), which asks a network for its uncertainty and for
descriptors of its bottleneck; the uncertainty here is the predictive entropy under dropout (Gal and Ghahramani, ICML
2016) of the two views that SimCVD trains with.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from simcvd.boxes import bounding_box, everything, grown
from simcvd.devices import choose_device, choose_precision, memory_limit
from simcvd.distance import signed_distance
from simcvd.errors import SimCVDError
from simcvd.grid import Grid, Volume, normalise
from simcvd.images import read_volume
from simcvd.inference import Predictor, pad, predict_within
from simcvd.labels import classify, entropy
from simcvd.models import build_network
from simcvd.tensors import array_of, tensor_of

VIEWS = 2
BAND_MM = 3.0  # on either side of the boundary: where a label may be wrong
UNSURE = 0.5  # mean entropy from which the words say so, where no labelled case says what is usual
LESS_SURE = 1.15  # times what is usual among the labelled cases
UNLIKE = 0.6  # clearly further from the labelled cases than these are from each other


@dataclass(frozen=True)
class Rank:
    """What speaks for outlining a case.

    uncertainty: 0..1, or None where the case could not be read. unlikeness: 0..1, or None without labelled cases.
    reason: one sentence.
    """

    case: str
    uncertainty: float | None
    unlikeness: float | None
    reason: str


class Ranker:
    """A model that says how sure it is of a scan, and what the scan looks like to it.

    Raises ModelError when the model can't be used.
    """

    def __init__(self, model: str | os.PathLike, device: str = "auto"):
        self.device = choose_device(device)
        self.network, self.card = build_network(model)
        self.predictor = Predictor(self.network, self.device, choose_precision("auto", self.device), VIEWS)

    def look(self, volume: Volume, step: Callable[[], None] = lambda: None) -> tuple[float, np.ndarray, bool]:
        """Uncertainty (0..1), descriptor (a unit vector) and whether anything was found, of one scan.

        `step` is called between the parts of the work and may raise to cancel.
        """
        spacing = tuple(self.card["grid"]["spacing"])
        grid = Grid.of(volume.geometry, spacing)
        array = normalise(grid.forward(volume.array), self.card["normalisation"])
        patch = tuple(self.card["patch"])
        found = predict_within(self.predictor, array, patch, memory_limit(self.device), step)
        n = self.predictor.classes - 1
        labels = classify(found[:n])
        uncertainty = boundary_uncertainty(labels, entropy(found[n : 2 * n]), spacing)
        return uncertainty, self._descriptor(array, labels, patch), bool(labels.any())

    def _descriptor(self, array: np.ndarray, labels: np.ndarray, patch: Sequence[int]) -> np.ndarray:
        """Means of the bottleneck's channels around what was found, or in the middle of the scan."""
        around = bounding_box(labels) or everything(array.shape)
        box = tuple(_window(s, p, n) for s, p, n in zip(around, patch, array.shape, strict=True))
        padded, _ = pad(array[box], patch)
        features = bottleneck(self.predictor, tensor_of(np.ascontiguousarray(padded))[None, None])
        return features / max(float(np.linalg.norm(features)), 1e-12)


def _window(side: slice, length: int, n: int) -> slice:
    """`length` voxels around the middle of a side, within 0..n."""
    start = max(0, min((side.start + side.stop - length) // 2, n - length))
    return slice(start, min(n, start + length))


def boundary_uncertainty(labels: np.ndarray, uncertainty: np.ndarray, spacing: Sequence[float]) -> float:
    """Mean of an uncertainty map, (K, J, I) in 0..1, within BAND_MM of the boundary of what was found.

    Far from any boundary a network is sure of itself in every scan, and the mean over a volume would tell the size of
    the structure. Where nothing was found it is 1: nothing says where the structure is.
    """
    mask = labels > 0
    if not mask.any():
        return 1.0
    reach = [int(np.ceil(BAND_MM / s)) + 1 for s in reversed(spacing)]
    box = grown(bounding_box(mask), reach, mask.shape)
    inside = mask[box]
    if inside.all():
        return float(uncertainty[box].mean())
    band = np.abs(signed_distance(inside, spacing)) <= max(BAND_MM, *spacing)
    return float(np.clip(uncertainty[box][band].mean(), 0, 1))


def bottleneck(predictor: Predictor, x: torch.Tensor) -> np.ndarray:
    """Mean of each channel of the bottleneck, float32, of an image (1, 1, K, J, I)."""
    with torch.inference_mode():
        x = x.to(predictor.device, predictor.precision).contiguous(memory_format=predictor.layout)
        for block, down in zip(predictor.encoder[:-1], predictor.downs, strict=True):
            x = down(block(x))
        x = predictor.encoder[-1](x)
        return array_of(x.float().mean((0, 2, 3, 4)))


def unlikeness(descriptor: np.ndarray, labelled: Sequence[np.ndarray]) -> float:
    """How unlike the labelled cases a case is: d / (d + d0), 0..1.

    d is the distance (1 - cosine) to the nearest labelled descriptor, d0 the median distance from a labelled one to
    its nearest neighbour among them: 0.5 is a case as far from them as they are from each other. A single labelled
    case has no neighbour; a hundredth, a usual distance between scans of one kind, then stands for d0.
    """
    usual = 0.01
    if len(labelled) > 1:
        others = [[b for j, b in enumerate(labelled) if j != i] for i in range(len(labelled))]
        usual = float(np.median([_nearest(a, rest) for a, rest in zip(labelled, others, strict=True)]))
    d = _nearest(descriptor, labelled)
    return d / (d + max(usual, 1e-6))


def _nearest(descriptor: np.ndarray, others: Sequence[np.ndarray]) -> float:
    return max(0.0, 1.0 - max(float(np.dot(descriptor, other)) for other in others))


def rank_cases(
    ranker: Ranker,
    cases: Sequence[tuple[str, Path]],
    labelled: Sequence[tuple[str, Path]] = (),
    tell: Callable[[float], None] = lambda fraction: None,
) -> Iterator[Rank]:
    """The rank of each case (name, file), in the order given; `order` sorts them.

    `tell` is called with the fraction done before each scan and may raise to cancel. Raises SimCVDError when a labelled
    scan can't be read; a case that can't be read has no numbers, and its reason says why.
    """
    total = len(cases) + len(labelled)
    known = [ranker.look(read_volume(path), lambda i=i: tell(i / total)) for i, (_, path) in enumerate(labelled)]
    limit = LESS_SURE * float(np.median([uncertainty for uncertainty, _, _ in known])) if known else UNSURE
    descriptors = [descriptor for _, descriptor, _ in known]
    for i, (name, path) in enumerate(cases, len(labelled)):
        tell(i / total)
        try:
            uncertainty, descriptor, found = ranker.look(read_volume(path), lambda i=i: tell(i / total))
        except SimCVDError as error:
            yield Rank(name, None, None, str(error))
            continue
        unlike = round(unlikeness(descriptor, descriptors), 4) if known else None
        yield Rank(name, round(uncertainty, 4), unlike, in_words(uncertainty > limit, unlike, found))


def in_words(unsure: bool, unlike: float | None, found: bool) -> str:
    """The reason, one sentence; `unsure` is in comparison with the labelled cases, where there are some."""
    if not found:
        return "The model finds nothing in this scan."
    if unlike is None:
        return "The model is unsure of the boundary." if unsure else "The model is sure of the boundary."
    strange = unlike >= UNLIKE
    if unsure and strange:
        return "The model is less sure of the boundary than in the labelled scans, and this scan is unlike them."
    if unsure:
        return "The model is less sure of the boundary than in the labelled scans."
    if strange:
        return "The scan is unlike the labelled ones."
    return "The model is as sure of the boundary as in the labelled scans, and this scan is like them."


def order(ranks: Sequence[Rank]) -> list[str]:
    """Names, what to outline first at the front: by the sum of the places in uncertainty and in unlikeness.

    Places, not numbers, as the two have different scales. Cases that could not be read come last.
    """
    there = [r for r in ranks if r.uncertainty is not None]
    places = {r.case: 0 for r in there}
    for measure in (lambda r: r.uncertainty, lambda r: r.unlikeness or 0.0):
        values = sorted({measure(r) for r in there}, reverse=True)
        for r in there:
            places[r.case] += values.index(measure(r))
    best = sorted(there, key=lambda r: (places[r.case], -r.uncertainty))
    return [r.case for r in best] + [r.case for r in ranks if r.uncertainty is None]
