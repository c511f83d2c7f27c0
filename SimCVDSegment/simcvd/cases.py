"""The cases of a training: who plays which role, and each one prepared once onto the model's grid."""

from __future__ import annotations

import hashlib
import json
import os
import re
import zipfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from simcvd.errors import SimCVDError
from simcvd.files import DEVICE_NAME, OF_DESKTOPS, atomic_path, read_json, sha256, write_json
from simcvd.grid import ImageError

ROLES = ("labelled", "unlabelled", "validation")
FORMAT = 1
PREPARATION = 2  # raise it whenever prepare_case would give other arrays: old caches are then left alone

_UNUSABLE_ID = re.compile(r'[/\\<>:"|?*\x00-\x1f]|^[\s.]|[\s.]$|^$|^' + DEVICE_NAME)


class CaseError(SimCVDError):
    """A case list, a case or a prepared case that can't be used."""


@dataclass
class Case:
    """One scan of a training; the label of an unlabelled case, if any, is never read."""

    id: str
    image: Path
    label: Path | None
    role: str

    @property
    def learned_label(self) -> Path | None:
        """The label that training or validation may look at."""
        return None if self.role == "unlabelled" else self.label


# --- the list -------------------------------------------------------------------------------------------------------


def read_cases(path: str | os.PathLike) -> list[Case]:
    """Read a `cases.json`; relative paths in it count from its folder. Raises CaseError."""
    path = Path(path)
    try:
        content = read_json(path)
    except (OSError, ValueError) as e:
        raise CaseError(f"{path} can't be read as a case list ({e}); give a cases.json.") from e
    if not isinstance(content, dict) or not isinstance(content.get("cases"), list):
        raise CaseError(f'{path} is no case list: it needs {{"format": {FORMAT}, "cases": [...]}}.')
    if content.get("format") != FORMAT:
        raise CaseError(f"{path} has format {content.get('format')}, and this version reads format {FORMAT}.")
    return [_case_of(row, f"Case {i} of {path.name}", path.parent) for i, row in enumerate(content["cases"], 1)]


def write_cases(path: str | os.PathLike, cases: Iterable[Case]) -> None:
    """Write a `cases.json`, atomically; files beneath its folder are named relative to it, so that both can move."""
    folder = Path(path).resolve().parent
    rows = [
        {"id": c.id, "image": _stored(c.image, folder), "label": c.label and _stored(c.label, folder), "role": c.role}
        for c in cases
    ]
    write_json(path, {"format": FORMAT, "cases": rows})


