"""A run made from a plan, and what a run shows while it goes on: the model before, and a picture."""

import io
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from training_runs import SMALL_HEAD, ball_cases, small_run

from simcvd.cases import write_cases
from simcvd.cli import main
from simcvd.events import read_events
from simcvd.files import write_json
from simcvd.pictures import picture_description, slice_picture
from simcvd.training.loop import Trainer
from simcvd.training.plan import PreparationStopped, make_run, read_plan
from simcvd.training.run_folder import RunFolder, TrainingError

WISHES = {"iterations": 4, "network": {"n_filters": 2}, "patch": [16, 16, 16], "settings": SMALL_HEAD, "threads": 1}


def planned(folder, **changes):
    """A run folder with a plan and its cases in a folder of their own."""
    cases = ball_cases(folder.parent / "given")
    source = folder / "source"
    source.mkdir(parents=True)
    for case in cases:
        shutil.copy(case.image, source)
        if case.label:
            shutil.copy(case.label, source)
    for case in cases:
        case.image, case.label = source / case.image.name, case.label and source / case.label.name
    write_cases(source / "cases.json", cases)
    plan = {"cases": "source/cases.json", "method": "simcvd", "spacing": [2.0, 2.0, 2.0], "wishes": WISHES}
    write_json(folder / "plan.json", {**plan, "temporary": "source", **changes})
    return folder


def events_of(folder):
    return read_events(folder / "events.jsonl")[0]


def test_a_plan_becomes_a_run_and_a_model(tmp_path, monkeypatch):
    folder, given_way = planned(tmp_path / "run"), []
    monkeypatch.setattr(os, "nice", given_way.append)  # the tests after this one share the process
    assert main(["train", str(folder), "--background"]) == 0
    assert given_way == [10]
    events = events_of(folder)
    preparing = [e for e in events if e["event"] == "preparing"]
    assert [e["done"] for e in preparing] == [0, 1, 2, 3, 4, 5] and preparing[-1]["total"] == 5
    assert events[-1]["event"] == "done" and (folder / "model" / "card.json").is_file()
    assert not (folder / "source").exists() and (folder / "plan.json").is_file()
    assert main(["train", str(folder)]) == 0  # run.json is there now: the plan is not read again


def test_a_wrong_plan_ends_with_a_sentence_in_the_events(tmp_path):
    folder = planned(tmp_path / "run", spacing=[0, 1, 1])
    with pytest.raises(TrainingError, match="spacing must be"):
        make_run(folder)
    assert events_of(folder)[-1]["event"] == "error" and (folder / "source").is_dir()
    for wrong, words in (({"cases": 3}, "must name the cases"), ({"stuff": 1}, "names 'stuff'")):
        write_json(folder / "plan.json", {"cases": "source/cases.json", "method": "simcvd", **wrong})
        with pytest.raises(TrainingError, match=words):
            read_plan(folder)


def test_preparation_stops_when_told_and_goes_on(tmp_path):
    folder = planned(tmp_path / "run")

    def stop_at_two(event):
        if event.get("done") == 2:
            (folder / "control").write_text("stop")

    with pytest.raises(PreparationStopped):
        make_run(folder, stop_at_two)
    assert events_of(folder)[-1]["event"] == "stopped" and not (folder / "control").exists()
    assert not (folder / "run.json").exists() and len(list((folder / "cases").iterdir())) == 2
    make_run(folder)
    assert (folder / "run.json").is_file()


def test_two_processes_can_not_prepare_the_same_folder(tmp_path):
    folder = planned(tmp_path / "run")
    holder = RunFolder(folder, {})
    holder.lock()
    with pytest.raises(TrainingError, match=r"running in .* already"):
        make_run(folder)
    holder.unlock()
    assert not (folder / "events.jsonl").exists()


def test_only_the_named_folder_within_the_run_is_removed(tmp_path):
    (tmp_path / "precious").mkdir()
    for name in ("../precious", ".", "cases", str(tmp_path / "precious")):
        folder = planned(tmp_path / f"run{len(name)}", temporary=name)
        make_run(folder)
        assert (folder / "run.json").is_file() and (folder / "cases").is_dir() and (tmp_path / "precious").is_dir()


