"""Supervised training: the labelled cases only, the yardstick for all that use the others too."""

from __future__ import annotations

import torch

from .base import Batch, Method


class Supervised(Method):
    """L_sup of SimCVD (Eq. 1) on the labelled crops."""

    name = "supervised"
    summary = "labelled cases only: when everything is outlined, or to see what the unlabelled cases add"

    def forward(self, batch: Batch) -> dict[str, torch.Tensor]:
        """Terms segmentation, sdm, supervised, total."""
        terms = self.supervised_terms(self.student(batch.labelled), batch.label)
        return {**terms, "total": terms["supervised"]}
