from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from simcvd import scans
from simcvd.images import Geometry, ImageError, write_volume
from simcvd.scans import find_scans


def save(path):
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_volume(path, np.arange(24, dtype=np.int16).reshape(2, 3, 4), Geometry((4, 3, 2), (1.0, 1.0, 1.0)))
    return path


def save_slices(folder, count=3):
    """A DICOM series of axial slices."""
    folder.mkdir(parents=True, exist_ok=True)
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    for n in range(count):
        image = sitk.GetImageFromArray(np.full((1, 8, 8), n + 1, np.int16))
        for key, value in {
            "0008|0016": "1.2.840.10008.5.1.4.1.1.2",
            "0008|0018": f"1.2.3.{n + 1}",
            "0020|000e": "1.2.3",
            "0020|0032": f"0\\0\\{n}",
            "0020|0037": "1\\0\\0\\0\\1\\0",
        }.items():
            image.SetMetaData(key, value)
        writer.SetFileName(str(folder / f"{n}.dcm"))
        writer.Execute(image)
    return folder


def names(*paths):
    return [name for name, _ in find_scans(paths)]


def test_names_are_unique_and_bare(tmp_path):
    for name in ("x/a.nrrd", "x/b.nii.gz", "y/a.mha", "y/c.v2.mha"):
        save(tmp_path / name)
    (tmp_path / "x" / "notes.txt").write_text("no image")
    assert names(tmp_path / "x", tmp_path / "y", tmp_path / "x" / "b.nii.gz") == ["x-a", "b", "y-a", "c.v2"]


def test_doubles_within_one_folder_are_numbered(tmp_path):
    for name in ("a.nrrd", "a.mha"):
        save(tmp_path / "x" / name)
    assert names(tmp_path / "x") == ["x-a", "x-a-2"]


def test_names_that_some_disks_take_for_the_same_are_told_apart(tmp_path):
    for name in (
        "x/Patient1.nrrd",
        "y/patient1.nii.gz",
        "z/Scan.nrrd",
        "z/scan.nii.gz",
        "One/image.nrrd",
        "p/one/image.mha",
    ):
        save(tmp_path / name)
    assert names(tmp_path / "x", tmp_path / "y") == ["x-Patient1", "y-patient1"]
    for folders in (["z"], ["One", "p"]):
        found = names(*(tmp_path / folder for folder in folders))
        assert len({name.casefold() for name in found}) == 2


def test_a_pattern_that_a_shell_did_not_expand_is_expanded(tmp_path, monkeypatch):
    for name in ("a.nrrd", "b.nrrd", "c1.mha", "x [1]/d.nrrd"):
        save(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ImageError, match=r"\*.nrrd does not exist"):
        names("*.nrrd")
    monkeypatch.setattr(scans, "ON_WINDOWS", True)
    assert names("*.nrrd", "?1.mha") == ["a", "b", "c1"] and names("x [1]/*.nrrd") == ["d"]
    for missing in ("*.gipl", "c[1].mha"):  # brackets are letters there, too: c1.mha is another scan
        with pytest.raises(ImageError, match="does not exist"):
            names(missing)


def test_a_scan_that_is_reached_in_several_ways_is_one(tmp_path, monkeypatch):
    for name in "ab":
        save(tmp_path / "x" / f"{name}.nrrd")
    monkeypatch.chdir(tmp_path)
    assert names("x/a.nrrd", "x/b.nrrd", tmp_path / "x" / ".." / "x" / "a.nrrd", tmp_path / "x") == ["a", "b"]


def test_cases_are_called_after_their_folders_and_their_labels_are_no_scans(tmp_path):
    for name in ("one/image.nrrd", "one/label.nrrd", "two/image.nii.gz", ".three/image.nrrd", "single.nrrd"):
        save(tmp_path / name)
    assert names(tmp_path) == ["single", "one", "two"]
    assert names(tmp_path / "one") == ["one"]


def test_a_folder_of_slices_is_a_scan_and_so_are_such_folders_in_a_folder(tmp_path):
    folder = save_slices(tmp_path / "patient")
    assert find_scans([folder]) == find_scans([tmp_path]) == [("patient", folder)]


def test_slices_beside_other_files_are_a_scan(tmp_path):
    folder = save_slices(tmp_path / "patient")
    save(folder / "patient.seg.nrrd")  # a result of ours
    (folder / "notes.txt").write_text("seen")
    assert find_scans([folder]) == [("patient", folder)]
    late = save(folder / "late.nrrd")
    assert find_scans([folder]) == [("late", late), ("patient", folder)]


def test_a_picture_beside_scans_is_none(tmp_path):
    save(tmp_path / "a.nrrd")
    save_slices(tmp_path, count=1)
    assert names(tmp_path) == ["a"]


def test_where_no_scan_is_that_is_said(tmp_path):
    with pytest.raises(ImageError, match="neither"):
        find_scans([tmp_path])
    with pytest.raises(ImageError, match="does not exist"):
        find_scans([tmp_path / "none"])
    save(tmp_path / "a.sdm.nrrd")
    with pytest.raises(ImageError, match="holds only results"):
        find_scans([tmp_path])
