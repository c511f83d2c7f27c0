"""The worker: a real process with a real model, spoken to as Slicer speaks to it."""

import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from test_segmentation import balls, threshold_network, volume, write_model

from simcvd import __version__
from simcvd.cli import main
from simcvd.evaluation import Pair, evaluate_pairs
from simcvd.images import Geometry, read_volume, write_volume
from simcvd.segmentation import Segmenter, Settings

PACKAGE = Path(__file__).resolve().parents[2] / "SimCVDSegment"
SECONDS = 120  # to wait for an event on a busy machine
ENDINGS = ("done", "error", "cancelled")


class Talk:
    """A worker process, and the events it has given."""

    def __init__(self, *options, before="", **environment):
        # tests that run in a shell's background inherit that Ctrl+C is ignored
        obeys = "import signal, sys\nsignal.signal(signal.SIGINT, signal.default_int_handler)"
        script = f"{obeys}\n{before}\nfrom simcvd.cli import main\nsys.exit(main(['worker', *{list(options)!r}]))"
        self.process = subprocess.Popen(
            [sys.executable, "-c", script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(PACKAGE), **environment},
        )
        self.events = queue.Queue()
        self.said = b""
        self._threads = [threading.Thread(target=f, daemon=True) for f in (self._hear, self._overhear)]
        for thread in self._threads:
            thread.start()

    def _hear(self):
        for line in self.process.stdout:
            self.events.put(json.loads(line))
        self.events.put({"event": "gone"})

    def _overhear(self):
        self.said = self.process.stderr.read()

    def line(self, data: bytes):
        self.process.stdin.write(data + b"\n")
        self.process.stdin.flush()

    def send(self, do, **fields):
        self.line(json.dumps({"do": do, **fields}).encode())

    def until(self, fits):
        """All events up to the first that fits."""
        heard = []
        while not heard or not fits(heard[-1]):
            heard.append(self.events.get(timeout=SECONDS))
            assert heard[-1]["event"] != "gone", self.said.decode()
        return heard

    def event(self, name):
        return self.until(lambda e: e["event"] == name)[-1]

    def ending(self, id):
        """How the job of an id ended."""
        return self.until(lambda e: e.get("id") == id and e["event"] in ENDINGS)[-1]

    def ask(self, do, id="1", **fields):
        self.send(do, id=id, **fields)
        return self.ending(id)

    def close(self):
        """Wait for the end of a process that was told to end; its exit code."""
        self.process.stdin.close()
        code = self.process.wait(SECONDS)
        for thread in self._threads:
            thread.join(SECONDS)
        return code


