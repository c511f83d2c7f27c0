"""The two-headed V-Net: segmentation logits and a signed distance map from one decoder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import nn

STRIDE = 16  # four halvings: every side that goes in must be a multiple of this
OWN_WEIGHT = 0.4  # of a channel for its own class at a head start: about what random values reach
SMALLEST_SHARE = 1e-4


class Output(NamedTuple):
    """What one forward pass gives, for an input of shape (B, C, K, J, I).

    logits: (B, n_classes, K, J, I), before softmax; class 0 is the background.
    sdm: (B, n_classes - 1, K, J, I) in [-1, 1], negative inside, one map per foreground class.
    features: (B, 16 * n_filters, K/16, J/16, I/16), the bottleneck before its dropout.
    """

    logits: torch.Tensor
    sdm: torch.Tensor
    features: torch.Tensor


def _unit(conv: nn.Module, channels: int) -> nn.Sequential:
    return nn.Sequential(conv, nn.BatchNorm3d(channels), nn.ReLU(inplace=True))


def _block(count: int, channels_in: int, channels: int) -> nn.Sequential:
    units = [
        _unit(nn.Conv3d(channels_in if i == 0 else channels, channels, 3, padding=1), channels) for i in range(count)
    ]
    return nn.Sequential(*units)


def _down(channels: int) -> nn.Sequential:
    return _unit(nn.Conv3d(channels, 2 * channels, 2, stride=2), 2 * channels)


def _up(channels: int) -> nn.Sequential:
    return _unit(nn.ConvTranspose3d(channels, channels // 2, 2, stride=2), channels // 2)


class VNet(nn.Module):
    """V-Net without residual connections, as the UA-MT line of work trains it, with a second head.

    Five encoder stages with 1, 2, 3, 3, 3 convolutions (3x3x3, batch norm, ReLU) and strided 2x2x2
    convolutions between them; the decoder mirrors it and adds the skips. The segmentation head is a
    1x1x1 convolution, the distance head a 1x1x1 convolution and tanh (SimCVD section III; DTC).

    Args:
        n_classes: channels of the segmentation head, background included (at least 2).
        in_channels: channels of the input image.
        n_filters: channels of the first stage; 16 gives the published 9,448,866 parameters
            for two classes plus 17 for the distance head.
        dropout: rate of the channel dropout after the bottleneck and before the heads.
    """

    def __init__(self, n_classes: int = 2, in_channels: int = 1, n_filters: int = 16, dropout: float = 0.5):
        super().__init__()
        n = n_filters
        self.settings = {"n_classes": n_classes, "in_channels": in_channels, "n_filters": n_filters}
        self.encoder = nn.ModuleList(
            [_block(1, in_channels, n)] + [_block(min(i + 1, 3), n << i, n << i) for i in range(1, 5)]
        )
        self.downs = nn.ModuleList([_down(n << i) for i in range(4)])
        self.ups = nn.ModuleList([_up(n << i) for i in range(4, 0, -1)])
        self.decoder = nn.ModuleList([_block(min(i + 1, 3), n << i, n << i) for i in range(3, -1, -1)])
        self.bottleneck_dropout = nn.Dropout3d(dropout)
        self.head_dropout = nn.Dropout3d(dropout)
        self.segmentation_head = nn.Conv3d(n, n_classes, 1)
        self.distance_head = nn.Conv3d(n, n_classes - 1, 1)

    def forward(self, x: torch.Tensor) -> Output:
        """Run the network on (B, C, K, J, I); raises ValueError when a side is no multiple of 16."""
        features, skips = self.encode(x)
        for finest in self.decode(features, skips):  # noqa: B007 - the coarser maps are let go as they come
            pass
        return self.answer(finest, features)

    def encode(self, x: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """The bottleneck features of (B, C, K, J, I), as in Output, and the skips of the four stages before it."""
        if any(side % STRIDE for side in x.shape[2:]):
            raise ValueError(f"The network takes sides that are multiples of {STRIDE}, not {tuple(x.shape[2:])}.")
        skips = []
        for block, down in zip(self.encoder[:-1], self.downs, strict=True):
            x = _run(block, x)
            skips.append(x)
            x = down(x)
        return _run(self.encoder[-1], x), skips

    def decode(self, features: torch.Tensor, skips: list[torch.Tensor]) -> Iterator[torch.Tensor]:
        """The maps of the four decoder blocks as they are made, from (B, 8 n, K/8, J/8, I/8) to (B, n, K, J, I).

        Each takes a skip from the end of the list. Whoever needs the first maps only stops there, at no further cost.
        """
        x = self.bottleneck_dropout(features)
        for up, block in zip(self.ups, self.decoder, strict=True):
            x = _run(block, up(x) + skips.pop())
            yield x

    def answer(self, finest: torch.Tensor, features: torch.Tensor) -> Output:
        """The output that follows from the last decoder map, with the bottleneck features beside it."""
        x = self.head_dropout(finest)
        return Output(self.segmentation_head(x), torch.tanh(self.distance_head(x)), features)

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of the bottleneck, then of the four decoder maps."""
        return tuple(self.settings["n_filters"] << i for i in range(4, -1, -1))


def _run(block: nn.Module, x: torch.Tensor) -> torch.Tensor:
    # PyTorch 2.13 on a CPU: the bfloat16 weight gradient of a 3x3x3 convolution over two slices is garbage
    if x.shape[2] == 2 and x.device.type == "cpu" and torch.is_grad_enabled():
        with torch.autocast("cpu", enabled=False):
            return block(x.float())
    return block(x)


@torch.no_grad()
def head_start(network: VNet, shares: Sequence[float]) -> None:
    """Let an untrained segmentation head answer with the classes' shares, and give each class channels of its own.

    What the head sees is never negative, and nearly all voxels are background. From random values every channel first
    learns to say background and is zero elsewhere; where all are zero, no gradient comes through, and two structures
    can't be told from each other any more. A start from the shares (as Lin et al., ICCV 2017, begin) spares the
    network that first push, and channels of their own keep the classes apart.

    Args:
        shares: of each class among the voxels, background first.
    """
    head = network.segmentation_head
    classes, channels = head.weight.shape[:2]
    own = torch.arange(channels) % classes == torch.arange(classes)[:, None]
    head.weight.copy_(OWN_WEIGHT * (own.float() - 1 / classes).view_as(head.weight))
    head.bias.copy_(torch.tensor(shares).clamp_min(SMALLEST_SHARE).log())


def count_parameters(module: nn.Module) -> int:
    """Number of trainable values in a module."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)
