"""Runs through SimCVDLib: real trainings in processes of their own, watched, told what to do, and killed."""

import json
import os
import signal
import subprocess
import time

import pytest
import qt
import slicer
import train_scenes
from train_scenes import ballRun, held, plan, polled

from simcvd.errors import SimCVDError
from simcvd.events import EventLog
from simcvd.files import write_json
from simcvd.models import load_card
from SimCVDLib import jobs, runlist, runs

LONG = 100_000  # steps: it lasts until it is told to end


@pytest.fixture(autouse=True)
def nothingLeft(monkeypatch, tmp_path):
    """No run of a test lives on, is known to the next one, or leaves its model with the user's."""
    monkeypatch.setenv("SIMCVD_MODELS", str(tmp_path / "models"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    yield
    for process in runs._started.values():
        process.kill()
        process.wait()
    runs._started.clear()
    qt.QSettings().remove(runlist.SETTINGS)
    slicer.mrmlScene.Clear(0)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run that went through, with the states it was seen in."""
    os.environ["OMP_NUM_THREADS"] = "1"
    run = ballRun(tmp_path_factory.mktemp("finished") / "run")
    states = [run.state]
    run.start()
    events = polled(run, lambda r: states.append(r.state) or r.state not in runs.ALIVE)
    return run, states, events


def stateIs(*wanted):
    return lambda run: run.state in wanted


def test_from_a_list_to_a_model(finished):
    run, states, events = finished
    assert run.state == runs.DONE, run.log
    assert list(dict.fromkeys(states)) == [runs.NEW, runs.PREPARING, runs.RUNNING, runs.DONE]
    kinds = [event["event"] for event in events]
    assert {"preparing", "start", "step", "validation", "done"} <= set(kinds)
    assert run.fraction == 1 and run.iteration == run.of == 6 and run.device == "cpu" and run.secondsLeft == 0
    assert load_card(run.modelFolder)["training"]["method"] == "simcvd"
    assert run.preview.read_bytes().startswith(b"\x89PNG")
    assert not (run.folder / "source").exists() and run.diskUse() > 1000
    assert run.messages[-1][1].startswith("Done") and "Dice" in run.messages[-1][1]
    assert not run.canStart and not run.canPause and not run.canStop


def test_the_folder_tells_no_names(finished):
    run, _states, _events = finished
    names = [path.name for path in run.folder.rglob("*")]
    assert any(name.startswith("case-001") for name in names) and not any("Scan" in name for name in names)
    assert "Scan" not in (run.folder / "run.json").read_text() + (run.folder / "events.jsonl").read_text()


def test_a_finished_model_is_used_and_exported(finished, tmp_path):
    run, _states, _events = finished
    folder = run.useModel()
    assert folder == tmp_path / "models" / "own-model" and load_card(folder)["name"] == "own-model"
    with pytest.raises(SimCVDError, match="own-model"):
        run.useModel()
    assert run.useModel(overwrite=True) == folder
    (tmp_path / "model.zip").write_text("another")
    with pytest.raises(SimCVDError, match="exists already"):
        run.exportModel(tmp_path / "model.zip")
    run.exportModel(tmp_path / "model.zip", overwrite=True)
    assert (tmp_path / "model.zip").stat().st_size > 1000


def test_any_run_can_be_attached_to(finished, tmp_path):
    run, _states, events = finished
    qt.QSettings().remove(runlist.SETTINGS)
    assert runs.knownRuns() == []
    other = runs.attach(run.folder)
    assert other.state == runs.DONE and other.iteration == 6  # before any poll
    seen = []
    while not seen or other.hasMore:
        seen += other.poll()
    assert seen == events and other.after["rows"][0]["case"] == "case-005"
    assert [r.folder for r in runs.knownRuns()] == [run.folder]
    runlist.forget(run.folder)
    assert runs.knownRuns() == []
    with pytest.raises(SimCVDError, match="holds no training"):
        runs.attach(tmp_path)


def test_pause_resume_stop_and_go_on(tmp_path):
    run = ballRun(tmp_path / "run", iterations=LONG)
    run.start()
    with pytest.raises(SimCVDError, match="running already"):
        run.start()
    polled(run, lambda r: r.iteration > 0)
    assert run.canPause and run.canStop and run.canFinish and not run.canStart and run.startedHere
    with held(run._process.pid):
        run.pause()
        assert run.wish == "pause" and "pauses" in run.sentence and not run.canPause
    polled(run, stateIs(runs.PAUSED))
    assert run.wish is None and run.canResume and not run.canPause
    run.resume()
    polled(run, stateIs(runs.RUNNING))
    with held(run._process.pid):
        run.stop()
        assert run.wish == "stop" and not run.canStop
    polled(run, stateIs(runs.STOPPED))
    reached = run.iteration
    assert run.canStart and run.modelFolder is None and reached > 0
    run.resume()
    polled(run, lambda r: r.iteration > reached)
    assert run.state == runs.RUNNING
    run.stop()
    polled(run, stateIs(runs.STOPPED))


def test_a_killed_run_is_shown_as_such_and_goes_on(tmp_path):
    run = ballRun(tmp_path / "run", iterations=LONG, checkpoint_seconds=0)
    run.start()
    polled(run, lambda r: (r.folder / "checkpoint.pt").exists())
    watcher = runs.Run(run.folder)  # as another application would see it
    watcher._process = None
    os.kill(run._process.pid, signal.SIGKILL)
    for one in (run, watcher):
        polled(one, stateIs(runs.DIED))
    assert "unexpectedly" in run.sentence and run.canStart
    run.start()
    polled(run, stateIs(runs.RUNNING))
    restarted = [m for m in run.messages if "Training on" in m[1]]
    assert len(restarted) == 2 and "from step 0 on" not in restarted[1][1]
    run.stop()
    polled(run, stateIs(runs.STOPPED))


def test_ending_early_keeps_the_model(tmp_path):
    run = ballRun(tmp_path / "run", iterations=LONG)
    run.start()
    polled(run, lambda r: r.iteration > 0)
    run.pause()
    polled(run, stateIs(runs.PAUSED))
    with held(run._process.pid):
        run.finish()
        assert run.wish == "finish"
    polled(run, stateIs(runs.DONE))
    assert 0 < run.iteration < LONG and load_card(run.modelFolder)["training"]["iterations"] == run.iteration
    assert run.after["rows"]


def test_a_second_start_is_refused_with_the_cores_sentence(tmp_path):
    run = ballRun(tmp_path / "run", iterations=LONG)
    run.start()
    polled(run, stateIs(runs.RUNNING))
    process = runs._started.pop(run.folder)
    other = runs.Run(run.folder)
    other.start()
    polled(other, lambda r: "running in" in r.sentence)
    assert other.state == runs.RUNNING  # the first one's
    run.stop()
    polled(run, stateIs(runs.STOPPED))
    process.wait(30)


def test_what_goes_wrong_is_a_sentence(tmp_path):
    run = ballRun(tmp_path / "wrong", optimiser={"lr": -1})
    run.start()
    polled(run, stateIs(runs.FAILED))
    assert "lr must be a number" in run.sentence and run.canStart
    run = ballRun(tmp_path / "nan", optimiser={"lr": 1e20}, iterations=500)
    run.start()
    polled(run, stateIs(runs.FAILED))
    assert "lower learning rate" in run.sentence
    with pytest.raises(SimCVDError, match="holds a training already"):
        runs.Run.create(run.folder, plan())
    (tmp_path / "file").write_text("")
    with pytest.raises(SimCVDError, match="can't be written"):
        runs.Run.create(tmp_path / "file" / "run", plan())


def test_without_pytorch_it_fails_with_a_sentence(tmp_path, monkeypatch):
    broken = tmp_path / "broken" / "torch"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text("raise ModuleNotFoundError('No torch', name='torch')")
    run = ballRun(tmp_path / "run")
    monkeypatch.setenv("PYTHONPATH", str(broken.parent))
    run.start()
    polled(run, stateIs(runs.FAILED))
    assert "PyTorch is missing" in run.sentence


def test_discarding_removes_the_run_and_nothing_else(tmp_path):
    run = ballRun(tmp_path / "run", iterations=LONG)
    (run.folder / "notes.txt").write_text("mine")
    run.start()
    polled(run, stateIs(runs.RUNNING))
    run.discard()
    assert run.folder.exists()
    polled(run, stateIs(runs.GONE))
    assert [path.name for path in run.folder.iterdir()] == ["notes.txt"] and runs.knownRuns() == []
    quiet = ballRun(tmp_path / "quiet", train_scenes.ballTable())
    (quiet.folder / "desktop.ini").touch()
    quiet.discard()
    assert quiet.isGone and not quiet.folder.exists()


def test_a_run_that_can_not_be_removed_stays_on_the_list(tmp_path, monkeypatch):
    run = ballRun(tmp_path / "run")
    runlist.remember(run.folder)

    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(runs.shutil, "rmtree", refuse)
        with pytest.raises(SimCVDError, match="can't be removed"):
            run.discard()
    run.poll()
    assert not run.isGone and not run.wasDiscarded and [r.folder for r in runs.knownRuns()] == [run.folder]
    run.discard()
    assert run.isGone and not run.folder.exists()


def test_a_run_whose_process_still_holds_a_file_is_removed_once_it_lets_go(tmp_path, monkeypatch):
    run = ballRun(tmp_path / "run")

    def refuse(path):
        error = PermissionError(13, "in use", str(path))
        error.winerror = 32
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(runs.shutil, "rmtree", refuse)
        run.discard()
        run.poll()
        assert run.wasDiscarded and not run.isGone
    run.poll()
    assert run.isGone and not run.folder.exists()


def test_a_run_whose_file_stays_in_use_is_told_in_the_end(tmp_path, monkeypatch):
    run = ballRun(tmp_path / "run")
    error = PermissionError(13, "in use")
    error.winerror = 32
    monkeypatch.setattr(runs.shutil, "rmtree", lambda path: (_ for _ in ()).throw(error))
    run.discard()
    for _poll in range(runs.PATIENCE - 1):
        run.poll()
    with pytest.raises(SimCVDError, match="can't be removed"):
        run.poll()
    assert not run.wasDiscarded


def test_a_run_is_named_like_no_device(tmp_path):
    assert runlist.freeFolder("con", tmp_path).name == "run-con"
    assert runlist.freeFolder("console", tmp_path).name == "console"


def test_a_run_that_can_not_be_told_to_stop_is_not_removed_later(tmp_path):
    run = ballRun(tmp_path / "run")
    run.state = runs.RUNNING
    (run.folder / "control").mkdir()
    with pytest.raises(SimCVDError, match="can't be written"):
        run.discard()
    run.poll()
    assert not run.wasDiscarded and not run.isGone


def test_a_removed_folder_is_told(tmp_path):
    run = runs.Run.create(tmp_path / "run", plan())
    (run.folder / "plan.json").unlink()
    run.poll()
    assert run.isGone and "removed" in run.sentence
    with pytest.raises(SimCVDError):
        (tmp_path / "run").rmdir()
        run.stop()


def test_at_quit_runs_stop_unless_they_stay(tmp_path):
    table = train_scenes.ballTable()
    stays, stops = (ballRun(tmp_path / name, table, iterations=LONG) for name in ("stays", "stops"))
    stays.staysAfterQuit = True
    assert runs.Run(stays.folder).staysAfterQuit and not runs.Run(stops.folder).staysAfterQuit
    for run in (stays, stops):
        run.start()
        polled(run, lambda r: r.iteration > 0)
    runs.stopAtQuit()
    polled(stops, stateIs(runs.STOPPED))
    polled(stays, stateIs(runs.RUNNING))
    stays.stop()
    polled(stays, stateIs(runs.STOPPED))


def test_a_run_outlives_the_process_that_started_it(tmp_path):
    run = ballRun(tmp_path / "run", iterations=LONG)
    script = "import sys, subprocess; p = subprocess.Popen(sys.argv[1:], start_new_session=True); print(p.pid)"
    command, environment = jobs.coreCommand("train", str(run.folder), "--background")
    subprocess.run([command[0], "-c", script, *command], env=environment, check=True, stdout=subprocess.DEVNULL)
    polled(run, lambda r: r.iteration > 0)
    assert run.state == runs.RUNNING and not run.startedHere
    run.stop()
    polled(run, stateIs(runs.STOPPED))


def test_before_and_after_a_start_model(finished, tmp_path):
    first, _states, _events = finished
    table = train_scenes.ballTable()
    run = ballRun(tmp_path / "run", table, from_model=str(first.modelFolder), network={}, patch=None)
    plain = {
        k: v for k, v in plan(from_model=str(first.modelFolder))["wishes"].items() if k not in ("network", "patch")
    }
    write_json(
        run.folder / "plan.json",
        {**json.loads((run.folder / "plan.json").read_text()), "wishes": plain, "spacing": None},
    )
    run.start()
    polled(run, stateIs(runs.DONE))
    assert run.before["iteration"] == 0 and run.validations[0] is run.before
    (row,) = run.comparison()
    assert (row["case"], row["label"]) == ("case-005", 1)
    assert (
        row["before"]["dice"] == run.before["rows"][0]["dice"] and row["after"]["dice"] == run.after["rows"][0]["dice"]
    )


def test_a_long_history_is_read_in_pieces_and_without_a_stall(tmp_path):
    run = runs.Run.create(tmp_path / "run", plan())
    log = EventLog(run.folder / "events.jsonl")
    lines = b"".join(
        json.dumps(
            {"event": "step", "time": float(i), "iteration": i, "of": 30000, "loss": {"total": 0.5, "sdm": 0.1}}
        ).encode()
        + b"\n"
        for i in range(1, 20001)
    )
    log.write("start", iteration=0, of=30000, device="cpu", method="simcvd", labelled=1, unlabelled=1, validation=0)
    with open(log.path, "ab") as file:
        file.write(lines)
    other, count, longest = runs.Run(run.folder), 0, 0.0
    assert other.iteration == 20000 and other.state == runs.DIED
    while not count or other.hasMore:
        start = time.thread_time()  # of this thread's work: the machine may be busy with other things
        count += len(other.poll())
        longest = max(longest, time.thread_time() - start)
    assert count == 20001 and longest < 0.1


def test_stages_are_told_in_words(tmp_path):
    run = runs.Run.create(tmp_path / "run", plan())
    log = EventLog(run.folder / "events.jsonl")
    for iteration, stage in enumerate(("global", "local", "fine-tuning")):
        log.write("stage", iteration=iteration, of=3, stage=stage)
    run.poll()
    said = [sentence for _seconds, sentence in run.messages]
    assert len(set(said)) == 3 and all(sentence.startswith(f"From step {n} on") for n, sentence in enumerate(said))


def test_leave_one_out_is_watched_and_compared(tmp_path):
    table = train_scenes.ballTable(labelled=2, unlabelled=1, validation=0)
    run = ballRun(tmp_path / "run", table, leave_one_out=True, iterations=40)
    run.start()
    fractions, left = [], set()

    def over(r):
        fractions.append(r.fraction if r.state == runs.RUNNING else None)
        left.add(r.leftOut)
        return r.state == runs.DONE

    polled(run, over)
    running = [f for f in fractions if f is not None]
    assert running == sorted(running) and running[0] >= 0 and running[-1] <= 1 and run.fraction == 1
    assert run.folds == 2 and run.leftOut is None and run.how.startswith("leave-one-out")
    assert [row["case"] for row in run.comparison()] == ["case-001", "case-002"]
    assert all(row["before"] is None and row["after"]["dice"] is not None for row in run.comparison())
    run.discard()
    assert not run.folder.exists()
