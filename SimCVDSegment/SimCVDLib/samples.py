"""A synthetic atrium for the Sample Data module, drawn on this computer: nothing is downloaded.

The module's button draws it. SampleDataLogic.downloadSample looks for files only and can't: scripts call `loadSample`.
"""

from pathlib import Path

import numpy as np
import slicer
from slicer.i18n import tr as _

NAME = "SimCVDAtrium"
CATEGORY = "SimCVD"
SEED = 7
SPACING = (0.9, 0.9, 0.9)  # mm; finer takes several seconds to draw
THUMBNAIL = Path(__file__).resolve().parents[1] / "Resources" / "Icons" / "SimCVDAtrium.png"


def registerSampleData():
    """Offer the sample in the Sample Data module."""
    import SampleData

    SampleData.SampleDataLogic.registerCustomSampleDataSource(
        category=CATEGORY,
        sampleName=NAME,
        thumbnailFileName=str(THUMBNAIL),
        uris="",  # they must be texts, even though the function below is called instead
        fileNames="",
        nodeNames=NAME,
        customDownloader=loadSample,
    )


def loadSample(_source=None):
    """Draw the sample: a scan, shown in the slice views, and its reference segmentation; returns both nodes."""
    from simcvd.phantom import make_phantom
    from SimCVDLib import nodes

    image, label = make_phantom(SEED, SPACING)
    matrix = np.diag([*(-np.array(SPACING[:2])), SPACING[2], 1.0])  # its axes run to L, P and S
    volume = slicer.util.addVolumeFromArray(
        image.array, ijkToRAS=matrix, name=slicer.mrmlScene.GetUniqueNameByString(NAME)
    )
    volume.CreateDefaultDisplayNodes()
    segment = {"value": 1, "name": _("Left atrium"), "color": [0.35, 0.75, 0.95], "terminology": None}
    reference = nodes.newSegmentation(volume, [segment], _("{name} reference").format(name=volume.GetName()))
    nodes.writeSegment(reference, reference.GetSegmentation().GetNthSegmentID(0), label.array > 0, volume)
    reference.SetDisplayVisibility(False)
    slicer.util.setSliceViewerLayers(background=volume, fit=True)
    return [volume, reference]
