"""The background process: warm, cancellable, and every job ends with exactly one word, whatever happens to it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import slicer
from lib_scenes import brightBall, smallModel, waitFor

import host
from SimCVDLib import jobs, nodes, pytorch

FAKE = """
import json, os, sys, time
def tell(**event):
    print(json.dumps(event), flush=True)
tell(event="ready", pid=os.getpid())
for line in sys.stdin:
    request = json.loads(line)
    how = request.get("how")
    if request["do"] == "quit":
        break
    if how == "crash":
        print("about to crash", file=sys.stderr, flush=True)
        os._exit(9)
    elif how == "leave":
        break
    elif how == "babble":
        print("no JSON at all")
        print("[1, 2]")
        print('{"event": "done", "id": "of nobody"}')
        sys.stdout.flush()
        half = json.dumps({"event": "done", "id": request["id"], "text": "na\\u00efve"}, ensure_ascii=False).encode()
        for part in (half[:-6], half[-6:] + b"\\n"):
            sys.stdout.buffer.write(part)
            sys.stdout.buffer.flush()
            time.sleep(0.1)
    elif how == "deaf":
        time.sleep(60)
    elif how == "rest":
        tell(event="bye", reason="idle")
        time.sleep(0.3)
        open(request["flag"], "w").close()
        os._exit(0)
    elif how == "full":
        tell(event="error", id=request["id"], kind="memory", message="There is not enough memory.")
    elif request["do"] != "cancel":
        tell(event="done", id=request["id"])
