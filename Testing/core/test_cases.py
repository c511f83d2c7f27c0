"""The case list, its checks, and cases prepared onto the model's grid."""

import json
import subprocess
import sys

import numpy as np
import pytest
import SimpleITK as sitk

from simcvd.cases import (
    Case,
    CaseError,
    cases_from_folder,
    check_cases,
    content_key,
    count_classes,
    load_prepared,
    prepare_case,
    prepare_cases,
    read_cases,
    write_cases,
)

ZSCORE = {"kind": "zscore"}
SHAPE = (10, 12, 14)


def write(path, array, spacing=(1.0, 1.0, 1.0), origin=(0.0, 0.0, 0.0)):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(spacing)
    image.SetOrigin(origin)
    sitk.WriteImage(image, str(path))
    return path


def noise(seed):
    return np.random.default_rng(seed).normal(100, 20, SHAPE).astype(np.float32)


def box(value=1):
    label = np.zeros(SHAPE, np.uint8)
    label[3:7, 4:9, 5:10] = value
    return label


def make_case(folder, name="a", seed=0, label=None, role="labelled"):
    image = write(folder / name / "image.nrrd", noise(seed))
    label = write(folder / name / "label.nrrd", box() if label is None else label)
    return Case(name, image, label, role)


@pytest.fixture
def folder(tmp_path):
    """Five cases as ../shared/data/la has them; the fourth has no label."""
    for i in range(5):
        make_case(tmp_path / "data", f"c{i}", i)
    (tmp_path / "data" / "c3" / "label.nrrd").unlink()
    (tmp_path / "data" / "cases.csv").write_text("case\n")
    (tmp_path / "data" / "notes").mkdir()
    return tmp_path / "data"


def prepare(case, cache, spacing=(1.0, 1.0, 1.0), n_classes=2):
    return prepare_case(case, spacing, n_classes, cache, ZSCORE)


class TestFolder:
    def test_roles_go_by_name_order(self, folder):
        cases = cases_from_folder(folder, 2, 1)
        assert [(c.id, c.role) for c in cases] == [
            ("c0", "labelled"),
            ("c1", "labelled"),
            ("c2", "unlabelled"),
            ("c3", "unlabelled"),
            ("c4", "validation"),
        ]
        assert [c.label is None for c in cases] == [False, False, True, True, False]
        assert cases[4].image == folder / "c4" / "image.nrrd"

    def test_no_validation_is_possible(self, folder):
        assert [c.role for c in cases_from_folder(folder, 3, 0)] == ["labelled"] * 3 + ["unlabelled"] * 2

    @pytest.mark.parametrize(("labelled", "validation"), [(5, 1), (-1, 2), (6, 0)])
    def test_impossible_numbers(self, folder, labelled, validation):
        with pytest.raises(CaseError, match="choose smaller numbers"):
            cases_from_folder(folder, labelled, validation)

    def test_a_missing_label_of_a_labelled_case(self, folder):
        with pytest.raises(CaseError, match="c3 is to be a labelled case and has no label"):
            cases_from_folder(folder, 4, 0)

    def test_empty_and_absent_folders(self, tmp_path):
        with pytest.raises(CaseError, match="holds no case"):
            cases_from_folder(tmp_path, 1, 0)
        with pytest.raises(CaseError, match="There is no folder"):
            cases_from_folder(tmp_path / "nowhere", 1, 0)

    def test_two_images_are_refused_but_a_header_with_data_is_one(self, folder):
        write(folder / "c0" / "image.mhd", noise(7))
        with pytest.raises(CaseError, match="c1 holds several"):
            write(folder / "c1" / "image.nii.gz", noise(8))
            cases_from_folder(folder, 1, 0)
        assert (folder / "c0" / "image.raw").is_file()
        (folder / "c1" / "image.nii.gz").unlink()
        assert cases_from_folder(folder, 1, 0)[0].image.name == "image.mhd"


