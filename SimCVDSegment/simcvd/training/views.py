"""Views of crops: the same content, seen a little differently.

What is random is drawn for the global batch, of which each process takes its share.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from .distributed import rank, world_size


def intensity_view(images: torch.Tensor, generator: torch.Generator, change: float) -> torch.Tensor:
    """Contrast times 1 +- change, then brightness +- change (standard deviations), each crop its own.

    images: (B, 1, K, J, I), z-scored. Nothing moves.
    """
    contrast, brightness = (
        1 + change * _either_way(len(images), generator),
        change * _either_way(len(images), generator),
    )
    shape = (-1, 1, 1, 1, 1)
    return images * contrast.view(shape) + brightness.view(shape)


def zoomed_view(images: torch.Tensor, generator: torch.Generator, least: float) -> torch.Tensor:
    """A random box of each crop (B, 1, K, J, I), drawn out to the crop's size.

    The box has between `least` and all of the sides along J and I, and all along K: what is shown keeps its height.
    """
    n = len(images)
    side = 1 - (1 - least) * (1 + _either_way(n, generator)) / 2
    theta = images.new_zeros(n, 3, 4)
    theta[:, 0, 0] = theta[:, 1, 1] = side
    theta[:, 2, 2] = 1
    theta[:, 0, 3], theta[:, 1, 3] = ((1 - side) * _either_way(n, generator) for _ in range(2))
    with torch.autocast(images.device.type, enabled=False):  # in bfloat16 places would be off by parts of a voxel
        grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def _either_way(count: int, generator: torch.Generator) -> torch.Tensor:
    """(count,) numbers between -1 and 1."""
    drawn = torch.rand(count * world_size(), generator=generator, device=generator.device)
    return 2 * drawn[rank() * count : (rank() + 1) * count] - 1
