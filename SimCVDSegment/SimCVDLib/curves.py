"""The curves of a training: its events as table and plot nodes, appended while it runs."""

import math
import statistics

import slicer
import vtk
from slicer.i18n import tr as _

from SimCVDLib import nodes

MOST_ROWS = 1000  # more are thinned out: no screen is wider
TIME = "Minutes"
QUALITY = {"dice": "Dice [%]", "hd95": "95HD [mm]"}
OF_STRUCTURES = {**QUALITY, "asd": "ASD [mm]"}
COLORS = (
    *((0.00, 0.45, 0.70), (0.90, 0.62, 0.00), (0.00, 0.62, 0.45), (0.80, 0.47, 0.65)),
    *((0.84, 0.37, 0.00), (0.34, 0.71, 0.91), (0.45, 0.45, 0.45), (0.20, 0.20, 0.20)),
)


class Curves:
    """Losses, and figures of the validations, against the minutes of training, without the time between two processes.

    The nodes are not saved with the scene, as the run folder has all of it. Where the scene was closed meanwhile,
    nothing is drawn any more (`isGone`).

    Args:
        name: of the training, for the titles.
        structureName: called with a label value, gives the name of that structure.

    Attributes:
        table, qualityTable, structureTable: vtkMRMLTableNode of the losses, of the validations' Dice and 95HD, and of
            Dice, 95HD and ASD of each structure.
        lossChart, qualityChart, structureChart: vtkMRMLPlotChartNode.
    """

    def __init__(self, name, structureName=str):
        self._structureName = structureName
        self._clock = _Clock()
        self._steps = _Curve(_("{name}: losses").format(name=name), _("loss"), log=True)
        self._figures = _Curve(_("{name}: validation").format(name=name), _("Dice [%], 95HD [mm]"), markers=True)
        title = _("{name}: validation by structure").format(name=name)
        self._structures = _Curve(title, _("Dice [%], 95HD and ASD [mm]"), markers=True)
        self._all = (self._steps, self._figures, self._structures)

    @property
    def table(self):
        return self._steps.table.get()

    @property
    def qualityTable(self):
        return self._figures.table.get()

    @property
    def structureTable(self):
        return self._structures.table.get()

    @property
    def lossChart(self):
        return self._steps.chart.get()

    @property
    def qualityChart(self):
        return self._figures.chart.get()

    @property
    def structureChart(self):
        return self._structures.chart.get()

    @property
    def isGone(self):
        """Whether nodes have left the scene."""
        return any(None in (curve.table.get(), curve.chart.get()) for curve in self._all)

    def add(self, events):
        """Take in events of the run, in their order."""
        if self.isGone:
            return
        for event in events:
            kind, minutes = event["event"], self._clock.minutes(event)
            if kind == "start":
                # what came after the last checkpoint is done again
                for curve in self._all:
                    curve.cut(event["iteration"])
            elif kind == "step":
                self._steps.add(event["iteration"], minutes, event["loss"])
            elif kind == "validation":
                figures = {title: event[key] for key, title in QUALITY.items() if event.get(key) is not None}
                for curve, values in ((self._figures, figures), (self._structures, self._byStructure(event))):
                    if values:  # nothing was found: there is no figure to draw
                        curve.add(event["iteration"], minutes, values)
        for curve in self._all:
            curve.draw()

    def close(self):
        """Remove the nodes."""
        for curve in self._all:
            curve.close()

    def _byStructure(self, event):
        """Means over the cases of what was measured, by structure and figure."""
        measured = {}
        for row in event.get("rows", ()):
            for key, title in OF_STRUCTURES.items():
                if row[key] is not None:
                    measured.setdefault(f"{self._structureName(row['label'])}: {title}", []).append(row[key])
        return {name: statistics.mean(values) for name, values in measured.items()}


class _Clock:
    """Time since the start, without pauses and without the time when no process was there."""

    def __init__(self):
        self._seconds, self._last = 0.0, None

    def minutes(self, event):
        if self._last is not None and event["event"] not in ("start", "resumed", "preparing"):
            self._seconds += max(0.0, event["time"] - self._last)
        self._last = event["time"]
        return self._seconds / 60


