"""Reading, writing and refusing image files; the model's grid and back."""

import gzip
import itertools

import numpy as np
import pytest
import SimpleITK

from simcvd.images import (
    Geometry,
    Grid,
    ImageError,
    Volume,
    normalise,
    read_geometry,
    read_labels,
    read_volume,
    resample_labels,
    same_geometry,
    write_segmentation,
    write_volume,
)


def rotation(*degrees):
    """Direction matrix (9 numbers) turned about x, y and z."""
    matrix = np.eye(3)
    for axis, angle in enumerate(np.radians(degrees)):
        turn = np.eye(3)
        a, b = (axis + 1) % 3, (axis + 2) % 3
        turn[a, a] = turn[b, b] = np.cos(angle)
        turn[a, b], turn[b, a] = -np.sin(angle), np.sin(angle)
        matrix = turn @ matrix
    return tuple(matrix.ravel())


OBLIQUE = Geometry((14, 12, 10), (0.7, 1.1, 2.3), (1 / 3, -20.123456789, 7e-5), rotation(10, -20, 30))
SEGMENTS = [
    {
        "value": 1,
        "name": "Left atrium",
        "color": [0.8, 0.4, 0.2],
        "terminology": {
            "category": ["SCT", "123037004", "Anatomical Structure"],
            "type": ["SCT", "82471001", "Left atrium"],
            "modifier": None,
            "region": None,
        },
    },
    {"value": 2, "name": "Scar", "color": [0, 1, 0], "terminology": None},
]


@pytest.fixture
def scan(rng):
    return rng.integers(0, 255, OBLIQUE.shape).astype(np.uint8)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def stored_in_all_orders(array, geometry):
    """The same image in all 48 axis orders and flips, as (array, geometry)."""
    matrix = np.reshape(geometry.direction, (3, 3))
    for order in itertools.permutations(range(3)):
        for flips in itertools.product((False, True), repeat=3):
            size = np.array(geometry.size)[list(order)]
            spacing = np.array(geometry.spacing)[list(order)]
            signs = np.where(flips, -1, 1)
            directions = matrix[:, order]
            origin = np.array(geometry.origin) + directions @ (np.array(flips) * (size - 1) * spacing)
            turned = array.transpose(2, 1, 0).transpose(order)[tuple(slice(None, None, s) for s in signs)]
            place = Geometry(
                tuple(map(int, size)),
                tuple(map(float, spacing)),
                tuple(map(float, origin)),
                tuple(map(float, (directions * signs).ravel())),
            )
            yield turned.transpose(2, 1, 0), place


def world(geometry, index):
    return np.array(geometry.origin) + np.reshape(geometry.direction, (3, 3)) @ (np.array(index) * geometry.spacing)


class TestGeometry:
    def test_dict_and_back(self):
        assert Geometry.from_dict(OBLIQUE.to_dict()) == OBLIQUE

    def test_shape_is_slices_first(self):
        assert OBLIQUE.shape == (10, 12, 14)
        assert OBLIQUE.voxel_volume == pytest.approx(0.7 * 1.1 * 2.3)

    def test_same_geometry(self):
        near = Geometry(OBLIQUE.size, OBLIQUE.spacing, tuple(o + 1e-4 for o in OBLIQUE.origin), OBLIQUE.direction)
        far = Geometry(OBLIQUE.size, OBLIQUE.spacing, tuple(o + 0.1 for o in OBLIQUE.origin), OBLIQUE.direction)
        assert same_geometry(OBLIQUE, near)
        assert not same_geometry(OBLIQUE, far)
        assert same_geometry(OBLIQUE, far, tolerance=0.2)
        assert not same_geometry(OBLIQUE, Geometry((14, 12, 11), OBLIQUE.spacing, OBLIQUE.origin, OBLIQUE.direction))