class TestList:
    def test_round_trip(self, folder):
        cases = cases_from_folder(folder, 2, 1)
        write_cases(folder / "cases.json", cases)
        assert read_cases(folder / "cases.json") == cases

    def test_paths_beneath_are_relative_and_others_absolute(self, folder, tmp_path):
        cases = cases_from_folder(folder, 1, 0)[:1]
        write_cases(folder / "cases.json", cases)
        write_cases(tmp_path / "run" / "cases.json", cases)
        row = json.loads((folder / "cases.json").read_text())["cases"][0]
        assert (row["image"], row["label"]) == ("c0/image.nrrd", "c0/label.nrrd")
        assert read_cases(tmp_path / "run" / "cases.json")[0].image == folder / "c0" / "image.nrrd"

    def test_moved_with_its_folder(self, folder, tmp_path):
        write_cases(folder / "cases.json", cases_from_folder(folder, 2, 1))
        folder.rename(tmp_path / "elsewhere")
        assert check_cases(read_cases(tmp_path / "elsewhere" / "cases.json")) == []

    @pytest.mark.parametrize(
        ("content", "sentence"),
        [
            ("{", "can't be read"),
            ("[]", "no case list"),
            ('{"format": 9, "cases": []}', "format 9"),
            ('{"format": 1, "cases": ["a"]}', "Case 1 of .* no object"),
            ('{"format": 1, "cases": [{"id": "a", "role": "labelled"}]}', "needs a text as image"),
            ('{"format": 1, "cases": [{"id": 1, "image": "a", "role": "labelled"}]}', "needs a text as id"),
            ('{"format": 1, "cases": [{"id": "a", "image": "a", "label": 3, "role": "x"}]}', "text or null as label"),
        ],
    )
    def test_broken_lists(self, tmp_path, content, sentence):
        (tmp_path / "cases.json").write_text(content)
        with pytest.raises(CaseError, match=sentence):
            read_cases(tmp_path / "cases.json")

    def test_absent_list(self, tmp_path):
        with pytest.raises(CaseError, match="can't be read"):
            read_cases(tmp_path / "cases.json")


class TestCheck:
    def test_a_good_list_has_no_warning(self, folder):
        assert check_cases(cases_from_folder(folder, 2, 1)) == []

    def test_warnings(self, tmp_path):
        warnings = check_cases([make_case(tmp_path)])
        assert len(warnings) == 3
        for word in ("Only one case is labelled", "as the supervised one", "validation"):
            assert any(word in w for w in warnings)

    def test_none_labelled(self, folder):
        with pytest.raises(CaseError, match="No case is labelled"):
            check_cases(cases_from_folder(folder, 0, 1))
        with pytest.raises(CaseError, match="No case is labelled"):
            check_cases([])

    @pytest.mark.parametrize("name", ["", "a/b", "..", "a\\b", "a:b", " a", "a.", "a\n", "NUL", "aux.1"])
    def test_names_that_are_no_file_names(self, tmp_path, name):
        case = make_case(tmp_path)
        case.id = name
        with pytest.raises(CaseError, match="can't serve as a file name"):
            check_cases([case])

    def test_the_same_name_twice_even_in_another_case(self, tmp_path):
        with pytest.raises(CaseError, match="Two cases are called A"):
            check_cases([make_case(tmp_path / "1", "a", 0), make_case(tmp_path / "2", "A", 1)])

    def test_the_same_image_twice(self, tmp_path):
        cases = [make_case(tmp_path, "a", 0), make_case(tmp_path, "b", 0, role="validation")]
        with pytest.raises(CaseError, match="Cases a and b have the same image"):
            check_cases(cases)

    def test_missing_files_labels_and_roles(self, tmp_path):
        case = make_case(tmp_path)
        with pytest.raises(CaseError, match="image of case a is missing"):
            check_cases([Case("a", tmp_path / "no.nrrd", case.label, "labelled")])
        with pytest.raises(CaseError, match="label of case a is missing"):
            check_cases([Case("a", case.image, tmp_path / "no.nrrd", "labelled")])
        with pytest.raises(CaseError, match="is validation and has no label"):
            check_cases([Case("a", case.image, None, "validation")])
        with pytest.raises(CaseError, match="role 'test'"):
            check_cases([Case("a", case.image, case.label, "test")])


