"""Carries the prepared cases that runs share to another machine, without loss, in parts small enough for its way there.

    python Testing/benchmarks/la_pack.py pack RUNS PARTS [--megabytes 36]
    python Testing/benchmarks/la_pack.py unpack PARTS RUNS

`pack` writes the arrays of RUNS/cases into PARTS/part-1-of-3.npz and so on; `unpack` makes RUNS/cases of the parts
that are there, leaves what it finds, and says what is still missing: parts may come one by one, and may be removed once
they are unpacked. It needs numpy and nothing else.

An image has few distinct values, because a scan of 8 bits was normalised: it is stored as a table of them and the place
of each voxel's value in it. Places are the same for all normalisations of a scan that keep its values apart, so they
are stored once. A part is an .npz file of

    index   JSON: "part", "parts"; "all", the files of all parts, each with the number of its part; "groups", the files
            of this part, each array by the keys of [whole] or of [table, places]; the files of a group share places
    <key>   the xz-compressed .npy file of an array; places as differences along every axis, modulo 256
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import lzma
import os
import sys
import zipfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from common import CASES

from simcvd.files import atomic_path

MEGABYTES = 36
MOST_VALUES = 256  # that a uint8 tells apart
ROOM = 400  # bytes of an entry of a part beside its content, at most
INDEX = "index"
FORMAT = 1
DAMAGED = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile)

Keys = dict[str, list[str]]  # of a prepared case: the keys of what each array is made of


# --- arrays ----------------------------------------------------------------------------------------------------------


def in_order(array: np.ndarray) -> np.ndarray:
    """Unsigned numbers, one for each pattern of bits in a float16 or uint8 array, in the order of its values."""
    if array.dtype == np.uint8:
        return array
    bits = array.view(np.uint16)
    return np.where(bits >> 15, ~bits, bits | np.uint16(1 << 15))


def table_and_places(array: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """The distinct values of a volume, ascending, and for each voxel (k, j, i) the place of its value there, uint8.

    None for what isn't to be stored so: other types, other shapes, more values than 256.
    """
    if array.dtype not in (np.float16, np.uint8) or array.ndim != 3 or not array.size:
        return None
    array = np.ascontiguousarray(array)
    numbers, first, places = np.unique(in_order(array), return_index=True, return_inverse=True)
    if len(numbers) > MOST_VALUES:
        return None
    return array.ravel()[first], places.reshape(array.shape).astype(np.uint8)


def differences(places: np.ndarray) -> np.ndarray:
    """Each uint8 less the one before it, along one axis after the other; modulo 256, and so without loss."""
    for axis in range(places.ndim):
        places = np.diff(places, axis=axis, prepend=np.uint8(0))
    return places


def sums(steps: np.ndarray) -> np.ndarray:
    """What `differences` was made of."""
    for axis in range(steps.ndim):
        steps = np.cumsum(steps, axis=axis, dtype=np.uint8)
    return steps


def unsqueezed(blob: bytes) -> np.ndarray:
    return np.load(io.BytesIO(lzma.decompress(blob)), allow_pickle=False)


class Blobs(dict):
    """Compressed arrays by the keys of their contents: what is the same is there once."""

    def put(self, array: np.ndarray) -> str:
        """Add an array; its key."""
        file = io.BytesIO()
        np.save(file, array, allow_pickle=False)
        key = hashlib.sha256(file.getbuffer()).hexdigest()[:24]
        if key not in self:
            self[key] = lzma.compress(file.getbuffer())
        return key

    def put_case(self, path: Path) -> Keys:
        """Add the arrays of a prepared case."""
        keys = {}
        with np.load(path, allow_pickle=False) as file:
            for name in file.files:
                array = file[name]
                found = table_and_places(array)
                parts = [array] if found is None else [found[0], differences(found[1])]
                keys[name] = [self.put(part) for part in parts]
        return keys


def restored(keys: Keys, blobs: dict[str, bytes], places: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays of a prepared case; `places` keeps those that other cases of its group have too."""
    arrays = {}
    for name, (first, *second) in keys.items():
        arrays[name] = unsqueezed(blobs[first])
        for key in second:
            if key not in places:
                places[key] = sums(unsqueezed(blobs[key]))
            arrays[name] = arrays[name][places[key]]
    return arrays


# --- to parts --------------------------------------------------------------------------------------------------------


def grouped(cases: dict[str, Keys], blobs: Blobs) -> list[dict[str, Keys]]:
    """The cases that share their largest blob stay together: it is stored once, in one part."""
    groups: dict[str, dict[str, Keys]] = {}
    for name, keys in cases.items():
        largest = max((key for each in keys.values() for key in each), key=lambda key: len(blobs[key]))
        groups.setdefault(largest, {})[name] = keys
    return list(groups.values())


def keys_in(groups: Sequence[dict[str, Keys]]) -> list[str]:
    """The keys of all blobs that groups are made of, each once."""
    each = (keys for group in groups for case in group.values() for keys in case.values())
    return list(dict.fromkeys(key for keys in each for key in keys))


