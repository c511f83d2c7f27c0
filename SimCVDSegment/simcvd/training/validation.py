"""Whole prepared volumes through the network, and how well the outcome agrees with the labels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from ..devices import memory_limit
from ..inference import Predictor, predict_within
from ..labels import classify
from ..metrics import compare
from ..network import VNet
from .sampling import TrainingCase

FIGURES = ("dice", "jaccard", "hd95", "asd")


def validate(
    network: VNet,
    cases: Sequence[TrainingCase],
    spacing: Sequence[float],
    patch: Sequence[int],
    device: torch.device,
    precision: torch.dtype,
) -> dict:
    """Mean figures over cases and classes on the model's grid, predicted as users' scans are, and their rows.

    Returns:
        {"dice", "jaccard" (percent), "hd95", "asd" (mm; None where nothing could be measured), "empty", "rows"}.
    """
    predictor = Predictor(network, str(device), precision)
    rows = []
    for case in cases:
        image = case.image.astype(np.float32)
        found = classify(predict_within(predictor, image, tuple(patch), memory_limit(str(device))))
        for value in range(1, predictor.classes):
            figures = compare(case.label == value, found == value, spacing)
            rows.append({"case": case.id, "label": value, **{k: figures[k] for k in FIGURES}})
    means = {}
    for key in FIGURES:
        values = [r[key] for r in rows if r[key] is not None]
        means[key] = round(float(np.mean(values)), 3) if values else None
    return {**means, "empty": sum(r["hd95"] is None for r in rows), "rows": rows}
