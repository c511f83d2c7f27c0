"""The benchmark of scans without a label: which scans a run is scored on, and what it is held against."""

import sys
from pathlib import Path

import numpy as np
import pytest
from test_benchmarks import write_run
from test_segmentation import threshold_network, write_model

from simcvd.files import read_json
from simcvd.images import write_volume
from simcvd.phantom import make_phantom

sys.path.append(str(Path(__file__).resolve().parents[1] / "benchmarks"))

import unlabelled

LEVELS = {"supervised": 1.0, "simcvd": 0.7}  # what each run's model takes for atrium, in standard deviations


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scans")
    for seed in range(3):
        image, label = make_phantom(seed, (4.0, 4.0, 4.0))
        (folder / f"la{seed}").mkdir()
        write_volume(folder / f"la{seed}" / "image.nrrd", image.array, image.geometry)
        write_volume(folder / f"la{seed}" / "label.nrrd", label.array.astype(np.uint8), label.geometry)
    return folder


def finished(folder, method, labelled=1, level=None):
    roles = ["labelled" if n < labelled else "unlabelled" for n in range(3)]
    cases = [{"id": f"la{n}", "role": role, "prepared": "a"} for n, role in enumerate(roles)]
    write_run(folder, [{"event": "done", "time": 1.0, "iteration": 40}], method=method, seed=7, cases=cases)
    write_model(folder / "model", threshold_network([level or LEVELS[method]]), (4.0, 4.0, 4.0))
    return folder


def rows_by_part(page):
    """The cells by run and part."""
    lines = [line.strip("| ").split(" | ") for line in page.splitlines() if line.startswith("| ")]
    rows = [dict(zip(lines[0], cells, strict=True)) for cells in lines[1:]]
    return {(row["run"], row["kept"]): row for row in rows}


def test_runs_are_scored_on_the_scans_they_had_without_a_label(data, tmp_path, capsys):
    base, run = finished(tmp_path / "base", "supervised"), finished(tmp_path / "run", "simcvd")
    unlabelled.main([str(data), str(base), str(run)])
    kept = rows_by_part(capsys.readouterr().out)
    for part in ("all", "largest"):
        its, mine = kept["base", part], kept["run", part]
        assert (its["labelled"], its["scans"]) == ("1", "2")
        assert its["Dice above supervised"] == its["scans better"] == its["95HD above supervised [mm]"] == "–"
        rows = [row for row in read_json(run / "unlabelled.json")["rows"] if row["part"] == part]
        assert [row["case"] for row in rows] == ["la1", "la2"]
        assert mine["Dice [%]"] == f"{np.mean([row['dice'] for row in rows]):.2f}"
        assert int(mine["below 80"]) == sum(row["dice"] < 80 for row in rows)
        above = float(mine["Dice [%]"]) - float(its["Dice [%]"])
        assert above != 0 and mine["scans better"] == ("2 of 2" if above > 0 else "0 of 2")
        for head, figure in (("Dice above supervised", "Dice [%]"), ("95HD above supervised [mm]", "95HD [mm]")):
            mean = float(mine[head].split(" ±")[0])
            assert mean == pytest.approx(float(mine[figure]) - float(its[figure]), abs=0.011)
        assert mine["median"] == f"{np.median([row['dice'] for row in rows]):.2f}"
        assert float(mine["median gain"]) == pytest.approx(above, abs=0.011)  # of two scans the median is the mean


def test_a_method_is_held_against_itself_without_a_part(data, tmp_path, capsys):
    whole, without = finished(tmp_path / "whole", "simcvd"), finished(tmp_path / "without", "simcvd", level=1.0)
    unlabelled.main([str(data), str(whole), str(without), "--against-first"])
    kept = rows_by_part(capsys.readouterr().out)
    its, mine = kept["whole", "all"], kept["without", "all"]
    assert its["Dice above whole"] == "–"
    above = float(mine["Dice above whole"].split(" ±")[0])
    assert above != 0 and above == pytest.approx(float(mine["Dice [%]"]) - float(its["Dice [%]"]), abs=0.011)


def test_scores_are_taken_once_and_compared_on_the_same_scans_only(data, tmp_path, capsys):
    base, run = finished(tmp_path / "base", "supervised", labelled=2), finished(tmp_path / "run", "simcvd")
    unlabelled.main([str(data), str(base), str(run)])
    first = rows_by_part(capsys.readouterr().out)
    assert first["run", "all"]["scans better"] == "–"
    (run / "model" / "card.json").unlink()
    unlabelled.main([str(data), str(base), str(run)])
    assert rows_by_part(capsys.readouterr().out) == first


def test_a_run_under_way_and_scans_that_are_not_there_are_refused(data, tmp_path):
    under_way = finished(tmp_path / "run", "simcvd")
    (under_way / "events.jsonl").write_text("")
    elsewhere = tmp_path / "other" / "la1"
    elsewhere.mkdir(parents=True)
    for name in ("image.nrrd", "label.nrrd"):
        (elsewhere / name).write_bytes((data / "la1" / name).read_bytes())
    for folder, run in ((data, under_way), (elsewhere.parent, finished(tmp_path / "done", "simcvd"))):
        with pytest.raises(SystemExit, match="no finished run whose unlabelled cases"):
            unlabelled.main([str(folder), str(run)])
