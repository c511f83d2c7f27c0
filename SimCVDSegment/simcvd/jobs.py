"""What the worker can be asked for: to segment, to compare, to be ready, to rank cases, to time a training.

A job's `tell(stage, fraction)` is called between its steps and raises CancelledError when it is no longer wanted;
`tell(stage, fraction, event, **fields)` says an event of another name than "progress" instead.
PyTorch is imported by the first job that needs it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path

import numpy as np

from .clock import Clock
from .errors import SimCVDError
from .files import atomic_path, remove_if_possible
from .models import CARD, WEIGHTS, find_model
from .pytorch import check_torch

MODELS_KEPT = 2
FINISHED_BY_READING, FINISHED_BY_SEGMENTING = 0.05, 0.9  # fractions of a segmentation

Tell = Callable[..., None]


class CancelledError(Exception):
    """The job that runs is no longer wanted."""


class DiskError(SimCVDError):
    """A result that cannot be written."""

    kind = "disk"


class Jobs:
    """What can be asked for; holds the models that were used last."""

    def __init__(self):
        self._models: dict[Path, tuple] = {}

    def __call__(self, request: dict, tell: Tell) -> dict:
        """Do what a request asks for; what `done` shall say."""
        fields = {name: value for name, value in request.items() if name not in ("do", "id")}
        return getattr(self, request["do"])(tell, **fields)

    def segment(
        self,
        tell: Tell,
        image: str,
        model: str,
        output: str,
        device: str = "auto",
        largest: bool | None = None,
        uncertainty: bool = False,
        roi: list | None = None,
        memory_limit_mb: float | None = None,
        overwrite: bool = True,
    ) -> dict:
        """Segment one image and write its arrays as .npy files, (K, J, I) or (C - 1, K, J, I)."""
        clock = Clock()
        tell("starting", 0.0)
        kinds = ["labels", "sdm", "probability", "model_sdm"] + ["uncertainty"] * uncertainty
        files = {kind: Path(output).absolute() / f"{kind}.npy" for kind in kinds}
        if not overwrite:
            _refuse_existing(files.values())
        segmenter = self._segmenter(model)
        clock.lap("starting")
        tell("reading", 0.0)
        from .images import read_volume
        from .segmentation import Settings

        volume = read_volume(image)
        clock.lap("reading")
        settings = Settings(
            device=device,
            largest=largest,
            uncertainty=uncertainty,
            roi=roi,
            memory_limit_mb=memory_limit_mb,
            model_sdm=True,
        )
        span = FINISHED_BY_SEGMENTING - FINISHED_BY_READING
        result = segmenter.segment(volume, settings, lambda f: tell("segmenting", FINISHED_BY_READING + span * f))
        clock.lap("segmenting")
        _write_arrays({path: getattr(result, kind) for kind, path in files.items()}, tell)
        clock.lap("writing")
        seconds = {**result.seconds, **clock.seconds()}
        return {
            "files": {kind: str(path) for kind, path in files.items()},
            "device": result.device,
            "seconds": _rounded(seconds),
            "notes": result.notes,
        }

    def evaluate(
        self, tell: Tell, pairs: list, output: str, names: dict | None = None, about: dict | None = None
    ) -> dict:
        """Score segmentations against references and write the report."""
        tell("starting", 0.0)
        from .evaluation import REPORT_FILES, Pair, evaluate_pairs

        cases = [
            Pair(p["case"], Path(p["reference"]), Path(p["prediction"]), Path(p["image"]) if p.get("image") else None)
            for p in pairs
        ]
        folder = Path(output).absolute()
        labels = {int(value): name for value, name in (names or {}).items()}
        try:
            rows = evaluate_pairs(cases, folder, labels, lambda i, n, case: tell("scoring", i / n), about)
        except OSError as error:
            raise _disk_error(folder, error) from error
        return {"rows": rows, "files": {name.partition(".")[2]: str(folder / name) for name in REPORT_FILES}}

    def warm(self, tell: Tell, model: str) -> dict:
        """Load what a segmentation needs, by segmenting a tiny scan."""
        clock = Clock()
        tell("starting", 0.0)
        segmenter = self._segmenter(model)
        from .images import Geometry, Volume
        from .segmentation import Settings

        ramp = np.arange(4096, dtype=np.int16).reshape(16, 16, 16)
        # on a grid of its own, so that resampling is warmed up too
        scan = Volume(ramp, Geometry(ramp.shape, tuple(2 * s for s in segmenter.spacing)))
        segmenter.segment(scan, Settings(model_sdm=True), lambda f: tell("starting", f))
        clock.lap("starting")
        return {"model": segmenter.card["name"], "device": segmenter.device, "seconds": _rounded(clock.seconds())}

    def rank(self, tell: Tell, model: str, cases: list, labelled: list | None = None, device: str = "auto") -> dict:
        """Say of each case, as it is done, how much it is worth to outline it, and at last the order."""
        tell("starting", 0.0)
        check_torch()
        from .ranking import Ranker, order, rank_cases

        ranker = Ranker(find_model(model), device)
        lists = ([(row["id"], Path(row["image"])) for row in rows] for rows in (cases, labelled or []))
        ranks = []
        for found in rank_cases(ranker, *lists, lambda f: tell("ranking", f)):
            ranks.append(found)
            fraction = (len(labelled or []) + len(ranks)) / (len(labelled or []) + len(cases))
            tell("ranking", fraction, "ranked", **asdict(found))
        return {"order": order(ranks)}

    def estimate(self, tell: Tell, run: dict, classes: int, cases: list) -> dict:
        """How long a training would take on this computer."""
        tell("starting", 0.0)
        check_torch()
        from .grid import Geometry
        from .training.estimate import estimate, shapes_on
        from .training.setup import settle

        config = settle(run["method"], run.get("spacing"), run.get("recipe"), run.get("wishes"), classes)
        places = [
            (c["role"], Geometry(tuple(c["size"]), tuple(map(float, c["spacing"])), direction=tuple(c["direction"])))
            for c in cases
        ]
        return estimate(config, shapes_on(places, config["spacing"]), lambda f: tell("measuring", f))

    def _segmenter(self, model: str):
        """The model's Segmenter, loaded anew when its files have changed."""
        folder = find_model(model).resolve()
        stamp = _stamp(folder)
        loaded, segmenter = self._models.pop(folder, (None, None))
        if loaded != stamp:
            while len(self._models) >= MODELS_KEPT:
                self._models.pop(next(iter(self._models)))
            segmenter = _new_segmenter(folder)
        self._models[folder] = stamp, segmenter
        return segmenter


