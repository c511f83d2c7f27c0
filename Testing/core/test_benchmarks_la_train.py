"""The command that makes all runs of the LA table: at once or bit by bit, here or on another machine."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from test_benchmarks_robustness import write_scan

from simcvd.events import read_events
from simcvd.files import read_json

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
sys.path.append(str(BENCHMARKS))

import la_train  # noqa: E402

TINY = ["--spacing", "5", "--patch", "16,16,16", "--threads", "1", "--set", 'network={"n_filters": 2}']
RUN, OTHER = "la_1_supervised_short_1337", "la_1_action_plus_short_1337"
BOTH = "supervised,action++"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "la"
    for n in range(3):
        write_scan(folder / f"la{n:03}", n)
    return folder


def words_for(data, runs, *more, methods="supervised", iterations=2):
    """Runs of one labelled case and a few seconds, by recipe short."""
    words = [data, runs, "--labelled", 1, "--methods", methods, "--recipes", "short", "--seeds", 1]
    return [str(word) for word in (*words, "--iterations", iterations, *TINY, *more)]


def events_of(run):
    return read_events(run / "events.jsonl")[0]


@pytest.fixture
def commands(monkeypatch):
    """What would be run, in place of running it; what is trained is finished then, what is scored has scores."""
    asked = []

    def run(self, words):
        words = list(map(str, words))
        what, folder = ("score", Path(words[2]).parent) if "score" in words else ("train", Path(words[5]))
        asked.append((what, folder.name))
        if what == "train":
            write_run(folder)
        else:
            (folder / "scores.json").write_text(json.dumps({"windows": "--windows" in words}))

    monkeypatch.setattr(la_train.Processes, "run", run)
    monkeypatch.setattr(la_train, "show", lambda rows, arguments: None)
    return asked


def write_run(folder, *events):
    """A run folder with these events, by default a finished one."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "run.json").write_text("{}")
    lines = [json.dumps({"event": event, "time": 0}) + "\n" for event in events or ("start", "done")]
    (folder / "events.jsonl").write_text("".join(lines))


def test_each_run_is_scored_before_the_next_one_begins(data, tmp_path, commands):
    words = words_for(data, tmp_path / "runs", "--test", data, methods=BOTH)
    la_train.main(words)
    assert commands == [("train", RUN), ("score", RUN), ("train", OTHER), ("score", OTHER)]
    la_train.main(words)
    assert len(commands) == 4
    la_train.main([*words, "--windows"])
    assert commands[4:] == [("score", RUN), ("score", OTHER)]


def test_a_run_is_finished_once_it_says_so(data, tmp_path, commands):
    run = tmp_path / "runs" / RUN
    write_run(run, "start", "validation")
    (run / "model").mkdir()
    (run / "model" / "card.json").write_text("{}")  # killed in its last validation
    la_train.main(words_for(data, tmp_path / "runs", "--test", data))
    assert commands == [("train", RUN), ("score", RUN)]


def test_options_that_make_other_runs_want_another_folder(data, tmp_path, commands, capsys):
    runs = tmp_path / "runs"
    with pytest.raises(SystemExit):
        la_train.main(words_for(data, runs, "--itterations", 3))
    assert "--itterations" in capsys.readouterr().err and not (runs / "options.json").exists()
    la_train.main(words_for(data, runs, "--test", data, "--lr", 0.1))
    # another machine, in other words
    elsewhere = tmp_path / "elsewhere" / "la"
    shutil.copytree(data, elsewhere)
    la_train.main(["--lr=0.1", *words_for(elsewhere, runs, "--test", elsewhere, "--precision", "float32", "--jobs", 2)])
    for other in (["--test", data, "--lr", 0.2], ["--lr", 0.1], ["--test", data, "--lr", 0.1, "--minutes", 3]):
        with pytest.raises(SystemExit, match="made with other options"):
            la_train.main(words_for(data, runs, *other))


def test_a_row_that_fails_is_told_and_the_others_are_made(data, tmp_path, capsys):
    words = [str(data), str(tmp_path / "runs"), "--labelled", "9,1", "--methods", "supervised", "--seeds", "1"]
    words += ["--recipes", "short", "--test", str(data), "--prepare", *TINY]
    with pytest.raises(SystemExit, match=r"^la_9_supervised_short_1337: .*9.*\.$"):
        la_train.main(words)
    assert f"{RUN} is prepared" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        la_train.main([*words[:4], "--methods", "magic"])
    assert "There is no magic; choose from supervised" in capsys.readouterr().err


