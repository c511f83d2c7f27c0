"""The command line: what each command writes, says and returns, and how it stops."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from test_segmentation import threshold_network
from training_runs import SMALL_HEAD, ball_cases

from simcvd import models
from simcvd.cases import write_cases
from simcvd.cli import main
from simcvd.commands import segment
from simcvd.commands.console import Console, stopping_at_sigterm
from simcvd.commands.demo import Scale, tell
from simcvd.commands.train import DESTINATION
from simcvd.events import read_events
from simcvd.files import read_json
from simcvd.images import Geometry, read_labels, read_volume, write_volume
from simcvd.phantom import make_phantom, write_cohort
from simcvd.training.methods import METHODS

SPACING = (4.0, 4.0, 4.0)
SMALL = ["--settings", "small.json", "--patch", "16", "--threads", "1", "--spacing", "2", "--precision", "float32"]
PACKAGE = Path(__file__).resolve().parents[2] / "SimCVDSegment"
ALONE = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(PACKAGE)}


@pytest.fixture(autouse=True)
def own_place(tmp_path, monkeypatch):
    """Every test works in its own folder, with a models folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SIMCVD_MODELS", str(tmp_path / "models"))
    monkeypatch.delenv("RANK", raising=False)
    Path("small.json").write_text(json.dumps({"network": {"n_filters": 2}, "settings": SMALL_HEAD}))


def save_tiny_model(name="tiny", n_classes=2):
    """A model that goes by brightness alone."""
    network = threshold_network([0.5, 1.5][: n_classes - 1])
    segments = [{"value": v, "name": f"Part {v}", "color": [1, 0, 0], "terminology": None} for v in range(1, n_classes)]
    card = {
        "name": name,
        "version": "1",
        "title": "A tiny one",
        "segments": segments,
        "grid": {"spacing": list(SPACING), "axes": "LPS"},
        "normalisation": {"kind": "zscore"},
        "patch": [16, 16, 16],
        "network": {"kind": "vnet", **network.settings},
    }
    state = {k: v.numpy() for k, v in network.state_dict().items()}
    models.save_model(models.model_folders()[0] / name, card, state)


def save_scan(path, seed=0):
    image, _ = make_phantom(seed, SPACING)
    write_volume(path, image.array, image.geometry)


def run_json(capsys, *argv):
    """Exit code and the one JSON value that a command with --json prints."""
    code = main([*argv, "--json"])
    return code, json.loads(capsys.readouterr().out)


def one_sentence(capsys):
    """The complaint on stderr, which must be a single line."""
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    return lines[0]


# --- the whole ------------------------------------------------------------------------------------------------------


def test_help_and_models_answer_without_torch():
    script = (
        "import sys\nsys.modules['torch'] = None\nfrom simcvd.cli import main\n"
        "print(main(['--help']), main(['segment', '--help']), main(['models', 'list']), main(['train', '--help']))"
    )
    found = subprocess.run([sys.executable, "-c", script], env=ALONE, capture_output=True, text=True, check=True)
    assert found.stdout.splitlines()[-1] == "0 0 0 2"
    assert found.stderr.startswith("simcvd: PyTorch is missing; install it with pip") and found.stderr.count("\n") == 1


@pytest.mark.parametrize("argv", [[], ["dance"], ["segment", "x.nrrd"], ["train", "x", "--lambd", "1"]])
def test_wrong_usage_gives_two(argv, capsys):
    assert main(argv) == 2
    assert "usage: simcvd" in capsys.readouterr().err


def test_an_unexpected_error_shows_where_it_came_from(monkeypatch, capsys):
    def broken():
        raise ZeroDivisionError("oh")

    monkeypatch.setattr(models, "list_models", broken)
    assert main(["models", "list"]) == 1
    said = capsys.readouterr().err
    assert "Traceback" in said and "please report" in said


# --- segment --------------------------------------------------------------------------------------------------------