def cases_from_folder(folder: str | os.PathLike, labelled: int, validation: int) -> list[Case]:
    """Make cases of a folder laid out as `<case>/image.*` and `<case>/label.*`, in the order of their names.

    The first `labelled` cases are labelled, the last `validation` ones are for validation, those between
    are unlabelled and their labels are not given. Raises CaseError.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise CaseError(f"There is no folder {folder}; give a folder with one subfolder per case.")
    found = [(sub, image) for sub in sorted(folder.iterdir()) if sub.is_dir() and (image := _only(sub, "image"))]
    if not found:
        raise CaseError(f"{folder} holds no case: each needs a subfolder with image.* and, where known, label.* in it.")
    if min(labelled, validation) < 0 or labelled + validation > len(found):
        raise CaseError(
            f"{labelled} labelled and {validation} validation cases can't be taken from the {len(found)} "
            f"in {folder}; choose smaller numbers."
        )
    cases = []
    for i, (sub, image) in enumerate(found):
        role = "labelled" if i < labelled else "validation" if i >= len(found) - validation else "unlabelled"
        label = None if role == "unlabelled" else _only(sub, "label")
        if role != "unlabelled" and label is None:
            raise CaseError(f"{sub} is to be a {role} case and has no label.*; add it or choose smaller numbers.")
        cases.append(Case(sub.name, image, label, role))
    return cases


def check_cases(cases: Sequence[Case]) -> list[str]:
    """Say what is worth knowing about a case list before a training; raises CaseError for what can't work.

    Images are compared by content (only those of one size are read), because a scan that is both learned
    from and validated on would make every figure a lie.
    """
    for case in cases:
        _check_case(case)
    _check_no_doubles(cases)
    count = {role: sum(c.role == role for c in cases) for role in ROLES}
    if not count["labelled"]:
        raise CaseError("No case is labelled; training needs at least one, better four or more.")
    warnings = []
    if count["labelled"] < 2:
        warnings.append("Only one case is labelled; results vary much less from two on.")
    if not count["unlabelled"]:
        warnings.append("No case is unlabelled, so every method trains as the supervised one does.")
    if not count["validation"]:
        warnings.append("No case is for validation, so nothing will show how good the model becomes.")
    return warnings


def count_classes(cases: Iterable[Case]) -> int:
    """Number of classes, background included, in the labels of the labelled cases; raises CaseError.

    Values 0..n-1 are n classes. One foreground value of any size (255, say) is two classes.
    """
    from simcvd.images import read_labels

    values = set()
    for case in cases:
        if case.role == "labelled":
            values |= set(np.unique(read_labels(case.label).array).tolist())
    foreground = sorted(values - {0})
    if not foreground:
        raise CaseError("The labels of the labelled cases are all empty; outline the structure in at least one.")
    if len(foreground) > 1 and foreground != list(range(1, len(foreground) + 1)):
        raise CaseError(
            f"The labels hold the values {_listed(foreground)}; several classes must be numbered "
            "1, 2, 3 and so on without a gap."
        )
    return len(foreground) + 1


# --- a prepared case ------------------------------------------------------------------------------------------------


def prepare_cases(
    cases: Sequence[Case],
    spacing: tuple[float, float, float],
    n_classes: int,
    cache_dir: str | os.PathLike,
    normalisation: dict,
    progress: Callable[[int, int, str], None] | None = None,
) -> list[Path]:
    """Prepare every case (see prepare_case), calling `progress(done, total, id)` after each."""
    paths = []
    for i, case in enumerate(cases, 1):
        paths.append(prepare_case(case, spacing, n_classes, cache_dir, normalisation))
        if progress:
            progress(i, len(cases), case.id)
    return paths


def prepare_case(
    case: Case,
    spacing: tuple[float, float, float],
    n_classes: int,
    cache_dir: str | os.PathLike,
    normalisation: dict,
) -> Path:
    """Bring a case onto the model's grid once and return the `.npz` that load_prepared reads.

    The file's name holds a key of the contents of image and label and of all settings: it is reused as long as
    none of them changes. It is not compressed: reading is then as fast as the disk, and half-precision noise
    would shrink by a quarter only. Raises CaseError, ImageError.

    Args:
        spacing: of the model's grid, (x, y, z) in mm.
        n_classes: background included; label values must be 0..n_classes-1, or a single other one for two classes.
        normalisation: what images.normalise takes; done on the model's grid.
    """
    _check_case(case)
    spacing = tuple(float(s) for s in spacing)
    path = Path(cache_dir) / f"{case.id}-{_key(case, spacing, n_classes, normalisation)}.npz"
    if not path.is_file():
        try:
            arrays = _prepare(case, spacing, n_classes, normalisation)
        except ImageError as error:
            raise CaseError(f"Case {case.id}: {error}") from error
        with atomic_path(path) as temporary, open(temporary, "wb") as f:
            np.savez(f, **arrays)
    return path


def load_prepared(path: str | os.PathLike) -> dict:
    """Read a prepared case; needs numpy only. Raises CaseError.

    Returns:
        image: float16 (k, j, i) on the model's grid, normalised.
        label: uint8 (k, j, i); the key is absent when the case has none.
        spacing: (x, y, z) in mm.
        geometry: dict for Geometry.from_dict, of the model's grid.
        notes: sentences about what had to be done to this case (a label resampled, say).
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            content = {name: file[name] for name in file.files}
        prepared = {name: content[name] for name in ("image", "label") if name in content}
        prepared["spacing"] = tuple(content["spacing"].tolist())
        for name in ("geometry", "notes"):
            prepared[name] = json.loads(str(content[name]))
        if "image" not in prepared:
            raise KeyError("image")
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as e:
        raise CaseError(f"The prepared case {path} can't be read ({e}); restore it, or make a new run.") from e
    return prepared


def _prepare(case: Case, spacing: tuple, n_classes: int, normalisation: dict) -> dict[str, np.ndarray]:
    from simcvd.images import Grid, normalise, read_volume

    volume = read_volume(case.image)
    grid = Grid.of(volume.geometry, spacing)
    notes = []
    arrays = {"image": normalise(grid.forward(volume.array), normalisation).astype(np.float16)}
    if case.learned_label:
        labels = _labels_on(volume.geometry, case, n_classes, notes)
        arrays["label"] = grid.forward_labels(labels, n_classes)
    arrays["spacing"] = np.array(spacing)
    arrays["geometry"] = np.array(json.dumps(grid.geometry.to_dict()))
    arrays["notes"] = np.array(json.dumps(notes))
    return arrays


def _labels_on(geometry, case: Case, n_classes: int, notes: list[str]) -> np.ndarray:
    """The label of a case on its image's grid as uint8 (K, J, I), with values 0..n_classes-1."""
    from simcvd.images import Volume, read_labels, resample_labels, same_geometry

    volume = read_labels(case.label)
    labels = _class_numbers(volume.array, n_classes, case)
    if same_geometry(volume.geometry, geometry, 0.01):
        return labels
    moved = resample_labels(Volume(labels, volume.geometry), geometry)
    if labels.any() and not moved.any():
        raise CaseError(f"The label of case {case.id} lies outside its image; check that the two belong together.")
    notes.append(f"The label of case {case.id} has another grid than its image and was resampled onto it.")
    return moved