def test_the_table_is_filled(data, tmp_path, capsys):
    words = words_for(data, tmp_path / "runs", "--test", data, methods="action++")
    la_train.main(words)
    first = capsys.readouterr()
    assert first.err.splitlines() == [f"{OTHER} begins", f"{OTHER} is done", f"Scoring {OTHER}"]
    assert {run.name for run in (tmp_path / "runs").iterdir()} == {"cases", "options.json", OTHER}
    scores = read_json(tmp_path / "runs" / OTHER / "scores.json")
    assert len(scores["rows"]) == 2 * 3 and scores["learned"] == ["la000"]
    assert "action++ (short)" in first.out and "3 cases (la000 to la002)" in first.out
    la_train.main(words)
    again = capsys.readouterr()
    assert not again.err and again.out.splitlines()[:20] == first.out.splitlines()[:20]


def test_prepared_runs_are_trained_where_neither_scans_nor_simpleitk_are(data, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(la_train, "VALIDATION", 1)
    here, there = tmp_path / "here" / "runs", tmp_path / "there" / "runs"
    words = words_for(data, here)
    la_train.main([*words, "--prepare"])
    assert {file.name for file in (here / RUN).iterdir()} == {"run.json"}
    config = read_json(here / RUN / "run.json")
    assert all(case["prepared"].startswith("../cases/la00") for case in config["cases"])
    assert (config["device"], config["precision"]) == ("auto", "auto")
    here.parent.rename(there.parent)
    assert "is prepared" in capsys.readouterr().err

    with monkeypatch.context() as patched:
        without = tmp_path / "without"
        without.mkdir()
        (without / "sitecustomize.py").write_text('import sys\nsys.modules["SimpleITK"] = None\n')
        patched.setenv("PYTHONPATH", str(without))
        patched.setitem(sys.modules, "SimpleITK", None)
        la_train.main(words_for(tmp_path / "nowhere" / "la", there))
    done = capsys.readouterr()
    sentence = f"{RUN} is scored by the same command where SimpleITK is installed."
    assert done.err.splitlines() == [f"{RUN} begins", f"{RUN} is done", sentence]
    assert "1 validation cases, model's grid" in done.out

    there.parent.rename(here.parent)
    la_train.main(words)
    scored = capsys.readouterr()
    assert "Scoring" in scored.err and "begins" not in scored.err and "| la002 |" in scored.out


def wait_until(fulfilled, process, seconds=120):
    end = time.monotonic() + seconds
    while not fulfilled():
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.1)


@pytest.mark.skipif(os.name == "nt", reason="Windows ends a process without asking it")
def test_sigterm_to_the_command_alone_stops_every_run_after_a_checkpoint(data, tmp_path):
    runs, page = tmp_path / "runs", tmp_path / "la.md"
    words = words_for(
        data, runs, "--test", data, "--jobs", 2, "--output", page, iterations=10**6, methods=BOTH + ",simcvd"
    )
    command = subprocess.Popen([sys.executable, BENCHMARKS / "la_train.py", *words], stderr=subprocess.PIPE, text=True)
    wait_until(lambda: all(any(e["event"] == "step" for e in events_of(runs / name)) for name in (RUN, OTHER)), command)
    command.send_signal(signal.SIGTERM)
    said = command.communicate(timeout=120)[1]
    assert command.returncode == 1 and said.endswith("Stopped; the same command goes on.\n")
    assert said.count("is stopped") == 2 and "Traceback" not in said and "la_1_simcvd" not in said
    for name in (RUN, OTHER):
        assert [e["event"] for e in events_of(runs / name)[-2:]] == ["checkpoint", "stopped"]
        with pytest.raises(ProcessLookupError):
            os.kill(int((runs / name / "lock").read_text()), 0)
    assert RUN in page.read_text() and OTHER in page.read_text()


@pytest.mark.skipif(os.name == "nt", reason="Windows ends a process without asking it")
def test_a_preparation_stops_between_two_cases(data, tmp_path, monkeypatch, capsys):
    def create(*_, progress, **__):
        os.kill(os.getpid(), signal.SIGTERM)
        while True:
            progress(1, 3, "la000")
            time.sleep(0.01)

    monkeypatch.setattr(la_train, "create_run", create)
    with pytest.raises(SystemExit, match=r"^Stopped; the same command goes on\.$"):
        la_train.main(words_for(data, tmp_path / "runs", "--test", data, "--prepare", methods=BOTH))
    assert "prepared" not in capsys.readouterr().err


@pytest.mark.skipif(os.name == "nt", reason="Windows ends a process without asking it")
def test_once_stopped_nothing_is_begun():
    before, found = signal.getsignal(signal.SIGTERM), []
    with la_train.Processes() as processes:
        thread = threading.Thread(target=lambda: found.append(processes.run(["-c", "import time; time.sleep(600)"])))
        thread.start()
        while not processes._running:
            time.sleep(0.01)
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)
        thread.join(60)
        assert found == [f"ended with {-signal.SIGTERM}"] and not processes._running
        assert processes.run(["-c", "raise SystemExit('never said')"]) == "stopped"
    assert signal.getsignal(signal.SIGTERM) is before