def test_segment_writes_a_segmentation_and_a_distance_map_on_the_scans_grid(capsys):
    save_tiny_model()
    save_scan("scan.nii.gz")
    code, said = run_json(capsys, "segment", "scan.nii.gz", "--model", "tiny", "--output", "out")
    assert code == 0 and said["failed"] == [] and [s["name"] for s in said["scans"]] == ["scan"]
    assert sorted(os.listdir("out")) == ["scan.sdm.nrrd", "scan.seg.nrrd"]
    scan, labels, sdm = read_volume("scan.nii.gz"), read_labels("out/scan.seg.nrrd"), read_volume("out/scan.sdm.nrrd")
    assert labels.geometry.size == sdm.geometry.size == scan.geometry.size
    assert np.allclose(labels.geometry.direction, scan.geometry.direction)
    assert sdm.array.dtype == np.float32
    assert ((sdm.array < 0) == (labels.array > 0)).all()
    ml = (labels.array > 0).sum() * scan.geometry.voxel_volume / 1000
    assert said["scans"][0]["volume_ml"]["Part 1"] == pytest.approx(ml, abs=1e-3)


def test_options_reach_the_segmentation(capsys):
    save_tiny_model()
    save_scan("scan.nrrd")
    argv = ["segment", "scan.nrrd", "--model", "tiny", "--largest", "--device", "cpu", "--json"]
    assert main([*argv, "--output", "a"]) == 0
    roi = ["--roi", "-20", "20.5", "-15", "25", "-10", "30"]
    maps = ["--probability", "--uncertainty", "--model-sdm"]
    assert main([*argv, *roi, "--offset", "-4", *maps, "--output", "b"]) == 0
    kinds = ("model-sdm", "probability", "sdm", "seg", "uncertainty")
    assert sorted(os.listdir("b")) == [f"scan.{kind}.nrrd" for kind in kinds]
    whole, part = (read_labels(f"{x}/scan.seg.nrrd").array > 0 for x in "ab")
    assert part.sum() < whole.sum()
    probability = read_volume("b/scan.probability.nrrd").array
    assert probability.dtype == np.float32 and 0 <= probability.min() <= probability.max() <= 1
    model_sdm = read_volume("b/scan.model-sdm.nrrd").array
    assert model_sdm.dtype == np.float32 and -1 <= model_sdm.min() < model_sdm.max() <= 1


@pytest.mark.parametrize(("words", "largest"), [([], None), (["--largest"], True), (["--no-largest"], False)])
def test_whether_the_largest_part_is_kept_is_up_to_the_card_or_the_user(monkeypatch, words, largest):
    save_tiny_model()
    save_scan("scan.nrrd")
    asked = []

    def listen(segmenter, scans, outputs, settings, console, replaced):
        asked.append(settings.largest)
        return [], []

    monkeypatch.setattr("simcvd.commands.segment.segment_scans", listen)
    assert main(["segment", "scan.nrrd", "--model", "tiny", "--output", "out", *words]) == 0
    assert asked == [largest]


def test_several_segments_get_maps_of_their_own(capsys):
    save_tiny_model(n_classes=3)
    save_scan("scan.nrrd")
    assert main(["segment", "scan.nrrd", "--model", "tiny", "--output", "out", "--probability", "--json"]) == 0
    maps = [f"scan.part-{v}.{kind}.nrrd" for v in (1, 2) for kind in ("probability", "sdm")]
    assert sorted(os.listdir("out")) == [*maps, "scan.seg.nrrd"]
    labels = read_labels("out/scan.seg.nrrd").array
    for value in (1, 2):
        sdm = read_volume(f"out/scan.part-{value}.sdm.nrrd").array if (labels == value).any() else None
        assert sdm is None or ((sdm < 0) == (labels == value)).all()


def test_nothing_is_overwritten_unasked(capsys):
    save_tiny_model()
    save_scan("a.nrrd")
    save_scan("b.nrrd", 1)
    argv = ["segment", "a.nrrd", "b.nrrd", "--model", "tiny", "--output", "out"]
    Path("out").mkdir()
    Path("out/b.sdm.nrrd").write_text("mine")
    assert main(argv) == 2
    assert "--overwrite" in one_sentence(capsys)
    assert os.listdir("out") == ["b.sdm.nrrd"] and Path("out/b.sdm.nrrd").read_text() == "mine"
    assert main([*argv, "--overwrite"]) == 0
    assert len(os.listdir("out")) == 4


def test_a_scan_that_fails_does_not_hold_up_the_others(capsys):
    save_tiny_model()
    Path("in").mkdir()
    save_scan("in/good.nrrd")
    Path("in/bad.nrrd").write_bytes(Path("in/good.nrrd").read_bytes()[:900])
    code, said = run_json(capsys, "segment", "in", "--model", "tiny", "--output", "out")
    assert code == 1 and [s["name"] for s in said["scans"]] == ["good"]
    assert [f["name"] for f in said["failed"]] == ["bad"] and "bad.nrrd" in said["failed"][0]["reason"]
    assert main(["segment", "in", "--model", "tiny", "--output", "out", "--overwrite"]) == 1
    out, err = capsys.readouterr()
    assert "1 of 2 scans" in out and err.strip().startswith("simcvd: bad failed: ")