def divided(groups: Sequence[dict[str, Keys]], blobs: Blobs, most: int) -> list[list[dict[str, Keys]]]:
    """Groups in their order, as many in a part as `most` bytes hold; leaves with a sentence where one is too large."""

    def size(part: Sequence[dict[str, Keys]]) -> int:
        return sum(len(blobs[key]) + ROOM for key in keys_in(part))

    parts: list[list[dict[str, Keys]]] = []
    for group in groups:
        if parts and size([*parts[-1], group]) <= most:
            parts[-1].append(group)
        elif size([group]) <= most:
            parts.append([group])
        else:
            raise SystemExit(f"{next(iter(group))} alone is too large for a part; allow more with --megabytes.")
    return parts


def pack(runs: Path, folder: Path, megabytes: float) -> list[Path]:
    """Write the prepared cases of a folder of runs in parts of at most so many megabytes (millions of bytes)."""
    if list(folder.glob("part-*.npz")):
        raise SystemExit(f"{folder} holds parts already; choose another folder or remove them.")
    blobs, cases = Blobs(), {}
    for path in sorted((runs / CASES).glob("*.npz")):
        cases[path.name] = blobs.put_case(path)
    if not cases:
        raise SystemExit(f"{runs / CASES} holds no prepared case; make some with la_train.py --prepare.")
    groups = grouped(cases, blobs)
    # an index is no longer than one of everything
    room = len(index_of(groups, dict.fromkeys(cases, len(cases)), len(cases), len(cases))) + 2 * ROOM
    parts = divided(groups, blobs, int(megabytes * 1e6) - room)
    number_of = {name: n for n, part in enumerate(parts, 1) for group in part for name in group}
    written = []
    for n, part in enumerate(parts, 1):
        content = {INDEX: index_of(part, number_of, n, len(parts))} | {key: blobs[key] for key in keys_in(part)}
        written.append(folder / f"part-{n}-of-{len(parts)}.npz")
        with atomic_path(written[-1]) as temporary, open(temporary, "wb") as file:
            np.savez(file, **{key: np.frombuffer(blob, np.uint8) for key, blob in content.items()})
    return written


def index_of(groups: Sequence[dict[str, Keys]], number_of: dict[str, int], part: int, parts: int) -> bytes:
    index = {"format": FORMAT, "part": part, "parts": parts, "all": number_of, "groups": list(groups)}
    return json.dumps(index).encode()


# --- and back --------------------------------------------------------------------------------------------------------


def read_part(path: Path) -> tuple[dict, dict[str, bytes]]:
    """Index and blobs of a part; raises one of DAMAGED."""
    with np.load(path, allow_pickle=False) as file:
        blobs = {key: file[key].tobytes() for key in file.files}
    index = json.loads(blobs.pop(INDEX))
    if index["format"] != FORMAT:
        raise ValueError(f"its format is {index['format']}, not {FORMAT}")
    return index, blobs


def write_group(group: dict[str, Keys], blobs: dict[str, bytes], folder: Path) -> int:
    """Write the cases of a group that aren't there; how many."""
    places: dict[str, np.ndarray] = {}
    absent = [name for name in group if not (folder / name).is_file()]
    for name in absent:
        arrays = restored(group[name], blobs, places)
        with atomic_path(folder / name, durable=False) as temporary, open(temporary, "wb") as file:
            np.savez(file, **arrays)
    return len(absent)


def unpack(folder: Path, runs: Path) -> str:
    """Write the prepared cases of all parts that are there; a sentence on what was written and what is missing."""
    paths = sorted(folder.glob("part-*.npz"))
    written, number_of, parts, said = 0, {}, 0, []
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # lzma leaves Python to others while it works
        for path in paths:
            try:
                index, blobs = read_part(path)
            except DAMAGED as error:
                said.append(f"{path.name} can't be read ({error}); bring it anew.")
                continue
            written += sum(pool.map(lambda group, b=blobs: write_group(group, b, runs / CASES), index["groups"]))
            number_of |= index["all"]
            parts = index["parts"]
    if not number_of:
        raise SystemExit(" ".join(said) or f"{folder} holds no parts; make them with la_pack.py pack.")
    missing = [name for name in number_of if not (runs / CASES / name).is_file()]
    wanted = ", ".join(str(n) for n in sorted({number_of[name] for name in missing}))
    there = len(number_of) - len(missing)
    said.append(f"{there} of {len(number_of)} prepared cases are in {runs / CASES}, {written} of them new.")
    if missing:
        said.append(f"{len(missing)} are still missing, of part {wanted} of {parts}.")
    return " ".join(said)


# --- the command -----------------------------------------------------------------------------------------------------


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    packing = commands.add_parser("pack", help="write the prepared cases of RUNS in parts")
    packing.add_argument("runs", type=Path, metavar="RUNS")
    packing.add_argument("parts", type=Path, metavar="PARTS")
    packing.add_argument("--megabytes", type=float, default=MEGABYTES, help=f"of a part, at most (default {MEGABYTES})")
    unpacking = commands.add_parser("unpack", help="write the prepared cases of parts into RUNS")
    unpacking.add_argument("parts", type=Path, metavar="PARTS")
    unpacking.add_argument("runs", type=Path, metavar="RUNS")
    arguments = parser.parse_args(words)
    if arguments.command == "unpack":
        print(unpack(arguments.parts, arguments.runs), file=sys.stderr)
        return
    for path in pack(arguments.runs, arguments.parts, arguments.megabytes):
        print(f"{path} {path.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
