import json

import pytest
from training_runs import ball_cases, small_run
from work_clock import WorkClock

from simcvd.cases import write_cases
from simcvd.cli import main
from simcvd.events import read_events
from simcvd.training import estimate as estimation
from simcvd.training.estimate import Shape, estimate, estimate_plan, estimate_run
from simcvd.training.loop import Trainer
from simcvd.training.recipes import recipe
from simcvd.training.setup import settle


@pytest.fixture(autouse=True)
def short_probe(monkeypatch):
    monkeypatch.setattr(estimation, "SECONDS", 1.0)


def state_of(folder):
    return {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in sorted(folder.rglob("*"))}


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("supervised", {}),
        ("simcvd", {"pretrain": 0.25}),
        ("simcvd", {"pretrain": 0.5, "pseudo": 1.0, "mix": False, "guess_every": 0.25, "terms_every": 3}),
    ],
)
def test_the_estimate_is_what_the_training_takes(tmp_path, monkeypatch, method, settings):
    clock = WorkClock(monkeypatch, lambda progress: 0.1 if progress < 0.3 else 0.4, case=2.0, settling=0.5)
    wishes = {"validate_percent": 25, "settle_batch_norm": 1}
    run = small_run(tmp_path / "run", method, iterations=40, settings=settings, **wishes)
    found = estimate_run(run.path)
    clock.now = 0.0
    Trainer(run).run()
    assert found["steps"] == 40
    # a phase's steps are timed in its middle, and the last lap to the disk is none of it
    assert found["seconds"] == pytest.approx(clock.now, rel=0.2)
    assert found["seconds_a_step"] * 40 < found["seconds"]


def test_nothing_of_the_run_changes(tmp_path):
    run = small_run(tmp_path / "run")
    before = state_of(run.path)
    found = estimate_run(run.path)
    assert state_of(run.path) == before
    plan = found["minutes_plan"]
    assert list(plan) == ["10", "60", "480"] and plan["10"] < plan["60"] < plan["480"]


def test_more_minutes_hold_more_steps_and_more_work_makes_them_fewer():
    config = settle("supervised", (2, 2, 2), "short", {"network": {"n_filters": 2}, "patch": [16, 16, 16]}, 2)
    larger = {**config, "patch": [32, 64, 64]}
    shapes = [Shape("labelled", (32, 64, 64))] * 3
    quick, slow = (estimate(c, shapes) for c in (config, larger))
    assert slow["seconds_a_step"] > 2 * quick["seconds_a_step"]
    assert slow["minutes_plan"]["60"] < quick["minutes_plan"]["60"]


def test_what_stands_beside_the_steps_counts(monkeypatch):
    WorkClock(monkeypatch, lambda progress: 0.1, case=2.0, settling=0.5)
    settings = {**recipe("short", "simcvd")["settings"], "guess_every": 0.05}
    wishes = {"network": {"n_filters": 2}, "patch": [16, 16, 16], "iterations": 10, "settle_batch_norm": 0}
    wishes["settings"] = settings
    config = settle("simcvd", (2, 2, 2), "short", wishes, 2)
    one = [Shape("labelled", (32, 64, 64)), Shape("unlabelled", (32, 64, 64)), Shape("validation", (32, 64, 64))]
    few, many = (estimate(config, [one[0]] * 2 + one[1:] * n) for n in (1, 30))
    rounds = 11 + 10  # of validation, the last one twice, and of labelling in the second half
    assert few["seconds"] == pytest.approx(10 * 0.1 + rounds * (2.0 + 0.5))
    assert many["seconds"] == pytest.approx(10 * 0.1 + rounds * (30 * 2.0 + 0.5))


def test_a_run_planned_in_minutes_is_estimated_to_take_them(tmp_path):
    run = small_run(tmp_path / "run", minutes=3.0)
    assert estimate_run(run.path)["seconds"] == pytest.approx(180, abs=5)


def test_cancel(tmp_path):
    run = small_run(tmp_path / "run")

    def tell(fraction):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        estimate_run(run.path, tell)


def test_of_cases_that_are_not_prepared(tmp_path):
    cases = ball_cases(tmp_path / "cases", n_labels=2)
    wishes = {"network": {"n_filters": 2}, "iterations": 7}
    found = estimate_plan(cases, "simcvd", (2.0, 2.0, 2.0), None, {**wishes, "settings": {"pool_size": 16}})
    assert found["steps"] == 7 and found["device"] == "cpu"


def test_on_the_command_line(tmp_path, capsys):
    run = small_run(tmp_path / "run")
    before = state_of(run.path)
    assert main(["train", str(run.path), "--estimate", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["steps"] == 6
    write_cases(tmp_path / "cases.json", ball_cases(tmp_path / "cases"))
    options = ["--spacing", "2", "--set", 'network={"n_filters": 2}', "--patch", "16", "--pool-size", "16"]
    assert main(["train", str(tmp_path / "cases.json"), "--estimate", *options]) == 0
    assert "an hour" in capsys.readouterr().out
    assert state_of(run.path) == before and read_events(run.path / "events.jsonl") == ([], 0)