def test_case_folders_are_segmented_by_name_and_own_results_passed_over(capsys):
    save_tiny_model()
    write_cohort("cohort", 2, spacing=SPACING)
    for _ in range(2):
        code, said = run_json(capsys, "segment", "cohort", "--model", "tiny", "--output", "out", "--overwrite")
        assert code == 0 and [s["name"] for s in said["scans"]] == ["ph001", "ph002"]
    code, said = run_json(capsys, "segment", "cohort/ph002", "--model", "tiny", "--output", "single")
    assert code == 0 and [s["name"] for s in said["scans"]] == ["ph002"]
    save_scan("out/new.nrrd")
    code, said = run_json(capsys, "segment", "out", "--model", "tiny", "--output", "out")
    assert code == 0 and [s["name"] for s in said["scans"]] == ["new"]


def test_scans_beside_case_folders_and_results_are_all_found(capsys):
    save_tiny_model()
    for name in ("a", "b"):
        Path("cases", name).mkdir(parents=True)
        save_scan(Path("cases") / name / "image.nrrd")
    save_scan(Path("cases") / "single.nrrd")
    for more in ([], ["--overwrite"]):  # the second time beside the results
        assert main(["segment", "cases", "--model", "tiny", "--output", "cases", *more]) == 0
        assert "3 of 3 scans segmented" in capsys.readouterr().out
    assert {p.name for p in Path("cases").glob("*.seg.nrrd")} == {"a.seg.nrrd", "b.seg.nrrd", "single.seg.nrrd"}


def interrupted_at(name):
    """read_volume, during which somebody presses Ctrl+C at a scan of this name."""

    def read(path):
        if path.name == name:
            raise KeyboardInterrupt
        return read_volume(path)

    return read


def test_ctrl_c_tells_what_is_done_what_failed_and_what_is_left(monkeypatch, capsys):
    save_tiny_model()
    Path("broken.nrrd").write_text("no image")
    scans = ["broken.nrrd", "first.nrrd", "my scan.nrrd", "last.nrrd"]
    for name in scans[1:]:
        save_scan(name)

    monkeypatch.setattr(segment, "read_volume", interrupted_at("my scan.nrrd"))
    assert main(["segment", *scans, "--model", "tiny", "--output", "out"]) == 130
    said = capsys.readouterr().err
    assert "broken failed" in said
    assert "stopped; 1 of 4 scans are done; the same command with --skip-existing goes on" in said
    monkeypatch.setattr(segment, "read_volume", read_volume)
    assert main(["segment", *scans, "--model", "tiny", "--output", "out", "--skip-existing"]) == 1
    said = capsys.readouterr()
    assert "1 of 4 scans have their results already." in said.out and "2 of 3 scans segmented" in said.out
    assert "broken failed" in said.err and len(list(Path("out").glob("*.seg.nrrd"))) == 3


def test_ctrl_c_names_what_is_left_to_be_replaced(monkeypatch, capsys):
    save_tiny_model()
    for name in ("first.nrrd", "my scan.nrrd"):
        save_scan(name)
    argv = ["segment", "first.nrrd", "my scan.nrrd", "--model", "tiny", "--output", "out"]
    assert main([*argv, "--uncertainty"]) == 0

    monkeypatch.setattr(segment, "read_volume", interrupted_at("my scan.nrrd"))
    assert main([*argv, "--overwrite"]) == 130
    assert "1 of 2 scans are done; segment the others to go on: 'my scan.nrrd'" in capsys.readouterr().err
    assert [p.name for p in Path("out").glob("*.uncertainty.nrrd")] == ["my scan.uncertainty.nrrd"]