"""


@pytest.fixture
def fake():
    worker = jobs.Worker([sys.executable, "-c", FAKE])
    yield worker
    worker.close()


@pytest.fixture(scope="module")
def real():
    yield jobs.worker()
    jobs.closeWorker()


def ended(events):
    return [event["event"] for event in events if event["event"] in jobs.LAST]


def said(worker, kind):
    """The events of one kind in the log."""
    return [json.loads(line) for line in worker.log if line.startswith(f'{{"event": "{kind}"')]


def test_events_come_in_parts_and_among_other_lines(fake):
    events = []
    fake.submit({"do": "segment", "how": "babble"}, events.append)
    assert waitFor(events)["text"] == "naïve"
    assert ended(events) == ["done"]
    assert "no JSON at all" in fake.log


def test_a_crash_ends_each_job_with_a_sentence_and_the_next_one_finds_a_new_process(fake):
    first, second, third = [], [], []
    fake.submit({"do": "segment", "how": "crash"}, first.append)
    fake.submit({"do": "segment"}, second.append)
    for events in (first, second):
        error = waitFor(events)
        assert error["event"] == "error"
        assert "ended unexpectedly" in error["message"]
        assert "about to crash" in error["details"]
    fake.submit({"do": "segment"}, third.append)
    assert waitFor(third)["event"] == "done"
    assert [len(ended(events)) for events in (first, second, third)] == [1, 1, 1]


def test_leaving_without_an_answer_is_an_error(fake):
    events = []
    fake.submit({"do": "segment", "how": "leave"}, events.append)
    assert waitFor(events)["event"] == "error"


def test_a_process_that_can_not_be_started_is_said_after_submit_has_returned():
    events = []
    worker = jobs.Worker(["/there/is/no/such/program"])
    worker.submit({"do": "segment"}, events.append)
    assert events == []
    error = waitFor(events)
    assert "can't be started" in error["message"]
    assert not worker.isBusy
    worker.close()


def test_a_job_that_does_not_listen_is_ended_by_force(fake, monkeypatch):
    monkeypatch.setattr(jobs, "GRACE_MS", 300)
    events = []
    job = fake.submit({"do": "segment", "how": "deaf"}, events.append)
    host.processEvents(seconds=0.3)
    fake.cancel(job)
    fake.cancel(job)
    assert waitFor(events, 10)["event"] == "cancelled"
    assert ended(events) == ["cancelled"]
    assert not fake.isRunning


def test_a_request_that_crosses_the_process_going_to_rest_is_sent_again(fake, tmp_path):
    resting, events = [], []
    fake.submit({"do": "segment"}, resting.append)
    waitFor(resting)
    flag = tmp_path / "rested"
    fake._send({"do": "rest", "how": "rest", "flag": str(flag), "id": "none"})
    host.processEvents(until=lambda: said(fake, "bye"), seconds=10)
    fake.submit({"do": "segment"}, events.append)
    assert waitFor(events)["event"] == "done"
    assert flag.exists()


def test_after_memory_ran_out_the_next_job_finds_a_new_process(fake):
    first, second, third = [], [], []
    fake.submit({"do": "segment", "how": "full"}, first.append)
    fake.submit({"do": "segment"}, second.append)
    assert waitFor(first)["kind"] == "memory" and waitFor(second)["event"] == "done"
    fake.submit({"do": "segment"}, third.append)
    assert waitFor(third)["event"] == "done"
    assert len({event["pid"] for event in said(fake, "ready")}) == 2


def test_a_handler_that_fails_does_not_keep_the_others_from_their_events(fake):
    def fail(event):
        raise RuntimeError("on purpose")

    events = []
    fake.submit({"do": "segment"}, fail)
    fake.submit({"do": "segment"}, events.append)
    assert waitFor(events)["event"] == "done"


def test_closing_cancels_what_runs_and_leaves_no_process(fake):
    events = []
    fake.submit({"do": "segment", "how": "deaf"}, events.append)
    host.processEvents(until=lambda: said(fake, "ready"), seconds=10)
    pid = said(fake, "ready")[0]["pid"]
    jobs.QUIT_MS, before = 300, jobs.QUIT_MS
    try:
        fake.close()
    finally:
        jobs.QUIT_MS = before
    assert ended(events) == ["cancelled"]
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_the_log_is_bounded(fake):
    fake.log.extend(str(n) for n in range(2 * jobs.LOG_LINES))
    assert len(fake.log) == jobs.LOG_LINES


def request(tmp_path, **more):
    nodes.exportVolume(brightBall(), tmp_path / "image.nrrd")
    model = smallModel(tmp_path / "bright")
    return {
        "do": "segment",
        "image": str(tmp_path / "image.nrrd"),
        "model": str(model),
        "output": str(tmp_path),
        **more,
    }


def test_the_real_process_segments_and_stays_for_the_next(real, tmp_path):
    first, second = [], []
    asked = request(tmp_path)
    real.submit(asked, first.append)
    done = waitFor(first)
    assert done["event"] == "done", done
    assert all(Path(path).is_file() for path in done["files"].values())
    real.submit({**asked, "overwrite": True}, second.append)
    assert waitFor(second)["event"] == "done"
    assert len(said(real, "ready")) == 1
    assert not real.isBusy


def test_the_real_process_says_what_is_wrong_and_lives_on(real, tmp_path):
    events, more = [], []
    real.submit(request(tmp_path, model=str(tmp_path / "nothing")), events.append)
    error = waitFor(events)
    assert (error["event"], error["kind"]) == ("error", "model")
    assert error["message"].endswith(".")
    real.submit({"do": "no such thing"}, more.append)
    assert waitFor(more)["kind"] == "request"
    assert len(said(real, "ready")) == 1


def test_the_real_process_cancels_a_job_before_its_turn(real, tmp_path):
    asked = request(tmp_path)
    first, second = [], []
    real.submit(asked, first.append)
    real.cancel(real.submit({**asked, "overwrite": True}, second.append))
    assert waitFor(second)["event"] == "cancelled"
    assert waitFor(first)["event"] == "done"


def test_scratch_folders_are_the_applications_and_go(tmp_path):
    folder = jobs.scratchFolder()
    assert folder.is_dir() and Path(slicer.app.temporaryPath) in folder.parents
    (folder / "a").write_text("b")
    jobs.removeFolder(folder)
    assert not folder.exists()


def test_a_process_takes_no_module_of_the_folder_it_is_in(tmp_path, monkeypatch):
    (tmp_path / "random.py").write_text("raise SystemExit(3)")
    command, environment = jobs.coreCommand("models", "list")
    assert subprocess.run(command, env=environment, cwd=tmp_path, check=False).returncode == 0


def test_pytorch_is_found_without_loading_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)  # loading it would fail
    ready, sentence = pytorch.status()
    assert ready and "PyTorch" in sentence


def test_without_its_extension_pytorch_is_not_installed_and_that_is_said(monkeypatch):
    monkeypatch.setattr(pytorch, "status", lambda: (False, "not yet"))
    ready, sentence = pytorch.install()
    assert not ready and "Extensions Manager" in sentence


def test_declining_the_installation_gives_one_sentence(monkeypatch):
    class Declined:
        def installTorch(self, **settings):
            assert settings["askConfirmation"] is True
            return None

    monkeypatch.setitem(sys.modules, "PyTorchUtils", type(sys)("PyTorchUtils"))
    sys.modules["PyTorchUtils"].PyTorchUtilsLogic = Declined
    monkeypatch.setattr(pytorch, "status", lambda: (False, "not yet"))
    ready, sentence = pytorch.install()
    assert not ready and "was not installed" in sentence


def test_a_second_click_while_pytorch_is_installed_starts_nothing(monkeypatch):
    said = []

    class Answering:
        def installTorch(self, **_settings):
            said.append(pytorch.install())  # pip lets the application answer clicks

    monkeypatch.setitem(sys.modules, "PyTorchUtils", type(sys)("PyTorchUtils"))
    sys.modules["PyTorchUtils"].PyTorchUtilsLogic = Answering
    monkeypatch.setattr(pytorch, "status", lambda: (False, "not yet"))
    for _click in range(2):
        assert "was not installed" in pytorch.install()[1]
    assert len(said) == 2 and all("is being installed" in sentence for _, sentence in said)
