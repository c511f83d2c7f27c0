"""Trains on the CPU and on a pretended GPU, in a process of its own, and prints what both came to as JSON.

python gpu_run.py DRIVER FOLDER METHOD:PRECISION...
"""

import contextlib
import ctypes
import json
import sys
from pathlib import Path

ctypes.CDLL(sys.argv[1])

import numpy as np
import torch
from pretend_gpu import pretended_gpu
from training_runs import SMALL_HEAD, SPACING, ball_cases

from simcvd.images import read_volume
from simcvd.ranking import Ranker, rank_cases
from simcvd.segmentation import Segmenter, Settings
from simcvd.training.loop import Stopped, Trainer
from simcvd.training.run_folder import RunFolder
from simcvd.training.setup import create_run

STEPS, BREAK = 4, 3


def train(run: RunFolder, stop_at: int | None = None) -> tuple[list[float], str]:
    """The loss of each step, and where the network was."""
    trainer, losses = Trainer(run), []
    step = trainer._step

    def watched(crops):
        terms = step(crops)
        losses.append(float(terms["total"]))
        if trainer.iteration == stop_at:
            (run.path / "control").write_text("stop")
        return terms

    trainer._step = watched
    with contextlib.suppress(Stopped):
        trainer.run()
    return losses, str(next(trainer.method.parameters()).device)


def results(folder: Path, cases: list, method: str, precision: str) -> dict:
    """Trained with a break, then used."""
    settings = {**SMALL_HEAD, "terms_every": 1} if method == "simcvd" else {}
    slices = 16 if precision == "float32" else 48  # bfloat16 over two is another on a CPU, see network.py
    wishes = {
        "network": {"n_filters": 2},
        "patch": [slices, 16, 16],
        "threads": 1,
        "iterations": STEPS,
        "precision": precision,
    }
    wishes |= {"validate_percent": 100, "settle_batch_norm": 1, "settings": settings}
    run, _ = create_run(folder, cases, method, SPACING, "short", wishes)
    first, device = train(run, stop_at=BREAK)
    second, _ = train(RunFolder(folder))
    scan = read_volume(cases[-1].image)
    segmenter = Segmenter(run.model)
    found = segmenter.segment(scan, Settings(uncertainty=True, model_sdm=True))
    windows = segmenter.segment(scan, Settings(windows=True))
    ranker = Ranker(run.model)
    (rank,) = rank_cases(ranker, [("scan", cases[-1].image)], [("known", cases[0].image)])
    return {
        "losses": first + second,
        "device": device,
        "used": [found.device, windows.device, ranker.device],
        "voxels": [int(found.labels.astype(bool).sum()), int(windows.labels.astype(bool).sum())],
        "unsure": [float(np.mean(found.uncertainty)), rank.uncertainty, rank.unlikeness],
    }


if __name__ == "__main__":
    folder, found = Path(sys.argv[2]), {}
    torch.set_num_threads(1)
    cases = ball_cases(folder / "cases", n_labels=2)
    for n, wanted in enumerate(sys.argv[3:]):
        method, precision = wanted.split(":")
        cpu = results(folder / f"cpu{n}", cases, method, precision)
        with pretended_gpu():
            found[wanted] = {"cpu": cpu, "gpu": results(folder / f"gpu{n}", cases, method, precision)}
    print(json.dumps(found))
