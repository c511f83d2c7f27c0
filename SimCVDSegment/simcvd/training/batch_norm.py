"""Batch-norm statistics of the images as they are, for a network that learned from altered ones."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn


@torch.no_grad()
def settle_batch_norm(network: nn.Module, batches: Iterable[torch.Tensor]) -> None:
    """Replace the running statistics by their means over some batches (B, 1, K, J, I), at least one.

    Training leaves the statistics of its last few batches, of warped, mixed or noisy crops and with dropout; a scan
    that is segmented is none of that. Weights stay as they are, and training itself doesn't use these statistics.
    As done after stochastic weight averaging (Izmailov et al., 2018).
    """
    norms = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    was_training, momenta = network.training, [m.momentum for m in norms]
    network.train()
    for module in network.modules():
        if isinstance(module, nn.Dropout3d):
            module.eval()
    for i, images in enumerate(batches):
        for norm in norms:
            norm.momentum = 1 / (i + 1)  # the mean so far; the first batch replaces what was there
        network(images)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    network.train(was_training)