def test_sigterm_stops_as_ctrl_c_does():
    with pytest.raises(KeyboardInterrupt), stopping_at_sigterm():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_maps_of_a_replaced_result_do_not_stay_beside_the_new_one():
    save_tiny_model()
    save_scan("scan.nrrd")
    argv = ["segment", "scan.nrrd", "--model", "tiny", "--output", "out"]
    assert main([*argv, "--probability", "--uncertainty"]) == 0
    Path("out/scan.notes.nrrd").write_text("mine")
    assert main([*argv, "--probability", "--offset", "1", "--overwrite"]) == 0
    kept = {"scan.seg.nrrd", "scan.sdm.nrrd", "scan.probability.nrrd", "scan.notes.nrrd"}
    assert {p.name for p in Path("out").iterdir()} == kept


def test_an_old_map_that_somebody_has_open_stops_no_other_scan(monkeypatch, capsys):
    save_tiny_model()
    for name in ("a.nrrd", "b.nrrd"):
        save_scan(name)
    argv = ["segment", ".", "--model", "tiny", "--output", "out"]
    assert main([*argv, "--probability"]) == 0
    unlink = Path.unlink

    def refuse(path, *rest, **more):
        if path.name == "a.probability.nrrd":
            raise PermissionError(13, "in use")
        unlink(path, *rest, **more)

    monkeypatch.setattr(Path, "unlink", refuse)
    assert main([*argv, "--overwrite"]) == 0
    said = capsys.readouterr()
    assert "2 of 2 scans segmented" in said.out and "a.probability.nrrd is of the earlier result" in said.err
    assert not Path("out/b.probability.nrrd").exists()


@pytest.mark.skipif(os.name == "nt" or sys.platform == "darwin", reason="names are text there")
def test_a_name_that_is_no_text_fails_alone(capsys):
    save_tiny_model()
    for name in ("a.nrrd", "z.nrrd"):
        save_scan(name)
    Path("a.nrrd").rename(os.fsdecode(b"lat\xe4.nrrd"))
    assert main(["segment", ".", "--model", "tiny", "--output", "out"]) == 1
    said = capsys.readouterr()
    assert "1 of 2 scans segmented" in said.out and "can't be read here; rename it" in said.err


def test_segment_is_no_work_for_torchrun(monkeypatch, capsys):
    save_tiny_model()
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["segment", "scan.nrrd", "--model", "tiny", "--output", "out"]) == 2
    assert "without torchrun" in one_sentence(capsys)


def test_a_run_is_no_model(capsys):
    save_scan("scan.nrrd")
    Path("run").mkdir()
    Path("run/run.json").write_text("{}")
    assert main(["segment", "scan.nrrd", "--model", "run", "--output", "out"]) == 2
    assert "is a run, not a model; it has no model before it ends" in one_sentence(capsys)
    save_tiny_model()
    shutil.copytree(models.model_folders()[0] / "tiny", "run/model")
    assert main(["segment", "scan.nrrd", "--model", "run", "--output", "out"]) == 2
    assert f"its model is {Path('run/model')}" in one_sentence(capsys)


@pytest.mark.parametrize("command", ["evaluate", "train"])
def test_a_place_that_can_not_be_written_is_one_sentence(command, capsys):
    save_scan("a.nrrd")
    write_volume("b.nrrd", np.eye(3, dtype=np.uint8)[None].repeat(3, 0), Geometry((3, 3, 3), (1.0, 1.0, 1.0)))
    write_cases("cases.json", ball_cases(Path("balls")))
    Path("file").write_text("in the way")
    words = {
        "evaluate": ["--reference", "b.nrrd", "--prediction", "b.nrrd"],
        "train": ["cases.json", "--method", "supervised", "--iterations", "1", *SMALL[2:]],
    }[command]
    assert main([command, *words, "--output", "file/out"]) == 2
    assert "choose another place or make room" in one_sentence(capsys)


@pytest.mark.parametrize("name", ["scan.nii.gz", "there", "report.html"])
def test_a_file_is_no_place_for_results(name, capsys):
    Path("there").write_text("a file")
    before = os.listdir()
    evaluate = ["evaluate", "--reference", "a", "--prediction", "a"]
    for words in (["segment", "scan.nrrd", "--model", "tiny"], evaluate, ["train", "cases.json"], ["demo"]):
        assert main([*words, "--output", name]) == 2
        assert f"give a folder for the results, not a file such as {name}" in capsys.readouterr().err
    assert os.listdir() == before