class TestReading:
    @pytest.mark.parametrize("suffix", [".nrrd", ".nii", ".nii.gz", ".mha"])
    @pytest.mark.parametrize("kind", ["uint8", "int8", "uint16", "int16", "int32", "float32", "float64"])
    def test_any_scalar_type_comes_back(self, tmp_path, scan, suffix, kind):
        array = (scan // 2).astype(kind)
        write_volume(tmp_path / f"scan{suffix}", array, OBLIQUE)
        volume = read_volume(tmp_path / f"scan{suffix}")
        assert volume.name == "scan"
        assert volume.array.dtype == kind
        np.testing.assert_array_equal(volume.array, array)
        assert same_geometry(volume.geometry, OBLIQUE, 1e-5)

    @pytest.mark.parametrize("extra", [1, 2])
    def test_extra_axes_of_length_one_are_passed_over(self, tmp_path, scan, extra):
        image = SimpleITK.GetImageFromArray(scan[(None,) * extra], isVector=False)
        SimpleITK.WriteImage(image, str(tmp_path / "scan.nrrd"))
        volume = read_volume(tmp_path / "scan.nrrd")
        np.testing.assert_array_equal(volume.array, scan)
        assert read_geometry(tmp_path / "scan.nrrd") == volume.geometry

    @pytest.mark.parametrize(
        ("change", "sentence"),
        [
            (lambda a: a[0], "2-D image"),
            (lambda a: a[:1], "2-D image"),
            (lambda a: a.astype(np.complex64), "complex voxels"),
            (lambda a: a * 0 + 7, "constant"),
            (lambda a: np.where(a > 200, np.nan, a).astype(np.float32), "not finite"),
            (lambda a: np.where(a > 200, np.inf, a), "not finite"),
        ],
    )
    def test_refuses_with_a_sentence(self, tmp_path, scan, change, sentence):
        path = tmp_path / "scan.nrrd"
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(change(scan)), str(path))
        with pytest.raises(ImageError, match=sentence) as error:
            read_volume(path)
        assert str(path) in str(error.value)
        assert "\n" not in str(error.value)

    def test_refuses_vectors_and_series(self, tmp_path, rng):
        vector = SimpleITK.GetImageFromArray(rng.random((5, 6, 7, 3)), isVector=True)
        SimpleITK.WriteImage(vector, str(tmp_path / "vector.nrrd"))
        series = SimpleITK.GetImageFromArray(rng.random((3, 5, 6, 7)), isVector=False)
        SimpleITK.WriteImage(series, str(tmp_path / "series.nii"))
        with pytest.raises(ImageError, match="3 values a voxel"):
            read_volume(tmp_path / "vector.nrrd")
        with pytest.raises(ImageError, match="4-D series"):
            read_volume(tmp_path / "series.nii")

    @pytest.mark.parametrize("suffix", [".nrrd", ".nii", ".nii.gz", ".mha"])
    @pytest.mark.parametrize("kept", [0.9, 0.5])
    def test_refuses_a_file_cut_short(self, tmp_path, rng, suffix, kept):
        path = tmp_path / f"scan{suffix}"
        write_volume(path, rng.integers(0, 255, (20, 30, 40)).astype(np.int16), Geometry((40, 30, 20), (1, 1, 1)))
        content = path.read_bytes()
        path.write_bytes(content[: int(len(content) * kept)])
        with pytest.raises(ImageError, match="cut short"):
            read_volume(path)

    def test_refuses_a_nifti_that_was_cut_before_it_was_zipped(self, tmp_path, scan):
        write_volume(tmp_path / "scan.nii", scan, OBLIQUE)
        content = (tmp_path / "scan.nii").read_bytes()
        (tmp_path / "cut.nii.gz").write_bytes(gzip.compress(content[:-1]))
        (tmp_path / "whole.nii.gz").write_bytes(gzip.compress(content))
        read_volume(tmp_path / "whole.nii.gz")
        with pytest.raises(ImageError, match="cut short"):
            read_volume(tmp_path / "cut.nii.gz")

    @pytest.mark.parametrize("content", [b"", b"hello", b"NRRD0004\n", bytes(400)])
    @pytest.mark.parametrize("suffix", [".nrrd", ".nii", ".nii.gz", ".mha", ".dcm"])
    def test_refuses_what_is_no_image(self, tmp_path, content, suffix):
        path = tmp_path / f"scan{suffix}"
        path.write_bytes(content)
        with pytest.raises(ImageError, match="scan"):
            read_volume(path)

    def test_refuses_a_missing_file_and_a_folder_without_images(self, tmp_path):
        for read in (read_volume, read_labels):
            with pytest.raises(ImageError, match="does not exist"):
                read(tmp_path / "none.nrrd")
            with pytest.raises(ImageError, match=r"folder|DICOM"):
                read(tmp_path)

    def test_too_large_is_known_from_the_header_alone(self, tmp_path):
        header = "NRRD0004\ntype: short\ndimension: 3\nspace: left-posterior-superior\nsizes: 1024 1024 512\n"
        header += "space directions: (1,0,0) (0,1,0) (0,0,1)\nencoding: raw\nendian: little\nspace origin: (0,0,0)\n\n"
        (tmp_path / "huge.nrrd").write_text(header)
        with pytest.raises(ImageError, match=r"537 million voxels .*limit of 134 million"):
            read_volume(tmp_path / "huge.nrrd")
        (tmp_path / "large.nrrd").write_text(header.replace("1024 1024 512", "640 640 88"))
        with pytest.raises(ImageError, match="cut short"):
            read_volume(tmp_path / "large.nrrd")

    @pytest.mark.parametrize(("shear", "refused"), [("0.3", True), ("0.001", False)])
    def test_sheared_axes(self, tmp_path, scan, shear, refused):
        path = tmp_path / "scan.nrrd"
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(scan), str(path), useCompression=False)
        path.write_bytes(path.read_bytes().replace(b"(0,1,0)", f"({shear},1,0)".encode()))
        if refused:
            with pytest.raises(ImageError, match="right angles"):
                read_volume(path)
        else:
            assert read_volume(path).array.shape == scan.shape