@pytest.fixture
def talk():
    """Starts workers, and lets none of them live on."""
    begun = []

    def start(*options, **environment):
        begun.append(Talk(*options, **environment))
        return begun[-1]

    yield start
    for one in begun:
        one.process.kill()
        one.process.wait()


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with a model of two segments and a scan of two balls that it segments."""
    folder = tmp_path_factory.mktemp("worker")
    write_model(folder / "two", threshold_network([0.5, 2.0]))
    scan = volume(balls((40, 48, 80), ((20, 24, 20), (20, 24, 60)), (10, 7)), (1.0, 1.1, 0.9))
    write_volume(folder / "scan.nrrd", scan.array, scan.geometry)
    return folder


def segment(place: Path, output: Path, **more) -> dict:
    """The fields of a request to segment."""
    return {"image": str(place / "scan.nrrd"), "model": str(place / "two"), "output": str(output), **more}


def arrays(event: dict) -> dict[str, np.ndarray]:
    return {kind: np.load(path) for kind, path in event["files"].items()}


def assert_sentence(event: dict, kind: str, *words: str):
    assert event["event"] == "error" and event["kind"] == kind, event
    message = event["message"]
    assert message.endswith(".") and "\n" not in message
    for word in words:
        assert word in message
    assert event["details"]


# --- jobs -------------------------------------------------------------------------------------------------------------


def test_a_scan_is_segmented_as_the_library_does_it(talk, place, tmp_path):
    worker = talk()
    ready = worker.event("ready")
    assert (ready["pid"], ready["version"]) == (worker.process.pid, __version__)
    worker.send("segment", id="7", **segment(place, tmp_path / "out", uncertainty=True))
    heard = worker.until(lambda e: e["event"] in ENDINGS)
    assert {e["id"] for e in heard} == {"7"} and {e["event"] for e in heard[:-1]} == {"progress"}
    fractions = [e["fraction"] for e in heard[:-1]]
    assert fractions == sorted(fractions) and fractions[0] >= 0 and 0.9 < fractions[-1] <= 1
    stages = list(dict.fromkeys(e["stage"] for e in heard[:-1]))
    assert stages == ["starting", "reading", "segmenting", "writing"]
    done = heard[-1]
    assert done["event"] == "done" and done["device"] in ("cpu", "cuda") and done["notes"] == []
    assert done["seconds"]["total"] >= done["seconds"]["network"] > 0
    scan = read_volume(place / "scan.nrrd")
    expected = Segmenter(place / "two").segment(scan, Settings(uncertainty=True, model_sdm=True))
    found = arrays(done)
    assert sorted(found) == ["labels", "model_sdm", "probability", "sdm", "uncertainty"]
    assert all(Path(path).is_absolute() for path in done["files"].values())
    assert found["labels"].dtype == np.uint8 and found["labels"].shape == scan.array.shape
    for kind in ("sdm", "probability", "model_sdm"):
        assert found[kind].dtype == np.float32 and found[kind].shape == (2, *scan.array.shape)
    assert (found["labels"] != expected.labels).mean() < 1e-3
    for kind in ("probability", "model_sdm", "uncertainty"):
        np.testing.assert_allclose(found[kind], getattr(expected, kind), atol=0.02)
    assert len(os.listdir(tmp_path / "out")) == 5


def test_settings_reach_the_segmentation(talk, place, tmp_path):
    write_model(tmp_path / "models" / "one", threshold_network([0.5]))
    worker = talk(SIMCVD_MODELS=str(tmp_path / "models"))
    wish = segment(place, tmp_path / "a", largest=True, device="cpu", memory_limit_mb=1) | {"model": "one"}
    one = arrays(worker.ask("segment", **wish))
    assert sorted(one) == ["labels", "model_sdm", "probability", "sdm"]
    assert one["sdm"].shape == one["labels"].shape and one["labels"][20, 24, 20] and not one["labels"][20, 24, 60]
    scan = read_volume(place / "scan.nrrd")
    x0, y0, z0 = scan.geometry.origin
    roi = [x0 + 40, x0 + 80, y0, y0 + 60, z0, z0 + 40]
    other = arrays(worker.ask("segment", id="2", **segment(place, tmp_path / "b", roi=roi)))["labels"]
    assert other[20, 24, 60] and not other[:, :, :40].any()
    refused = worker.ask("segment", id="3", **segment(place, tmp_path / "b", overwrite=False))
    assert_sentence(refused, "disk", "labels.npy", "overwriting")


def test_segmentations_are_scored_and_reported(talk, place, tmp_path):
    scan = read_volume(place / "scan.nrrd")
    for name, shift in (("reference", 0), ("prediction", 2)):
        mask = (np.roll(scan.array, shift, 2) > 5).astype(np.uint8)
        write_volume(tmp_path / f"{name}.nrrd", mask, scan.geometry)
    files = {name: str(tmp_path / f"{name}.nrrd") for name in ("reference", "prediction")}
    pair = {"case": "Patient 1", **files, "image": str(place / "scan.nrrd")}
    wish = {"pairs": [pair], "names": {"1": "Left atrium"}, "output": str(tmp_path / "report")}
    done = talk().ask("evaluate", **wish, about={"Reference": "by hand"})
    expected = evaluate_pairs([Pair("Patient 1", *map(Path, files.values()))], None, {1: "Left atrium"})
    assert done["rows"] == expected and expected[0]["label"] == "Left atrium" and 50 < expected[0]["dice"] < 99
    assert sorted(done["files"]) == ["csv", "html", "json"]
    page = Path(done["files"]["html"]).read_text(encoding="utf-8")
    assert "by hand" in page and "data:image/png" in page and str(tmp_path) not in page
    assert json.loads(Path(done["files"]["json"]).read_text(encoding="utf-8"))["rows"] == expected


def test_scoring_needs_no_torch(talk, place, tmp_path):
    label = tmp_path / "label.nrrd"
    scan = read_volume(place / "scan.nrrd")
    write_volume(label, (scan.array > 5).astype(np.uint8), scan.geometry)
    worker = talk(before="import sys\nsys.modules['torch'] = None")
    pair = {"case": "a", "reference": str(label), "prediction": str(label)}
    assert worker.ask("evaluate", pairs=[pair], output=str(tmp_path / "out"))["rows"][0]["dice"] == 100
    assert_sentence(worker.ask("warm", model=str(place / "two")), "torch", "PyTorch extension", "missing")


def test_a_model_is_kept_warm_until_it_changes(talk, tmp_path, place):
    model = tmp_path / "model"
    shutil.copytree(place / "two", model)
    worker = talk()
    warm = worker.ask("warm", model=str(model))
    assert warm["event"] == "done" and warm["model"] == "two" and warm["seconds"]["total"] > 0
    wish = segment(place, tmp_path / "out") | {"model": str(model)}
    first = worker.ask("segment", **wish)
    assert first["seconds"]["starting"] < 0.1 * warm["seconds"]["starting"]
    before = arrays(first)["labels"]
    shutil.rmtree(model)
    write_model(model, threshold_network([1.5, 2.5]))
    after = arrays(worker.ask("segment", **wish))["labels"]
    assert 0 < (after > 0).sum() < 0.9 * (before > 0).sum()
    shutil.rmtree(model)
    assert_sentence(worker.ask("segment", **wish), "model", "no model")


# --- cancel, quit, end ------------------------------------------------------------------------------------------------


def test_a_running_job_and_a_waiting_one_are_cancelled(talk, place, tmp_path):
    worker = talk()
    worker.ask("warm", model=str(place / "two"))
    worker.send("segment", id="run", **segment(place, tmp_path / "run", memory_limit_mb=1))
    worker.send("segment", id="wait", **segment(place, tmp_path / "wait"))
    worker.send("segment", id="last", **segment(place, tmp_path / "last"))
    worker.until(lambda e: e.get("stage") == "segmenting")
    worker.send("cancel", id="wait")
    worker.send("cancel", id="run")
    worker.send("cancel", id="nobody")
    heard = worker.until(lambda e: e.get("id") == "last" and e["event"] in ENDINGS)
    ends = {e["id"]: e["event"] for e in heard if e["event"] in ENDINGS}
    assert ends == {"wait": "cancelled", "run": "cancelled", "last": "done"}
    assert not (tmp_path / "run").exists() and not (tmp_path / "wait").exists()


def test_quit_cancels_what_is_left_and_ends_well(talk, place, tmp_path):
    worker = talk()
    for name in "ab":
        worker.send("segment", id=name, **segment(place, tmp_path / name))
    worker.until(lambda e: e.get("stage") == "starting")
    worker.send("quit")
    heard = worker.until(lambda e: e["event"] == "bye")
    assert {e["id"]: e["event"] for e in heard if e["event"] in ENDINGS} == {"a": "cancelled", "b": "cancelled"}
    assert heard[-1]["reason"] == "quit"
    assert worker.process.wait(SECONDS) == 0


def test_it_ends_when_the_application_is_gone(talk, place, tmp_path):
    worker = talk()
    worker.send("segment", id="a", **segment(place, tmp_path / "a"))
    worker.until(lambda e: e.get("stage") == "starting")
    assert worker.close() == 0
    heard = worker.until(lambda e: e["event"] == "bye")
    assert [e["event"] for e in heard[-2:]] == ["cancelled", "bye"] and heard[-1]["reason"] == "closed"


def test_a_step_that_hangs_does_not_outlive_the_application(talk):
    hangs = "import time\nfrom simcvd import jobs, worker\nworker.GRACE_SECONDS = 0.2\n"
    begins = "tell('starting', 0.0)"
    worker = talk(before=hangs + f"jobs.Jobs.warm = lambda _, tell, model: ({begins}, time.sleep({10 * SECONDS}))")
    worker.send("warm", id="1", model="x")
    worker.event("progress")
    assert worker.close() == 1


def test_it_ends_when_nobody_listens_any_more(talk, place, tmp_path):
    script = "import os, sys\nfrom simcvd.cli import main\nsys.exit(main(['worker']))"
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(PACKAGE)},
    )
    try:
        process.stdout.readline()
        process.stdout.close()
        wish = {"do": "segment", "id": "a", **segment(place, tmp_path / "a")}
        process.stdin.write(json.dumps(wish).encode() + b"\n")
        process.stdin.flush()
        assert process.wait(SECONDS) == 0
        assert b"Traceback" not in process.stderr.read()
    finally:
        process.kill()
        process.wait()


def test_it_ends_by_itself_when_idle(talk):
    worker = talk("--idle", "0.3")
    begun = time.monotonic()
    assert worker.event("bye")["reason"] == "idle"
    assert worker.process.wait(SECONDS) == 0 and time.monotonic() - begun < SECONDS


def test_it_is_ready_before_torch_and_keeps_its_stdout_to_itself(talk, place, tmp_path):
    noise = tmp_path / "noise"
    noise.mkdir()
    real = subprocess.run(
        [sys.executable, "-c", "import torch; print(torch.__file__)"], capture_output=True, text=True, check=True
    ).stdout.strip()
    # a torch that first prints, to Python's stdout and to the descriptor, and then is the real one
    (noise / "torch.py").write_text(
        "import os, sys\nprint('noise from Python', flush=True)\nos.write(1, b'noise from C\\n')\n"
        f"sys.path.remove({str(noise)!r})\ndel sys.modules['torch']\n"
        f"sys.path.insert(0, {str(Path(real).parents[1])!r})\nimport torch\n"
    )
    worker = talk(before=f"import sys; sys.path.insert(0, {str(noise)!r})")
    worker.event("ready")
    worker.send("warm", id="1", model=str(place / "two"))
    assert worker.ending("1")["event"] == "done"  # every line on stdout was JSON
    worker.send("quit")
    worker.close()
    assert b"noise from Python" in worker.said and b"noise from C" in worker.said


# --- what can go wrong ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "id", "word"),
    [
        (b"{", None, "no line of JSON"),
        (b"\xff\xfe{}", None, "no line of JSON"),
        (b"[" * 100_000, None, "no line of JSON"),
        (b"[1]", None, "do is one of"),
        (b'{"do": ["x"], "id": "3"}', "3", "do is one of"),
        (b'{"do": "segment"}', None, "id"),
        (b'{"do": "warm", "id": 5, "model": "x"}', None, "id"),
        (b'{"do": "warm", "id": "4"}', "4", "model"),
        (b'{"do": "warm", "id": "4", "model": "x", "modle": 1}', "4", "modle"),
        (b'{"do": "segment", "id": "5", "image": "a", "model": "b", "output": "c", "roi": [1, 2]}', "5", "roi"),
        (b'{"do": "segment", "id": "5", "image": "a", "model": "b", "output": "c", "roi": 1e400}', "5", "roi"),
        (
            b'{"do": "segment", "id": "5", "image": "a", "model": "b", "output": "c", "memory_limit_mb": NaN}',
            "5",
            "memory_limit_mb",
        ),
        (b'{"do": "segment", "id": "5", "image": "a", "model": "b", "output": "c", "largest": 1}', "5", "largest"),
        (b'{"do": "evaluate", "id": "6", "output": "c", "pairs": []}', "6", "pairs"),
        (b'{"do": "evaluate", "id": "6", "output": "c", "pairs": [{"case": "a"}]}', "6", "pairs"),
    ],
)
def test_damaged_requests_are_refused_and_nothing_ends(shared_worker, line, id, word):
    shared_worker.line(line)
    event = shared_worker.event("error")
    assert_sentence(event, "request", word)
    assert event["id"] == id


@pytest.fixture(scope="module")
def shared_worker():
    worker = Talk()
    yield worker
    worker.process.kill()
    worker.process.wait()


def test_an_id_in_use_is_refused_without_ending_the_other(shared_worker, place, tmp_path):
    shared_worker.line(b"\n  \n")  # no request at all
    for _ in range(2):
        shared_worker.send("segment", id="twin", **segment(place, tmp_path / "out"))
    event = shared_worker.event("error")
    assert_sentence(event, "request", "twin")
    assert event["id"] is None
    assert shared_worker.ending("twin")["event"] == "done"


@pytest.mark.parametrize(
    ("wish", "kind", "word"),
    [
        ({"model": "nobody"}, "model", "nobody"),
        ({"image": "gone.nrrd"}, "image", "gone.nrrd"),
        ({"device": "abacus"}, "device", "abacus"),
        ({"roi": [1e6, 2e6, 0, 1, 0, 1]}, "settings", "misses"),
        ({"roi": [2, 1, 0, 1, 0, 1]}, "settings", "rising"),
        ({"output": "scan.nrrd/under"}, "disk", "scan.nrrd"),
    ],
)
def test_what_cannot_be_done_has_a_kind_and_a_sentence(shared_worker, place, tmp_path, wish, kind, word):
    if "output" in wish:
        wish = {"output": str(place / wish["output"])}
    event = shared_worker.ask("segment", **{**segment(place, tmp_path / "out"), **wish})
    assert_sentence(event, kind, word)
    assert not (tmp_path / "out").exists()


def test_a_damaged_model_and_a_damaged_image(shared_worker, place, tmp_path):
    shutil.copytree(place / "two", tmp_path / "broken")
    weights = tmp_path / "broken" / "weights.npz"
    weights.write_bytes(weights.read_bytes()[:-7])
    event = shared_worker.ask("segment", **segment(place, tmp_path / "out", model=str(tmp_path / "broken")))
    assert_sentence(event, "model", "damaged")
    cut = tmp_path / "cut.nrrd"
    cut.write_bytes((place / "scan.nrrd").read_bytes()[:900])
    assert_sentence(
        shared_worker.ask("segment", **segment(place, tmp_path / "out", image=str(cut))), "image", "damaged"
    )
    pair = {"case": "a", "reference": str(cut), "prediction": str(cut)}
    event = shared_worker.ask("evaluate", pairs=[pair], output=str(tmp_path / "out"))
    assert_sentence(event, "image", "cut.nrrd")
    assert not (tmp_path / "out").exists()


def test_an_unexpected_error_says_where_it_came_from(talk, place, tmp_path):
    broken = "from simcvd import jobs\njobs.Jobs.warm = lambda *a, **k: 1 / 0"
    worker = talk(before=broken)
    event = worker.ask("warm", model="x")
    assert_sentence(event, "unexpected", "ZeroDivisionError", "report")
    assert "Traceback" in event["details"]
    assert worker.ask("segment", id="2", **segment(place, tmp_path / "out"))["event"] == "done"


def test_a_torch_that_cannot_be_loaded_is_said(talk, place, tmp_path):
    (tmp_path / "torch.py").write_text("raise OSError('[WinError 126] fbgemm.dll')")
    worker = talk(before=f"import sys; sys.path.insert(0, {str(tmp_path)!r})")
    event = worker.ask("segment", **segment(place, tmp_path / "out"))
    assert_sentence(event, "torch", "fbgemm.dll", "PyTorch extension")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit on the size of files")
def test_a_full_disk_leaves_nothing_behind(talk, place, tmp_path):
    # each file may hold 400 kB: the labels fit, the distance maps do not
    limit = "import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))"
    worker = talk(before=limit)
    event = worker.ask("segment", **segment(place, tmp_path / "out"))
    assert_sentence(event, "disk", "can't be written", str(tmp_path / "out"), "free space")
    assert os.listdir(tmp_path / "out") == []


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux limits the memory of a running process")
def test_too_little_memory_is_said_and_survived(talk, place, tmp_path):
    import resource

    worker = talk()
    worker.ask("warm", model=str(place / "two"))
    pid = worker.process.pid
    taken = 1024 * next(
        int(row.split()[1]) for row in Path(f"/proc/{pid}/status").read_text().splitlines() if row.startswith("VmSize")
    )
    big = np.zeros((200, 300, 300), np.float32)
    big[50:150, 100:200, 100:200] = 100
    write_volume(tmp_path / "big.nrrd", big, Geometry(big.shape[::-1], (1.0,) * 3))
    wish = segment(place, tmp_path / "out", image=str(tmp_path / "big.nrrd"))
    resource.prlimit(pid, resource.RLIMIT_AS, (taken + 100 * 2**20, resource.RLIM_INFINITY))
    event = worker.ask("segment", **wish)  # the scan takes 69 MB twice: as ITK reads it, and as an array
    assert_sentence(event, "memory" if "scan" in event["message"] else "image", "memory")
    resource.prlimit(pid, resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert worker.ask("segment", id="2", **segment(place, tmp_path / "out"))["event"] == "done"


def test_it_is_for_programs_and_not_in_the_help(capsys):
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert "segment" in shown and "worker" not in shown
    assert main(["worker", "--help"]) == 0
    assert "--idle" in capsys.readouterr().out


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for one process")
def test_ctrl_c_ends_it(talk):
    worker = talk()
    worker.event("ready")
    worker.process.send_signal(signal.SIGINT)
    assert worker.process.wait(SECONDS) == 130
