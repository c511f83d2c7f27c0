"""Leave-one-out over the labelled cases of a run without validation cases."""

import contextlib
import json

import pytest
from training_runs import ball_cases, small_run

from simcvd import models
from simcvd.events import read_events
from simcvd.training.estimate import estimate_run
from simcvd.training.loop import Stopped, Trainer
from simcvd.training.run_folder import RunFolder, TrainingError


def run_of(folder, cases=None, method="supervised", **wishes):
    cases = cases or ball_cases(folder.parent / "cases", labelled=3, unlabelled=1, validation=0)
    return small_run(folder, method, cases, leave_one_out=True, **{"iterations": 9, **wishes})


def events_of(folder):
    return read_events(folder / "events.jsonl")[0]


def folds_of(folder):
    return sorted(path.name for path in (folder / "folds").iterdir())


def test_every_labelled_case_is_measured_by_a_model_without_it(tmp_path):
    folder = tmp_path / "run"
    run_of(folder)
    Trainer(RunFolder(folder)).run()
    done = events_of(folder)[-1]
    assert [row["case"] for row in done["rows"]] == ["ball0", "ball1", "ball2"] and done["how"].startswith(
        "leave-one-out"
    )
    assert done["dice"] == pytest.approx(sum(row["dice"] for row in done["rows"]) / 3, abs=0.01)
    assert folds_of(folder) == ["ball0", "ball1", "ball2"]
    config = json.loads((folder / "folds" / "ball1" / "run.json").read_text())
    assert {c["id"]: c["role"] for c in config["cases"]} == {
        "ball0": "labelled",
        "ball1": "validation",
        "ball2": "labelled",
        "ball3": "unlabelled",
    }
    assert config["iterations"] == 3 and config["validate_percent"] == 100  # measured at its end alone
    assert not (folder / "folds" / "ball1" / "checkpoint.pt").exists()
    card = models.load_card(folder / "model")
    assert card["quality"][0]["cases"] == 3 and "leave-one-out" in card["quality"][0]["on"]
    assert card["training"]["labelled"] == ["ball0", "ball1", "ball2"]  # the model itself learned from all


def test_the_model_is_that_of_a_run_without_it(tmp_path):
    cases = ball_cases(tmp_path / "cases", labelled=2, unlabelled=1, validation=0)
    run_of(tmp_path / "with", cases)
    small_run(tmp_path / "without", "supervised", cases, iterations=9)
    for name in ("with", "without"):
        Trainer(RunFolder(tmp_path / name)).run()
    one, two = (models.load_card(tmp_path / name / "model")["sha256"] for name in ("with", "without"))
    assert one == two


def test_stopped_in_a_fold_it_goes_on_there(tmp_path):
    folder = tmp_path / "run"
    run = run_of(folder, checkpoint_seconds=0)

    def stop_in_second(event):
        if event["event"] == "fold" and event["case"] == "ball1":
            run.control.write_text("stop")

    with pytest.raises(Stopped):
        Trainer(RunFolder(folder), stop_in_second).run()
    assert events_of(folder)[-1]["event"] == "stopped" and folds_of(folder) == ["ball0", "ball1"]
    first = [e for e in events_of(folder / "folds" / "ball0") if e["event"] == "start"]
    Trainer(RunFolder(folder)).run()
    assert len(events_of(folder)[-1]["rows"]) == 3
    assert [e for e in events_of(folder / "folds" / "ball0") if e["event"] == "start"] == first  # not done again
    steps = [e["event"] for e in events_of(folder / "folds" / "ball1")]
    assert steps.count("start") == 2 and steps[-1] == "done"


def test_ended_early_it_has_the_folds_so_far(tmp_path):
    folder = tmp_path / "run"
    run = run_of(folder, iterations=3000)
    seen = []

    def finish(event):
        seen.append(event["event"])
        if event["event"] == "fold" or (event.get("iteration", 0) > 20 and "finishing" not in seen):
            run.control.write_text("finish")

    Trainer(RunFolder(folder), finish).run()
    trained = models.load_card(folder / "model")["training"]["iterations"]
    assert trained < 3000
    config = json.loads((folder / "folds" / "ball0" / "run.json").read_text())
    assert config["iterations"] == max(1, trained // 3)
    assert [row["case"] for row in events_of(folder)[-1]["rows"]] == ["ball0"]


def test_before_and_after_a_start_model(tmp_path):
    cases = ball_cases(tmp_path / "cases", labelled=2, unlabelled=1, validation=0)
    small_run(tmp_path / "first", "supervised", cases)
    Trainer(RunFolder(tmp_path / "first")).run()
    start = {"from_model": str(tmp_path / "first" / "model"), "patch": None, "network": {}}
    run_of(tmp_path / "second", cases, **start)
    Trainer(RunFolder(tmp_path / "second")).run()
    done = events_of(tmp_path / "second")[-1]
    assert [row["case"] for row in done["before_rows"]] == [row["case"] for row in done["rows"]] == ["ball0", "ball1"]


def test_where_it_makes_no_sense_it_is_refused(tmp_path):
    with pytest.raises(TrainingError, match="without validation cases"):
        run_of(tmp_path / "a", ball_cases(tmp_path / "cases"))
    with pytest.raises(TrainingError, match="at least two labelled"):
        run_of(tmp_path / "b", ball_cases(tmp_path / "cases", labelled=1, validation=0))


def test_the_estimate_counts_the_folds(tmp_path, monkeypatch):
    monkeypatch.setattr("simcvd.training.estimate.SECONDS", 0.5)
    found = estimate_run(run_of(tmp_path / "run", iterations=1000).path)
    assert found["seconds"] > 1.9 * 1000 * found["seconds_a_step"]


def test_a_failing_fold_fails_the_run_with_its_sentence_and_keeps_the_model(tmp_path, monkeypatch):
    folder = tmp_path / "run"
    run_of(folder)
    original = Trainer._train

    def fail_in_fold(self):
        if "folds" in str(self.folder.path):
            raise TrainingError("No.")
        original(self)

    monkeypatch.setattr(Trainer, "_train", fail_in_fold)
    with contextlib.suppress(TrainingError):
        Trainer(RunFolder(folder)).run()
    last = events_of(folder)[-1]
    assert (last["event"], last["message"]) == ("error", "No.") and models.load_card(folder / "model")