class TestDicom:
    @staticmethod
    def write(folder, positions, series="1.2.3", rows=8, tilt=0.0):
        folder.mkdir(exist_ok=True)
        writer = SimpleITK.ImageFileWriter()
        writer.KeepOriginalImageUIDOn()
        for n, z in enumerate(positions):
            image = SimpleITK.GetImageFromArray(np.full((1, rows, 9), n, np.int16) + np.arange(9, dtype=np.int16))
            image.SetSpacing((0.5, 0.5, 1.0))
            tags = {
                "0008|0060": "MR",
                "0020|000e": series,
                "0020|000d": "1.2",
                "0008|0018": f"{series}.{n + 1}",
                "0020|0032": f"-10\\{5 + tilt * z}\\{z}",
                "0020|0037": "1\\0\\0\\0\\1\\0",
                "0020|0013": str(n + 1),
            }
            for key, value in tags.items():
                image.SetMetaData(key, value)
            writer.SetFileName(str(folder / f"{series}-{n}.dcm"))
            writer.Execute(image)

    def test_a_folder_is_one_volume(self, tmp_path):
        folder = tmp_path / "patient"
        self.write(folder, [0, 2.5, 5, 7.5])
        volume = read_volume(folder)
        assert volume.array.shape == (4, 8, 9)
        assert volume.name == "patient"
        assert volume.geometry.spacing == pytest.approx((0.5, 0.5, 2.5))
        assert volume.geometry.origin == pytest.approx((-10, 5, 0))
        assert list(volume.array[:, 0, 0]) == [0, 1, 2, 3]

    def test_refuses_a_missing_slice(self, tmp_path):
        self.write(tmp_path / "gap", [0, 2.5, 7.5, 10])
        with pytest.raises(ImageError, match="unequal steps"):
            read_volume(tmp_path / "gap")

    def test_refuses_a_tilted_gantry(self, tmp_path):
        self.write(tmp_path / "tilted", [0, 2.5, 5], tilt=0.3)
        with pytest.raises(ImageError, match="tilted gantry"):
            read_volume(tmp_path / "tilted")

    def test_refuses_to_choose_between_series(self, tmp_path):
        self.write(tmp_path / "two", [0, 1, 2], "1.2.3")
        self.write(tmp_path / "two", [0, 1, 2], "1.2.4")
        with pytest.raises(ImageError, match=r"2 DICOM series: .*3 files"):
            read_volume(tmp_path / "two")


