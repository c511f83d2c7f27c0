"""Which scans are meant by the files and folders that a user names."""

from __future__ import annotations

import glob
import itertools
import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from .files import ON_WINDOWS
from .images import MAP_KINDS, SUFFIXES, ImageError, dicom_series, image_name, odd_letters, read_geometry


def find_scans(paths: Iterable[str | os.PathLike]) -> list[tuple[str, Path]]:
    """Names and paths of all scans among files and folders, each once whatever ways lead to it.

    A folder means its image files, those laid out as <case>/image.*, and the DICOM slices in it, for which the folder
    itself stands; where there is none of these, the folders of slices within it. Our own results are passed over. Names
    are unique and carry no suffix; <case>/image.* is called <case>. Raises ImageError, also where there is no scan.
    """
    each: dict[Path, Path] = {}
    for path in itertools.chain.from_iterable(map(_expanded, paths)):
        for scan in _scans_at(path):
            each.setdefault(scan.resolve(), scan)
    found = list(each.values())
    bare = _unique([image_name(path) for path in found], found)
    named = [p.resolve().parent.name if image_name(p) == "image" else n for n, p in zip(bare, found, strict=True)]
    count = Counter(map(str.casefold, named))
    return [(n if count[n.casefold()] == 1 else b, p) for n, b, p in zip(named, bare, found, strict=True)]


def _expanded(path: str | os.PathLike) -> list[Path]:
    # the shells of Windows hand wildcards on as they are
    path = Path(path)
    if not ON_WINDOWS or path.exists():
        return [path]
    pattern = str(path).replace("[", "[[]")  # there that is a letter
    return [Path(name) for name in sorted(glob.glob(pattern))] or [path]


def _unique(names: list[str], paths: list[Path]) -> list[str]:
    """Names that are there twice with their folder's before them, and what is then still there twice numbered.

    Large and small letters are the same, as on many disks: one result would replace the other.
    """
    count = Counter(map(str.casefold, names))
    twice = [count[name.casefold()] > 1 for name in names]
    names = [f"{p.resolve().parent.name}-{n}" if t else n for n, p, t in zip(names, paths, twice, strict=True)]
    taken: dict[str, str] = {}
    for name in names:
        numbered = itertools.chain([name], (f"{name}-{i}" for i in itertools.count(2)))
        free = next(candidate for candidate in numbered if candidate.casefold() not in taken)
        taken[free.casefold()] = free
    return list(taken.values())


def _scans_at(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise ImageError(f"{path} does not exist; check the path.")
    entries = sorted(p for p in path.iterdir() if not p.name.startswith("."))
    files = [p for p in entries if p.is_file()]
    images = [p for p in files if p.name.lower().endswith(SUFFIXES)]
    # in a case's own folder its label is no scan
    scans = [p for p in images if image_name(p) == "image"] or [p for p in images if not _is_result(p)]
    if len(images) < len(files) and _holds_slices(path, beside=bool(images)):
        scans.append(path)
    folders = [p for p in entries if p.is_dir()]
    scans += [f for p in folders for f in sorted(p.glob("image.*")) if image_name(f) == "image"]
    if scans:
        return scans
    if images:
        raise ImageError(f"{path} holds only results of simcvd and no scan; give the folder of the scans.")
    if series := [p for p in folders if dicom_series(p)]:
        return series
    kinds = ", ".join(SUFFIXES[1:])
    raise ImageError(f"{path} holds neither image files ({kinds}) nor a DICOM series{odd_letters(path)}.")


def _holds_slices(folder: Path, beside: bool) -> bool:
    """Whether a DICOM volume lies in a folder; a single picture `beside` image files is none."""
    return any(len(files) > 1 or not beside or _is_volume(Path(files[0])) for files in dicom_series(folder).values())


def _is_volume(file: Path) -> bool:
    try:
        read_geometry(file)
    except ImageError:
        return False
    return True


def _is_result(path: Path) -> bool:
    return path.name.lower().endswith(".seg.nrrd") or image_name(path).lower().endswith(MAP_KINDS)
