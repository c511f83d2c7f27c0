"""Memory of earlier steps: first in, first out."""

from __future__ import annotations

import torch
from torch import nn

from .distributed import gathered


class MemoryQueue(nn.Module):
    """The last `size` things pushed, the oldest first; part of the checkpoint, so that a resumed run remembers.

    It is empty at first, and the first push settles the shape of a thing. Several processes gather what they push:
    all hold the same memory, that of the global batch.
    """

    def __init__(self, size: int):
        super().__init__()
        self.size = size
        self.register_buffer("items", torch.empty(0))

    @torch.no_grad()
    def push(self, items: torch.Tensor) -> None:
        """Add (n, ...) of every process, alike in shape in all of them."""
        self.add(gathered(items.float()))

    @torch.no_grad()
    def add(self, items: torch.Tensor) -> None:
        """Add (n, ...) that are the same in every process; what is too much leaves at the other end."""
        self.items = (torch.cat([self.items, items]) if len(self.items) else items)[-self.size :].clone()

    def _load_from_state_dict(self, state_dict, prefix, *args) -> None:
        stored = state_dict.get(prefix + "items")
        if stored is not None:
            self.items = self.items.new_empty(stored.shape)
        super()._load_from_state_dict(state_dict, prefix, *args)