class TestLabels:
    def test_segmentation_comes_back_exactly(self, tmp_path, scan):
        straight = Geometry(OBLIQUE.size, (0.625, 0.7, 1 / 3), OBLIQUE.origin)
        labels = (scan > 100).astype(np.uint8) + (scan > 200)
        for geometry in (straight, OBLIQUE):
            write_segmentation(tmp_path / "a.seg.nrrd", labels, geometry, SEGMENTS)
            back = read_labels(tmp_path / "a.seg.nrrd")
            np.testing.assert_array_equal(back.array, labels)
            assert back.name == "a"
            assert back.geometry.size == geometry.size
            assert back.geometry.origin == geometry.origin
            assert back.geometry.spacing == pytest.approx(geometry.spacing, rel=1e-15)
            assert back.geometry.direction == pytest.approx(geometry.direction, abs=1e-15)

    def test_segmentation_tells_slicer_name_colour_and_terminology(self, tmp_path):
        labels = np.zeros(OBLIQUE.shape, np.int32)
        labels[2:5, 3:4, 6:10] = 1
        write_segmentation(tmp_path / "a.seg.nrrd", labels, OBLIQUE, SEGMENTS)
        image = SimpleITK.ReadImage(str(tmp_path / "a.seg.nrrd"))
        assert image.GetPixelID() == SimpleITK.sitkUInt8
        assert image.GetMetaData("Segment0_Extent") == "6 9 3 3 2 4"
        assert image.GetMetaData("Segment0_Name") == "Left atrium"
        assert image.GetMetaData("Segment0_Color") == "0.8 0.4 0.2"
        assert image.GetMetaData("Segment0_LabelValue") == "1"
        assert image.GetMetaData("Segment0_Tags") == (
            "TerminologyEntry:Segmentation category and type - 3D Slicer General Anatomy list"
            "~SCT^123037004^Anatomical Structure~SCT^82471001^Left atrium~^^"
            "~Anatomic codes - DICOM master list~^^~^^|"
        )
        assert image.GetMetaData("Segment1_Extent") == "0 -1 0 -1 0 -1"
        assert image.GetMetaData("Segment1_ID") != image.GetMetaData("Segment0_ID")
        assert image.GetMetaData("Segmentation_ReferenceImageExtentOffset") == "0 0 0"
        assert image.GetMetaData("Segmentation_ContainedRepresentationNames") == "Binary labelmap|"

    @pytest.mark.parametrize(("values", "expected"), [((1, 1), (1, 2)), ((3, 7), (3, 7))])
    def test_layers_are_flattened(self, tmp_path, values, expected):
        layers = np.zeros((4, 5, 6, 2), np.uint8)
        layers[1:3, 1:4, 1:4, 0] = values[0]
        layers[2:4, 2:5, 2:5, 1] = values[1]
        image = SimpleITK.GetImageFromArray(layers, isVector=True)
        for n, value in enumerate(values):
            image.SetMetaData(f"Segment{n}_Layer", str(n))
            image.SetMetaData(f"Segment{n}_LabelValue", str(value))
        SimpleITK.WriteImage(image, str(tmp_path / "a.seg.nrrd"))
        labels = read_labels(tmp_path / "a.seg.nrrd").array
        np.testing.assert_array_equal(labels == expected[1], layers[..., 1] > 0)
        np.testing.assert_array_equal(labels == expected[0], (layers[..., 0] > 0) & (layers[..., 1] == 0))

    def test_whole_numbers_in_floats_are_labels(self, tmp_path, scan):
        write_volume(tmp_path / "a.nrrd", (scan > 9).astype(np.float64), OBLIQUE)
        assert read_labels(tmp_path / "a.nrrd").array.dtype.kind == "i"
        write_volume(tmp_path / "a.nrrd", scan / 255, OBLIQUE)
        with pytest.raises(ImageError, match="whole numbers"):
            read_labels(tmp_path / "a.nrrd")

    def test_an_empty_label_map_is_read(self, tmp_path, scan):
        write_volume(tmp_path / "a.nrrd", scan * 0, OBLIQUE)
        assert not read_labels(tmp_path / "a.nrrd").array.any()

    def test_an_empty_segmentation_of_slicer_is_named_so(self, tmp_path):
        image = SimpleITK.GetImageFromArray(np.zeros((1, 1, 1), np.uint8))
        SimpleITK.WriteImage(image, str(tmp_path / "a.seg.nrrd"))
        with pytest.raises(ImageError, match="without any voxel"):
            read_labels(tmp_path / "a.seg.nrrd")


class TestResampleLabels:
    def test_every_value_keeps_its_place_on_a_cropped_grid_and_the_outside_is_background(self):
        array = np.zeros((6, 7, 8), np.int16)
        array[1:5, 2:6, 1:4], array[1:5, 2:6, 4:7] = 300, 2
        volume = Volume(array, Geometry((8, 7, 6), (1.0, 1.0, 1.0)))
        moved = resample_labels(volume, Geometry((8, 7, 6), (1.0, 1.0, 1.0), (2.0, 1.0, 0.0)))
        assert moved.dtype == np.int16
        np.testing.assert_array_equal(moved[:, :6, :6], array[:, 1:, 2:])
        assert not moved[:, 6:].any() and not moved[:, :, 6:].any()