def test_half_a_result_is_not_left_behind(capsys):
    save_tiny_model()
    save_scan("scan.nrrd")
    Path("out/scan.sdm.nrrd").mkdir(parents=True)  # what can't be replaced by a file
    code, said = run_json(capsys, "segment", "scan.nrrd", "--model", "tiny", "--output", "out", "--overwrite")
    assert code == 1 and "scan.sdm.nrrd" in said["failed"][0]["reason"]
    assert os.listdir("out") == ["scan.sdm.nrrd"]


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (["--model", "nobody"], "nobody"),
        (["--model", "tiny", "--roi", "5", "-5", "0", "1", "0", "1"], "rising"),
        (["--model", "tiny", "--offset", "nan"], "offset"),
        (["--model", "tiny", "--axes", "XYZ"], "axes"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(options, word, capsys):
    save_tiny_model()
    save_scan("scan.nrrd")
    assert main(["segment", "scan.nrrd", "--output", "out", *options]) == 2
    assert word in capsys.readouterr().err
    assert not Path("out").exists()


# --- evaluate -------------------------------------------------------------------------------------------------------


def test_evaluate_prints_and_writes_a_report(capsys):
    geometry = Geometry((12, 12, 12), SPACING)
    mask = np.zeros((12, 12, 12), np.uint8)
    mask[3:9, 3:9, 3:9] = 1
    write_volume("ref/a.nrrd", mask, geometry)
    write_volume("pred/a.seg.nrrd", np.roll(mask, 1, 0), geometry)
    write_volume("pred/b.nrrd", mask, geometry)
    argv = ["evaluate", "--reference", "ref", "--prediction", "pred", "--output", "report"]
    code, said = run_json(capsys, *argv, "--label", "1=Atrium")
    assert code == 0 and said["rows"][0]["label"] == "Atrium" and len(said["notes"]) == 1
    assert said["rows"][0]["dice"] == pytest.approx(100 * 5 / 6)
    assert all(Path(f).is_file() for f in said["files"]) and len(said["files"]) == 3
    assert main(argv) == 2
    assert "already" in one_sentence(capsys)
    assert main([*argv, "--overwrite"]) == 0
    out, err = capsys.readouterr()
    assert "83.3" in out and "report.html" in out and "no reference: b" in err
    assert main([*argv, "--label", "Atrium"]) == 2


# --- models ---------------------------------------------------------------------------------------------------------


def test_models_come_and_go(capsys):
    save_tiny_model("one")
    code, said = run_json(capsys, "models", "list")
    assert code == 0 and "one" in [m["name"] for m in said]
    code, said = run_json(capsys, "models", "show", "one")
    assert code == 0 and said["card"]["title"] == "A tiny one"
    assert main(["models", "show", "one"]) == 0
    assert "4 x 4 x 4 mm" in capsys.readouterr().out
    assert run_json(capsys, "models", "export", "one", "one.zip") == (0, {"zip": "one.zip"})
    assert main(["models", "import", "one.zip"]) == 2
    assert "exists" in one_sentence(capsys)
    assert run_json(capsys, "models", "delete", "one") == (0, {"deleted": "one"})
    assert main(["models", "show", "one"]) == 2
    capsys.readouterr()
    assert main(["models", "import", "one.zip"]) == 0
    assert main(["models", "list"]) == 0
    assert "A tiny one, 4 x 4 x 4 mm" in capsys.readouterr().out


# --- train ----------------------------------------------------------------------------------------------------------


def test_every_setting_of_every_method_is_an_option():
    from simcvd.cli import _parser

    argv = ["train", "cases.json"]
    for method in METHODS.values():
        for key, default in method.defaults.items():
            option = ["--" + key.replace("_", "-"), str(default)]
            assert vars(_parser(argv).parse_args(argv + option))[DESTINATION + key] == default


@pytest.mark.parametrize("spacing", ["2.5", "2.5,2.5,2.5", "[2.5, 2.5, 2.5]"])
def test_a_setting_may_be_the_method_or_the_spacing(spacing):
    write_cases("cases.json", ball_cases(Path("balls")))
    named = ["--set", "method=mean_teacher", "--set", f"spacing={spacing}"]
    more = ["--set", 'network={"n_filters": 2}', "--iterations", "1", "--patch", "16", "--threads", "1"]
    assert main(["train", "cases.json", "--output", "run", *named, *more]) == 0
    c = read_json("run/run.json")
    assert (c["method"], c["spacing"]) == ("mean_teacher", [2.5] * 3)


def test_a_spacing_among_the_settings_that_cannot_be(capsys):
    write_cases("cases.json", ball_cases(Path("balls")))
    assert main(["train", "cases.json", "--output", "run", "--set", "spacing=fine"]) == 2
    assert "'fine' is not one size in mm or three" in one_sentence(capsys)


def test_options_reach_the_run_and_a_model_comes_out(capsys):
    write_cases("cases.json", ball_cases(Path("balls")))
    card = {"title": "Balls", "segments": [{"value": 1, "name": "Ball", "color": [0, 1, 0], "terminology": None}]}
    Path("card.json").write_text(json.dumps(card))
    options = ["--lambda", "0.25", "--pd-reduction", "sum", "--use-sdm-in-contrast", "false", "--lr", "0.02"]
    more = ["--set", "beta=0.3", "--set", "validate_percent=50", "--set", "lambda=9", "--recipe", "short"]
    named = ["--name", "balls", "--model-card", "card.json", "--iterations", "2", "--seed", "7", "--batch", "3,3"]
    assert main(["train", "cases.json", "--output", "run", *SMALL, *options, *more, *named]) == 0
    out = capsys.readouterr().out
    assert "Training simcvd on" in out and "Dice" in out and "Done: the model is in run/model" in out
    c = read_json("run/run.json")
    s = c["settings"]
    assert (s["lambda"], s["beta"], s["pd_reduction"], s["use_sdm_in_contrast"]) == (0.25, 0.3, "sum", False)
    assert (c["optimiser"]["lr"], c["validate_percent"], c["seed"], c["batch"]) == (0.02, 50, 7, [3, 3])
    assert c["optimiser"]["schedule"] == "poly" and s["head_width"] == SMALL_HEAD["head_width"]
    shown = models.load_card("run/model")
    assert (shown["name"], shown["title"]) == ("balls", "Balls")
    assert [{**segment, "volume_ml": mock.ANY} for segment in card["segments"]] == shown["segments"]
    assert main(["segment", "balls/0-image.nrrd", "--model", "run/model", "--output", "out"]) == 0
    Path("head.json").write_text(json.dumps(SMALL_HEAD))
    again = ["train", "cases.json", "--output", "finer", "--settings", "head.json", "--threads", "1"]
    assert main([*again, "--iterations", "1", "--from-model", "run/model"]) == 0
    assert models.load_card("finer/model")["title"] == "Balls"


def test_a_folder_of_cases_trains_and_events_are_json_lines(capsys):
    write_cohort("scans", 4, spacing=SPACING)
    argv = ["train", "scans", "--method", "supervised", "--output", "run", "--settings", "net.json", "--json"]
    Path("net.json").write_text('{"network": {"n_filters": 2}}')
    assert main(argv) == 2
    assert "--labelled" in one_sentence(capsys)
    plan = ["--iterations", "2", "--patch", "16", "--threads", "1", "--spacing", "4", "--precision", "float32"]
    assert main([*argv, *plan, "--labelled", "2", "--validation", "1"]) == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [e["event"] for e in events][:1] == ["start"] and events[-1]["event"] == "done"
    assert [c["role"] for c in read_json("run/run.json")["cases"]] == ["labelled"] * 2 + ["unlabelled", "validation"]


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (["--tau", "-1"], "tau"),
        (["--set", "taux=1"], "taux"),
        (["--set", "pool=median"], "pool"),
        (["--method", "supervised", "--lambda", "1"], "lambda"),
        (["--from-model", "nobody"], "nobody"),
        (["--labelled", "2"], "--labelled"),
        (["--set", "optimiser=adamw"], "optimiser"),
        (["--set", "method=simcdv"], "simcdv"),
        (["--set", "method=[1]"], "method"),
        (["--settings", "missing.json"], "missing.json"),
        (["--model-card", "cases.json.gz"], "cases.json.gz"),
        (["--name", "not a name"], "name"),
    ],
)
def test_a_wrong_setting_is_one_sentence_before_any_work(options, word, capsys):
    write_cases("cases.json", ball_cases(Path("balls"), 1, 1, 0))
    assert main(["train", "cases.json", "--output", "run", "--spacing", "2", *options]) == 2
    sentence = one_sentence(capsys)
    assert sentence.startswith("simcvd: ") and word in sentence
    assert not Path("run").exists()