class _Curve:
    """Values by name against time, as a table, a series for each name, and a chart of them."""

    def __init__(self, title, unit, log=False, markers=False):
        self._rows = []  # (iteration, minutes, {name: value})
        self._names = []
        self._series = []
        self._drawn = self._apart = 0
        self._markers = markers
        table = _newNode("vtkMRMLTableNode", title)
        chart = _newNode("vtkMRMLPlotChartNode", title)
        chart.SetTitle(title)
        chart.SetXAxisTitle(_("minutes of training"))
        chart.SetYAxisTitle(unit)
        chart.SetYAxisLogScale(log)
        self.table, self.chart = nodes.NodeReference(table), nodes.NodeReference(chart)

    def add(self, iteration, minutes, values):
        """A point; one that is too near to the last is left out."""
        if self._rows and minutes - self._rows[-1][1] < self._apart:
            return
        # a term that is not computed at every step keeps its last value: a line needs its points side by side
        last = self._rows[-1][2] if self._rows else {}
        self._rows.append((iteration, minutes, {**last, **values}))
        if len(self._rows) > MOST_ROWS:
            self._rows = self._rows[::2]
            self._apart = 2 * minutes / MOST_ROWS
            self._drawn = -1

    def cut(self, iteration):
        """Forget what came after an iteration."""
        kept = [row for row in self._rows if row[0] <= iteration] if iteration else []
        if len(kept) < len(self._rows):
            self._rows, self._drawn = kept, -1

    def draw(self):
        """Bring the nodes up to date: new rows are appended, after a cut all are written anew."""
        if self._drawn == len(self._rows):
            return
        table = self.table.get()
        new = [name for row in self._rows[max(self._drawn, 0) :] for name in row[2] if name not in self._names]
        self._names += dict.fromkeys(new)
        with slicer.util.NodeModify(table):
            if self._drawn <= 0 or new:
                self._makeColumns(table)
            for _iteration, minutes, values in self._rows[max(self._drawn, 0) :]:
                for name in (TIME, *self._names):
                    value = minutes if name == TIME else values.get(name, math.nan)
                    table.GetTable().GetColumnByName(name).InsertNextValue(value)
            table.GetTable().Modified()
            table.Modified()
        self._drawn = len(self._rows)
        for name in dict.fromkeys(new):
            self._addSeries(name)

    def close(self):
        for reference in (*self._series, self.chart, self.table):
            node = reference.get()
            if node is not None:
                slicer.mrmlScene.RemoveNode(node)

    def _makeColumns(self, table):
        """Empty columns; all rows are written again."""
        table.RemoveAllColumns()
        for name in (TIME, *self._names):
            column = vtk.vtkDoubleArray()
            column.SetName(name)
            table.AddColumn(column)
        table.SetUseColumnTitleAsColumnHeader(True)
        self._drawn = 0

    def _addSeries(self, name):
        series = _newNode("vtkMRMLPlotSeriesNode", name)
        series.SetName(name)  # the legend shows it, without the number that would make it unique
        series.SetAndObserveTableNodeID(self.table.get().GetID())
        series.SetXColumnName(TIME)
        series.SetYColumnName(name)
        series.SetPlotType(series.PlotTypeScatter)
        series.SetLineStyle(series.LineStyleSolid)
        series.SetMarkerStyle(series.MarkerStyleCircle if self._markers else series.MarkerStyleNone)
        series.SetColor(*COLORS[len(self._series) % len(COLORS)])
        self._series.append(nodes.NodeReference(series))
        self.chart.get().AddAndObservePlotSeriesNodeID(series.GetID())


def _newNode(className, title):
    node = slicer.mrmlScene.AddNewNodeByClass(className, slicer.mrmlScene.GetUniqueNameByString(title))
    node.SetSaveWithScene(False)
    return node
