"""The benchmark scripts still run, and what rows.py makes of runs is true; how fast anything is, is not tested."""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from test_segmentation import threshold_network, write_model
from training_runs import small_run

from simcvd.distance import signed_distance
from simcvd.events import read_events
from simcvd.files import read_json
from simcvd.images import write_volume
from simcvd.metrics import compare
from simcvd.phantom import make_phantom
from simcvd.report import write_json_report
from simcvd.training.loop import Trainer

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
sys.path.append(str(BENCHMARKS))

import interaction  # noqa: E402
import training  # noqa: E402

ALONE = {**os.environ, "OMP_NUM_THREADS": "1"}
VALIDATION = {"event": "validation", "dice": 50.0, "rows": [{"case": "a", "label": 1, "dice": 50.0}]}


def call(script, *arguments, fails=False):
    command = [sys.executable, BENCHMARKS / script, *map(str, arguments)]
    done = subprocess.run(command, env=ALONE, capture_output=True, text=True)
    assert (done.returncode != 0) == fails, done.stderr
    return done.stderr if fails else done.stdout


def row_of(page, name):
    """The cells of a run by heading."""
    lines = [line.strip("| ").split(" | ") for line in page.splitlines() if line.startswith("| ")]
    return dict(zip(lines[0], next(line for line in lines[1:] if line[0] == name), strict=True))


