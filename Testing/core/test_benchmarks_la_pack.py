"""Prepared cases come back from the parts as they were, whichever parts are there."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from simcvd.grid import normalise

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
sys.path.append(str(BENCHMARKS))

import la_pack  # noqa: E402

SHAPE = (20, 24, 28)


def write_case(folder, name, image, label=None):
    """A prepared case as simcvd.cases writes it."""
    arrays = {"image": image} | ({} if label is None else {"label": label})
    arrays |= {
        "spacing": np.array((0.625,) * 3),
        "geometry": np.array('{"size": [28, 24, 20]}'),
        "notes": np.array("[]"),
    }
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / f"{name}.npz", **arrays)


@pytest.fixture
def runs(tmp_path):
    """Three scans of 8 bits, normalised in two ways, with and without label, and an image of many values."""
    cases = tmp_path / "runs" / "cases"
    for n in range(3):
        rng = np.random.default_rng(n)
        scan = rng.integers(0, 200, SHAPE).astype(np.uint8)
        label = (scan > 150).astype(np.uint8)
        for kind in ("zscore", "zscore-filled"):
            image = normalise(scan, {"kind": kind}).astype(np.float16)
            write_case(cases, f"la{n}-{kind}", image, label)
            write_case(cases, f"la{n}-{kind}-unlabelled", image)
    many = np.random.default_rng(9).normal(size=SHAPE).astype(np.float16)
    many[0, 0, :4] = (-0.0, 0.0, np.nan, np.inf)
    write_case(cases, "la9-many", many)
    few = np.zeros(SHAPE, np.float16)
    few[0, 0, :4] = (-0.0, -np.inf, -np.nan, np.nan)
    write_case(cases, "la9-odd", few)
    return tmp_path / "runs"


def content(cases):
    """Every array of every file, to the bit."""
    found = {}
    for path in cases.iterdir():
        with np.load(path) as file:
            found[path.name] = {n: (file[n].dtype, file[n].shape, file[n].tobytes()) for n in file.files}
    return found


def test_arrays_come_back_to_the_bit(runs, tmp_path, capsys):
    la_pack.main(["pack", str(runs), str(tmp_path / "parts")])
    assert "part-1-of-1.npz" in capsys.readouterr().out
    la_pack.main(["unpack", str(tmp_path / "parts"), str(tmp_path / "back")])
    assert content(tmp_path / "back" / "cases") == content(runs / "cases")
    assert "14 of 14 prepared cases are in" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="holds parts already"):
        la_pack.pack(runs, tmp_path / "parts", 36)


def test_what_normalisations_of_a_scan_share_is_stored_once(runs, tmp_path):
    (part,) = la_pack.pack(runs, tmp_path / "parts", 36)
    groups = la_pack.read_part(part)[0]["groups"]
    assert sorted(len(group) for group in groups) == [1, 1, 4, 4, 4]
    for group in groups:
        images = [keys["image"] for keys in group.values()]
        assert len({keys[-1] for keys in images}) == 1
        assert len({keys[0] for keys in images}) == (2 if len(group) == 4 else 1)
    whole = next(keys["image"] for group in groups for name, keys in group.items() if "many" in name)
    assert len(whole) == 1
    # 200 values take nearly a byte each, three times; the other one nearly two
    assert part.stat().st_size < 1.5 * np.prod(SHAPE) * 5


def test_parts_come_one_by_one(runs, tmp_path):
    parts, back = tmp_path / "parts", tmp_path / "back"
    written = la_pack.pack(runs, parts, 0.045)
    assert len(written) > 2 and all(path.stat().st_size <= 45_000 for path in written)
    later = written[1].rename(tmp_path / "later.npz")
    said = la_pack.unpack(parts, back)
    before = {path: path.stat().st_mtime_ns for path in (back / "cases").iterdir()}
    missing = f"{14 - len(before)} are still missing, of part 2 of {len(written)}."
    assert said.endswith(missing) and 0 < len(before) < 14
    written[0].unlink()  # unpacked is unpacked

    written[1].write_bytes(later.read_bytes()[:-100])
    said = la_pack.unpack(parts, back)
    assert said.startswith(f"{written[1].name} can't be read") and said.endswith(missing)

    later.replace(written[1])
    assert la_pack.unpack(parts, back).endswith(
        f"14 of 14 prepared cases are in {back / 'cases'}, {14 - len(before)} of them new."
    )
    assert content(back / "cases") == content(runs / "cases")
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_what_fits_no_part_is_told(runs, tmp_path):
    with pytest.raises(SystemExit, match=r"la\d-.*npz alone is too large for a part"):
        la_pack.pack(runs, tmp_path / "parts", 0.02)
    with pytest.raises(SystemExit, match="holds no parts"):
        la_pack.unpack(tmp_path / "parts", tmp_path / "back")
    with pytest.raises(SystemExit, match="holds no prepared case"):
        la_pack.pack(tmp_path / "nobody", tmp_path / "parts", 36)


def test_it_needs_numpy_only(runs, tmp_path):
    la_pack.pack(runs, tmp_path / "parts", 36)
    hidden = "\n".join(f'sys.modules["{name}"] = None' for name in ("torch", "scipy", "SimpleITK"))
    (tmp_path / "sitecustomize.py").write_text(f"import sys\n{hidden}\n")
    command = [sys.executable, BENCHMARKS / "la_pack.py", "unpack", tmp_path / "parts", tmp_path / "back"]
    subprocess.run(command, env={**os.environ, "PYTHONPATH": str(tmp_path)}, check=True)
    assert content(tmp_path / "back" / "cases") == content(runs / "cases")
