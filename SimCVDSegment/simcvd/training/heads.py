"""Projection heads: where features become the vectors that are contrasted."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn


def mlp(*widths: int) -> nn.Sequential:
    """Linear layers from the first width to the last, with ReLU between them."""
    layers: list[nn.Module] = []
    for n_in, n_out in pairwise(widths):
        layers += [nn.Linear(n_in, n_out), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers[:-1])


def unit(vectors: torch.Tensor) -> torch.Tensor:
    """Vectors along the last axis brought to length 1, in float32."""
    return F.normalize(vectors.float(), dim=-1)
