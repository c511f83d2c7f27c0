"""How well a segment fits a reference: compared by the background process, shown as a table node, saved as files."""

import shutil
import traceback
import weakref
from pathlib import Path

import numpy as np
import slicer
import vtk
from slicer.i18n import tr as _

from simcvd.errors import SimCVDError
from SimCVDLib import jobs, nodes
from SimCVDLib.writing import writing


def compare(referenceNode, referenceId, segmentationNode, segmentId, volumeNode, onEvent, tableNode=None):
    """Begin to compare a segment with a reference segment, both on a volume's grid, wherever their transforms put them.

    Args:
        onEvent: called with the events of the job; "done" has "report", a Report.
        tableNode: the table to fill; a new one without it.

    Returns:
        the CompareJob, which has `cancel()`. Raises SimCVDError when it can't begin.
    """
    nodes.checkVolume(volumeNode)
    _checkSegment(referenceNode, referenceId, _("Choose the reference: a segmentation and one of its segments."))
    _checkSegment(segmentationNode, segmentId, _("Choose the result to compare: a segmentation and its segment."))
    if referenceNode is segmentationNode and referenceId == segmentId:
        raise SimCVDError(_("The result and the reference are the same segment; choose another reference."))
    job = CompareJob(onEvent, tableNode)
    try:
        matrix = nodes.ijkToRas(volumeNode)
        for name, node, identifier in (
            ("reference", referenceNode, referenceId),
            ("prediction", segmentationNode, segmentId),
        ):
            mask = nodes.readSegment(node, identifier, volumeNode)
            nodes.writeNrrd(job.folder / f"{name}.nrrd", mask.astype(np.uint8), matrix)
        nodes.exportVolume(volumeNode, job.folder / "image.nrrd")
    except BaseException:
        jobs.removeFolder(job.folder)
        raise
    segment = segmentationNode.GetSegmentation().GetSegment(segmentId).GetName()
    reference = referenceNode.GetSegmentation().GetSegment(referenceId).GetName()
    job.begin(
        {
            "do": "evaluate",
            "pairs": [
                {
                    "case": volumeNode.GetName() or "case",
                    "reference": str(job.folder / "reference.nrrd"),
                    "prediction": str(job.folder / "prediction.nrrd"),
                    "image": str(job.folder / "image.nrrd"),
                }
            ],
            "names": {"1": segment},
            "about": {
                "Reference": f"{referenceNode.GetName()}: {reference}",
                "Prediction": f"{segmentationNode.GetName()}: {segment}",
                "Grid": volumeNode.GetName(),
            },
            "output": str(job.folder / "report"),
        }
    )
    return job


class CompareJob:
    """One comparison under way."""

    def __init__(self, onEvent, tableNode):
        self.folder = jobs.scratchFolder()
        self._onEvent = onEvent
        self._table = nodes.NodeReference(tableNode) if tableNode is not None else None
        self._worker = jobs.worker()
        self._id = None

    def begin(self, request):
        """Send the request to the background process."""
        self._id = self._worker.submit(request, self._onWorkerEvent)

    def cancel(self):
        """Ask it to stop; the event "cancelled" follows, unless it was just done."""
        self._worker.cancel(self._id)

    def _onWorkerEvent(self, event):
        if event["event"] == "done":
            try:
                table = self._table.get() if self._table else None
                event = {**event, "report": Report(event["rows"], event["files"], self.folder, table)}
            except Exception as error:
                message = _("The figures could not be shown ({reason}).").format(reason=error)
                details = traceback.format_exc()
                event = {"event": "error", "id": self._id, "kind": "scene", "message": message, "details": details}
        if event["event"] in ("cancelled", "error"):
            jobs.removeFolder(self.folder)
        self._onEvent(event)


class Report:
    """The figures of a comparison.

    Attributes:
        rows: as the core gives them: dictionaries of "case", "label" and the scores, None where there is none.
        table: the vtkMRMLTableNode, one line for each figure.
        sentence: the figures in one line.
    """

    def __init__(self, rows, files, folder, tableNode=None):
        self.rows = rows
        self._files = {kind: Path(path) for kind, path in files.items()}
        weakref.finalize(self, jobs.removeFolder, folder)
        self.table = _fill(tableNode, rows)
        self.sentence = " ".join(_sentence(row) for row in rows) or _("Both segments are empty: no figures.")

    def save(self, path):
        """Copy the report to a .csv, .html or .json file, which is replaced if it is there; returns the path.

        Raises SimCVDError when it can't be written.
        """
        path = Path(path)
        kind = path.suffix.lower().lstrip(".")
        if kind not in self._files:
            raise SimCVDError(_("{path} does not end in .csv, .html or .json; choose one of these.").format(path=path))
        with writing(path):
            shutil.copyfile(self._files[kind], path)
        return path


def _fill(tableNode, rows):
    """A table node with a line for each figure and a column for each row of scores."""
    from simcvd.report import HEADINGS  # brings SciPy

    if tableNode is None:
        tableNode = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTableNode", _("SimCVD report"))
    with slicer.util.NodeModify(tableNode):
        tableNode.RemoveAllColumns()
        _addColumn(tableNode, _("Figure"), list(HEADINGS.values()))
        for row in rows:
            _addColumn(tableNode, row["label"], [_shown(row[name]) for name in HEADINGS])
        tableNode.SetUseColumnTitleAsColumnHeader(True)
        tableNode.SetLocked(True)  # a double click would let the figures be typed over
    return tableNode


def _addColumn(tableNode, title, texts):
    column = vtk.vtkStringArray()
    for text in texts:
        column.InsertNextValue(text)
    tableNode.AddColumn(column)
    column.SetName(title)


def _shown(value):
    return "-" if value is None else f"{value:.2f}"


def _sentence(row):
    if row["note"]:
        return _("{segment}: no figures, because {reason}.").format(segment=row["label"], reason=row["note"])
    return _("{segment}: Dice {dice:.1f} %, 95HD {hd95:.1f} mm, ASD {asd:.1f} mm.").format(
        segment=row["label"], dice=row["dice"], hd95=row["hd95"], asd=row["asd"]
    )


def _checkSegment(node, identifier, sentence):
    if node is None or not identifier or node.GetSegmentation().GetSegment(identifier) is None:
        raise SimCVDError(sentence)
