"""Predicted label maps against reference label maps: matched by name, brought onto one grid, scored and reported."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import NamedTuple

import numpy as np

from simcvd.errors import SimCVDError
from simcvd.files import remove_if_possible
from simcvd.grid import Geometry, ImageError, Volume, same_geometry, upright
from simcvd.images import MAP_KINDS, SUFFIXES, image_name, read_labels, read_volume, resample_labels
from simcvd.metrics import compare_labels
from simcvd.pictures import case_picture
from simcvd.report import write_csv, write_html, write_json_report

MASK = 255  # what many programs write for the inside of a mask
MANY = 50  # labels: a scan has more values, and hardly two voxels of one value lie side by side in it
REPORT_FILES = ("report.csv", "report.json", "report.html")


class EvaluationError(SimCVDError):
    """Nothing to compare, or nowhere to write the report."""


class Pair(NamedTuple):
    """The files of one case; the image is the background of its picture."""

    case: str
    reference: Path
    prediction: Path
    image: Path | None = None


def evaluate(
    reference: Path,
    prediction: Path,
    output: Path | None,
    images: Path | None = None,
    names: Mapping[int, str] | None = None,
    progress: Callable[[int, int, str], None] | None = None,
    warn: Callable[[str], None] | None = None,
    overwrite: bool = False,
) -> list[dict]:
    """Score predictions against references and write report.csv, report.json and report.html into `output`.

    Two files make one case; folders are matched by file name without suffix, or by folder name where a folder holds
    <case>/label.* (and <case>/image.* for the pictures). `images` may name another file or folder for the pictures,
    `names` maps label values to names. A prediction on another grid is brought onto the reference's, which its rows'
    note says. `progress(i, n, case)` is called before each case, `warn(sentence)` for every name without a partner; the
    report lists those too. Raises EvaluationError when nothing matches or a report is already there and `overwrite` is
    not set, and ImageError for files that cannot be read.
    """
    if output is not None:
        if not overwrite:
            _refuse_existing(Path(output))
        Path(output).mkdir(parents=True, exist_ok=True)  # told before all is scored where that can't be
    matched, notes = match_cases(Path(reference), Path(prediction))
    for note in notes if warn else ():
        warn(note)
    if images is None:
        backgrounds = _scans_beside(Path(reference))
    elif Path(images).is_file() and len(matched) == 1:
        backgrounds = {matched[0][0]: Path(images)}  # the scan of the only case, whatever its name
    else:
        backgrounds = _files(Path(images), "image")
    pairs = [Pair(*files, backgrounds.get(files[0])) for files in matched]
    about = {"Reference": str(reference), "Prediction": str(prediction)}
    return evaluate_pairs(pairs, output, names, progress, about, notes)


def evaluate_pairs(
    pairs: Sequence[Pair],
    output: Path | None,
    names: Mapping[int, str] | None = None,
    progress: Callable[[int, int, str], None] | None = None,
    about: Mapping[str, str] | None = None,
    notes: Sequence[str] = (),
) -> list[dict]:
    """Score pairs of files and write the report, replacing one that is there; arguments and rows as of `evaluate`.

    `about` and `notes` tell the report's reader what was compared; a scan that cannot be read is missing in the picture
    alone, and noted. Raises ImageError for references and predictions that cannot be read.
    """
    rows: list[dict] = []
    pictures: dict[str, bytes] = {}
    notes = list(notes)
    for i, pair in enumerate(pairs):
        if progress:
            progress(i, len(pairs), pair.case)
        truth, predicted = read_labels(pair.reference), read_labels(pair.prediction)
        for path, labels in ((pair.reference, truth.array), (pair.prediction, predicted.array)):
            _check_labels(path, labels)
        guess, note = _onto(truth.geometry, predicted)
        truth.array, guess, renamed = _alike(truth.array, guess)
        found = compare_labels(truth.array, guess, truth.geometry.spacing, names)
        rows += [
            {"case": pair.case, **row, "note": "; ".join(filter(None, (note, renamed, row["note"]))) or None}
            for row in found
        ]
        if output is not None:
            pictures[pair.case], missing = _picture(pair.image, truth, guess)
            notes += [f"{pair.case} is shown without its scan: {missing}"] if missing else []
    if output is not None:
        _write_report(Path(output), rows, pictures, about or {}, notes)
    return rows


def _check_labels(path: Path, labels: np.ndarray) -> None:
    """Raise EvaluationError for a scan in place of a label map, by how rarely neighbours have the same value."""
    count = len(np.unique(labels[labels != 0]))
    here, beside = labels[..., :-1], labels[..., 1:]
    if count > MANY and (here == beside)[here != 0].mean() < 0.5:
        raise EvaluationError(
            f"{path} looks like a scan, not like a label map: it has {count} values; give the outlines."
        )


def match_cases(reference: Path, prediction: Path) -> tuple[list[tuple[str, Path, Path]], list[str]]:
    """(name, reference, prediction) of every case, and a sentence for every kind of name without a partner.

    Raises EvaluationError when a path is missing or no name is on both sides.
    """
    if reference.is_file() and prediction.is_file():
        return [(image_name(prediction), reference, prediction)], []
    references, predictions = _files(reference, "label"), _files(prediction, "label")
    pairs = [(name, references[name], predictions[name]) for name in sorted(references.keys() & predictions.keys())]
    if not pairs:
        raise EvaluationError(
            f"No prediction has the name of a reference ({_some(references)} against {_some(predictions)}); "
            "rename the files so that they match."
        )
    notes = []
    if missing := references.keys() - predictions.keys():
        notes.append(f"{_count(missing, 'reference')} had no prediction: {', '.join(sorted(missing))}.")
    if extra := predictions.keys() - references.keys():
        notes.append(f"{_count(extra, 'prediction')} had no reference: {', '.join(sorted(extra))}.")
    return pairs, notes


def _files(path: Path, kind: str) -> dict[str, Path]:
    """The files of a file, a folder of files or a folder of <case>/<kind>.* folders, by case name."""
    if path.is_file():
        return {image_name(path): path}
    if not path.is_dir():
        raise EvaluationError(f"{path} does not exist; check the path.")
    found: dict[str, Path] = {}
    for entry in sorted(path.iterdir()):
        if entry.is_dir():
            inside = [f for f in sorted(entry.iterdir()) if _is_volume(f) and image_name(f) == kind]
            choice = [(entry.name, f) for f in inside]
        else:
            choice = [(image_name(entry), entry)] if _is_volume(entry) else []
        for name, file in choice:
            if name in found:
                raise EvaluationError(
                    f"{path} holds two files for {name} ({found[name].name}, {file.name}); name files instead of the "
                    "folder, or keep results and scans in folders of their own."
                )
            found[name] = file
    return found


def _is_volume(path: Path) -> bool:
    name = path.name.lower()
    return name.endswith(SUFFIXES) and not name.startswith(".") and not image_name(path).lower().endswith(MAP_KINDS)


def _some(names: Mapping[str, Path]) -> str:
    listed = sorted(names)
    return ", ".join(listed[:3]) + (", ..." if len(listed) > 3 else "") if listed else "no label map"


def _count(names, noun: str) -> str:
    return f"{len(names)} {noun}" + ("" if len(names) == 1 else "s")


def _onto(geometry: Geometry, labels: Volume) -> tuple[np.ndarray, str | None]:
    """The labels as an array on a grid, and a note where they had to be brought there."""
    if same_geometry(geometry, labels.geometry):
        return labels.array, None
    moved = resample_labels(labels, geometry)
    if labels.array.any() and not moved.any():
        return moved, "the prediction lies outside the reference's grid; check that the two belong together"
    return moved, "the prediction was resampled onto the reference's grid"


def _alike(truth: np.ndarray, guess: np.ndarray) -> tuple[np.ndarray, np.ndarray, str | None]:
    """Both with 1 inside where each is a mask and one of them has 255 there; and a note on that.

    Many programs write masks so, and a model that learned from them answers with 1.
    """
    inside = [np.unique(labels[labels != 0]).tolist() for labels in (truth, guess)]
    if sorted(inside) != [[1], [MASK]]:
        return truth, guess, None
    whose = "reference" if inside[0] == [MASK] else "prediction"
    return (truth != 0).astype(int), (guess != 0).astype(int), f"the {whose}'s value {MASK} was taken for 1"


def _scans_beside(reference: Path) -> dict[str, Path]:
    """The scans <case>/image.* in a folder of references, by case; files that lie there themselves are references."""
    return {n: f for n, f in _files(reference, "image").items() if f.parent != reference} if reference.is_dir() else {}


def _picture(image: Path | None, truth: Volume, guess: np.ndarray) -> tuple[bytes, str | None]:
    """The case's picture, on plain grey where there is no image on the reference's grid; and why it can't be read."""
    background, missing = None, None
    try:
        background = read_volume(image) if image else None
    except ImageError as error:
        missing = str(error)
    fits = background is not None and same_geometry(background.geometry, truth.geometry)
    arrays = [background.array if fits else None, truth.array, guess]
    turned = [None if a is None else upright(a, truth.geometry)[0] for a in arrays]
    return case_picture(*turned, upright(truth.array, truth.geometry)[1]), missing


def _refuse_existing(output: Path) -> None:
    there = [name for name in REPORT_FILES if (output / name).exists()]
    if there:
        raise EvaluationError(
            f"{output} already holds a report ({', '.join(there)}); choose another --output or add --overwrite."
        )


def _write_report(output: Path, rows, pictures, about: Mapping[str, str], notes: Sequence[str]) -> None:
    meta = {
        "title": "Segmentation report",
        **about,
        "Cases": len(pictures),
        "Written": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "notes": list(notes),
    }
    new = [output / name for name in REPORT_FILES if not (output / name).exists()]
    try:
        write_csv(output / "report.csv", rows)
        write_json_report(output / "report.json", rows, meta)
        write_html(output / "report.html", rows, meta, pictures)
    except BaseException:  # a part of a report would stand in the way of the next attempt
        remove_if_possible(*new)
        raise
