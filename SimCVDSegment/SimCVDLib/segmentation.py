"""From a volume node to a segmentation node through the background process, without waiting for it."""

import contextlib
import logging
import traceback
from pathlib import Path

import numpy as np
import slicer
from slicer.i18n import tr as _

from simcvd.errors import SimCVDError
from simcvd.models import load_card
from SimCVDLib import corrections, jobs, maps, models, nodes

IMAGE = "image.nrrd"


def startSegmentation(
    volumeNode,
    modelFolder,
    onEvent,
    *,
    roiNode=None,
    device="auto",
    largest=None,
    uncertainty=False,
    segmentationNode=None,
):
    """Begin to segment a volume; the scene may change, be closed or another be loaded meanwhile.

    Args:
        volumeNode: the scan. It is copied to a file now, so that later changes don't matter.
        modelFolder: folder of the model.
        onEvent: called with the events of the job (dictionaries). The last is "done", which has "segmentation" (the
            node), "maps" (see maps.Maps), "segmentIds", "notes" (sentences) and "seconds"; or "cancelled"; or "error"
            with "message" (a sentence) and "details".
        largest: keep only the largest part of each segment; None does as the model's card says.
        roiNode: markups ROI outside of which nothing is segmented.
        segmentationNode: whose segments of the same structures are replaced; without it a new node is made.

    Returns:
        the SegmentJob. Raises SimCVDError when it can't begin: nothing has changed then.
    """
    nodes.checkVolume(volumeNode)
    if segmentationNode is not None:
        _checkVoxels(segmentationNode)
        _checkScan(segmentationNode, volumeNode)
    card = load_card(modelFolder)
    roi = nodes.roiBounds(roiNode, volumeNode) if roiNode is not None else None
    job = SegmentJob(volumeNode, card, segmentationNode, onEvent)
    try:
        nodes.exportVolume(volumeNode, job.folder / IMAGE)
    except BaseException:
        jobs.removeFolder(job.folder)
        raise
    job.begin(
        {
            "do": "segment",
            "image": str(job.folder / IMAGE),
            "model": str(modelFolder),
            "output": str(job.folder),
            "device": device,
            "largest": largest,
            "uncertainty": bool(uncertainty),
            "roi": roi,
            "overwrite": True,
        }
    )
    return job


def _checkVoxels(segmentationNode):
    """Raise SimCVDError for a segmentation into which no voxels can be written."""
    if not nodes.isOfVoxels(segmentationNode):
        raise SimCVDError(
            _("The segmentation {name} is made of surfaces, not of voxels; choose another result or a new one.").format(
                name=segmentationNode.GetName()
            )
        )


def _checkScan(segmentationNode, volumeNode):
    """Raise SimCVDError for a segmentation of another scan: what was outlined there would be replaced and moved."""
    scan = segmentationNode.GetNodeReference(slicer.vtkMRMLSegmentationNode.GetReferenceImageGeometryReferenceRole())
    if scan is not None and scan is not volumeNode:
        raise SimCVDError(
            _("The result {name} belongs to the scan {scan}; choose another result or a new one.").format(
                name=segmentationNode.GetName(), scan=scan.GetName()
            )
        )


def stageText(event):
    """A line for the user about an event "progress"."""
    stage = {
        "starting": _("Starting PyTorch and the model"),
        "reading": _("Reading the volume"),
        "segmenting": _("Segmenting"),
        "scoring": _("Comparing"),
        "writing": _("Taking over the result"),
    }.get(event["stage"], event["stage"])
    return _("{stage}, {percent} %").format(stage=stage, percent=round(100 * event["fraction"]))


def endText(event):
    """A line for the user about the last event of a job."""
    if event["event"] == "cancelled":
        return _("Stopped. Nothing was changed.")
    if event["event"] == "error":
        return event["message"]
    device = {"cpu": _("the processor")}.get(event["device"], event["device"])
    seconds = event["seconds"]
    text = _("Done in {seconds:.1f} s on {device}.").format(seconds=seconds["total"], device=device)
    if seconds.get("starting", 0) > 1:
        text = _("Done in {seconds:.1f} s on {device}, {starting:.1f} s of it to start PyTorch.").format(
            seconds=seconds["total"], device=device, starting=seconds["starting"]
        )
    return " ".join([text, *event["notes"]])


class SegmentJob:
    """One segmentation under way."""

    def __init__(self, volumeNode, card, segmentationNode, onEvent):
        self.folder = jobs.scratchFolder()
        self._volume = nodes.NodeReference(volumeNode)
        self._name = volumeNode.GetName()
        self._card = card
        self._replaced = nodes.NodeReference(segmentationNode) if segmentationNode is not None else None
        self._onEvent = onEvent
        self._worker = jobs.worker()
        self._id = None

    def begin(self, request):
        """Send the request to the background process."""
        self._uncertainty, self._folderName = request["uncertainty"], Path(request["model"]).name
        self._id = self._worker.submit(request, self._onWorkerEvent)

    def cancel(self):
        """Ask it to stop; the event "cancelled" follows, unless it was just done."""
        self._worker.cancel(self._id)

    def _onWorkerEvent(self, event):
        if event["event"] == "done":
            event = self._finish(event)
        elif event["event"] in jobs.LAST:
            jobs.removeFolder(self.folder)
            if "message" in event:  # the user knows the volume, not the file it was handed over in
                event = {**event, "message": event["message"].replace(str(self.folder / IMAGE), self._name)}
        self._onEvent(event)

    def _finish(self, event):
        """The nodes of a result: what to tell then."""
        try:
            with contextlib.suppress(OSError):  # it goes with the folder at last
                (self.folder / IMAGE).unlink()
            return {**event, **self._makeNodes(event)}
        except SimCVDError as error:
            message, details = str(error), ""
        except Exception as error:
            logging.exception("SimCVD: the result of a segmentation could not be shown")
            message = _("The result could not be taken into the scene ({reason}).").format(reason=error)
            details = traceback.format_exc()
        jobs.removeFolder(self.folder)
        return {"event": "error", "id": self._id, "kind": "scene", "message": message, "details": details}

    def _makeNodes(self, event):
        volume = self._volume.get()
        if volume is None:
            raise SimCVDError(
                _("The volume {name} was removed while it was segmented, so the result was dropped.").format(
                    name=self._name
                )
            )
        labels = np.load(event["files"]["labels"])
        if labels.shape != nodes.shapeOf(volume):
            raise SimCVDError(
                _("The volume {name} got another size while it was segmented; segment it again.").format(
                    name=self._name
                )
            )
        node = self._replaced.get() if self._replaced else None
        if node is None:
            node = nodes.newSegmentation(volume, [], _("{volume} segmentation").format(volume=volume.GetName()))
            # the fill hides the anatomy that the outline is judged by
            node.GetDisplayNode().SetOpacity2DFill(0.2)
        else:
            _checkVoxels(node)  # they may have become surfaces since
            maps.removeNodes(node)
            nodes.adoptGeometry(node, volume)
        identifiers = []
        for segment in self._card["segments"]:
            identifier = nodes.addSegment(node, segment)
            corrections.forget(node, identifier)
            nodes.writeSegment(node, identifier, labels == segment["value"], volume)
            identifiers.append(identifier)
        found = maps.Maps(node, volume, event["files"], identifiers, self.folder)
        if not self._uncertainty:
            models.rememberSeconds(self._folderName, event["seconds"]["total"] - event["seconds"]["starting"])
        return {"segmentation": node, "maps": found, "segmentIds": identifiers}