class TestWriting:
    def test_refuses_another_format(self, tmp_path, scan):
        for name in ("a.png", "a.mhd", "a"):
            with pytest.raises(ImageError, match="does not end in"):
                write_volume(tmp_path / name, scan, OBLIQUE)
        with pytest.raises(ImageError, match=r"\.seg\.nrrd"):
            write_segmentation(tmp_path / "a.nrrd", scan, OBLIQUE, SEGMENTS)
        assert not list(tmp_path.iterdir())

    def test_a_failed_write_leaves_nothing(self, tmp_path, scan):
        (tmp_path / "a.nrrd").mkdir()
        with pytest.raises(ImageError, match="cannot be written"):
            write_volume(tmp_path / "a.nrrd", scan, OBLIQUE)
        assert [p.name for p in tmp_path.iterdir()] == ["a.nrrd"]

    def test_a_mask_is_written_as_numbers(self, tmp_path, scan):
        write_volume(tmp_path / "a.nrrd", scan > 9, OBLIQUE)
        np.testing.assert_array_equal(read_volume(tmp_path / "a.nrrd").array, scan > 9)


class TestGrid:
    @pytest.mark.parametrize("angles", [(0, 0, 0), (10, -20, 30), (45, 0, 0), (0, 45, 0), (0, 0, 45), (30, 45, 60)])
    @pytest.mark.parametrize("spacing", [(1.25, 1.25, 1.25), (0.4, 0.9, 3.0)])
    def test_all_48_orders_are_one(self, rng, angles, spacing):
        geometry = Geometry((9, 8, 7), (0.7, 1.1, 2.3), (5.0, -3.0, 2.0), rotation(*angles))
        array = rng.random(geometry.shape).astype(np.float32)
        reference = Grid.of(geometry, spacing)
        expected = reference.forward(array)
        for turned, place in stored_in_all_orders(array, geometry):
            grid = Grid.of(place, spacing)
            np.testing.assert_array_equal(grid.forward(turned), expected)
            assert same_geometry(grid.geometry, reference.geometry, 1e-9)
            back = grid.backward(expected)
            assert back.shape == place.shape
            # the same place in the world has the same value, whatever the order of storage
            index = (2, 3, 1)
            matrix = np.reshape(geometry.direction, (3, 3))
            home = matrix.T @ (world(place, index) - geometry.origin) / geometry.spacing
            i, j, k = np.rint(home).astype(int)
            assert back[index[::-1]] == reference.backward(expected)[k, j, i]

    def test_axes_are_nearest_lps_and_centre_is_kept(self):
        grid = Grid.of(OBLIQUE, (1.25, 1.25, 1.25))
        matrix = np.reshape(grid.geometry.direction, (3, 3))
        assert np.all(np.diag(matrix) > 0.7)
        np.testing.assert_allclose(grid.geometry.centre, OBLIQUE.centre, atol=1e-12)
        assert grid.geometry.size == (round(14 * 0.7 / 1.25), round(12 * 1.1 / 1.25), round(10 * 2.3 / 1.25))

    def test_linear_ramps_stay_linear(self):
        geometry = Geometry((40, 30, 20), (0.625, 0.625, 0.625), (3, 4, 5))
        grid = Grid.of(geometry, (1.25, 1.25, 1.25))
        k, j, i = np.indices(geometry.shape)
        ramp = 2.0 * i - 3.0 * j + k
        small = grid.forward(ramp)
        x, y, z = (grid.geometry.origin[a] + 1.25 * np.indices(grid.geometry.shape)[2 - a] for a in range(3))
        expected = (2 * (x - 3) - 3 * (y - 4) + (z - 5)) / 0.625
        inner = (slice(2, -2),) * 3
        np.testing.assert_allclose(small[inner], expected[inner], atol=1e-3)
        np.testing.assert_allclose(grid.backward(small)[4:-4, 4:-4, 4:-4], ramp[4:-4, 4:-4, 4:-4], atol=1e-3)

    @pytest.mark.parametrize("spacing", [(0.3, 0.3, 0.3), (1.25, 1.25, 1.25), (5, 5, 5), (19, 19, 19)])
    def test_a_constant_stays_a_constant(self, spacing):
        grid = Grid.of(OBLIQUE, spacing)
        small = grid.forward(np.full(OBLIQUE.shape, 7.0))
        assert min(grid.geometry.size) >= 1
        np.testing.assert_allclose(small, 7, rtol=1e-6)
        np.testing.assert_allclose(grid.backward(small), 7, rtol=1e-6)

    @pytest.mark.parametrize("fill", [-1024, -231.7, 0])
    def test_empty_margins_stay_exactly_empty(self, rng, fill):
        scan = np.pad(rng.uniform(1, 90, (12, 30, 28)), ((8, 8), (20, 20), (20, 20)), constant_values=fill)
        geometry = Geometry(scan.shape[::-1], (0.7, 0.7, 1.5))
        there = Grid.of(geometry, (1.25, 1.25, 1.25)).forward(scan)
        for axis, width in enumerate((9, 10, 10)):  # a voxel less than the margin, where the scan is not yet seen
            for rim in (there.take(range(width), axis), np.flip(there, axis).take(range(width), axis)):
                assert (rim == np.float32(fill)).all()

    def test_equal_spacing_changes_nothing(self, scan):
        geometry = Geometry(OBLIQUE.size, (0.625 + 1e-8, 0.625, 0.625))
        grid = Grid.of(geometry, (0.625, 0.625, 0.625))
        forward = grid.forward(scan)
        np.testing.assert_array_equal(forward, scan)
        np.testing.assert_array_equal(grid.backward(forward), scan)

    def test_forward_never_shares_the_callers_memory(self, rng):
        array = rng.random(OBLIQUE.shape).astype(np.float32)
        grid = Grid.of(Geometry(OBLIQUE.size, (1, 1, 1)), (1, 1, 1))
        assert not np.shares_memory(grid.forward(array), array)
        assert not np.shares_memory(grid.backward(array), array)

    def test_leading_axes_are_kept(self, rng):
        grid = Grid.of(OBLIQUE, (1.25, 1.25, 1.25))
        many = rng.random((2, 3, *grid.geometry.shape))
        back = grid.backward(many)
        assert back.shape == (2, 3, *OBLIQUE.shape)
        np.testing.assert_array_equal(back[1, 2], grid.backward(many[1, 2]))

    def test_labels_take_the_larger_share(self):
        geometry = Geometry((20, 20, 20), (1, 1, 1))
        labels = np.zeros(geometry.shape, np.uint8)
        labels[:, :, 10:] = 1
        labels[:, 10:, 10:] = 2
        small = Grid.of(geometry, (2, 2, 2)).forward_labels(labels, 3)
        assert small.dtype == np.uint8
        np.testing.assert_array_equal(small, labels[::2, ::2, ::2])

    def test_a_ball_survives_the_way_there_and_back(self):
        geometry = Geometry((48, 48, 48), (0.625, 0.625, 0.625))
        radius = np.linalg.norm(np.indices(geometry.shape) - 23.5, axis=0)
        ball = radius < 15
        grid = Grid.of(geometry, (1.25, 1.25, 1.25))
        back = grid.backward(grid.forward(ball)) > 0.5
        dice = 2 * (back & ball).sum() / (back.sum() + ball.sum())
        assert dice > 0.985

    def test_an_image_of_less_than_half_a_voxel_is_refused(self):
        with pytest.raises(ImageError, match=r"covers 0\.014x0\.012x0\.01 mm, less than half a voxel"):
            Grid.of(Geometry((14, 12, 10), (1e-3, 1e-3, 1e-3)), (1.25, 1.25, 1.25))

    def test_a_grid_that_is_too_large_is_refused(self):
        metres = Geometry((200, 200, 100), (625.0, 625.0, 625.0))
        with pytest.raises(ImageError, match="spacing in its header"):
            Grid.of(metres, (0.625, 0.625, 0.625))

    def test_a_wrong_shape_is_a_mistake_of_the_caller(self):
        with pytest.raises(ValueError, match="shape"):
            Grid.of(OBLIQUE, (1, 1, 1)).forward(np.zeros((3, 3, 3)))


