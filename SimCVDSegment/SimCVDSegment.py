"""SimCVD Segment: click Segment, see the distance map, move and correct the boundary, compare, export."""

import contextlib
import logging
import sys
import time
from pathlib import Path
from typing import Annotated

import qt
import slicer
import vtk
from slicer import (
    vtkMRMLMarkupsROINode,
    vtkMRMLScalarVolumeNode,
    vtkMRMLSegmentationNode,
    vtkMRMLTableNode,
)
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.parameterNodeWrapper import WithinRange, parameterNodeWrapper
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
)

from simcvd import __version__
from simcvd.errors import SimCVDError
from simcvd.models import find_model
from SimCVDLib import batch, corrections, exports, jobs, maps, models, nodes, pytorch, report, samples, segmentation
from SimCVDLib.corrections import Corrections
from SimCVDLib.overlay import Overlay
from SimCVDLib.panel import Panel
from SimCVDLib.segmentation import endText, stageText

DEVICES = ("auto", "cpu", "cuda", "mps")  # as the entries of deviceComboBox
OVERLAYS = ("none", "distance", "modelDistance", "probability", "uncertainty")  # as those of overlayComboBox
FORMATS = ("seg.nrrd", "nii.gz", "stl")  # as those of exportKindComboBox
GEOMETRY = vtkMRMLSegmentationNode.GetReferenceImageGeometryReferenceRole()  # under which its scan is known
SECTIONS = ("input", "segment", "overlay", "boundary", "corrections", "report", "export", "batch", "log")
SENTENCES = ("status", "report", "export", "batch")  # lines of the panel that say how something went
OVERLAY_CONTROLS = ("overlayComboBox", "legendCheckBox", "opacitySlider", "isoCheckBox", "isoSpacingSpinBox")
EDIT_CONTROLS = (
    "offsetSlider",
    "smoothingSlider",
    "largestCheckBox",
    "fillHolesCheckBox",
    "radiusSlider",
    "insideButton",
    "outsideButton",
    "removePointButton",
    "undoButton",
)
CHOSEN = ("output", "region", "reference", "result")  # nodes that nothing takes the place of when they are removed


class SimCVDSegment(ScriptedLoadableModule):
    """What Slicer shows about the module."""

    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        self.parent.title = _("SimCVD Segment")
        self.parent.categories = [translate("qSlicerAbstractCoreModule", "Segmentation")]
        self.parent.dependencies = ["Segmentations", "Markups", "Volumes"]
        self.parent.contributors = ["SimCVD contributors"]
        self.parent.helpText = _(
            "Outlines a structure in a 3D image with one click, and lets you move and correct its boundary. Choose a "
            "volume and a model, and click Segment. Everything is computed on this computer. For research; not a "
            "medical device."
        )
        self.parent.acknowledgementText = _(
            "After You C, Zhou Y, Zhao R, Staib L, Duncan JS: SimCVD, simple contrastive voxel-wise representation "
            "distillation for semi-supervised medical image segmentation. IEEE Transactions on Medical Imaging 41(9), "
            "2022. An independent implementation."
        )
        slicer.app.connect("startupCompleted()", samples.registerSampleData)


@parameterNodeWrapper
class SimCVDSegmentParameterNode:
    """What is saved with the scene."""

    inputVolume: vtkMRMLScalarVolumeNode
    model: str = "left-atrium"
    region: vtkMRMLMarkupsROINode
    output: vtkMRMLSegmentationNode
    device: str = "auto"
    uncertainty: bool = False
    overlay: str = "none"
    opacity: Annotated[float, WithinRange(0, 1)] = 0.4
    isoLines: bool = False
    isoSpacing: Annotated[float, WithinRange(1, 20)] = 5.0
    legend: bool = False
    result: vtkMRMLSegmentationNode
    segment: str = ""
    offset: Annotated[float, WithinRange(-10, 10)] = 0.0
    smoothing: Annotated[float, WithinRange(0, 5)] = 0.0
    largest: bool = False
    fillHoles: bool = False
    radius: Annotated[float, WithinRange(2, 40)] = 10.0
    reference: vtkMRMLSegmentationNode
    referenceSegment: str = ""
    table: vtkMRMLTableNode