def test_a_start_model_is_measured_before_the_first_step(tmp_path):
    cases = ball_cases(tmp_path / "cases")
    small_run(tmp_path / "first", "supervised", cases)
    Trainer(RunFolder(tmp_path / "first")).run()
    small_run(
        tmp_path / "second",
        "supervised",
        cases,
        from_model=str(tmp_path / "first" / "model"),
        patch=None,
        network={},
    )
    Trainer(RunFolder(tmp_path / "second")).run()
    first, second = (events_of(tmp_path / name) for name in ("first", "second"))
    assert next(e["iteration"] for e in first if e["event"] == "validation") == 1
    before = next(e for e in second if e["event"] == "validation")
    assert before["iteration"] == 0 and before["rows"][0]["case"] == "ball4"
    assert before["dice"] == pytest.approx(first[-1]["dice"], abs=0.01)
    kinds = [e["event"] for e in second]
    assert kinds.index("validation") < kinds.index("step")


@pytest.mark.parametrize("roles", [{"validation": 1}, {"validation": 0}, {"validation": 0, "unlabelled": 0}])
def test_a_picture_shows_the_outline_as_it_is_now(tmp_path, roles):
    run = small_run(tmp_path / "run", "supervised", ball_cases(tmp_path / "cases", **roles))
    Trainer(run).run()
    picture = run.preview.read_bytes()
    assert picture.startswith(b"\x89PNG") and "Axial slice" in picture_description(picture)
    assert [p.name for p in run.path.iterdir() if p.name.endswith("-preview.png")] == []


def test_the_picture_changes_no_weight(tmp_path, monkeypatch):
    import torch

    cases = ball_cases(tmp_path / "cases", validation=0)
    for name in ("with", "without"):
        if name == "without":
            monkeypatch.setattr(Trainer, "_measure", lambda self: None)
        Trainer(small_run(tmp_path / name, cases=cases)).run()
    states = [torch.load(tmp_path / n / "checkpoint.pt", weights_only=True)["method"] for n in ("with", "without")]
    assert (tmp_path / "with" / "preview.png").is_file() and not (tmp_path / "without" / "preview.png").exists()
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def decoded(png):
    from matplotlib import image

    return (image.imread(io.BytesIO(png), format="png")[..., :3] * 255).round().astype(int)


def test_a_slice_picture_shows_the_middle_slice_with_both_outlines():
    image = np.random.default_rng(0).normal(100, 10, (12, 60, 60))
    truth = np.zeros(image.shape, np.uint8)
    truth[3:8, 20:40, 20:40] = 1
    found = np.roll(truth, 4, axis=2)
    png = slice_picture(image, found, (1, 1, 2), truth, 200)
    pixels = decoded(png)
    assert picture_description(png) == "Axial slice 5." and max(pixels.shape) == 200
    for colour in ((86, 180, 233), (230, 159, 0)):
        assert (pixels == colour).all(-1).sum() > 100
    alone = decoded(slice_picture(image, found, (1, 1, 2), size=96))
    assert alone.shape[:2] == (96, 96) and not (alone == (86, 180, 233)).all(-1).any()
    assert decoded(slice_picture(image, np.zeros_like(found), (1, 1, 2), size=96)).shape[:2] == (96, 96)


def test_a_killed_preparation_goes_on(tmp_path):
    folder = planned(tmp_path / "run")
    script = "import os, sys; from simcvd.training.plan import make_run; "
    script += "make_run(sys.argv[1], lambda e: e['done'] == 2 and os.kill(os.getpid(), 9))"
    paths = os.pathsep.join(sys.path)
    done = subprocess.run([sys.executable, "-c", script, str(folder)], env={**os.environ, "PYTHONPATH": paths})
    assert done.returncode < 0 and events_of(folder)[-1]["done"] == 2
    make_run(folder)
    assert (folder / "run.json").is_file()


def test_events_are_read_in_pieces(tmp_path):
    from simcvd.events import EventLog

    log = EventLog(tmp_path / "events.jsonl")
    for i in range(50):
        log.write("step", iteration=i, text="x" * (500 if i == 20 else 3))
    found, offset = [], 0
    while True:
        piece, after = read_events(log.path, offset, 100)
        if after == offset:
            break
        found, offset = found + piece, after
    assert [e["iteration"] for e in found] == list(range(50)) and offset == log.path.stat().st_size


def test_the_word_finish_ends_a_run_with_its_model_for_good(tmp_path):
    run = small_run(tmp_path / "run", "supervised", iterations=10**5)

    def finish(event):
        if event["event"] == "step":
            run.control.write_text("finish")

    Trainer(run, finish).run()
    events = events_of(run.path)
    assert events[-1]["event"] == "done" and 0 < events[-1]["iteration"] < 10**5 and not run.control.exists()
    assert (run.path / "model" / "card.json").is_file() and "finishing" in [e["event"] for e in events]
    Trainer(RunFolder(run.path)).run()  # started again, it does not go on
    assert events_of(run.path)[-1]["iteration"] == events[-1]["iteration"]
