import numpy as np
import pytest
import SimpleITK as sitk

from simcvd import images, nrrd
from simcvd.images import ImageError, read_geometry, read_volume

TILTED = "(0.4,0.3,0) (-0.6,0.8,0) (0,0,2.5)"
HEADER = """{version}
type: {type}
dimension: 3
space: left-posterior-superior
sizes: {sizes}
space directions: {axes}
kinds: domain domain domain
endian: {endian}
encoding: raw
space origin: (-12.5,3,1e2)

"""


def written(path, array, type="short", axes=TILTED, endian="little", more="", version="NRRD0004", sizes="4 3 2"):
    header = HEADER.format(version=version, type=type, sizes=sizes, axes=axes, endian=endian)
    path.write_bytes(header.replace("kinds", more + "kinds").encode() + array.tobytes())
    return path


def voxels(code="<i2"):
    return np.arange(1, 25).reshape(2, 3, 4).astype(code)


@pytest.mark.parametrize("code", nrrd.TYPES)
@pytest.mark.parametrize(("order", "endian"), [("<", "little"), (">", "big")])
def test_what_it_reads_is_what_itk_reads(tmp_path, code, order, endian):
    path = written(tmp_path / "a.nrrd", voxels(order + code), nrrd.TYPES[code], endian=endian)
    plain, image = nrrd.look(path), sitk.ReadImage(str(path))
    array = plain.read()
    assert array.dtype == sitk.GetArrayFromImage(image).dtype and array.dtype.isnative
    np.testing.assert_array_equal(array, sitk.GetArrayFromImage(image))
    g = plain.geometry
    assert g.size == image.GetSize()
    np.testing.assert_allclose(g.spacing, image.GetSpacing(), rtol=1e-12)
    np.testing.assert_allclose(g.origin, image.GetOrigin(), rtol=1e-12)
    np.testing.assert_allclose(g.direction, image.GetDirection(), atol=1e-12)


def test_volumes_are_read_without_itk(tmp_path, monkeypatch):
    path = written(tmp_path / "a.nrrd", voxels())
    monkeypatch.setattr(sitk, "ImageFileReader", None)
    np.testing.assert_array_equal(read_volume(path).array, voxels())
    assert read_volume(path).geometry == read_geometry(path) == nrrd.look(path).geometry


@pytest.mark.parametrize(
    "changes",
    [
        {"type": "block"},
        {"axes": "(1,0,0) (0.5,1,0) (0,0,1)"},
        {"axes": "(0,0,0) (0,1,0) (0,0,1)"},
        {"axes": "none (0,1,0) (0,0,1)"},
        {"axes": "(1,0,0) (0,1,0)"},
        {"axes": "(1,0,nan) (0,1,0) (0,0,1)"},
        {"endian": "middle"},
        {"more": "content: heart\n"},
        {"more": "Segment0_ID:=a\n"},
        {"more": "content: heart\n", "version": "NRRD0005"},
        {"version": "NRRD0006"},
        {"version": "NRRD0004 x"},
        {"more": "type: short\n"},
        {"more": "sizes: 4 3 2\n"},
        {"sizes": "4 3 +2"},
        {"sizes": "4 3 0_2"},
        {"sizes": "4 3 2 1"},
        {"array": voxels()[:1]},
        {"array": voxels("<i4")},
    ],
)
def test_all_else_is_left_to_itk(tmp_path, changes):
    assert nrrd.look(written(tmp_path / "a.nrrd", **{"array": voxels(), **changes})) is None


def test_what_is_no_nrrd_is_left_to_itk(tmp_path):
    for content in (b"", b"NRRD0004\n", b"\xff" * 9000, b"type: short\n\n", b"\n\n"):
        (tmp_path / "a.nrrd").write_bytes(content)
        assert nrrd.look(tmp_path / "a.nrrd") is None
    assert nrrd.look(tmp_path / "none.nrrd") is None


def test_files_beyond_the_limit_get_the_sentence(tmp_path):
    path = written(tmp_path / "a.nrrd", voxels())
    with pytest.raises(ImageError, match="more than the limit"):
        read_volume(path, max_voxels=23)


def test_cosines_of_six_decimals_are_straight(tmp_path):
    turned = "(0.707107,-0.707107,0) (0.707107,0.707107,0) (0,0,2)"
    geometry = nrrd.look(written(tmp_path / "a.nrrd", voxels(), axes=turned)).geometry
    image = sitk.ReadImage(str(tmp_path / "a.nrrd"))
    np.testing.assert_allclose(geometry.direction, image.GetDirection(), atol=1e-12)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            RuntimeError("Exception thrown in SimpleITK: Failed to allocate memory for image"),
            "does not fit into memory",
        ),
        (MemoryError(), "does not fit into memory"),
        (ValueError("cannot reshape"), "cut short"),
        (OSError(5, "Input/output error"), "cut short"),
    ],
)
def test_what_goes_wrong_with_the_voxels_is_one_sentence(tmp_path, monkeypatch, error, words):
    def fail(self):
        raise error

    monkeypatch.setattr(nrrd.PlainFile, "read", fail)
    with pytest.raises(ImageError, match=words):
        read_volume(written(tmp_path / "a.nrrd", voxels()))


def test_letters_are_blamed_on_windows_only(tmp_path, monkeypatch):
    path = tmp_path / "Jürgen.nrrd"
    path.write_bytes(b"no image")
    for blamed in (False, True):
        monkeypatch.setattr(images, "_ON_WINDOWS", blamed)
        with pytest.raises(ImageError, match="check the file") as raised:
            images._read_file(path, 100)
        assert ("on Windows 'ü' in its path" in str(raised.value)) == blamed
