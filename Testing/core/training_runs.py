"""Small runs for the tests of the training loop, and a script that trains one in a process of its own."""

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "SimCVDSegment"))

from simcvd.cases import Case
from simcvd.grid import Geometry
from simcvd.images import write_volume
from simcvd.training.run_folder import RunFolder
from simcvd.training.setup import create_run

SPACING = (2.0, 2.0, 2.0)
SMALL_HEAD = {"pool_size": 16, "head_hidden": 16, "head_width": 8}


def write_balls(folder, count, n_labels=1):
    """Noisy bright balls that a small network learns in a few steps; the first `count` cases of a list."""
    cases = []
    for i in range(count):
        rng = np.random.default_rng(i)
        grid = np.indices((16, 32, 32)) - np.reshape(rng.integers([6, 10, 10], [10, 22, 22]), (3, 1, 1, 1))
        distance = np.sqrt((grid**2).sum(0))
        label = (distance < 6).astype(np.uint8) + (n_labels > 1) * (distance < 3)
        image = (100 + 80 * (label > 0) + 60 * (label > 1) + rng.normal(0, 20, label.shape)).astype(np.float32)
        geometry = Geometry((32, 32, 16), SPACING, (0.0, 0.0, 0.0), (1.0, 0, 0, 0, 1.0, 0, 0, 0, 1.0))
        write_volume(folder / f"{i}-image.nrrd", image, geometry)
        write_volume(folder / f"{i}-label.nrrd", label.astype(np.uint8), geometry)
        cases.append((folder / f"{i}-image.nrrd", folder / f"{i}-label.nrrd"))
    return cases


def ball_cases(folder, labelled=2, unlabelled=2, validation=1, n_labels=1):
    """Cases of all three roles."""
    folder.mkdir(exist_ok=True)
    files = write_balls(folder, labelled + unlabelled + validation, n_labels)
    roles = ["labelled"] * labelled + ["unlabelled"] * unlabelled + ["validation"] * validation
    return [
        Case(id=f"ball{i}", image=image, label=None if role == "unlabelled" else label, role=role)
        for i, ((image, label), role) in enumerate(zip(files, roles, strict=True))
    ]


def small_run(folder, method="simcvd", cases=None, settings=None, **wishes) -> RunFolder:
    """A run of a few seconds at most."""
    cases = ball_cases(folder.parent / "cases") if cases is None else cases
    head = SMALL_HEAD if method == "simcvd" else {}
    wishes = {"network": {"n_filters": 2}, "patch": [16, 16, 16], "threads": 1, **wishes}
    if "minutes" not in wishes:
        wishes = {"iterations": 6, **wishes}
    run, _ = create_run(
        folder, cases, method, SPACING, "published", {"settings": {**head, **(settings or {})}, **wishes}
    )
    return run


if __name__ == "__main__":
    from simcvd.training.loop import Trainer

    Trainer(RunFolder(sys.argv[1])).run()
