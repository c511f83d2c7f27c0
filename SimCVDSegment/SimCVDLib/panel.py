"""What the panels of both modules share: their tie to the scene's state, and controls that don't count as clicked."""

import contextlib
import sys

import qt
import slicer
import vtk
from slicer.i18n import tr as _
from slicer.ScriptedLoadableModule import ScriptedLoadableModuleWidget
from slicer.util import VTKObservationMixin

from SimCVDLib import jobs, pytorch


class Panel(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """A panel with one handler per control.

    A module's panel adds initializeParameterNode, _fillModels, _onParameters, updateGui, cleanup, _say and _details.
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
        """Install PyTorch; the user is asked first. The application answers clicks meanwhile, for minutes."""
        self.ui.torchLabel.text = _("Installing PyTorch; this takes some minutes...")
        self._torch = pytorch.install()
        if self._parameters is not None:  # the scene may have been closed
            self.updateGui()

    def _torchReady(self, place):
        """Whether PyTorch is there, and the scene still; offers to install it first."""
        if not self._torch[0]:
            self.onInstallTorch()
        if not self._torch[0]:
            self._say(place, self._torch[1])
        return self._torch[0] and self._parameters is not None

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
            # of the node: what is observed is remembered for good, and with it a wrapper and all its own observers
            self.addObserver(parameters.parameterNode, vtk.vtkCommand.ModifiedEvent, self._onParameters)
            self._onParameters()

    def _disconnect(self):
        if self._link is not None:
            self._parameters.disconnectGui(self._link)
            self.removeObserver(self._parameters.parameterNode, vtk.vtkCommand.ModifiedEvent, self._onParameters)
            self._link = None

    def _isAsked(self):
        """Whether a change is one to act on: not while controls are only shown, nor in a scene that is being read,
        whose state comes before its nodes have found each other. The end of that is told to the panel."""
        return not self._updating and self._parameters is not None and not slicer.mrmlScene.IsImporting()

    @contextlib.contextmanager
    def _quietly(self):
        """Controls that are set meanwhile don't count as clicked."""
        before, self._updating = self._updating, True
        try:
            yield
        finally:
            self._updating = before
