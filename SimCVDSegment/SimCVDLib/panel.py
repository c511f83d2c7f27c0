"""What the panels of both modules share: their tie to the scene's state, and controls that don't count as clicked."""

import contextlib
import sys

import qt
import vtk
from slicer.ScriptedLoadableModule import ScriptedLoadableModuleWidget
from slicer.util import VTKObservationMixin

from SimCVDLib import jobs, pytorch


class Panel(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """A panel with one handler per control.

    A module's panel adds initializeParameterNode, _fillModels, _onParameters, updateGui, cleanup and _details.
    """

    def __init__(self, parent=None):
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
        self.logic = None
        self._parameters = self._link = None
        self._choices = []  # the models
        self._torch = (False, "")
        self._updating = False

    def enter(self):
        """Called each time the module is shown."""
        self.initializeParameterNode()

    def onReload(self):
        """Reload the packages too, not only this file."""
        self.cleanup()
        jobs.closeWorker()
        for name in [n for n in sys.modules if n.split(".")[0] in ("SimCVDLib", "simcvd")]:
            del sys.modules[name]
        ScriptedLoadableModuleWidget.onReload(self)

    def onInstallTorch(self):
        """Install PyTorch; the user is asked first."""
        self._torch = pytorch.install()
        self.updateGui()

    def onCopyDetails(self):
        """Put what someone who is asked for help wants to know on the clipboard."""
        qt.QApplication.clipboard().setText(self._details())

    def _setParameters(self, parameters):
        self._disconnect()
        self._parameters = parameters
        if parameters is not None:
            with self._quietly():
                self._fillModels()
            self._link = parameters.connectGui(self.ui)
            self.addObserver(parameters, vtk.vtkCommand.ModifiedEvent, self._onParameters)
            self._onParameters()

    def _disconnect(self):
        if self._link is not None:
            self._parameters.disconnectGui(self._link)
            self.removeObserver(self._parameters, vtk.vtkCommand.ModifiedEvent, self._onParameters)
            self._link = None

    @contextlib.contextmanager
    def _quietly(self):
        """Controls that are set meanwhile don't count as clicked."""
        before, self._updating = self._updating, True
        try:
            yield
        finally:
            self._updating = before
