"""Passes of a trained network over whole arrays: at once, in blended tiles, or by the published windows."""

from __future__ import annotations

import copy
import itertools
import math
import os
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from simcvd.devices import choose_precision, memory_layout
from simcvd.network import STRIDE, VNet
from simcvd.tensors import array_of, tensor_of

# huge pages for activations, where Linux offers them: touching fresh small pages costs more than adding two tensors
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

STEPS = 9  # parts of one pass after which progress is told and a cancel is obeyed
OVERLAP = 48  # voxels shared by neighbouring tiles; the outer third on each side counts nothing
MINIMUM_TILE = 2 * OVERLAP

Shape = tuple[int, int, int]
Step = Callable[[], None]
Prediction = Callable[..., torch.Tensor]


def _nothing() -> None:
    pass


class Predictor:
    """A trained V-Net made fast: called with (1, 1, K, J, I) it gives foreground probabilities (C - 1, K, J, I).

    Batch norm is folded into the convolutions, memory is channels-last where that pays, the skips are added in
    place, and the segmentation head gives each class relative to the background: one channel less, and half
    precision is then finest where two classes are near, which is where the boundary is.

    Args:
        network: the V-Net; it is copied, not changed.
        device: "cpu", "cuda", "cuda:1", "mps".
        precision: what the convolutions run in; None takes the best. Probabilities are float32.
        views: number of stochastic passes that follow the plain one. Each drops channels of the bottleneck and before
            the head, as in training, by the same masks for every call; their mean probabilities are appended as
            C - 1 more channels.
        model_sdm: append the distance head's maps of the plain pass, in [-1, 1], as the last C - 1 channels.
    """

    def __init__(
        self,
        network: VNet,
        device: str = "cpu",
        precision: torch.dtype | None = None,
        views: int = 0,
        model_sdm: bool = False,
    ):
        self.device = torch.device(device)
        self.precision = precision or choose_precision("auto", device)
        self.layout = memory_layout(device)
        self.classes = network.settings["n_classes"]
        self.filters = network.settings["n_filters"]
        place = {"device": self.device, "dtype": self.precision, "memory_format": self.layout}
        with torch.no_grad():
            self.encoder, self.downs, self.ups, self.decoder = (
                nn.ModuleList(_folded(block) for block in part).to(**place)
                for part in (network.encoder, network.downs, network.ups, network.decoder)
            )
            weight, bias = network.segmentation_head.weight, network.segmentation_head.bias
            self.head = (weight[1:] - weight[:1]).to(**place), (bias[1:] - bias[:1]).to(self.device, self.precision)
            # a convolution of its own: in one with the other head, asking for it would change the last digits there
            weight, bias = network.distance_head.weight, network.distance_head.bias
            self.distance_head = (weight.to(**place), bias.to(self.device, self.precision)) if model_sdm else None
            self.views = _dropout_masks(network, views, self.device, self.precision)

    def __call__(self, x: torch.Tensor, step: Step = _nothing) -> torch.Tensor:
        """All channels, float32, on the predictor's device; `step` is called between the parts."""
        with torch.inference_mode():
            x = x.to(device=self.device, dtype=self.precision).contiguous(memory_format=self.layout)
            skips = []
            for block, down in zip(self.encoder[:-1], self.downs, strict=True):
                skips.append(block(x))
                x = down(skips[-1])
                step()
            features = self.encoder[-1](x)
            step()
            x = self._decode(features, list(skips) if self.views else skips, step)
            found = [self._probabilities(x, self.head[0])]
            if self.distance_head:
                found.append(functional.conv3d(x, *self.distance_head)[0].float().tanh_())
            del x
            if self.views:
                found.insert(1, self._stochastic(features, skips))
            return torch.cat(found) if len(found) > 1 else found[0]

    def voxels_within(self, megabytes: float) -> int:
        """How many voxels may go in at once for the activations to stay within a number of megabytes."""
        size = torch.finfo(self.precision).bits // 8
        held = 3 if self.views else 2  # full-size activations alive at the widest place, in the last stage
        maps = 2 * self.classes + (2 * (self.classes - 1) if self.distance_head else 0)
        per_voxel = size * self.filters * (held + 0.75) + 4 * (4 + maps)
        most = (2**31 - 1) // self.filters  # kernels count the elements of a tensor in 32 bits
        return min(int(megabytes * 2**20 / per_voxel), most)

    def _decode(self, x: torch.Tensor, skips: list[torch.Tensor], step: Step = _nothing) -> torch.Tensor:
        for up, block in zip(self.ups, self.decoder, strict=True):
            x = block(up(x).add_(skips.pop()))
            step()
        return x

    def _probabilities(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        logits = functional.conv3d(x, weight, self.head[1])[0].float()
        if len(logits) == 1:
            return logits.sigmoid_()
        return torch.cat([torch.zeros_like(logits[:1]), logits]).softmax(0)[1:]

    def _stochastic(self, features: torch.Tensor, skips: list[torch.Tensor]) -> torch.Tensor:
        total = 0
        for bottleneck, head in self.views:
            x = self._decode(features * bottleneck, list(skips))
            total += self._probabilities(x, self.head[0] * head)
        return total / len(self.views)


def reference_prediction(network: VNet) -> Prediction:
    """The network as it is, in float32 and contiguous memory, with softmax: what the fast predictor is held against."""

    def predict(x: torch.Tensor, step: Step = _nothing) -> torch.Tensor:
        with torch.inference_mode():
            return network(x).logits.float().softmax(1)[0, 1:]

    return predict


def _folded(block: nn.Sequential) -> nn.Sequential:
    """A new block in eval mode in which each convolution has taken its batch norm in."""
    layers = list(block) if isinstance(block[0], nn.Sequential) else [block]
    folded = []
    for convolution, norm, _ in layers:
        transposed = isinstance(convolution, nn.ConvTranspose3d)
        # copies, as folding wants eval mode and the network may be in the middle of its training
        pair = copy.deepcopy(convolution).eval(), copy.deepcopy(norm).eval()
        folded += [fuse_conv_bn_eval(*pair, transpose=transposed), nn.ReLU(inplace=True)]
    return nn.Sequential(*folded).requires_grad_(False)


def _dropout_masks(network: VNet, views: int, device, dtype) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Per view the factors of the bottleneck's and the head's input channels, from a fixed seed."""
    generator = torch.Generator().manual_seed(0)

    def mask(channels: int, rate: float) -> torch.Tensor:
        keep = torch.rand(1, channels, 1, 1, 1, generator=generator) >= rate
        return (keep / max(1 - rate, 1e-6)).to(device, dtype)

    n, bottleneck, head = network.settings["n_filters"], network.bottleneck_dropout.p, network.head_dropout.p
    return [(mask(16 * n, bottleneck), mask(n, head)) for _ in range(views)]


def predict_whole(
    predict: Prediction, array: np.ndarray, patch: Shape = (STRIDE,) * 3, step: Step = _nothing
) -> np.ndarray:
    """One fully convolutional pass.

    Args:
        predict: a `Predictor`, or any function from (1, 1, K, J, I) to maps, such as probabilities, (C - 1, K, J, I).
        array: (K, J, I), float32, normalised, on the model's grid.
        patch: the patch of the training, (K, J, I); a smaller array is padded up to it.
        step: called between the parts of the pass; may raise to cancel.

    Returns:
        (C - 1, K, J, I), float32, or as many channels as `predict` gives.
    """
    padded, inside = pad(array, patch)
    return array_of(predict(_to_tensor(padded), step)[inside])


def predict_tiles(
    predict: Prediction, array: np.ndarray, tile: Shape, patch: Shape = (STRIDE,) * 3, step: Step = _nothing
) -> np.ndarray:
    """Overlapping tiles, blended: weights fall linearly across the overlap, from its middle third to nothing, and add
    up to one at each voxel. Tiles begin at multiples of 16, so that each meets the grid of the coarse stages where the
    whole pass does.

    Args:
        tile: largest (K, J, I) of a tile, multiples of 16 (less than 96 counts as 96), see `tile_shape`.

    Other arguments and the result are those of `predict_whole`.
    """
    padded, inside = pad(array, patch)
    axes = [_tiles_of_axis(size, side) for size, side in zip(padded.shape, tile, strict=True)]
    result = None
    for places in itertools.product(*axes):
        window = tuple(slice(start, start + len(weight)) for start, weight in places)
        part = array_of(predict(_to_tensor(padded[window]), step))
        for axis, (_, weight) in enumerate(places):
            part *= np.expand_dims(weight, tuple(a for a in range(3) if a != axis))
        if result is None:
            result = np.zeros((len(part), *padded.shape), np.float32)
        result[(slice(None), *window)] += part
    return np.ascontiguousarray(result[inside])


def predict_within(
    predictor: Predictor, array: np.ndarray, patch: Shape, megabytes: float, step: Step = _nothing
) -> np.ndarray:
    """One pass where the memory allows, blended tiles where not; arguments and result as of `predict_whole`."""
    tile = tile_shape(array.shape, predictor.voxels_within(megabytes), patch)
    if tile == padded_shape(array.shape, patch):
        return predict_whole(predictor, array, patch, step)
    return predict_tiles(predictor, array, tile, patch, step)


def count_tiles(shape: Shape, tile: Shape, patch: Shape = (STRIDE,) * 3) -> int:
    """Number of passes that `predict_tiles` makes over an array of a shape."""
    sides = zip(padded_shape(shape, patch), tile, strict=True)
    return math.prod(len(_tiles_of_axis(*pair)) for pair in sides)


def tile_shape(shape: Shape, voxels: int, patch: Shape = (STRIDE,) * 3) -> Shape:
    """The largest tile of at most a number of voxels for an array of a shape: its longest sides are cut first.

    A side never gets below 96 voxels (or the array's own), below which the overlap would eat the tile.
    """
    tile = list(padded_shape(shape, patch))
    while np.prod(tile) > voxels:
        longest = max(range(3), key=lambda axis: tile[axis])
        if tile[longest] <= MINIMUM_TILE:
            break
        tile[longest] -= STRIDE
    return tuple(tile)


def sliding_windows(
    predict: Prediction, array: np.ndarray, patch: Shape, stride: Shape, step: Step = _nothing
) -> np.ndarray:
    """The published protocol: windows of the training patch at a stride, probabilities averaged by count.

    Windows start at min(stride k, size - patch) for k = 0 .. ceil((size - patch) / stride) (UA-MT's test, which the
    methods on this data share). An array smaller than the patch is padded as in training, not with zeros as there.

    Args:
        patch, stride: (K, J, I), voxels.

    Other arguments and the result are those of `predict_whole`.
    """
    padded, inside = _pad_to(array, tuple(map(max, array.shape, patch)))
    axes = list(map(window_starts, padded.shape, patch, stride))
    result, count = None, np.zeros(padded.shape, np.float32)
    for starts in itertools.product(*axes):
        window = tuple(slice(start, start + side) for start, side in zip(starts, patch, strict=True))
        part = array_of(predict(_to_tensor(padded[window]), step))
        if result is None:
            result = np.zeros((len(part), *padded.shape), np.float32)
        result[(slice(None), *window)] += part
        count[window] += 1
    result /= count
    return np.ascontiguousarray(result[inside])


def count_windows(shape: Shape, patch: Shape, stride: Shape) -> int:
    """Number of passes that `sliding_windows` makes over an array of a shape."""
    return math.prod(map(len, map(window_starts, map(max, shape, patch), patch, stride)))


def window_starts(size: int, patch: int, stride: int) -> list[int]:
    """Where the windows of one axis begin."""
    return [min(stride * k, size - patch) for k in range(-(-(size - patch) // stride) + 1)]


def padded_shape(shape: Shape, patch: Shape) -> Shape:
    """The shape that goes into the network: at least the patch, sides multiples of 16."""
    return tuple(-(-max(n, p) // STRIDE) * STRIDE for n, p in zip(shape, patch, strict=True))


def pad(array: np.ndarray, patch: Shape) -> tuple[np.ndarray, tuple[slice, ...]]:
    """The array padded for the network, and where in (C, K, J, I) it then lies.

    The outermost voxels are repeated, as training does: a rim of zeros looks like the border of a body.
    """
    return _pad_to(array, padded_shape(array.shape, patch))


def _pad_to(array: np.ndarray, shape: Shape) -> tuple[np.ndarray, tuple[slice, ...]]:
    before = [(wanted - n) // 2 for n, wanted in zip(array.shape, shape, strict=True)]
    widths = [(b, wanted - n - b) for b, n, wanted in zip(before, array.shape, shape, strict=True)]
    inside = (slice(None), *(slice(b, b + n) for b, n in zip(before, array.shape, strict=True)))
    return np.pad(array, widths, mode="edge"), inside


def _tiles_of_axis(size: int, side: int) -> list[tuple[int, np.ndarray]]:
    """Start and weights of each tile along an axis of a padded size; the weights sum to one at each voxel."""
    side = max(side, MINIMUM_TILE)
    if side >= size:
        return [(0, np.ones(size, np.float32))]
    count = -(-(size - OVERLAP) // (side - OVERLAP))
    starts = [round((size - side) * k / (count - 1) / STRIDE) * STRIDE for k in range(count)]
    place = np.arange(size, dtype=np.float32)[None] - np.array(starts, np.float32)[:, None] + 0.5
    third = OVERLAP / 3
    rising = place / third - 1
    falling = (side - place) / third - 1
    rising[0], falling[-1] = 1, 1
    weights = np.clip(np.minimum(rising, falling), 0, 1)
    weights /= weights.sum(0)
    return [(start, weight[start : start + side]) for start, weight in zip(starts, weights, strict=True)]


def _to_tensor(array: np.ndarray) -> torch.Tensor:
    return tensor_of(np.ascontiguousarray(array))[None, None]


def published_stride(spacing: Sequence[float]) -> Shape:
    """The stride (K, J, I) in voxels of a spacing (x, y, z) that covers what 18x18x4 voxels of 0.625 mm do."""
    return tuple(max(1, round(mm / step)) for mm, step in zip((2.5, 11.25, 11.25), spacing[::-1], strict=True))
