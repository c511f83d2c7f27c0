"""The tests that come with the modules, for the button "Reload and Test"."""

import sys

import pytest
import slicer
from test_segment_module import loadModule

from SimCVDLib import jobs


@pytest.mark.parametrize("name", ["SimCVDSegment", "SimCVDTrain"])
def test_a_module_passes_its_own_test(name):
    loadModule(name)
    getattr(sys.modules[name], f"{name}Test")().runTest()
    (volume,) = slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")
    assert volume.GetName().startswith("SimCVDAtrium")
    slicer.mrmlScene.Clear(0)
    jobs.closeWorker()