def _class_numbers(labels: np.ndarray, n_classes: int, case: Case) -> np.ndarray:
    foreground = [v for v in np.unique(labels).tolist() if v != 0]
    if all(0 < v < n_classes for v in foreground):
        return labels.astype(np.uint8)
    if n_classes == 2 and len(foreground) == 1:
        return (labels != 0).astype(np.uint8)
    raise CaseError(
        f"The label of case {case.id} holds the values {_listed(foreground)} beside 0, where this model knows "
        f"1 to {n_classes - 1}; renumber the label."
    )


def _key(case: Case, spacing: tuple, n_classes: int, normalisation: dict) -> str:
    settings = {
        "image": content_key(case.image),
        "label": case.learned_label and content_key(case.learned_label),
        "spacing": spacing,
        "n_classes": n_classes,
        "normalisation": normalisation,
        "preparation": PREPARATION,
    }
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:24]


def content_key(path: str | os.PathLike) -> str:
    """SHA-256 of an image's content: the file, a header with its data files, or all files of a DICOM folder."""
    digests = [sha256(file) for file in _files_of(Path(path))]
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def _files_of(path: Path) -> list[Path]:
    if path.is_dir():
        return sorted(file for file in path.iterdir() if file.is_file() and not _is_of_the_desktop(file.name))
    if path.suffix.lower() == ".hdr":
        return [path] + [f for f in (path.with_suffix(s) for s in (".img", ".img.gz")) if f.is_file()]
    if path.suffix.lower() not in (".nhdr", ".mhd"):
        return [path]
    # a data file is named after "data file:" or "ElementDataFile =", or alone on a line of a list
    named = [re.split("[:=]", line)[-1].strip() for line in path.read_text("latin-1").splitlines()]
    return [path] + [path.parent / name for name in named if name and (path.parent / name).is_file()]


def _is_of_the_desktop(name: str) -> bool:
    """Whether it is one of the files that desktops leave in folders which they show."""
    return name.startswith(".") or name.lower() in OF_DESKTOPS


# --- checks ---------------------------------------------------------------------------------------------------------


def _case_of(row, where: str, folder: Path) -> Case:
    if not isinstance(row, dict):
        raise CaseError(f"{where} is no object with id, image, label and role.")
    for field in ("id", "image", "role"):
        if not isinstance(row.get(field), str):
            raise CaseError(f"{where} needs a text as {field}.")
    label = row.get("label")
    if label is not None and not isinstance(label, str):
        raise CaseError(f"{where} needs a text or null as label.")
    return Case(row["id"], folder / row["image"], folder / label if label else None, row["role"])


def _check_case(case: Case) -> None:
    if _UNUSABLE_ID.search(case.id):
        raise CaseError(f"The case name {case.id!r} can't serve as a file name; use letters, digits, dots and dashes.")
    if case.role not in ROLES:
        raise CaseError(f"Case {case.id} has the role {case.role!r}; choose {', '.join(ROLES[:-1])} or {ROLES[-1]}.")
    if not Path(case.image).exists():
        raise CaseError(f"The image of case {case.id} is missing: {case.image} isn't there.")
    if case.role == "unlabelled":
        return
    if case.label is None:
        raise CaseError(f"Case {case.id} is {case.role} and has no label; give one or make the case unlabelled.")
    if not Path(case.label).exists():
        raise CaseError(f"The label of case {case.id} is missing: {case.label} isn't there.")


def _check_no_doubles(cases: Sequence[Case]) -> None:
    names, sizes = set(), defaultdict(list)
    for case in cases:
        if case.id.lower() in names:  # some file systems don't tell A from a
            raise CaseError(f"Two cases are called {case.id}; give each a name of its own.")
        names.add(case.id.lower())
        sizes[sum(file.stat().st_size for file in _files_of(Path(case.image)))].append(case)
    for alike in sizes.values():
        seen = {}
        for case in alike if len(alike) > 1 else []:
            twin = seen.setdefault(content_key(case.image), case)
            if twin is not case:
                raise CaseError(f"Cases {twin.id} and {case.id} have the same image; leave one of them out.")


def _only(folder: Path, stem: str) -> Path | None:
    found = sorted(file for file in folder.glob(f"{stem}.*") if file.is_file())
    headers = [file for file in found if file.suffix.lower() in (".nhdr", ".mhd", ".hdr")]
    found = headers or found
    if len(found) > 1:
        raise CaseError(f"{folder} holds several files {stem}.*; keep one.")
    return found[0] if found else None


def _stored(path: Path, folder: Path) -> str:
    path = Path(path).resolve()
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else str(path)


def _listed(values: list) -> str:
    shown = ", ".join(f"{v:g}" for v in values[:6])
    return shown + (" and more" if len(values) > 6 else "")