class SimCVDSegmentWidget(Panel):
    """The panel: one handler per control; updateGui() derives from the state what is shown and what can be clicked."""

    def __init__(self, parent=None):
        Panel.__init__(self, parent)
        self._job = self._batch = self._comparison = None  # what runs
        self._maps = {}  # by segmentation ID: what the model computed
        self._chosen = None  # (segmentation ID, segment ID), and for it:
        self._overlay = self._overlaid = self._corrections = None
        self._refused = None  # why it can't be corrected
        self._where = None  # grid and transform of its scan
        self._orphans = set()  # IDs of segmentations whose scan was removed: no other may stand in for it
        self._input = None  # the scan that was the input when it was looked at last
        self._placing = None  # True inside, False outside
        self._report = None

    # --- life

    def setup(self):
        """Build the panel; called when the module is opened for the first time."""
        Panel.setup(self)
        panel = slicer.util.loadUI(self.resourcePath("UI/SimCVDSegment.ui"))
        self.layout.addWidget(panel)
        self.ui = slicer.util.childWidgetVariables(panel)
        panel.setMRMLScene(slicer.mrmlScene)
        self.logic = SimCVDSegmentLogic()
        self._connectWidgets()
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.StartCloseEvent, self.onSceneStartClose)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.EndCloseEvent, self.onSceneChanged)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.EndImportEvent, self.onSceneChanged)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.NodeAddedEvent, self.onNodeAdded)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.NodeAboutToBeRemovedEvent, self.onNodeLeaves)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.NodeRemovedEvent, self.onNodeRemoved)
        interaction = slicer.app.applicationLogic().GetInteractionNode()
        self.addObserver(interaction, interaction.InteractionModeChangedEvent, self.onInteractionMode)
        for name in ("exportFolderButton", "batchOutputButton"):
            getattr(self.ui, name).directory = slicer.util.settingsValue("SimCVD/" + name, str(Path.home()))
        for place in SENTENCES:
            self._say(place, "")
        self.initializeParameterNode()

    def _connectWidgets(self):
        ui = self.ui
        for button, slot in (
            (ui.fitRoiButton, self.onFitRoi),
            (ui.showRoiButton, self.onShowRoi),
            (ui.installTorchButton, self.onInstallTorch),
            (ui.segmentButton, self.onSegment),
            (ui.insideButton, self.onPlaceInside),
            (ui.outsideButton, self.onPlaceOutside),
            (ui.removePointButton, self.onRemovePoint),
            (ui.undoButton, self.onUndo),
            (ui.editorButton, self.onEditor),
            (ui.useAsCaseButton, self.onUseAsCase),
            (ui.compareButton, self.onCompare),
            (ui.saveCsvButton, self.onSaveCsv),
            (ui.saveHtmlButton, self.onSaveHtml),
            (ui.exportSegmentationButton, self.onExportSegmentation),
            (ui.exportDistanceButton, self.onExportDistance),
            (ui.batchRunButton, self.onBatch),
            (ui.copyDetailsButton, self.onCopyDetails),
        ):
            button.connect("clicked(bool)", slot)
        ui.modelComboBox.connect("currentIndexChanged(int)", self.onModel)
        ui.deviceComboBox.connect("currentIndexChanged(int)", self.onDevice)
        ui.overlayComboBox.connect("currentIndexChanged(int)", self.onOverlay)
        ui.segmentSelector.connect("currentNodeChanged(vtkMRMLNode*)", self.onSegmentChosen)
        ui.segmentSelector.connect("currentSegmentChanged(QString)", self.onSegmentChosen)
        ui.referenceSelector.connect("currentNodeChanged(vtkMRMLNode*)", self.onReferenceChosen)
        ui.referenceSelector.connect("currentSegmentChanged(QString)", self.onReferenceChosen)
        ui.exportFolderButton.connect("directoryChanged(QString)", self.onExportFolder)
        ui.batchOutputButton.connect("directoryChanged(QString)", self.onBatchOutput)
        ui.batchVolumesSelector.connect("checkedNodesChanged()", self.updateGui)
        ui.batchFolderLineEdit.connect("currentPathChanged(QString)", self.updateGui)
        ui.logCollapsibleButton.connect("contentsCollapsed(bool)", self.showLog)
        for name in SECTIONS:  # opening a section shows all that is in it, also what is to be hidden
            getattr(ui, name + "CollapsibleButton").connect("contentsCollapsed(bool)", self.updateGui)

    def enter(self):
        """Called each time the module is shown."""
        Panel.enter(self)
        if self._corrections is not None:
            self._corrections.wake()

    def exit(self):
        """Called each time the module is left: the panel no longer follows the scene; jobs go on."""
        self._stopPlacing()
        if self._corrections is not None:
            self._corrections.rest()
        self._disconnect()

    def cleanup(self):
        """Called before a reload and when the application ends."""
        self._stop()
        self._setParameters(None)
        self.removeObservers()
        jobs.closeWorker()

    def onSceneStartClose(self, _caller, _event):
        """Nothing of the old scene is kept; jobs that are under way find out by themselves that it is gone."""
        self._stop()
        self._setParameters(None)

    def onSceneChanged(self, _caller, _event):
        if self.parent.isEntered:
            self.initializeParameterNode()

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def onNodeAdded(self, _caller, _event, node):
        if node.IsA("vtkMRMLScalarVolumeNode") and maps.isMap(node):
            self._hideMaps()

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def onNodeLeaves(self, _caller, _event, node):
        """Once it has left, no other may stand in for it."""
        if self._parameters is None or slicer.mrmlScene.IsClosing():
            return
        if node.IsA("vtkMRMLScalarVolumeNode"):
            self._noteOrphans(node)
        for name in CHOSEN:
            if getattr(self._parameters, name) is node:
                setattr(self._parameters, name, None)  # before its selector slides to whatever comes next

    def _noteOrphans(self, volume):
        """Note the segmentations of a volume that leaves: they don't say any more that it was their scan."""
        made = slicer.util.getNodesByClass("vtkMRMLSegmentationNode")
        its = [one for one in made if one.GetNodeReference(GEOMETRY) is volume]
        result = self._parameters.result
        if self._overlay is not None and result is not None and self._volumeOf(result) is volume:
            its.append(result)
        self._orphans.update(one.GetID() for one in its)

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def onNodeRemoved(self, _caller, _event, node):
        """What was computed for a segmentation goes with it, and what is edited with its scan."""
        self._maps.pop(node.GetID(), None)
        self._orphans.discard(node.GetID())
        if node.IsA("vtkMRMLScalarVolumeNode") and not maps.isMap(node):
            self._onParameters()
        elif corrections.isPointList(node) and self._corrections is not None:
            self._stopPlacing()  # a click has no list to go into any more
            self._corrections.lookAtPoints()

    def _stop(self):
        """End what runs and let go of what was made for the segment that is chosen."""
        self._stopPlacing()
        for running in (self._job, self._batch, self._comparison):
            if running is not None:
                running.cancel()
        self._release()
        self._maps = {}
        self._orphans = set()
        self._report = self._input = None

    # --- state

    def initializeParameterNode(self):
        """Connect the panel with the scene's state."""
        self._choices = models.choices()
        self._torch = pytorch.status()
        self._hideMaps()
        self._input = None
        self._setParameters(self.logic.getParameterNode())
        if self._parameters.inputVolume is None:
            shown = slicer.app.applicationLogic().GetSelectionNode().GetActiveVolumeID()
            node = nodes.stillThere(shown) or slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLScalarVolumeNode")
            if node is not None and node.GetClassName() == "vtkMRMLScalarVolumeNode" and not maps.isMap(node):
                self._parameters.inputVolume = node

    def _hideMaps(self):
        """Distance maps and the like are volumes too, but not what anybody wants to segment."""
        volumes = slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")
        hidden = [node.GetID() for node in volumes if maps.isMap(node)]
        for selector in (self.ui.inputSelector, self.ui.batchVolumesSelector):
            selector.sortFilterProxyModel().hiddenNodeIDs = hidden

    def _fillModels(self):
        combo = self.ui.modelComboBox
        combo.blockSignals(True)
        combo.clear()
        for choice in self._choices:
            combo.addItem(choice.title, choice.name)
        combo.blockSignals(False)

    def _choice(self):
        """The model that is chosen, or None."""
        wanted = self._parameters.model if self._parameters else None
        return next((choice for choice in self._choices if choice.name == wanted), None)

    # --- input

    def onModel(self, index):
        if self._parameters is not None and index >= 0:
            self._parameters.model = self._choices[index].name

    def onFitRoi(self):
        with self._showingErrors():
            region = self._parameters.region
            if region is None:
                nodes.checkVolume(self._parameters.inputVolume)
                region = nodes.newRoi(_("Region"))
            nodes.fitRoi(region, self._parameters.inputVolume)
            region.SetDisplayVisibility(True)
            self._parameters.region = region

    def onShowRoi(self, checked):
        self._parameters.region.SetDisplayVisibility(checked)

    # --- segment

    def onDevice(self, index):
        if self._parameters is not None:
            self._parameters.device = DEVICES[index]

    def onSegment(self):
        """Start, or stop what runs."""
        if self._job is not None:
            self._job.cancel()
            self._say("status", _("Stopping..."))
            return
        self._start()

    def checkIdle(self):
        """Raise SimCVDError while scans are segmented here."""
        if self._job is not None or self._batch is not None:
            raise SimCVDError(_("SimCVD Segment is still segmenting; wait until it has finished, or cancel it there."))

    def propose(self, volume):
        """Segment all of a volume into a node of its own; SimCVD Train calls it. Raises SimCVDError."""
        self.checkIdle()
        with slicer.util.NodeModify(self._parameters.parameterNode):
            self._parameters.inputVolume = volume
            self._parameters.region = self._parameters.output = None  # they belong to the scan before
        self._start()

    def _start(self):
        if not self._torchReady("status"):
            return
        p = self._parameters
        with self._showingErrors():
            self._job = segmentation.startSegmentation(
                p.inputVolume,
                self._choice().folder,
                self._onSegmentEvent,
                roiNode=p.region,
                device=p.device,
                uncertainty=p.uncertainty,
                segmentationNode=p.output,
            )
            self._say("status", _("Starting..."))
            self.ui.progressBar.value = 0
        self.updateGui()

    def _onSegmentEvent(self, event):
        if event["event"] == "progress":
            self.ui.progressBar.value = int(100 * event["fraction"])
            self._say("status", stageText(event))
            return
        self._job = None
        self.ui.progressBar.value = 100 if event["event"] == "done" else 0
        self._say("status", endText(event))
        if event["event"] == "done" and self._parameters is not None:
            self._choices = models.choices()  # how long it took is part of the line about a model
            self._takeResult(event)  # may have more to say: what can't be shown
        self.showLog()
        self._onParameters()

    def _takeResult(self, event):
        node, volume = event["segmentation"], self._volumeOf(event["segmentation"])
        self._release()
        self._maps[node.GetID()] = event["maps"]
        self._choose(node, event["segmentIds"][0])
        views = slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode")
        if all(view.GetBackgroundVolumeID() != volume.GetID() for view in views):
            slicer.util.setSliceViewerLayers(background=volume)  # a result over another scan would mislead

    # --- the segment that is chosen

    def onSegmentChosen(self):
        if self._isAsked():
            self._choose(*_chosenIn(self.ui.segmentSelector))

    def _choose(self, node, segmentId):
        with slicer.util.NodeModify(self._parameters.parameterNode):
            self._parameters.result, self._parameters.segment = node, segmentId

    def _followInput(self):
        """With another input a new result is made, unless that one's own is chosen: it would be replaced."""
        p, before = self._parameters, self._input
        self._input = p.inputVolume
        if before is not None and p.inputVolume is not before and p.output is not None:
            scan = p.output.GetNodeReference(GEOMETRY)
            if scan is not None and scan is not p.inputVolume:
                p.output = None

    def _follow(self):
        """Have overlay and corrections of the segment that is chosen, with the settings it was left with."""
        p = self._parameters
        node = p.result
        there = node is not None and node.GetSegmentation().GetSegment(p.segment) is not None
        volume = self._volumeOf(node) if there else None
        chosen = (node.GetID(), p.segment, volume and volume.GetID()) if there else None
        if chosen != self._chosen:
            self._release()
            self._chosen = chosen
            if there and volume is None:
                self._maps.pop(node.GetID(), None)  # they lie on its grid
                missing = _("The scan of {name} is not in the scene; load it and segment it again.")
                self._say("status", missing.format(name=node.GetName()))
        if volume is None:
            return
        self._followPlace(node, volume)
        if self._overlay is None:
            found = self._maps.get(node.GetID())
            if found is None or found.volume is not volume or not found.isCurrent:
                found = self._maps[node.GetID()] = maps.Maps(node, volume)
            self._overlay = Overlay(volume, found, p.segment)
        if self._corrections is None:
            self._correct(node, volume)

    def _followPlace(self, node, volume):
        """Where the scan was put under another transform or cropped, what was made of it follows or is made anew."""
        before, now = self._where, (nodes.gridOf(volume), volume.GetTransformNodeID())
        self._where = now
        if before is not None and before[0] == now[0] and before[1] != now[1]:
            maps.moveNodes(node, volume)
            corrections.movePoints(node, volume, before[1])
        moved = before is not None and before != now
        if moved or (self._corrections is not None and not self._corrections.isCurrent):
            chosen, refused = self._chosen, self._refused
            self._release()
            self._chosen, self._refused, self._where = chosen, refused, now

    def _correct(self, node, volume):
        """Make the segment one that can be corrected; asked again and again, as the user may have mended why not."""
        segment, found = self._parameters.segment, self._maps[node.GetID()]
        try:
            self._corrections = Corrections(node, segment, volume, found, self._onCorrected, self._onNotCorrected)
        except SimCVDError as error:
            if str(error) != self._refused:
                self._say("status", str(error))
            self._refused = str(error)
            return
        if self._refused and self.ui.statusLabel.text == self._refused:
            self._say("status", "")
        self._refused = None
        if not self.parent.isEntered:
            self._corrections.rest()
        self._onCorrected()

    def _release(self):
        """Let go of the segment that was chosen; the views get their layers back, and what was edited stays."""
        self._stopPlacing()
        for thing in (self._overlay, self._corrections):
            if thing is not None:
                thing.close()
        self._overlay = self._corrections = self._chosen = self._overlaid = self._refused = self._where = None

    def _volumeOf(self, node):
        """The volume a segmentation belongs to; the input for one that never had any, and None where it was removed."""
        scan = node.GetNodeReference(GEOMETRY)
        return scan or (None if node.GetID() in self._orphans else self._parameters.inputVolume)

    # --- overlay

    def onOverlay(self, index):
        if self._parameters is not None:
            self._parameters.overlay = OVERLAYS[index]

    def _showOverlay(self):
        p = self._parameters
        wanted = (p.overlay, p.legend, p.isoLines, p.isoSpacing)
        if self._overlay is None:
            return
        if wanted != self._overlaid:
            self._overlaid = wanted
            with self._showingErrors():
                self._overlay.show(p.overlay, p.opacity, p.legend)
            with self._showingErrors():
                self._overlay.showLines(p.isoLines, p.isoSpacing)
        self._overlay.setOpacity(p.opacity)

    # --- boundary and corrections

    def _setBoundary(self):
        p = self._parameters
        wanted = {name: getattr(p, name) for name in corrections.DEFAULTS}
        if self._corrections is not None and wanted != self._corrections.settings:
            self._corrections.set(**wanted)

    def _onCorrected(self):
        """Settings or distance were changed by the corrections themselves, as by undo: controls and lines follow."""
        with slicer.util.NodeModify(self._parameters.parameterNode):
            for name, value in self._corrections.settings.items():
                setattr(self._parameters, name, value)
        self._overlaid = None
        self._showOverlay()

    def _onNotCorrected(self, sentence):
        """A change could not be made: say why, and begin anew where scan or segmentation were moved or cropped."""
        self._say("status", sentence)
        self._onParameters()

    def onPlaceInside(self, checked):
        self._place(True, checked)

    def onPlaceOutside(self, checked):
        self._place(False, checked)

    def _place(self, inside, on):
        if not on:
            self._stopPlacing()
            return
        with self._showingErrors():
            self._corrections.place(inside)
            self._placing = inside
        self.updateGui()

    def _stopPlacing(self):
        if self._placing is not None:
            interaction = slicer.app.applicationLogic().GetInteractionNode()
            interaction.SetCurrentInteractionMode(interaction.ViewTransform)

    def onInteractionMode(self, interaction, _event):
        """Placing ends here, or by the user's choice elsewhere; the buttons follow."""
        if self._placing is not None and interaction.GetCurrentInteractionMode() != interaction.Place:
            self._placing = None
            self.updateGui()

    def onRemovePoint(self):
        with self._showingErrors():
            if not self._corrections.removePoint():
                self._say("status", _("There is no point to remove."))
        self.updateGui()

    def onUndo(self):
        with self._showingErrors():
            if self._corrections.canUndo:
                self._corrections.undo()
            else:
                self._say("status", _("There is nothing to undo."))
        self.updateGui()

    def onEditor(self):
        p = self._parameters
        volume = self._volumeOf(p.result)
        openModule("SegmentEditor")
        editor = slicer.modules.segmenteditor.widgetRepresentation().self().editor
        editor.setSegmentationNode(p.result)
        editor.setSourceVolumeNode(volume)
        editor.setCurrentSegmentID(p.segment)

    def onUseAsCase(self):
        p = self._parameters
        train = slicer.modules.simcvdtrain.widgetRepresentation().self()
        train.addCase(self._volumeOf(p.result), p.result, p.segment)
        openModule("SimCVDTrain")

    # --- report

    def onReferenceChosen(self):
        if self._isAsked():
            with slicer.util.NodeModify(self._parameters.parameterNode):
                self._parameters.reference, self._parameters.referenceSegment = _chosenIn(self.ui.referenceSelector)

    def onCompare(self):
        """Compare, or stop comparing."""
        if self._comparison is not None:
            self._comparison.cancel()
            return
        p = self._parameters
        with self._showingErrors("report"):
            self._comparison = report.compare(
                p.reference, p.referenceSegment, p.result, p.segment, self._volumeOf(p.result), self._onCompareEvent
            )
            self._say("report", _("Comparing..."))
        self.updateGui()

    def _onCompareEvent(self, event):
        if event["event"] == "progress":
            return
        self._comparison = None
        if event["event"] == "done" and self._parameters is not None:
            self._report = event["report"]
            self._parameters.table = self._report.table
            self._say("report", self._report.sentence)
        else:
            self._say("report", endText(event))
        self._onParameters()

    def onSaveCsv(self):
        self._saveReport("csv", _("Save the figures"), _("Table (*.csv)"))

    def onSaveHtml(self):
        self._saveReport("html", _("Save the page"), _("Web page (*.html)"))

    def _saveReport(self, kind, title, types):
        path = qt.QFileDialog.getSaveFileName(slicer.util.mainWindow(), title, "report." + kind, types)
        if path:
            with self._showingErrors("report"):
                self._say("report", _("Saved as {path}.").format(path=self._report.save(path)))

    # --- export

    def onExportFolder(self, folder):
        qt.QSettings().setValue("SimCVD/exportFolderButton", folder)

    def onExportSegmentation(self):
        kind = FORMATS[self.ui.exportKindComboBox.currentIndex]
        p = self._parameters
        self._export(lambda folder: exports.exportSegmentation(p.result, folder, kind, self._volumeOf(p.result)))

    def onExportDistance(self):
        p = self._parameters
        self._export(lambda folder: exports.exportDistance(p.result, p.segment, self._volumeOf(p.result), folder))

    def _export(self, write):
        with self._showingErrors("export"), slicer.util.WaitCursor():
            path = write(self.ui.exportFolderButton.directory)
            self._say("export", _("Written: {path}").format(path=path))

    # --- several volumes

    def onBatchOutput(self, folder):
        qt.QSettings().setValue("SimCVD/batchOutputButton", folder)

    def onBatch(self):
        """Start, or stop what runs."""
        if self._batch is not None:
            self._batch.cancel()
            return
        p = self._parameters
        with self._showingErrors("batch"):
            cases = [batch.LoadedCase(node) for node in self.ui.batchVolumesSelector.checkedNodes()]
            if self.ui.batchFolderLineEdit.currentPath:
                with slicer.util.WaitCursor():
                    scans = batch.scansIn(self.ui.batchFolderLineEdit.currentPath)
                cases += [batch.FileCase(name, path, self.ui.batchOutputButton.directory) for name, path in scans]
            running = batch.Batch(cases, self._choice().folder, self._onBatch, device=p.device)
            self._batch = running
            running.start()
        self.updateGui()

    def _onBatch(self):
        running = self._batch
        texts = [batch.rowText(*row) for row in running.rows]
        for n in range(max(len(texts), self.ui.batchList.count)):
            if n >= self.ui.batchList.count:
                self.ui.batchList.addItem(texts[n])
            elif n >= len(texts):
                self.ui.batchList.takeItem(len(texts))
            else:
                self.ui.batchList.item(n).setText(texts[n])
        self.ui.batchProgressBar.value = int(100 * running.fraction)
        self._say("batch", running.sentence)
        if running.finished:
            self._batch = None
            self.showLog()
            self.updateGui()

    # --- log

    def showLog(self):
        if not self.ui.logCollapsibleButton.collapsed:
            self.ui.logText.plainText = "\n".join(jobs.worker().log)

    def _details(self):
        """What someone who is asked for help wants to know."""
        choice = self._choice()
        lines = [
            f"SimCVD {__version__}, 3D Slicer {slicer.app.applicationVersion}, {sys.platform}, Python {sys.version}",
            self._torch[1],
            f"Model: {choice.name} {choice.card['version']}" if choice and choice.card else "Model: none",
            f"Status: {self.ui.statusLabel.text}",
            "",
            *jobs.worker().log,
        ]
        return "\n".join(lines)

    # --- showing the state

    def _say(self, place, sentence):
        """Show a sentence in one of the panel's lines: status, report, export or batch; an empty line takes no room."""
        label = getattr(self.ui, place + "Label")
        label.text = sentence
        label.visible = bool(sentence)

    @contextlib.contextmanager
    def _showingErrors(self, place="status"):
        """A user's error becomes one sentence in the panel."""
        try:
            yield
        except SimCVDError as error:
            self._say(place, str(error))

    def _onParameters(self, _caller=None, _event=None):
        """The state changed: bring the views and the panel in line with it."""
        if not self._isAsked() or slicer.mrmlScene.IsClosing():
            return
        with self._quietly():
            self._followInput()
            self._follow()
            self._setBoundary()
            self._showOverlay()
        self.updateGui()

    def updateGui(self):
        """Show the state: what is chosen, what can be clicked now, and what runs."""
        if self._parameters is not None:
            with self._quietly():
                for place in SENTENCES:
                    label = getattr(self.ui, place + "Label")
                    label.visible = bool(label.text)
                self._showInput()
                self._showSegment()
                self._showTools()
                self._showBatch()

    def _showInput(self):
        p, ui, choice = self._parameters, self.ui, self._choice()
        ui.modelComboBox.currentIndex = self._choices.index(choice) if choice else -1
        missing = _("There is no model {name} here; choose another.").format(name=p.model)
        ui.modelLabel.text = choice.about if choice else missing
        ui.deviceComboBox.currentIndex = DEVICES.index(p.device)
        ui.overlayComboBox.currentIndex = OVERLAYS.index(p.overlay)
        ui.fitRoiButton.enabled = p.inputVolume is not None
        ui.showRoiButton.enabled = p.region is not None
        ui.showRoiButton.checked = p.region is not None and bool(p.region.GetDisplayVisibility())
        ui.torchLabel.text = self._torch[1]
        ui.installTorchButton.visible = not self._torch[0]

    def _showSegment(self):
        p, ui = self._parameters, self.ui
        ready = p.inputVolume is not None and self._usable() and self._batch is None
        ui.segmentButton.text = _("Cancel") if self._job is not None else _("Segment")
        ui.segmentButton.enabled = self._job is not None or ready
        ui.progressBar.visible = self._job is not None
        ui.show3DButton.setSegmentationNode(p.result)
        ui.show3DButton.enabled = p.result is not None

    def _showTools(self):
        p, ui = self._parameters, self.ui
        chosen, editable = self._chosen is not None, self._corrections is not None
        onScan = self._overlay is not None
        ui.segmentSelector.setCurrentNode(p.result)
        if p.result is not None:
            ui.segmentSelector.setCurrentSegmentID(p.segment)
        ui.referenceSelector.setCurrentNode(p.reference)
        if p.reference is not None:
            ui.referenceSelector.setCurrentSegmentID(p.referenceSegment)
        for name in OVERLAY_CONTROLS:
            getattr(ui, name).enabled = onScan
        for name in EDIT_CONTROLS:
            getattr(ui, name).enabled = editable
        ui.insideButton.checked = self._placing is True
        ui.outsideButton.checked = self._placing is False
        ui.editorButton.enabled = onScan and hasattr(slicer.modules, "segmenteditor")
        ui.useAsCaseButton.visible = hasattr(slicer.modules, "simcvdtrain")
        ui.useAsCaseButton.enabled = onScan

        ui.compareButton.text = _("Cancel") if self._comparison is not None else _("Compare")
        ui.compareButton.enabled = self._comparison is not None or (onScan and p.reference is not None)
        ui.reportTable.setMRMLTableNode(p.table)
        ui.saveCsvButton.enabled = ui.saveHtmlButton.enabled = self._report is not None
        ui.exportSegmentationButton.enabled, ui.exportDistanceButton.enabled = chosen, onScan

    def _showBatch(self):
        ui = self.ui
        some = bool(ui.batchVolumesSelector.checkedNodes()) or bool(ui.batchFolderLineEdit.currentPath)
        ui.batchRunButton.text = _("Cancel") if self._batch is not None else _("Segment all")
        ready = some and self._usable() and self._job is None
        ui.batchRunButton.enabled = self._batch is not None or ready
        ui.batchProgressBar.visible = self._batch is not None

    def _usable(self):
        choice = self._choice()
        return choice is not None and choice.problem is None