class TestClasses:
    def test_binary_of_any_value(self, tmp_path):
        assert count_classes([make_case(tmp_path, "a"), make_case(tmp_path, "b")]) == 2
        assert count_classes([make_case(tmp_path, label=box(255))]) == 2

    def test_several_over_all_labelled_cases_only(self, tmp_path):
        cases = [make_case(tmp_path, "a", label=box(1)), make_case(tmp_path, "b", label=box(2))]
        cases.append(make_case(tmp_path, "c", label=box(3), role="validation"))
        assert count_classes(cases) == 3

    def test_gaps_and_empty_labels(self, tmp_path):
        with pytest.raises(CaseError, match="values 1, 3;"):
            count_classes([make_case(tmp_path, "a", label=box(1)), make_case(tmp_path, "b", label=box(3))])
        with pytest.raises(CaseError, match="all empty"):
            count_classes([make_case(tmp_path, label=box(0))])


class TestPrepare:
    def test_on_the_same_grid_nothing_moves(self, tmp_path):
        case = make_case(tmp_path)
        prepared = load_prepared(prepare(case, tmp_path / "cache"))
        image = noise(0)
        assert prepared["image"].dtype == np.float16
        np.testing.assert_allclose(prepared["image"], (image - image.mean()) / image.std(), atol=2e-3)
        assert prepared["label"].dtype == np.uint8
        np.testing.assert_array_equal(prepared["label"], box())
        assert prepared["spacing"] == (1.0, 1.0, 1.0)
        assert prepared["notes"] == []
        assert tuple(prepared["geometry"]["size"]) == SHAPE[::-1]

    def test_on_a_coarser_grid(self, tmp_path):
        prepared = load_prepared(prepare(make_case(tmp_path), tmp_path / "cache", spacing=(2.0, 2.0, 1.0)))
        assert prepared["image"].shape == prepared["label"].shape == (10, 6, 7)
        assert abs(float(prepared["image"].mean(dtype=np.float64))) < 1e-3

    def test_no_label_of_an_unlabelled_case_gets_in(self, tmp_path):
        case = make_case(tmp_path, role="unlabelled")
        assert "label" not in load_prepared(prepare(case, tmp_path / "cache"))

    def test_reused_until_content_or_settings_change(self, tmp_path):
        case, cache = make_case(tmp_path), tmp_path / "cache"
        first = prepare(case, cache)
        written = first.stat().st_mtime_ns
        assert prepare(case, cache) == first and first.stat().st_mtime_ns == written
        others = {first, prepare(case, cache, spacing=(2.0, 2.0, 2.0)), prepare(case, cache, n_classes=3)}
        case.role = "unlabelled"
        others.add(prepare(case, cache))
        case.role = "labelled"
        write(case.label, np.roll(box(), 1, axis=0))
        others.add(prepare(case, cache))
        write(case.image, noise(1))
        others.add(prepare(case, cache))
        assert len(others) == 6
        assert sorted(others) == sorted(cache.iterdir())

    def test_a_changed_data_file_behind_a_header_is_seen(self, tmp_path):
        image = write(tmp_path / "image.mhd", noise(0))
        before = content_key(image)
        write(image, noise(1))
        assert content_key(image) != before

    def test_what_desktops_leave_in_a_folder_is_no_content(self, tmp_path):
        (tmp_path / "1.dcm").write_bytes(b"slice")
        before = content_key(tmp_path)
        for name in (".DS_Store", "Thumbs.db", "desktop.ini"):
            (tmp_path / name).write_bytes(b"x")
        assert content_key(tmp_path) == before

    def test_a_label_of_255(self, tmp_path):
        prepared = load_prepared(prepare(make_case(tmp_path, label=box(255)), tmp_path / "cache"))
        np.testing.assert_array_equal(prepared["label"], box())

    def test_label_values_that_no_class_has(self, tmp_path):
        label = box(1)
        label[0, 0, 0] = 5
        with pytest.raises(CaseError, match="values 1, 5 beside 0"):
            prepare(make_case(tmp_path, label=label), tmp_path / "cache")
        with pytest.raises(CaseError, match="knows 1 to 2"):
            prepare(make_case(tmp_path, label=box(255)), tmp_path / "cache", n_classes=3)
        assert not list((tmp_path / "cache").glob("*"))

    def test_a_label_of_another_grid_is_resampled_and_noted(self, tmp_path):
        case = make_case(tmp_path)
        write(case.label, box()[1:], origin=(0.0, 0.0, 1.0))
        prepared = load_prepared(prepare(case, tmp_path / "cache"))
        np.testing.assert_array_equal(prepared["label"], box())
        assert len(prepared["notes"]) == 1 and "resampled" in prepared["notes"][0]

    def test_a_coarse_label_of_two_classes_keeps_its_place(self, tmp_path):
        case = make_case(tmp_path)
        fine = np.zeros(SHAPE, np.uint8)
        fine[2:8, 2:6, 2:6], fine[2:8, 6:10, 2:6] = 1, 2
        write(case.label, fine[::2, ::2, ::2].copy(), spacing=(2.0, 2.0, 2.0), origin=(0.5, 0.5, 0.5))
        prepared = load_prepared(prepare(case, tmp_path / "cache", n_classes=3))
        assert np.mean(prepared["label"] == fine) > 0.95
        np.testing.assert_array_equal(prepared["label"][3:7, 3:5, 3:5], 1)
        np.testing.assert_array_equal(prepared["label"][3:7, 7:9, 3:5], 2)

    def test_a_label_elsewhere_in_space(self, tmp_path):
        case = make_case(tmp_path)
        write(case.label, box(), origin=(500.0, 0.0, 0.0))
        with pytest.raises(CaseError, match="lies outside its image"):
            prepare(case, tmp_path / "cache")

    def test_an_empty_label_is_a_label(self, tmp_path):
        prepared = load_prepared(prepare(make_case(tmp_path, label=box(0)), tmp_path / "cache"))
        assert not prepared["label"].any()

    def test_many_with_progress(self, folder, tmp_path):
        calls = []
        cases = cases_from_folder(folder, 2, 1)
        paths = prepare_cases(cases, (1, 1, 1), 2, tmp_path / "cache", ZSCORE, lambda *args: calls.append(args))
        assert calls == [(i + 1, 5, f"c{i}") for i in range(5)]
        assert ["label" in load_prepared(p) for p in paths] == [True, True, False, False, True]

    def test_unreadable_prepared_cases(self, tmp_path):
        path = prepare(make_case(tmp_path), tmp_path / "cache")
        path.write_bytes(path.read_bytes()[:-200])
        with pytest.raises(CaseError, match="restore it, or make a new run"):
            load_prepared(path)
        np.savez(path, image=np.zeros(3))
        with pytest.raises(CaseError, match="restore it, or make a new run"):
            load_prepared(path)
        with pytest.raises(CaseError, match="can't be read"):
            load_prepared(tmp_path / "none.npz")

    def test_loading_needs_neither_torch_nor_simpleitk(self, tmp_path):
        path = prepare(make_case(tmp_path), tmp_path / "cache")
        code = (
            "import sys; sys.modules['torch'] = sys.modules['SimpleITK'] = sys.modules['scipy'] = None\n"
            "from simcvd.cases import load_prepared; print(load_prepared(sys.argv[1])['image'].shape)"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, str(path)],
            env={"PYTHONPATH": ":".join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.strip() == str(SHAPE)


@pytest.mark.realdata
def test_real_atria_and_hippocampi(shared_data, tmp_path):
    atria = cases_from_folder(shared_data / "la", 2, 1)[:1]
    prepared = load_prepared(prepare(atria[0], tmp_path, spacing=(1.25, 1.25, 1.25)))
    label = sitk.GetArrayFromImage(sitk.ReadImage(str(atria[0].label)))
    share = prepared["label"].sum() * 8 / np.count_nonzero(label)
    assert 0.97 < share < 1.03
    hippocampi = cases_from_folder(shared_data / "hippocampus", 10, 40)
    assert len(hippocampi) == 200 and check_cases(hippocampi) == []
    assert count_classes(hippocampi[:3]) == 3
    prepared = load_prepared(prepare(hippocampi[0], tmp_path, n_classes=3))
    assert set(np.unique(prepared["label"])) == {0, 1, 2} and prepared["notes"] == []