@pytest.mark.parametrize(
    "option",
    [
        ["--iterations", "0"],
        ["--minutes", "soon"],
        ["--patch", "20"],
        ["--batch", "0,2"],
        ["--spacing", "1,2"],
        ["--pool", "median"],
        ["--teacher-dropout", "maybe"],
        ["--set", "tau"],
    ],
)
def test_a_wrong_value_is_said_with_its_option(option, capsys):
    assert main(["train", "cases.json", "--output", "run", *option]) == 2
    assert option[0] in capsys.readouterr().err.splitlines()[-1]


def test_runs_and_other_folders_are_kept_apart(capsys):
    write_cases("cases.json", ball_cases(Path("balls")))
    argv = ["train", "cases.json", "--output", "run", "--method", "supervised", "--iterations", "1", *SMALL[2:]]
    Path("other").mkdir()
    Path("run").mkdir()
    Path("run/.DS_Store").touch()  # as a desktop leaves it in a folder that it shows
    Path("other/thesis.txt").write_text("all of it")
    assert main([*argv[:2], "--output", "other"]) == 2
    assert "not empty" in one_sentence(capsys)
    assert main([*argv, "--set", 'network={"n_filters": 2}']) == 0
    capsys.readouterr()
    assert main(argv) == 2
    assert "holds a run already" in one_sentence(capsys)
    assert main(["train", "run", "--iterations", "5"]) == 2
    assert "leave out --iterations" in one_sentence(capsys)
    for option, nothing in (("--lambda", "0"), ("--seed", "0"), ("--use-sdm-in-contrast", "false")):
        assert main(["train", "run", option, nothing]) == 2
        assert f"leave out {option}" in one_sentence(capsys)
    assert main(["train", "nowhere", "--output", "x"]) == 2
    assert main(["train", "cases.json"]) == 2
    assert main([*argv, "--resume"]) == 0


