"""NRRD files of the plainest kind, as the panels write volumes for their processes, read without ITK.

On Windows ITK may open no file in the folder of a user Jürgen, and that is where temporary files are.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .grid import Geometry

TYPES = {
    "i1": "signed char",
    "u1": "unsigned char",
    "i2": "short",
    "u2": "unsigned short",
    "i4": "int",
    "u4": "unsigned int",
    "i8": "long long int",
    "u8": "unsigned long long int",
    "f4": "float",
    "f8": "double",
}
SPACE, KINDS = "left-posterior-superior", "domain domain domain"
_FIELDS = {"type", "dimension", "space", "sizes", "space directions", "kinds", "endian", "encoding", "space origin"}
_LONGEST_HEADER = 4096
_VERSIONS = ("NRRD0004", "NRRD0005")
_SHEAR = 1e-3  # what is further from right angles, others may judge; six decimals of a cosine are nearer


class PlainFile(NamedTuple):
    """Where the voxels are and what they are: one scalar each, uncompressed, behind the header."""

    path: Path
    dtype: np.dtype
    geometry: Geometry
    offset: int

    def read(self) -> np.ndarray:
        """The voxels (K, J, I); raises OSError or MemoryError."""
        count = math.prod(self.geometry.size)
        voxels = np.fromfile(self.path, self.dtype, count, offset=self.offset).reshape(self.geometry.shape)
        return voxels.astype(self.dtype.newbyteorder("="), copy=False)


def look(path: Path) -> PlainFile | None:
    """What a file holds when it is of this kind, and whole; None for any other, which ITK is to judge."""
    try:
        with open(path, "rb") as file:
            header, end, _ = file.read(_LONGEST_HEADER).partition(b"\n\n")
        length = path.stat().st_size - len(header) - len(end)
        lines = header.decode("ascii").split("\n")
        fields = dict(line.split(": ", 1) for line in lines[1:])
        once = len(lines) == 1 + len(_FIELDS) and set(fields) == _FIELDS
        if lines[0] not in _VERSIONS or not once or list(fields)[:3] != ["type", "dimension", "space"] or not end:
            return None
        fixed = fields["dimension"], fields["space"], fields["kinds"], fields["encoding"]
        order = {"little": "<", "big": ">"}[fields["endian"]]
        dtype = np.dtype(order + next(code for code, name in TYPES.items() if name == fields["type"]))
        geometry = _geometry(fields)
    except (OSError, ValueError, KeyError, StopIteration):
        return None
    whole = geometry is not None and length == math.prod(geometry.size) * dtype.itemsize
    return PlainFile(path, dtype, geometry, len(header) + 2) if whole and fixed == ("3", SPACE, KINDS, "raw") else None


def _geometry(fields: dict[str, str]) -> Geometry | None:
    """The grid, unless it is one that ITK would complain about; raises ValueError for what is no number."""
    size = tuple(int(n) for n in fields["sizes"].split() if n.isdecimal())
    axes = np.array([_vector(text) for text in fields["space directions"].split()])
    origin = _vector(fields["space origin"])
    if len(size) != 3 or min(size) < 2 or axes.shape != (3, 3) or not np.isfinite([*axes.flat, *origin]).all():
        return None
    spacing = np.array([math.hypot(*axis) for axis in axes])
    if not spacing.all():
        return None
    direction = (axes / spacing[:, None]).T
    if np.abs(direction.T @ direction - np.eye(3)).max() > _SHEAR:
        return None
    return Geometry(size, tuple(spacing.tolist()), tuple(origin), tuple(direction.ravel().tolist()))


def _vector(text: str) -> list[float]:
    found = re.fullmatch(r"\(([^()]+)\)", text)
    numbers = [float(n) for n in found[1].split(",")] if found else []
    if len(numbers) != 3:
        raise ValueError(text)
    return numbers