def write_run(folder, events, **config):
    """A run folder that says what a test wants to be said."""
    config = {
        "method": "simcvd",
        "recipe": "short",
        "iterations": 40,
        "batch": [2, 2],
        "optimiser": {},
        "settings": {},
        "patch": [16, 32, 48],
        "spacing": [1.25, 1.25, 1.25],
        "from_model": None,
        "cases": [{"id": "a", "role": "labelled", "prepared": "/somebody/cache/a-1.npz"}],
        **config,
    }
    folder.mkdir()
    (folder / "run.json").write_text(json.dumps(config))
    (folder / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    return folder


def step(time, iteration):
    return {"event": "step", "time": time, "iteration": iteration, "loss": {"segmentation": 0.5, "total": 0.6}}


def start(time, iteration=0):
    return {"event": "start", "time": time, "iteration": iteration, "device": "cpu", "threads": 1}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    run = small_run(tmp_path_factory.mktemp("runs") / "balls")
    Trainer(run).run()
    return run.path


def test_a_finished_run_becomes_a_row_curves_and_a_kept_copy(finished, tmp_path):
    before = {p: p.stat().st_mtime_ns for p in finished.iterdir()}
    kept, page, curves = tmp_path / "kept", tmp_path / "out" / "results.md", tmp_path / "out" / "curves.svg"
    fresh = write_run(tmp_path / "fresh", [])
    call("rows.py", finished, fresh, "--output", page, "--curves", curves, "--keep", kept)
    row, nothing = row_of(page.read_text(), "balls"), row_of(page.read_text(), "fresh")
    assert (nothing["iterations"], nothing["s per step"], nothing["Dice [%]"]) == ("0 of 40", "–", "–")
    assert (row["method"], row["lab./unlab./val."]) == ("simcvd", "2/2/1")
    assert nothing["recipe"] == "short" and row["recipe"].startswith("published, pool_size ")  # and the small head
    assert (row["iterations"], row["batch"], row["scored on"][:12]) == ("6", "2+2", "model's grid")
    done = read_events(finished / "events.jsonl")[0][-1]
    assert row["Dice [%]"] == f"{done['dice']:.2f}"
    assert "![Training curves](curves.svg)" in page.read_text()
    drawn = curves.read_text()
    assert len(drawn) < 100_000 and "contrast" in drawn and "balls" in drawn
    assert {p: p.stat().st_mtime_ns for p in finished.iterdir()} == before
    assert row_of(call("rows.py", kept / "balls"), "balls") == row


def test_evaluations_bring_voxel_figures(finished, tmp_path):
    mask = cube()
    rows = [{"case": "a", "label": "ball", **compare(mask, mask, (2.0, 2.0, 2.0))}]
    write_json_report(tmp_path / "report.json", rows, {})
    page = call("rows.py", finished, "--evaluation", f"balls={tmp_path / 'report.json'}")
    row = row_of(page, "balls")
    assert (row["Dice [%]"], row["95HD [voxel]"], row["scored on"]) == ("100.00", "0.00", "scans' own grid")
    assert "names no run" in call("rows.py", finished, "--evaluation", "other=report.json", fails=True)


def cube():
    mask = np.zeros((8, 8, 8), bool)
    mask[2:6, 2:6, 2:6] = True
    return mask


def test_time_leaves_out_pauses_and_what_lies_between_two_processes(tmp_path):
    validation = {"event": "validation", "iteration": 2, "dice": 50.0, "hd95": None, "empty": 1, "seconds": 5.0}
    events = [
        start(0),
        step(2, 1),
        step(4, 2),
        {**validation, "time": 9},
        step(11, 3),
        {"event": "paused", "time": 11, "iteration": 3},
        {"event": "resumed", "time": 911, "iteration": 3},
        step(913, 4),
        step(915, 5),  # killed here; the checkpoint was at 3
        start(5000, 3),
        step(5002, 4),
        step(5004, 5),
        {"event": "stopped", "time": 5004, "iteration": 5},
    ]
    row = row_of(call("rows.py", write_run(tmp_path / "broken", events)), "broken")
    assert (row["s per step"], row["training"]) == ("2.000", "19 s")
    assert (row["iterations"], row["scored on"]) == ("5 of 40", "model's grid, at 2 (1 empty)")
    assert (row["Dice [%]"], row["95HD [mm]"], row["patch"]) == ("50.00", "–", "48x32x16")


def test_what_is_kept_is_short_and_names_no_place(tmp_path):
    trouble = "/home/somebody/run/checkpoint.pt can't be read; see https://example.org/a/b, 1/2 done."
    lines = [start(0), *(step(n, n) for n in range(1, 901)), {"event": "warning", "time": 901, "message": trouble}]
    lines += [{"event": "checkpoint", "time": 902, "iteration": 900}, start(2000, 900), step(2001, 901)]
    run = write_run(tmp_path / "long", lines, from_model=r"C:\Users\somebody\models\left-atrium")
    full = row_of(call("rows.py", run, "--keep", tmp_path / "kept"), "long")
    kept = tmp_path / "kept" / "long"
    events = read_events(kept / "events.jsonl")[0]
    steps = [event["iteration"] for event in events if event["event"] == "step"]
    assert len(steps) <= 200 and {1, 900, 901} <= set(steps)
    assert [e["event"] for e in events if e["event"] != "step"] == ["start", "warning", "start"]
    assert next(e["message"] for e in events if e["event"] == "warning") == trouble.replace("/home/somebody/run/", "")
    config = read_json(kept / "run.json")
    assert (config["cases"][0]["prepared"], config["from_model"]) == ("a-1.npz", "left-atrium")
    assert row_of(call("rows.py", kept), "long")["s per step"] == full["s per step"]
    assert "is the run itself" in call("rows.py", kept, "--keep", kept.parent, fails=True)


def test_scores_of_cases_are_kept_once(tmp_path):
    lines = [{"event": "preparing", "time": n, "done": n, "total": 2} for n in range(3)]
    lines += [start(3), *({**VALIDATION, "time": 3 + n, "iteration": n} for n in (1, 2))]
    lines += [{**VALIDATION, "event": "done", "time": 6, "iteration": 2}]
    call("rows.py", write_run(tmp_path / "run", lines), "--keep", tmp_path / "kept")
    events = read_events(tmp_path / "kept" / "run" / "events.jsonl")[0]
    told = [(e["event"], "rows" in e) for e in events]
    assert told == [("start", False), ("validation", False), ("validation", True), ("done", True)]


def test_the_training_benchmark_runs(tmp_path, capsys):
    # in this process, where torch is loaded already
    tiny = ["--patch", "16,32,32", "--filters", "2", "--repeats", "1"]
    training.main([*tiny, "--parts", "step,sdm", "--output", str(tmp_path / "page.md")])
    page = (tmp_path / "page.md").read_text()
    assert capsys.readouterr().out == page + "\n"
    assert [line for line in page.splitlines() if line.startswith("#")] == [
        "# Training, crops of 32x32x16",
        "## Training step",
        "## Signed distance maps",
    ]
    assert "| ours | 1.00 |" in page and "Machine: " in page
    ours, reference = (float(line.split(" | ")[-1].strip("| ")) for line in page.splitlines() if "float" in line)
    assert ours == pytest.approx(reference, rel=0.05)


def test_the_peak_memory_of_a_step_makes_a_table():
    peak, before = training.peak_of(training.OURS, argparse.Namespace(patch=(16, 16, 32), filters=2, device="cpu"))
    assert 0 < before <= peak
    table = training.memory_table({training.OURS: [peak, before], training.REFERENCE: [2 * peak, before]}, "cpu")
    assert f"| reference | 2.00 | {2 * peak:.0f} | {before:.0f} |" in table


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux hands a parent's peak on to its children")
def test_peak_memory_is_not_that_of_the_parent():
    ballast = b"x" * (256 << 20)
    script = f"import sys; sys.path.append({str(BENCHMARKS)!r}); import common; print(common.peak_memory())"
    peak = float(subprocess.run([sys.executable, "-c", script], capture_output=True, check=True).stdout)
    assert 0 < peak < len(ballast) / 2**20


def test_the_plain_way_gives_the_masks_of_the_quick_one():
    _, label = make_phantom(0, (2.5, 2.5, 2.5))
    whole = interaction.padded(label.array > 0, (40, 70, 90))
    rows = interaction.measure_steps(signed_distance(whole, (2.5, 2.5, 2.5)), (2.5, 2.5, 2.5))
    assert len(rows) == 7
    assert {row[0]: row[-1] for row in rows if row[-1] != "yes"} == {"the last of 20 points dragged": "–"}


def test_clicks_are_those_of_a_worker(tmp_path):
    image, _ = make_phantom(0, (4.0, 4.0, 4.0))
    write_volume(tmp_path / "scan.nrrd", image.array, image.geometry)
    model = write_model(tmp_path / "model", threshold_network([1.0]))
    heads, row = interaction.measure_clicks(str(model), tmp_path / "scan.nrrd")
    first, warming, after, later = map(float, row)
    assert len(heads) == len(row) and min(first, warming) > max(after, later) > 0
    with pytest.raises(SystemExit, match="no model"), interaction.Worker() as worker:
        worker.ask(do="warm", model=str(tmp_path / "nobody"))


def method_run(folder, method, seed, scores):
    """A run on two validation cases, named anew for every second run as SimCVDTrain does."""
    name = "la{:03d}" if seed % 2 else "case-{:03d}"
    cases = [{"id": name.format(i), "role": "validation", "prepared": "a"} for i in (1, 2)]
    rows = [{"case": name.format(i), "label": 1, **row} for i, row in zip((1, 2), scores, strict=True)]
    events = [{"event": "start", "time": 0.0, "iteration": 0}]
    events += [{"event": "done", "time": 60.0, "iteration": 40, "rows": rows, "peak_memory_mb": 100 + seed}]
    write_run(folder, events, method=method, seed=seed, cases=cases, model={"name": "x", "segments": []})
    return folder


def test_methods_are_compared_case_by_case(tmp_path):
    def figures(dice):
        return {"dice": dice, "jaccard": 1.0, "hd95": 2.0, "asd": 3.0}

    nothing = {"dice": 0.0, "jaccard": 0.0, "hd95": None, "asd": None}
    runs = [
        method_run(tmp_path / "s1", "supervised", 1, [figures(80.0), figures(60.0)]),
        method_run(tmp_path / "s2", "supervised", 2, [figures(82.0), figures(62.0)]),
        method_run(tmp_path / "a1", "action", 1, [figures(91.0), nothing]),
    ]
    page = call("methods.py", *runs)
    base, action = row_of(page, "supervised"), row_of(page, "action")
    assert (base["seeds"], base["Dice [%]"]) == ("1, 2", "71.00 ± 1.41")
    assert (base["Dice above supervised"], base["memory [MB]"]) == ("–", "102")
    assert (action["Dice [%]"], action["95HD [mm]"]) == ("45.50 (1 empty)", "2.00")
    assert (action["Dice above supervised"], action["cases better"]) == ("-25.50 ± 35.50", "1 of 2")