def _new_segmenter(folder: Path):
    check_torch()
    from .segmentation import Segmenter

    return Segmenter(folder)


def _rounded(seconds: dict[str, float]) -> dict[str, float]:
    return {part: round(value, 3) for part, value in seconds.items()}


def _stamp(folder: Path) -> tuple:
    """What changes when a model is trained anew under its old name."""
    states = [(folder / name).stat() for name in (CARD, WEIGHTS) if (folder / name).is_file()]
    return tuple((state.st_mtime_ns, state.st_size, state.st_ino) for state in states)


def _refuse_existing(files: Iterable[Path]) -> None:
    there = [path for path in files if path.exists()]
    if there:
        raise DiskError(f"{there[0]} is there already; choose another folder or allow overwriting.")


def _write_arrays(arrays: dict[Path, np.ndarray], tell: Tell) -> None:
    """Write each array whole, and none when one of them fails or the job is cancelled."""
    written = []
    try:
        for i, (path, array) in enumerate(arrays.items()):
            tell("writing", FINISHED_BY_SEGMENTING + (1 - FINISHED_BY_SEGMENTING) * i / len(arrays))
            with atomic_path(path, durable=False) as temporary:
                np.save(temporary, np.ascontiguousarray(array), allow_pickle=False)
            written.append(path)
    except BaseException as error:
        remove_if_possible(*written)
        if isinstance(error, OSError):
            raise _disk_error(path.parent, error) from error
        raise


def _disk_error(folder: Path, error: OSError) -> DiskError:
    reason = error.strerror or str(error)
    return DiskError(f"The results can't be written to {folder} ({reason}); free space there or choose another place.")