class TestNormalise:
    @pytest.mark.parametrize("kind", ["uint8", "int16", "float64"])
    def test_zero_mean_unit_variance(self, scan, kind):
        normal = normalise(scan.astype(kind))
        assert normal.dtype == np.float32
        assert abs(normal.mean()) < 1e-5
        assert normal.std() == pytest.approx(1, abs=1e-5)

    def test_leaves_the_callers_array_alone(self, rng):
        array = rng.random((4, 5, 6)).astype(np.float32)
        before = array.copy()
        normalise(array)
        np.testing.assert_array_equal(array, before)

    def test_empty_margins_change_nothing_where_they_are_left_out(self, rng):
        scan = np.maximum(rng.normal(300, 100, (8, 12, 10)), 0).astype(np.int16)
        scan[0, 0, 0] = 0
        wide = np.pad(scan, ((4, 0), (9, 3), (0, 20)))
        inside = (slice(4, None), slice(9, 21), slice(0, 10))
        filled = {"kind": "zscore-filled"}
        np.testing.assert_allclose(normalise(wide, filled)[inside], normalise(scan, filled), atol=2e-5)
        assert abs(normalise(wide)[inside] - normalise(scan)).max() > 0.5
        np.testing.assert_allclose(normalise(scan, filled), normalise(scan), atol=0.1)
        with pytest.raises(ImageError, match="constant"):
            normalise(np.full((4, 5, 6), 7), filled)

    @pytest.mark.parametrize("fill", [-1024, -32768])
    def test_what_is_empty_costs_no_digits_however_far_off_it_lies(self, rng, fill):
        scan = rng.normal(200, 20, (8, 40, 40)).astype(np.float32)
        wide = np.pad(scan, ((8, 0), (0, 0), (0, 0)), constant_values=fill)
        normal = normalise(wide, {"kind": "zscore-filled"})[8:]
        assert normal.std() == pytest.approx(1, abs=1e-3) and normal.mean() == pytest.approx(0, abs=1e-3)

    @pytest.mark.parametrize("value", [0, 255, 1234.567])
    def test_refuses_a_constant_and_an_unknown_kind(self, value):
        with pytest.raises(ImageError, match="constant"):
            normalise(np.full((4, 5, 6), value))
        with pytest.raises(ImageError, match="unknown"):
            normalise(np.arange(8.0).reshape(2, 2, 2), {"kind": "no such"})


