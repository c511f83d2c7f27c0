"""Contrast of global, then local features, then fine-tuning (Chaitanya et al., NeurIPS 2020, 2006.10511), in 3-D."""

from __future__ import annotations

from itertools import islice
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from ...network import STRIDE
from ..distributed import gathered, rank
from ..heads import mlp, unit
from ..losses import contrast
from ..pairs import (
    FIRST,
    PLAIN,
    RANDOM,
    SECOND,
    STRATEGIES,
    Who,
    global_pairs,
    local_pairs,
    partition_of,
    slab_starts,
)
from ..views import intensity_view, zoomed_view
from .base import Batch, MethodError
from .staged import FINE_TUNING, Staged
from .supervised import Supervised

REGION = 3  # side in cells of a region of a decoder map


class GlobalLocal(Staged):
    """Stages global and local teach encoder and decoder without labels; fine-tuning is supervised training.

    Stage global: crops of all scans are cut into slabs, one of each axial partition of the crop; the encoder learns
    that views of a slab belong together, by strategy also slabs of the same partition of other scans, and others not.
    Stage local: the encoder rests; the first decoder blocks learn to tell the regions of a crop from each other.
    Crops of these stages are cut as they lie in their scans, all from the same place: that is what the partitions need.
    """

    name = "global_local"
    summary = (
        "many scans alike in extent, a handful of outlines: the network first learns what lies where, without labels"
    )
    defaults: ClassVar[dict] = {
        **Staged.defaults,
        "contrast_weight": 0.1,  # the paper's optimiser, Adam, doesn't feel it; this suits SGD (our choice)
        "strategy": "partition",
        "partitions": 4,
        "slab": 16,
        "across": False,
        "local_blocks": 2,
        "local_grid": 3,
        "global_hidden": 1024,
        "head_width": 128,
    }
    meanings: ClassVar[dict[str, str]] = {
        **Staged.meanings,
        "strategy": "which slabs belong together: views of one (random), also those of other scans' same partition "
        "(partition), or these only kept from being negatives (partition-)",
        "partitions": "S, of a scan's height",
        "slab": "slices of a slab, a multiple of 16",
        "across": "stage local takes the same place in other scans as positive, too (L^D; else L^R)",
        "local_blocks": "decoder blocks that stage local trains, of four",
        "local_grid": "regions of a crop per axis",
        "global_hidden": "features within the head of stage global",
        "head_width": "features that are compared",
    }
    choices: ClassVar[dict] = {"strategy": STRATEGIES}
    counts: ClassVar[dict[str, int]] = dict.fromkeys(
        ("partitions", "slab", "local_blocks", "local_grid", "global_hidden", "head_width"), 1
    )
    needs: ClassVar[dict[str, str]] = {
        **dict.fromkeys(("strategy", "slab", "global_hidden"), "global_share"),
        **dict.fromkeys(("across", "local_blocks", "local_grid"), "local_share"),
    }

    def __init__(self, network: nn.Module, settings: dict):
        super().__init__(network, settings)
        s = self.settings
        width, channels = s["head_width"], network.widths[s["local_blocks"]]
        self.global_head = mlp(network.widths[0], s["global_hidden"], width)
        self.local_head = nn.Sequential(
            nn.Conv3d(channels, channels, 1), nn.ReLU(inplace=True), nn.Conv3d(channels, channels, 1)
        )
        self.region_head = nn.Linear(channels * REGION**3, width)

    @classmethod
    def checked(cls, settings: dict) -> dict:
        """As of every method with stages; slabs and blocks that the network doesn't have are refused too."""
        s = super().checked(settings)
        if s["slab"] % STRIDE:
            raise MethodError(f"Setting slab is a multiple of {STRIDE}, not {s['slab']!r}.")
        if s["local_blocks"] > 4:
            raise MethodError(f"Setting local_blocks is at most 4, not {s['local_blocks']!r}.")
        return s

    @classmethod
    def passes(cls, settings: dict, labelled: int, unlabelled: int) -> list[int]:
        """Both kinds together, and in fine-tuning the labelled ones."""
        return [labelled + unlabelled, labelled]

    def uses_unlabelled(self, progress: float) -> bool:
        """Until fine-tuning."""
        return self.stage(progress) != FINE_TUNING

    def aligned(self, progress: float) -> bool:
        """Until fine-tuning."""
        return self.stage(progress) != FINE_TUNING

    def global_terms(self, batch: Batch) -> dict[str, torch.Tensor]:
        """The contrast of slabs. A crop stands for its scan: a batch hardly ever has two of one."""
        s, chance = self.settings, batch.generator
        slabs, partition = self.slabs(torch.cat([batch.labelled, batch.unlabelled]), batch.axial, chance)
        views = {view: self.view(slabs, chance) for view in (FIRST, SECOND)}
        if s["strategy"] != RANDOM:
            views[PLAIN] = slabs
        features = self.student.encode(torch.cat(list(views.values())))[0].float().mean((2, 3, 4))
        scan = image_numbers(batch.axial).repeat(len(slabs) // len(batch.axial))
        who = [Who(image_numbers(slabs), torch.full_like(partition, view), scan, partition) for view in views]
        loss = self.loss(self.global_head(features), who, lambda a, b: global_pairs(s["strategy"], a, b))
        return {"global": loss, "total": s["contrast_weight"] * loss}

    def local_terms(self, batch: Batch) -> dict[str, torch.Tensor]:
        """The contrast of regions. The two views differ in intensity only, so that places correspond."""
        s = self.settings
        images = torch.cat([batch.labelled, batch.unlabelled])
        views = [intensity_view(images, batch.generator, s["intensity"]) for _ in range(2)]
        with torch.no_grad():
            features, skips = self.student.encode(torch.cat(views))
        blocks = s["local_blocks"]
        cells = list(islice(self.student.decode(features, skips), blocks))[-1]
        found = regions(self.local_head(cells), s["local_grid"])
        n, places = found.shape[:2]
        image = image_numbers(images).repeat_interleave(places)
        partition = partition_of(batch.axial, 0.5, s["partitions"]).repeat_interleave(places)
        place = torch.arange(places, device=image.device).repeat(n // 2)
        who = [Who(image, torch.full_like(image, view), image, partition, place) for view in (FIRST, SECOND)]
        loss = self.loss(self.region_head(found).flatten(0, 1), who, lambda a, b: local_pairs(s["across"], a, b))
        return {"local": loss, "total": s["contrast_weight"] * loss}

    def fine_tuning_terms(self, batch: Batch) -> dict[str, torch.Tensor]:
        """Those of supervised training."""
        return Supervised.forward(self, batch)

    def loss(self, vectors: torch.Tensor, who: list[Who], pairs) -> torch.Tensor:
        """The contrast of this process's vectors with those of all, `who` naming them view by view."""
        mine = Who(*(None if parts[0] is None else torch.cat(parts) for parts in zip(*who, strict=True)))
        everyone = Who(*(None if part is None else gathered(part) for part in mine))
        vectors = unit(vectors)
        return contrast(vectors, gathered(vectors), *pairs(mine, everyone), self.settings["tau"])

    def slabs(
        self, images: torch.Tensor, axial: torch.Tensor, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Slabs of crops (B, 1, K, J, I), slab by slab, and the partition of its scan that each lies in."""
        count, height = self.settings["partitions"], images.shape[2]
        depth = min(self.settings["slab"], height)
        starts = slab_starts(height, depth, count, generator)
        slabs = torch.cat([images[:, :, start : start + depth] for start in starts])
        where = [partition_of(axial, (start + depth / 2) / height, count) for start in starts]
        return slabs, torch.cat(where)

    def view(self, images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """A random box of each slab, in other contrast and brightness."""
        intensity = intensity_view(images, generator, self.settings["intensity"])
        return zoomed_view(intensity, generator, self.settings["zoom"])


def image_numbers(images: torch.Tensor) -> torch.Tensor:
    """A number for each image that no image of any process shares."""
    return torch.arange(len(images), device=images.device) + rank() * len(images)


def regions(cells: torch.Tensor, per_axis: int) -> torch.Tensor:
    """Cubes of 3 x 3 x 3 cells at fixed places of a map (B, C, k, j, i), from corner to corner: (B, places, C * 27).

    per_axis: places along each axis, fewer where the map has no more.
    """
    short = [max(0, REGION - n) for n in cells.shape[2:]]
    cells = F.pad(cells, [p for n in reversed(short) for p in (0, n)], mode="replicate") if any(short) else cells
    for axis in (2, 3, 4):
        cells = cells.unfold(axis, REGION, 1)
        starts = torch.linspace(0, cells.shape[axis] - 1, per_axis).round().long().unique()
        cells = cells.index_select(axis, starts.to(cells.device))
    return cells.flatten(5).permute(0, 2, 3, 4, 1, 5).flatten(1, 3).flatten(2)