def test_ctrl_c_leaves_a_run_that_goes_on(capsys):
    write_cases("cases.json", ball_cases(Path("balls")))
    argv = ["train", "cases.json", "--output", "run", "--iterations", "60", *SMALL]
    process = subprocess.Popen(
        [sys.executable, "-m", "simcvd", *argv], env=ALONE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    while process.poll() is None and not any(e["event"] == "step" for e in read_events("run/events.jsonl")[0]):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate()
    assert process.returncode == 130, err
    assert "go on with: simcvd train run" in err and "Traceback" not in err and "Stopped at iteration" in out
    stopped = read_events("run/events.jsonl")[0][-1]
    assert stopped["event"] == "stopped" and stopped["iteration"] < 60
    assert main(["train", "run"]) == 0
    assert f"from iteration {stopped['iteration']} on" in capsys.readouterr().out
    assert models.load_card("run/model")["training"]["iterations"] == 60


def test_a_batch_that_processes_can_not_share_is_told_before_anything_is_prepared(monkeypatch, capsys):
    write_cases("cases.json", ball_cases(Path("balls")))
    monkeypatch.setenv("WORLD_SIZE", "2")
    argv = ["train", "cases.json", "--output", "run", "--minutes", "1", *SMALL[2:]]
    assert main(argv) == 2
    assert "give --batch 4,4" in one_sentence(capsys)
    assert not Path("run").exists()


def test_torchrun_starts_two_processes_of_one_run():
    write_cases("cases.json", ball_cases(Path("balls")))
    argv = ["train", "cases.json", "--output", "run", "--method", "supervised", "--iterations", "2", *SMALL[2:]]
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "simcvd"]
    small = ["--set", 'network={"n_filters": 2}', "--batch", "2,0"]
    found = subprocess.run([*launch, *argv, *small], env=ALONE, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    assert found.stdout.count("Done: ") == found.stdout.count("in 2 processes") == 1


# --- demo -----------------------------------------------------------------------------------------------------------


def test_the_demo_tells_its_story_again_and_again_but_only_in_its_own_folder(capsys):
    Path("mine").mkdir()
    Path("mine/thesis.txt").write_text("all of it")
    assert main(["demo", "--output", "mine"]) == 2
    assert "not an earlier demo" in one_sentence(capsys)
    scale = Scale(labelled=2, unlabelled=2, unseen=1, spacing=5.0, iterations=2)
    for _ in range(2):
        rows = tell(Path("demo"), scale, Console())
        assert [r["case"] for r in rows] == ["ph001"]
        assert "data:image/png" in Path("demo/report.html").read_text()
        assert "Mean Dice" in capsys.readouterr().out
    assert os.listdir("mine") == ["thesis.txt"]
