"""Whole prepared volumes through the network, and how well the outcome agrees with the labels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from ..devices import memory_limit
from ..inference import Predictor, predict_within
from ..labels import classify, keep_largest
from ..metrics import compare
from .sampling import TrainingCase

FIGURES = ("dice", "jaccard", "hd95", "asd")


def predict_cases(predictor: Predictor, cases: Sequence[TrainingCase], patch: Sequence[int]) -> Iterator[np.ndarray]:
    """Labels (K, J, I), uint8, of one case after the other, predicted as users' scans are."""
    return map(classify, predict_probabilities(predictor, cases, patch))


def predict_probabilities(
    predictor: Predictor, cases: Sequence[TrainingCase], patch: Sequence[int]
) -> Iterator[np.ndarray]:
    """Foreground probabilities (C - 1, K, J, I) of one case after the other."""
    limit = memory_limit(str(predictor.device))
    for case in cases:
        yield predict_within(predictor, case.image.astype(np.float32), tuple(patch), limit)


def validate(
    predictor: Predictor,
    cases: Sequence[TrainingCase],
    spacing: Sequence[float],
    patch: Sequence[int],
    show: Callable[[TrainingCase, np.ndarray], None] | None = None,
    largest: bool = False,
) -> dict:
    """Mean figures over cases and classes on the model's grid, and their rows; `show` gets the first case's labels.

    largest: only the largest part of each class counts.

    Returns:
        {"dice", "jaccard" (percent), "hd95", "asd" (mm; None where nothing could be measured), "empty", "rows"}.
    """
    rows = []
    for case, found in zip(cases, predict_cases(predictor, cases, patch), strict=True):
        found = keep_largest(found) if largest else found
        if show and not rows:
            show(case, found)
        for value in range(1, predictor.classes):
            figures = compare(case.label == value, found == value, spacing)
            rows.append({"case": case.id, "label": value, **{k: figures[k] for k in FIGURES}})
    return {**means_of(rows), "rows": rows}


def means_of(rows: Sequence[dict]) -> dict:
    """The means of rows of figures, None where there is nothing to average, and how many rows found nothing."""
    means = {}
    for key in FIGURES:
        values = [r[key] for r in rows if r[key] is not None]
        means[key] = round(float(np.mean(values)), 3) if values else None
    return {**means, "empty": sum(r["hd95"] is None for r in rows)}
