"""Whole prepared volumes through the network, and how well the outcome agrees with the labels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from ..metrics import compare
from ..network import STRIDE
from .sampling import TrainingCase

FIGURES = ("dice", "jaccard", "hd95", "asd")


@torch.inference_mode()
def predict_labels(network: nn.Module, image: np.ndarray, device: torch.device, dtype: torch.dtype) -> np.ndarray:
    """Classes (K, J, I), uint8, of a prepared image in one pass; sides are padded with the lowest value."""
    x = torch.from_numpy(image.astype(np.float32))[None, None].to(device)
    pads = [p for n in reversed(image.shape) for p in ((-n % STRIDE) // 2, -(-(-n % STRIDE) // 2))]
    x = F.pad(x, pads, value=float(image.min())).contiguous(memory_format=torch.channels_last_3d)
    with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
        logits = network(x).logits
    box = tuple(slice(a, a + n) for a, n in zip(pads[4::-2], image.shape, strict=True))
    return logits[0].argmax(0)[box].to(torch.uint8).cpu().numpy()


def validate(
    network: nn.Module,
    cases: Sequence[TrainingCase],
    spacing: Sequence[float],
    n_classes: int,
    device: torch.device,
    dtype: torch.dtype,
) -> dict:
    """Mean figures over cases and classes on the model's grid, and the rows they come from.

    Returns:
        {"dice", "jaccard" (percent), "hd95", "asd" (mm; None where nothing could be measured), "empty", "rows"}.
    """
    was_training = network.training
    network.eval()
    rows = []
    for case in cases:
        found = predict_labels(network, case.image, device, dtype)
        for value in range(1, n_classes):
            figures = compare(case.label == value, found == value, spacing)
            rows.append({"case": case.id, "label": value, **{k: figures[k] for k in FIGURES}})
    network.train(was_training)
    means = {}
    for key in FIGURES:
        values = [r[key] for r in rows if r[key] is not None]
        means[key] = round(float(np.mean(values)), 3) if values else None
    return {**means, "empty": sum(r["hd95"] is None for r in rows), "rows": rows}