@pytest.mark.realdata
class TestRealFiles:
    def test_48_stored_orders_give_one_image_and_one_world_mask(self, shared_data):
        reference = None
        for path in sorted((shared_data / "odd" / "orientations").glob("*.nii.gz")):
            volume = read_volume(path)
            grid = Grid.of(volume.geometry, (3.3, 2.7, 4.1))
            small = grid.forward(volume.array)
            mask = grid.backward(small) > small.mean()
            index = np.argwhere(mask)[:, ::-1]
            middle = world(volume.geometry, index.mean(axis=0))
            found = (small, mask.sum(), middle)
            reference = reference or found
            np.testing.assert_array_equal(small, reference[0])
            assert found[1] == reference[1]
            np.testing.assert_allclose(found[2], reference[2], atol=1e-3)

    @pytest.mark.parametrize(
        ("name", "sentence"),
        [("complex_image.nii.gz", "complex voxels"), ("four_dimensional.nii.gz", r"4-D series \(52x68x20x10\)")],
    )
    def test_refused(self, shared_data, name, sentence):
        for read in (read_volume, read_labels):
            with pytest.raises(ImageError, match=sentence):
                read(shared_data / "odd" / name)

    @pytest.mark.parametrize(
        ("name", "shape"),
        [
            ("FLAIR.nrrd", (140, 160, 124)),
            ("LAS_drawing_correct.nii.gz", (67, 79, 64)),
            ("LAS_drawing_incorrect.nii.gz", (67, 79, 64)),
        ],
    )
    def test_read_and_kept_in_place(self, shared_data, tmp_path, name, shape):
        volume = read_volume(shared_data / "odd" / name)
        assert volume.array.shape == shape
        write_segmentation(tmp_path / "a.seg.nrrd", volume.array, volume.geometry, SEGMENTS)
        back = read_labels(tmp_path / "a.seg.nrrd")
        np.testing.assert_array_equal(back.array, volume.array)
        assert same_geometry(back.geometry, volume.geometry, 1e-12)

    def test_an_atrium_keeps_its_shape_at_half_resolution(self, shared_data):
        label = read_labels(shared_data / "la" / "la001" / "label.nrrd")
        grid = Grid.of(label.geometry, (1.25, 1.25, 1.25))
        back = grid.backward(grid.forward(label.array)) > 0.5
        mask = label.array > 0
        assert 2 * (back & mask).sum() / (back.sum() + mask.sum()) > 0.97
