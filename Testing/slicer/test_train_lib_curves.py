"""The curves of a training as nodes, fed with events as a run writes them."""

import math

import pytest
import slicer
import slicer.util

from SimCVDLib.curves import MOST_ROWS, Curves


@pytest.fixture(autouse=True)
def emptied():
    slicer.mrmlScene.Clear(0)
    yield
    slicer.mrmlScene.Clear(0)


def start(time, iteration=0):
    return {"event": "start", "time": time, "iteration": iteration}


def step(time, iteration, **loss):
    return {"event": "step", "time": time, "iteration": iteration, "loss": loss or {"total": 1.0}}


def validation(time, iteration, dice, hd95):
    return {"event": "validation", "time": time, "iteration": iteration, "dice": dice, "hd95": hd95}


def column(table, name):
    return slicer.util.arrayFromTableColumn(table, name).tolist()


def series(chart):
    return [chart.GetNthPlotSeriesNode(n) for n in range(chart.GetNumberOfPlotSeriesNodes())]


def test_losses_and_figures_against_minutes():
    curves = Curves("mine")
    curves.add([start(1000.0), step(1060.0, 1, total=0.9, sdm=0.3), validation(1120.0, 2, 80.0, 5.0)])
    curves.add([step(1180.0, 3, total=0.8, sdm=0.2), validation(1240.0, 4, 85.0, None)])
    assert column(curves.table, "Minutes") == [1, 3] and column(curves.table, "total") == [0.9, 0.8]
    assert column(curves.table, "sdm") == [0.3, 0.2]
    assert column(curves.qualityTable, "Minutes") == [2, 4]
    assert column(curves.qualityTable, "Dice [%]") == [80, 85]
    drawn = {s.GetYColumnName(): s for s in series(curves.lossChart)}
    assert set(drawn) == {"total", "sdm"} and drawn["sdm"].GetTableNode() is curves.table
    assert [s.GetYColumnName() for s in series(curves.qualityChart)] == ["Dice [%]", "95HD [mm]"]
    assert "mine" in curves.lossChart.GetTitle() and not curves.table.GetSaveWithScene()


def test_figures_of_each_structure():
    curves = Curves("mine", {1: "Wall", 2: "Core"}.get)
    figures = [("a", 1, 80.0, 4.0, 1.0), ("b", 1, 90.0, 2.0, 0.5), ("a", 2, 70.0, None, None), ("b", 2, 60.0, 8.0, 2.0)]
    rows = [dict(zip(("case", "label", "dice", "hd95", "asd"), row, strict=True)) for row in figures]
    curves.add([start(0.0), {**validation(60, 1, 75.0, 5.0), "rows": rows}, validation(120, 2, 80.0, 4.0)])
    names = [s.GetYColumnName() for s in series(curves.structureChart)]
    assert names == [
        f"{name}: {figure}" for name in ("Wall", "Core") for figure in ("Dice [%]", "95HD [mm]", "ASD [mm]")
    ]
    assert [column(curves.structureTable, name) for name in names] == [[85], [3], [0.75], [65], [8], [2]]


def test_a_term_that_comes_late_and_seldom():
    curves = Curves("mine")
    curves.add([start(0.0), step(60, 1, total=1.0), step(120, 2, total=2.0, contrast=7.0), step(180, 3, total=3.0)])
    contrast = column(curves.table, "contrast")
    assert math.isnan(contrast[0]) and contrast[1:] == [7, 7] and column(curves.table, "total") == [1, 2, 3]


def test_a_validation_that_found_nothing_leaves_no_gap():
    curves = Curves("mine")
    curves.add(
        [start(0.0), validation(60, 1, None, None), validation(120, 2, 50.0, 9.0), validation(180, 3, None, None)]
    )
    assert column(curves.qualityTable, "Minutes") == [2] and column(curves.qualityTable, "Dice [%]") == [50]


def test_pauses_and_the_time_without_a_process_do_not_count():
    curves = Curves("mine")
    curves.add([start(0.0), step(60.0, 1), {"event": "paused", "time": 60.0}, {"event": "resumed", "time": 6000.0}])
    curves.add([step(6060.0, 2), start(90000.0, 2), step(90060.0, 3)])
    assert column(curves.table, "Minutes") == [1, 2, 3]


def test_what_is_done_again_after_a_crash_stands_once():
    curves = Curves("mine")
    curves.add([start(0.0), *(step(60.0 * i, i, total=float(i)) for i in range(1, 11)), validation(610.0, 10, 50, 5)])
    curves.add([start(1000.0, 4), step(1060.0, 5, total=50.0)])
    assert column(curves.table, "total") == [1, 2, 3, 4, 50]
    assert curves.qualityTable.GetTable().GetNumberOfRows() == 0


def test_a_long_training_is_thinned_out():
    curves = Curves("mine")
    curves.add([start(0.0)])
    for first in range(1, 20001, 200):
        curves.add([step(float(i), i, total=float(i)) for i in range(first, first + 200)])
    total = column(curves.table, "total")
    assert MOST_ROWS / 4 < len(total) <= MOST_ROWS and total[0] == 1 and total[-1] > 19900
    assert total == sorted(total) and column(curves.table, "Minutes")[-1] == pytest.approx(total[-1] / 60, abs=0.1)


def test_appending_leaves_what_is_there():
    curves = Curves("mine")
    curves.add([start(0.0), step(60.0, 1)])
    before = curves.table.GetTable().GetColumnByName("total")
    curves.add([step(120.0, 2)])
    assert curves.table.GetTable().GetColumnByName("total") is before and before.GetNumberOfValues() == 2


def test_closing_the_scene_and_closing_the_curves():
    curves = Curves("mine")
    curves.add([start(0.0), step(60.0, 1)])
    slicer.mrmlScene.Clear(0)
    assert curves.isGone
    curves.add([step(120.0, 2)])
    curves.close()
    again = Curves("mine")
    again.add([start(0.0), step(60.0, 1), validation(70.0, 2, 80, 4)])
    # the legend shows their names, as those of the first run
    assert [s.GetName() for s in series(again.qualityChart)] == ["Dice [%]", "95HD [mm]"]
    assert [s.GetName() for s in series(again.lossChart)] == ["total"]
    again.close()
    for name in ("vtkMRMLTableNode", "vtkMRMLPlotChartNode", "vtkMRMLPlotSeriesNode"):
        assert slicer.util.getNodesByClass(name) == []