def _chosenIn(selector):
    """Node and segment ID of a segment selector, which itself stands on "None" when a node is chosen first: then, and
    for what another node left behind, the first segment of the node."""
    node, segmentId = selector.currentNode(), selector.currentSegmentID()
    if node is None:
        return None, ""
    segmentIds = node.GetSegmentation().GetSegmentIDs()
    return node, segmentId if segmentId in segmentIds else next(iter(segmentIds), "")


def openModule(name):
    """Show another module, where there is a window to show it in."""
    if slicer.util.mainWindow() is not None:
        slicer.util.selectModule(name)


class SimCVDSegmentLogic(ScriptedLoadableModuleLogic):
    """What works without the panel."""

    def getParameterNode(self):
        return SimCVDSegmentParameterNode(super().getParameterNode())

    def segment(
        self,
        volumeNode,
        model="left-atrium",
        *,
        region=None,
        device="auto",
        largest=None,
        uncertainty=False,
        segmentationNode=None,
        progress=None,
    ):
        """Segment a volume and wait for it; the application goes on responding meanwhile.

        Args:
            volumeNode: vtkMRMLScalarVolumeNode.
            model: name of a model or its folder.
            region: vtkMRMLMarkupsROINode outside of which nothing is segmented.
            device: "auto", "cpu", "cuda" or "mps".
            largest: keep only the largest connected part of each segment, or not; None does as the model's card says.
            uncertainty: work out the uncertainty too, which takes about twice as long.
            segmentationNode: whose segments of the same structures are replaced; without it a new node is made.
            progress: called with the fraction done, 0 to 1, and the stage, a word.

        Returns:
            the vtkMRMLSegmentationNode.

        Raises:
            SimCVDError: with one sentence that says what is wrong and what to do.
        """
        last = {}

        def take(event):
            if event["event"] in jobs.LAST:
                last.update(event)
            elif progress is not None:
                progress(event["fraction"], event["stage"])

        segmentation.startSegmentation(
            volumeNode,
            find_model(model),
            take,
            roiNode=region,
            device=device,
            largest=largest,
            uncertainty=uncertainty,
            segmentationNode=segmentationNode,
        )
        while not last:
            slicer.app.processEvents()
            time.sleep(0.002)
        if last["event"] != "done":
            raise SimCVDError(endText(last))
        logging.info(endText(last))
        return last["segmentation"]


class SimCVDSegmentTest(ScriptedLoadableModuleTest):
    """What "Reload and Test" runs: the sample is drawn and segmented. The scene stays as it was but for these two."""

    def runTest(self):
        self.test_sample()

    def test_sample(self):
        """The shipped model finds an atrium in the sample."""
        volume, _reference = samples.loadSample()
        segmentation = SimCVDSegmentLogic().segment(volume)
        mask = nodes.readSegment(segmentation, segmentation.GetSegmentation().GetNthSegmentID(0), volume)
        self.assertTrue(mask.any())
        self.delayDisplay(_("Test passed."))
